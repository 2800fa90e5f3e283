"""The shipped agent in real time: threads that think, a world that does not wait, one episode after another.

    python benchmarks/realtime.py --episodes 30 --seed 1000
    python benchmarks/realtime.py --grace 0          # whatever is thought comes a tick late at least

Prints success with its interval, and how the control loop kept its time.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from agent import live
from agent.evaluation.episode import limits
from agent.evaluation.statistics import wilson
from agent.loop import Agent
from agent.policy import load
from agent.safety import Safety
from envs.registry import make


@dataclass
class Settings:
    """Which episodes: evaluation seeds SEED, SEED + 1, ... of the tabletop. grace: part of a tick in which an
    answer is waited for. keep: promise what is done meanwhile.
    """

    checkpoint: str = "nano"
    suite: str = "core"
    episodes: int = 30
    seed: int = 1000
    grace: float = 0.6
    keep: bool = False
    execute: int = 8
    out: Path | None = None


def main(settings: Settings) -> None:
    torch.set_num_threads(1)
    env, policy = make(settings.suite, pixels="lazy"), load(settings.checkpoint)
    agent = Agent(policy, execute=settings.execute, clock=live.clock(env.rate, settings.keep, settings.grace))
    rows = []
    for seed in range(settings.seed, settings.seed + settings.episodes):
        env.begin(seed)
        agent.reset(env.task_description, seed)
        solved = False

        def watch(step, tick) -> bool:
            nonlocal solved
            solved = solved or env.task.success(env.world)
            return solved or tick >= env.max_steps

        seconds = env.max_steps / env.rate + 5
        cadence = live.act_live(agent, env, Safety(limits(env)), seconds, watch)
        rows.append({"seed": seed, "family": env.stratum, "success": bool(solved)} | cadence.summary())
        print(
            f"{seed} {env.stratum}: {'solved' if solved else 'not solved'}, {cadence.ticks} ticks", flush=True
        )
    env.close()
    n, wins = len(rows), sum(row["success"] for row in rows)
    low, high = wilson(wins, n)
    print(
        f"{settings.suite}, seeds {settings.seed} to {seed}: "
        f"{wins}/{n} = {wins / n:.1%} ({low:.0%} to {high:.0%})"
    )
    hertz, most = [row["hertz"] for row in rows], [row["interval_ms"]["most"] for row in rows]
    late = sum(row["overruns"] for row in rows) / sum(row["ticks"] for row in rows)
    ages = [row["plan_age_ms"]["p50"] for row in rows if row["plan_age_ms"]["p50"] is not None]
    print(
        f"{np.median(hertz):.2f} Hz of {env.rate}, {late:.2%} of the ticks late by over half a tick, the "
        f"longest interval {np.median(most):.0f} ms in the median episode; a plan is {np.median(ages):.0f} "
        "ms old when it comes"
    )
    if settings.out is not None:
        settings.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main(tyro.cli(Settings))
