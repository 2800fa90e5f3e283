"""What the planner would say along held-out episodes that somebody else drives: same subtask as the teacher?

    python benchmarks/planner_agreement.py --episodes 200

In its own closed loop (`steersman evaluate`) a planner that is stuck repeats one mistake at every look until
the time is up, and those looks outweigh all others. Here the teacher's plans move the arm (by the learned
controller); the planner only looks on, with its own memory of what it said.
"""

from __future__ import annotations

import multiprocessing
from collections import Counter
from dataclasses import dataclass

import numpy as np
import tyro

from agent.evaluation.episode import NEAR
from agent.evaluation.statistics import wilson
from envs.suites import EVALUATION_START


@dataclass
class Settings:
    """Which episodes: evaluation seeds SEED, SEED + 1, ..."""

    checkpoint: str = "nano"
    suite: str = "core"
    episodes: int = 200
    seed: int = 0
    processes: int = 2


def looks(job: tuple[str, str, int]) -> list[tuple[str, bool, bool, bool]]:
    """(family, near a switch, same subtask, same memory) of each look of an episode."""
    import torch

    from agent.loop import Agent
    from agent.oracle import OraclePlanner
    from agent.policy import Policy
    from backbone.observation import Observation
    from envs.tabletop.env import TabletopEnv

    checkpoint, suite, seed = job
    torch.set_num_threads(1)
    if job[:2] not in _WORLDS:
        _WORLDS[job[:2]] = TabletopEnv(suite, pixels="lazy"), Policy.from_pretrained(checkpoint)
    env, policy = _WORLDS[job[:2]]
    env.reset(seed=EVALUATION_START + seed)
    teacher = env.teacher()
    agent = Agent(policy, OraclePlanner(teacher))
    agent.reset(env.task_description, seed)
    memory, said, found, switches, truth = "", None, [], [], None
    for tick in range(env.task.max_steps):
        label = teacher.label()
        if truth is not None and label.subtask != truth:
            switches.append(tick)
        truth = label.subtask
        observation = None
        if agent.needs_observation:
            observation = Observation.from_env(env.look(), env.task_description)
            said = policy.plan(observation, memory, said)
            memory = said.memory
            found.append((tick, said.subtask == label.subtask, said.memory == label.memory))
        step = agent.step(observation)
        if env.step(step.action)[2]:
            break
    near = [any(abs(tick - switch) <= NEAR * env.rate for switch in switches) for tick, _, _ in found]
    return [
        (env.task.family, n, same, remembered) for n, (_, same, remembered) in zip(near, found, strict=True)
    ]


_WORLDS: dict = {}


def main(settings: Settings) -> None:
    jobs = [(settings.checkpoint, settings.suite, settings.seed + n) for n in range(settings.episodes)]
    with multiprocessing.get_context("spawn").Pool(settings.processes) as pool:
        rows = [row for part in pool.imap_unordered(looks, jobs, chunksize=2) for row in part]
    away = [row for row in rows if not row[1]]
    low, high = wilson(sum(row[2] for row in away), len(away))
    print(
        f"{settings.suite}, {settings.episodes} episodes from seed {settings.seed}, the teacher's plans drive"
    )
    print(
        f"same subtask at {np.mean([r[2] for r in away]):.1%} of {len(away)} looks away from switches "
        f"({low:.1%} to {high:.1%}), {np.mean([r[2] for r in rows]):.1%} of all {len(rows)}; "
        f"same memory at {np.mean([r[3] for r in rows]):.1%}"
    )
    total, right = Counter(r[0] for r in away), Counter(r[0] for r in away if r[2])
    print("  ".join(f"{family} {right[family]}/{total[family]}" for family in sorted(total)))


if __name__ == "__main__":
    main(tyro.cli(Settings))
