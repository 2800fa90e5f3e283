"""How often the scripted teacher reaches the goal, clean and with disturbed actions.

    python benchmarks/teacher_success.py --episodes 200 --noise 0.3

Without pictures, so a core makes some 1,500 control steps a second. Noise is Gaussian on the six motion
dimensions, as a share of full scale, every step; with noise the gripper's sign is also flipped in 5% of the
steps.
"""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import dataclass

import numpy as np
import tyro

from envs.suites import EVALUATION_START, get_suite


@dataclass
class Settings:
    """What to run. Episodes are evaluation seeds 0, 1, 2, ... of each family."""

    episodes: int = 200
    noise: float = 0.0
    flips: float = 0.05  # share of steps in which the gripper does the opposite, where there is noise
    suite: str = "core"
    family: str | None = None
    processes: int = 2
    patience: float = 1.0  # factor on the episodes' step limit
    failures: bool = False  # print the failed ones


def run(job: tuple[str, str, int, float, float, float]) -> tuple[str, int, bool, int, str]:
    """One episode -> (family, seed, success, steps, instruction)."""
    from envs.tabletop.env import TabletopEnv
    from envs.tabletop.teacher import Teacher

    suite, family, seed, noise, flips, patience = job
    key = (suite, family)
    if key not in _ENVS:
        _ENVS[key] = TabletopEnv(suite, family, pixels="lazy")
    env, teacher = _ENVS[key], Teacher()
    env.reset(seed=EVALUATION_START + seed)
    rng = np.random.default_rng([seed, 1])
    success, limit = False, int(env.task.max_steps * patience)
    while not success and env.world.steps < limit:
        action = teacher.label(env.world).action.copy()
        if noise:
            action[:6] += rng.normal(0, noise, 6)
            action[6] *= -1.0 if rng.random() < flips else 1.0
        _, _, success, _, _ = env.step(action)
    return family, seed, success, env.world.steps, env.task_description


_ENVS: dict = {}


def main(settings: Settings) -> None:
    families = (settings.family,) if settings.family else get_suite(settings.suite).families
    jobs = [
        (settings.suite, family, seed, settings.noise, settings.flips, settings.patience)
        for family in families
        for seed in range(settings.episodes)
    ]
    begun = time.perf_counter()
    if settings.processes > 1:
        with multiprocessing.get_context("spawn").Pool(settings.processes) as pool:
            results = pool.map(run, jobs, chunksize=10)
    else:
        results = [run(job) for job in jobs]
    print(f"suite {settings.suite}, noise {settings.noise}, {time.perf_counter() - begun:.0f} s")
    print(f"{'family':8} {'n':>4} {'success':>8} {'rate':>7} {'mean steps':>11} {'longest':>8}")
    for family in families:
        rows = [r for r in results if r[0] == family]
        good = [r[3] for r in rows if r[2]]
        mean, longest = (np.mean(good), max(good)) if good else (float("nan"), 0)
        print(
            f"{family:8} {len(rows):4d} {len(good):8d} {len(good) / len(rows):7.1%} {mean:11.1f} {longest:8d}"
        )
    if settings.failures:
        for family, seed, _, steps, words in (r for r in results if not r[2]):
            print(f"failed: {family} seed {seed} after {steps} steps: {words}")


if __name__ == "__main__":
    main(tyro.cli(Settings))
