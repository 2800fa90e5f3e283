"""How smoothly one chunk follows another when they come late: nano in the tabletop on a simulated clock.

    python benchmarks/seams.py                                  20 episodes, delays of 1, 2 and 4 ticks
    python benchmarks/seams.py --execute 4 --episodes 5         looks at half the distance

At the tick in which a chunk takes over: how far velocity and acceleration jump, as commanded (the first three
numbers of an action, full scale 2) and as the hand then moves. "between": ticks at which none takes over,
with naive switching. What was done meanwhile is passed over; or the chunk entered where its path meets that
(`agent/align.py`). Means and 90% quantiles over all seams of the same episodes' first ticks.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from agent.clock import Clock
from agent.evaluation.episode import limits
from agent.loop import Agent
from agent.policy import load
from agent.safety import Safety
from backbone.observation import Observation
from envs.registry import make
from lowlevel.guided import Guided
from lowlevel.sampling import Sampling

WAYS = {  # whether anything is promised, how a chunk is led on, and what of a late one is passed over
    "naive": (False, None, True),
    "entered": (False, None, None),
    "held": (True, None, True),
    "guided, true": (True, Guided(), True),
    "guided, identity": (True, Guided(jacobian="identity"), True),
}
MEASURES = {
    "action velocity": "full scale 2",
    "action acceleration": "the same, a tick",
    "hand velocity": "mm/s",
    "hand acceleration": "m/s2",
}


@dataclass
class Options:
    """execute: ticks between looks. ticks: of each episode; evaluation seeds are FIRST, FIRST + 1, ..."""

    checkpoint: str = "nano"
    episodes: int = 20
    first: int = 2000
    ticks: int = 80
    delays: tuple[int, ...] = (1, 2, 4)
    execute: int = 8
    out: Path | None = None


def along(env, agent: Agent, seed: int, ticks: int) -> tuple[np.ndarray, np.ndarray, list[int], list[int]]:
    """Actions sent (T, 3), positions of the hand (T + 1, 3), the ticks in which a chunk took over from
    another, and those in which an old one went on."""
    env.begin(seed)
    agent.reset(env.task_description, seed)
    safety, sent, hand, seams, between = Safety(limits(env)), [], [env.state()[:3].copy()], [], []
    moving = 0  # ticks without a pause
    for tick in range(min(ticks, env.max_steps)):
        seen = Observation.from_env(env.look(), env.task_description) if agent.needs_observation else None
        step = agent.step(seen)
        action = safety(step.action)
        env.step(action)
        sent.append(action[:3].copy())
        hand.append(env.state()[:3].copy())
        if "held" not in step.events and moving > 1:  # an acceleration takes two ticks before
            (between if step.said is None else seams).append(tick)
        moving = 0 if "held" in step.events else moving + 1
        if agent.done:
            break
    return np.array(sent), np.array(hand), seams, between


def jumps(sent: np.ndarray, hand: np.ndarray, rate: float, ticks: list[int]) -> dict[str, list[float]]:
    """At each of these ticks, by MEASURES."""
    velocity = np.diff(hand, axis=0) * rate
    t = np.array(ticks, int)
    found = {}
    for name, v, scale, per in (("action", sent, 1.0, 1.0), ("hand", velocity, 1e3, rate / 1e3)):
        first, second = v[t] - v[t - 1], v[t] - 2 * v[t - 1] + v[t - 2]
        found[f"{name} velocity"] = (np.linalg.norm(first, axis=1) * scale).tolist()
        found[f"{name} acceleration"] = (np.linalg.norm(second, axis=1) * scale * per).tolist()
    return found


def main(options: Options) -> None:
    torch.set_num_threads(1)
    env, policy = make("core", pixels="lazy"), load(options.checkpoint)
    print(", ".join(f"{name} ({unit})" for name, unit in MEASURES.items()) + ": mean / 90%", flush=True)
    record = []
    for delay in options.delays:
        rows: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for way, (keep, lead, skip) in WAYS.items():
            policy.controller.sampling = Sampling(prefix=lead)
            clock = Clock(True, env.rate, chunk=delay / env.rate, keep=keep, skip=skip)
            agent = Agent(policy, execute=options.execute, clock=clock)
            for seed in range(options.first, options.first + options.episodes):
                sent, hand, seams, between = along(env, agent, seed, options.ticks)
                groups = {way: seams} | ({"between": between} if way == "naive" else {})
                for group, at in groups.items():
                    for name, values in jumps(sent, hand, env.rate, at).items():
                        rows[group][name] += values
        for group, found in rows.items():
            cells = {n: (float(np.mean(v)), float(np.quantile(v, 0.9))) for n, v in found.items() if v}
            seams = len(found["hand velocity"])
            record.append({"delay": delay, "way": group, "seams": seams} | cells)
            line = "   ".join(f"{cells[n][0]:7.3g} / {cells[n][1]:<7.3g}" for n in MEASURES if n in cells)
            print(f"{delay} ticks  {group:17s} {seams:5d}   {line}", flush=True)
    env.close()
    if options.out is not None:
        options.out.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main(tyro.cli(Options))
