"""Evaluation: the seeds SEED, SEED+1, ... of a suite, spread over processes of one thread each.

Records are appended to OUT/episodes.jsonl as episodes finish, so a killed run loses at most the unfinished
ones; run again with the same settings it goes on where it was. OUT/summary.json is computed from those
records alone.
"""

from __future__ import annotations

import dataclasses
import multiprocessing as mp
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from agent.evaluation.metrics import summarize
from agent.evaluation.provenance import provenance
from agent.evaluation.sequential import UntilSure
from agent.evaluation.settings import Settings
from agent.evaluation.slots import Measure, Slots
from agent.evaluation.store import Record, Store
from agent.planners import LOCAL
from backbone.errors import UserError
from envs.errors import WorldError

Watcher = Callable[[Record, int, int], None]  # record, episodes finished, episodes in all


def evaluate(
    settings: Settings,
    seeds: Iterable[int],
    out: Path | str | None = None,
    workers: int | None = None,
    policy=None,
    watch: Watcher | None = None,
    until_sure: float | None = None,
    ray: str | None = None,
    record: Path | str | None = None,
) -> dict[str, Any]:
    """Run the seeds and return the summary; with `out` also write it, and resume what is already there.

    workers: processes (the number of cores by default); 0 runs in this process, which is what training
    does, with its own `policy`. until_sure: stop when the success rate is surely above or below this one; the
    summary is of the seeds up to there, whatever else had started by then. ray: the address of a cluster to
    run on, or "local" (see `machines`). record: a folder for the runs as LeRobot datasets, one of each
    process. UserError for settings, checkpoints and files that do not fit.
    """
    seeds, started = list(seeds), time.perf_counter()
    if not seeds:
        raise UserError("episodes: expected at least 1, got 0")
    if len(set(seeds)) < len(seeds):
        twice = next(seed for seed in seeds if seeds.count(seed) > 1)
        raise UserError(f"seeds: expected each of them once, got {twice} again")
    if policy is not None and (workers or ray):
        raise UserError("evaluate: expected workers=0 with a policy object, which lives in this process")
    measure = None
    if record is not None:
        if ray or policy is not None:
            raise UserError("record: expected a checkpoint and processes of this machine, got others")
        from agent.evaluation.recorded import Recorded

        measure = Recorded(record, settings)
        measure.check()
    sure = None if until_sure is None else UntilSure(until_sure, seeds)
    store = Store(Path(out) if out is not None else None, settings, policy)
    records = gather(settings, seeds, store, workers, policy, watch, measure, sure, ray)
    good = [r for r in records if not r.get("error")]
    bad = [r for r in records if r.get("error")]
    summary = summarize(good, bad) | {
        "settings": dataclasses.asdict(settings) | {"seed": records[0]["seed"], "episodes": len(records)},
        "checkpoint_sha256": store.fingerprint,
        **provenance(),
        "seconds": round(time.perf_counter() - started, 1),
        "episodes_resumed": sum(r["seed"] in store.finished for r in records),
    }
    if sure is not None:
        summary["until_sure"] = sure.summary()
    store.summary(summary)
    return summary


def gather(
    settings: Settings,
    seeds: Iterable[int],
    store: Store,
    workers: int | None = None,
    policy=None,
    watch: Watcher | None = None,
    measure: Measure | None = None,
    sure: UntilSure | None = None,
    ray: str | None = None,
) -> list[Record]:
    """The records of the seeds, in their order: what is in the store already, the rest run and put there.
    measure: what makes a record (importable by name); an episode by default. sure: ends it early, with the
    records that it judged.
    """
    seeds = list(seeds)
    records: dict[int, Record] = {seed: store.finished[seed] for seed in seeds if seed in store.finished}
    todo = [seed for seed in seeds if seed not in records]

    def take(record: Record) -> bool:
        """Keep it -> whether that was enough."""
        store.append(record)
        records[record["seed"]] = record
        if watch is not None:
            watch(record, len(records), len(seeds))
        return sure is not None and sure.update(records)

    for count, record in enumerate(list(records.values()), 1):
        if watch is not None:
            watch(record, count, len(seeds))
    if todo and not (sure is not None and sure.update(records)):
        if ray is not None:
            from agent.evaluation.machines import run_on_ray

            run_on_ray(settings, todo, take, measure, ray, workers, store.add_run)
        elif policy is not None or workers == 0:
            _run_here(settings, policy, todo, take, measure)
        else:
            most = -(-len(todo) // settings.batch)
            workers = min(workers or os.cpu_count() or 1, most)
            _run_in_processes(settings, todo, workers, take, measure)
    if sure is not None and sure.update(records):
        seeds = seeds[: sure.used]
    return [records[seed] for seed in seeds]


# -- one process


def _run_here(
    settings: Settings, policy, seeds: Sequence[int], take: Callable[[Record], bool], measure: Measure | None
) -> None:
    slots = Slots(settings, measure, policy)
    try:
        slots.run(iter(seeds), take)
    finally:
        slots.close()


# -- several


def _work(settings: Settings, pipe: Connection, measure: Measure | None) -> None:
    """A worker: says "ready", as often as it runs episodes at a time, then answers each seed with a record.
    It is done when it is told None as often.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    try:
        if settings.networked or settings.planner.startswith(LOCAL):
            import torch

            torch.set_num_threads(1)
        slots = Slots(settings, measure)
    except (UserError, WorldError) as error:
        pipe.send(("refused", str(error)))
        return

    def take(record: Record) -> bool:
        pipe.send(("record", record))
        return False

    for _ in range(settings.batch):
        pipe.send(("ready", None))
    try:
        slots.run(iter(pipe.recv, "never"), take)
    except (EOFError, BrokenPipeError):
        pass  # the parent is gone
    slots.close()


def _run_in_processes(
    settings: Settings,
    seeds: Sequence[int],
    workers: int,
    take: Callable[[Record], bool],
    measure: Measure | None,
) -> None:
    """Hand out seeds one by one. A worker that dies costs its episodes (error records) and is replaced."""
    context = mp.get_context("spawn")
    queue = list(reversed(seeds))
    crew: dict[Connection, tuple[mp.Process, list[int]]] = {}  # with the seeds that each is at

    def hire() -> None:
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(settings, theirs, measure), daemon=True)
        process.start()
        theirs.close()
        crew[ours] = (process, [])

    def give(pipe: Connection) -> None:
        seed = queue.pop() if queue else None
        if seed is not None:
            crew[pipe][1].append(seed)
        pipe.send(seed)

    try:
        for _ in range(workers):
            hire()
        ready = False
        while queue or any(at for _, at in crew.values()):
            for pipe in wait(list(crew)):
                process, at = crew[pipe]
                try:
                    kind, value = pipe.recv()
                except (EOFError, ConnectionResetError):
                    process.join()
                    del crew[pipe]
                    if not ready and not at:
                        raise RuntimeError(
                            f"a worker ended with {process.exitcode} before it was ready"
                        ) from None
                    line = f"the worker process ended with {process.exitcode}"
                    for seed in at:
                        if take({"seed": seed, "error": line}):
                            queue.clear()
                    if queue:
                        hire()
                    continue
                if kind == "refused":
                    raise UserError(value)
                ready = True
                if kind == "record":
                    at.remove(value["seed"])
                    if take(value):
                        queue.clear()  # what has begun goes on to its end
                give(pipe)
        for process, _ in crew.values():
            process.join(timeout=10)
    finally:
        for process, _ in crew.values():
            if process.is_alive():
                process.terminate()
