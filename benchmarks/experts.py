"""How often a public benchmark's scripted teacher reaches the goal through our adapter, task by task.

    python benchmarks/experts.py --suite metaworld_mt50 --episodes 50
    python benchmarks/experts.py --suite ogbench_scene --episodes 20

The teacher's actions are carried out at every tick, without pictures. Intervals are Wilson's 95%. Exit code 1
if a task lies below the published rate by more than chance explains.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from agent.evaluation.statistics import rate
from envs.errors import WorldError
from envs.registry import benchmark, make

# What a benchmark says of its own scripts on each of its tasks, and where.
PUBLISHED = {
    "metaworld": (0.8, "Meta-World's tests (test_scripted_policies) assert it of each of the 50 policies"),
}


@dataclass
class Settings:
    """What to run: trials 0, 1, 2, ... of each task."""

    suite: str = "metaworld_mt50"
    family: str | None = None  # one task alone
    episodes: int = 10  # of each task
    workers: int | None = None  # processes, all cores by default
    failures: bool = False  # print the failed ones
    out: Path | None = None  # a JSON file for the numbers


def run(job: tuple[str, str, int]) -> list[tuple[bool, int, str]]:
    """Trials of one task -> (success, steps, the last subtask) of each."""
    suite, task, episodes = job
    env = make(suite, task, pixels="lazy")
    found = []
    for seed in range(episodes):
        env.begin(seed)
        teacher = env.teacher()
        teacher.reset()
        success, steps, words = False, 0, ""
        while not success and steps < env.max_steps:
            label = teacher.label()
            success, steps, words = env.step(label.action)[2], steps + 1, label.subtask
        found.append((success, steps, words))
    env.close()
    return found


def main(settings: Settings) -> int:
    env = make(settings.suite, settings.family, pixels="lazy")
    if env.teacher() is None:
        raise WorldError(f"suite: expected one with a scripted teacher, got '{settings.suite}'")
    tasks = (env.family,) if env.family else env.tasks[settings.suite]
    jobs = [(settings.suite, task, settings.episodes) for task in tasks]
    workers = min(settings.workers or os.cpu_count() or 1, len(jobs))
    begun = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        results = dict(zip(tasks, pool.map(run, jobs, chunksize=1), strict=True))
    floor, source = PUBLISHED.get(benchmark(settings.suite).name, (None, ""))
    rows = {task: rate(sum(r[0] for r in found), len(found)) for task, found in results.items()}
    print(f"suite {settings.suite}, {time.perf_counter() - begun:.0f} s")
    print(f"{'task':30} {'solved':>9} {'rate':>6}  {'95% interval':14} {'steps':>6}  published")
    for task, row in rows.items():
        steps = [n for success, n, _ in results[task] if success]
        mean = f"{sum(steps) / len(steps):6.0f}" if steps else "     -"
        wide = f"{row['low']:.1%} to {row['high']:.1%}"
        asked = "" if floor is None else f">= {floor:.0%}" + ("" if row["rate"] >= floor else "  below")
        print(f"{task:30} {row['successes']:4}/{row['n']:4} {row['rate']:6.1%}  {wide:14} {mean}  {asked}")
    total = rate(sum(r["successes"] for r in rows.values()), sum(r["n"] for r in rows.values()))
    print(f"all: {total['successes']}/{total['n']} = {total['rate']:.1%}", end="")
    print(f" (95% {total['low']:.1%} to {total['high']:.1%}); published: {source}" if source else "")
    if settings.failures:
        for task, found in results.items():
            for seed, (success, steps, words) in enumerate(found):
                if not success:
                    print(f"failed: {task} trial {seed} after {steps} steps at: {words}")
    if settings.out is not None:
        fresh = settings.out.with_name(f".{settings.out.name}.{os.getpid()}.new")
        fresh.write_text(json.dumps({"suite": settings.suite, "tasks": rows, "all": total}, indent=1))
        os.replace(fresh, settings.out)
    return int(floor is not None and any(row["high"] < floor for row in rows.values()))


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Settings)))
    except WorldError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
