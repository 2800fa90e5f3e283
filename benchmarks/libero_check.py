"""Whether every task of LIBERO and LIBERO-PRO runs behind our contract: each is made, put into its published
initial states, left alone for a while and drawn. One JSON line a task; a second run goes on where the first
one stopped.

    MUJOCO_GL=egl python benchmarks/libero_check.py --out libero.jsonl
"""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from envs.benchmarks.libero_tasks import HORIZONS, SUITES, told_by_file
from envs.registry import make

IDLE = np.array([0, 0, 0, 0, 0, 0, -1], np.float32)
TICKS = 20  # of doing nothing, after the ten of every reset
HAND, OBJECT = 0.01, 0.02  # m that the hand and any object may have moved in them


@dataclass
class Options:
    out: Path = Path("libero.jsonl")  # where the lines go
    suites: tuple[str, ...] = SUITES
    rollouts: bool = True  # also the first task of each of LIBERO's five suites, idle to its horizon
    drawing: str = "published"


def published(suite: str, number: int) -> tuple[str, str, np.ndarray]:
    """A task's name, instruction and initial states, from the package's own files, not by way of ours."""
    from libero.libero import benchmark

    with contextlib.redirect_stdout(io.StringIO()):
        home = benchmark.get_benchmark(suite)()
    task = home.get_task(number)
    words = task.language
    if told_by_file(suite):
        text = Path(home.get_task_bddl_file_path(number)).read_text(encoding="utf-8")
        words = " ".join(re.search(r"\(:language\s+(.*?)\)", text, re.S).group(1).lower().split())
    return task.name, words, home.get_task_init_states(number)


def places(env: Any) -> tuple[np.ndarray, np.ndarray]:
    """(3,) of the hand and (n, 3) of everything that can move freely, m."""
    model, data = env._scene.handles
    free = model.jnt_qposadr[model.jnt_type == 0]
    return env.state()[:3].astype(float), np.array([data.qpos[i : i + 3] for i in free]).reshape(-1, 3)


def moved(before: tuple, after: tuple) -> tuple[float, float]:
    """How far the hand went, and the object that went farthest, m."""
    apart = np.linalg.norm(after[1] - before[1], axis=1)
    return float(np.linalg.norm(after[0] - before[0])), float(apart.max(initial=0.0))


def check(suite: str, number: int, drawing: str) -> dict[str, Any]:
    """One task: everything that is promised of it."""
    wrong: list[str] = []
    name, words, states = published(suite, number)
    env = make(suite, family=name, pixels="lazy", drawing=drawing)
    trial = number % len(states)  # another published state for each task
    begun = time.perf_counter()
    info = env.begin(trial)
    built = time.perf_counter() - begun
    if env.stratum != name or env.task_description != words or info["task_description"] != words:
        wrong.append(f"instruction {env.task_description!r} for {words!r}")
    if env.state_id != trial:
        wrong.append(f"initial state {env.state_id} for {trial}")
    if info["is_success"]:
        wrong.append("success before the first tick")
    key = env.initial_state()
    settled, begun = places(env), time.perf_counter()
    for _ in range(TICKS):
        seen, _, success, over, _ = env.step(IDLE)
        if success or over or not np.isfinite(seen["agent_pos"]).all():
            wrong.append("an idle tick ended the episode, or its state is not finite")
            break
    ticks = TICKS / (time.perf_counter() - begun)
    hand, thing = moved(settled, places(env))
    if not (hand < HAND and thing < OBJECT):  # also what is not a number
        wrong.append(f"idle, the hand moved {1e3 * hand:.1f} mm and an object {1e3 * thing:.1f} mm")
    pictures = env.look()["pixels"]
    begun = time.perf_counter()
    pictures = env.look()["pixels"]
    drawn = len(pictures) / (time.perf_counter() - begun)
    for camera, picture in pictures.items():
        if picture.shape != (256, 256, 3) or picture.dtype != np.uint8 or picture.std() < 10:
            wrong.append(f"picture {camera}: {picture.shape} {picture.dtype}, deviation {picture.std():.1f}")
    begun = time.perf_counter()
    env.begin(trial)
    again = time.perf_counter() - begun
    if env.initial_state() != key:
        wrong.append("a second reset gave another state")
    unlike = 0  # the simulator's flattened state, before anything settles
    for i, state in enumerate(states):
        env._scene.start(i, i)
        model, data = env._scene.handles
        unlike += not np.array_equal(np.concatenate([[data.time], data.qpos, data.qvel]), state)
    if unlike:
        wrong.append(f"{unlike} of {len(states)} initial states differ")
    env.close()
    return {
        "suite": suite,
        "task": number,
        "name": name,
        "instruction": words,
        "wrong": wrong,
        "states": len(states),
        "progress": info["progress"],
        "hand_mm": round(1e3 * hand, 2),
        "object_mm": round(1e3 * thing, 2),
        "build_s": round(built, 2),
        "reset_s": round(again, 3),
        "ticks_per_s": round(ticks, 1),
        "pictures_per_s": round(drawn, 1),
    }


def rollout(suite: str) -> dict[str, Any]:
    """The first task of a suite, idle to its horizon."""
    env = make(suite, pixels="lazy")
    env.begin(0)
    start, halfway, over, steps = places(env), None, False, 0
    finite = True
    while not over and steps < 1000:
        seen, _, success, over, _ = env.step(IDLE)
        finite = finite and bool(np.isfinite(seen["agent_pos"]).all()) and not success
        steps += 1
        halfway = places(env) if steps == env.max_steps // 2 else halfway
    whole, late = moved(start, places(env)), moved(halfway, places(env))
    key = env.initial_state()  # of the end
    env.close()
    wrong = [] if finite else ["a state is not finite, or idling succeeded"]
    if steps != HORIZONS[suite]:
        wrong.append(f"{steps} ticks for {HORIZONS[suite]}")
    if not (late[0] < HAND and late[1] < OBJECT):
        wrong.append(
            f"the hand moved {1e3 * late[0]:.1f} mm, an object {1e3 * late[1]:.1f} mm in the second half"
        )
    return {
        "suite": suite,
        "task": "idle",
        "wrong": wrong,
        "steps": steps,
        "hand_mm": round(1e3 * whole[0], 2),
        "object_mm": round(1e3 * whole[1], 2),
        "late_hand_mm": round(1e3 * late[0], 2),
        "late_object_mm": round(1e3 * late[1], 2),
        "end": key,
    }


def count(suite: str) -> int:
    from libero.libero import benchmark

    with contextlib.redirect_stdout(io.StringIO()):
        return benchmark.get_benchmark(suite)().n_tasks


def attempt(job: tuple[str, int | str, str]) -> dict[str, Any]:
    suite, number, drawing = job
    try:
        return rollout(suite) if number == "idle" else check(suite, number, drawing)
    except Exception as error:  # the point is to know which tasks fail, and how
        return {"suite": suite, "task": number, "wrong": [f"{type(error).__name__}: {error}"]}


def fresh() -> ProcessPoolExecutor:
    """One process, replaced after ten tasks: the simulator's memory is not all given back."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=10)


def run(jobs: Iterable[tuple], out: Path) -> None:
    pool = fresh()
    for job in jobs:
        try:
            row = pool.submit(attempt, job).result()
        except BrokenProcessPool:
            row = {"suite": job[0], "task": job[1], "wrong": ["the process died"]}
            pool = fresh()
        with out.open("a") as lines:
            lines.write(json.dumps(row) + "\n")
        print(row["suite"], row["task"], "; ".join(row["wrong"]) or "well", flush=True)
    pool.shutdown()


def show(rows: list[dict]) -> int:
    """The table; how many tasks are not as they should be."""
    columns = ("suite", "tasks", "well", "states", "hand mm", "object mm", "reset s", "ticks/s", "pictures/s")
    table = Table(*columns, title=f"idle for {TICKS} ticks: the most that anything moved; medians of times")
    for suite in dict.fromkeys(r["suite"] for r in rows):
        mine = [r for r in rows if r["suite"] == suite and r["task"] != "idle"]
        done = [r for r in mine if "states" in r]
        if not done:
            continue
        most = [f"{max(r[k] for r in done):.1f}" for k in ("hand_mm", "object_mm")]
        timed = (("reset_s", 2), ("ticks_per_s", 0), ("pictures_per_s", 1))
        times = [f"{np.median([r[k] for r in done]):.{digits}f}" for k, digits in timed]
        well = sum(not r["wrong"] for r in mine)
        table.add_row(suite, str(len(mine)), str(well), str(sum(r["states"] for r in done)), *most, *times)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 130)
    console.print(table)
    for r in rows:
        if r["task"] == "idle" or r["wrong"]:
            about = (
                "; ".join(r["wrong"])
                or f"{r['steps']} ticks, hand {r['hand_mm']}, object {r['object_mm']} mm"
            )
            console.print(f"{r['suite']} {r['task']}: {about}", soft_wrap=True)
    return sum(bool(r["wrong"]) for r in rows)


def main(options: Options) -> int:
    done = set()
    if options.out.exists():
        done = {(r["suite"], r["task"]) for r in map(json.loads, options.out.read_text().splitlines())}
    jobs = [(s, i, options.drawing) for s in options.suites for i in range(count(s))]
    if options.rollouts:
        jobs += [(s, "idle", options.drawing) for s in options.suites if s in HORIZONS]
    run([j for j in jobs if j[:2] not in done], options.out)
    return show([json.loads(line) for line in options.out.read_text().splitlines()])


if __name__ == "__main__":
    os.environ.setdefault("MUJOCO_GL", "egl")
    sys.exit(1 if main(tyro.cli(Options, description=__doc__)) else 0)
