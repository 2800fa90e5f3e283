"""Evaluation: the seeds SEED, SEED+1, ... of a suite, spread over the cores, one process and one thread each.

Records are appended to OUT/episodes.jsonl as episodes finish, so a killed run loses at most the unfinished
ones; run again with the same settings it goes on where it was. OUT/summary.json is computed from those
records alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing as mp
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from agent.evaluation import planners
from agent.evaluation.metrics import summarize
from agent.evaluation.provenance import SCHEMA, provenance
from agent.evaluation.sequential import UntilSure
from agent.loop import Agent
from backbone.errors import UserError
from envs.errors import WorldError
from lowlevel.sampling import Sampling

Record = dict[str, Any]
Watcher = Callable[[Record, int, int], None]  # record, episodes finished, episodes in all
Measure = Callable[[Any, Agent, int], Record]  # env, agent, seed
CONTROLLERS = ("learned", "teacher", "obedient")


@dataclass(frozen=True)
class Settings:
    """Who is evaluated on what. All but what is learned is for diagnosis: planners that are wrong on purpose
    (see `planners`), the teacher as controller, and the teacher's hand doing as it is told ("obedient").
    """

    suite: str = "core"
    family: str | None = None
    checkpoint: str = "nano"
    planner: str = "learned"
    controller: str = "learned"
    execute: int = 8
    steps: int | None = None  # of flow, for a chunk; the preset's by default
    solver: str = "euler"
    plan: str | None = None  # a typed planner's subtasks

    def __post_init__(self):
        Sampling(self.steps, self.solver)
        for name, value, known in (
            ("planner", self.planner, planners.PLANNERS),
            ("controller", self.controller, CONTROLLERS),
        ):
            if value not in known:
                raise UserError(f"{name}: expected one of {', '.join(known)}, got '{value}'")

    @property
    def networked(self) -> bool:
        """Whether a network takes part."""
        return self.planner in planners.NETWORKED or self.controller == "learned"


def build(settings: Settings, policy=None):
    """The world and the agent of these settings. `policy`: used instead of loading the checkpoint."""
    from envs.tabletop.env import TabletopEnv

    env = TabletopEnv(suite=settings.suite, family=settings.family, pixels="lazy")
    if policy is None and settings.networked:
        from agent.policy import load

        policy = load(settings.checkpoint)
    if settings.controller == "learned" and getattr(policy, "controller", None) is not None:
        policy.controller.sampling = Sampling(settings.steps, settings.solver)
    controller = None
    if settings.controller != "learned":
        from agent.oracle import ObedientController, TeacherController
        from envs.tabletop.teacher import Teacher

        kind = TeacherController if settings.controller == "teacher" else ObedientController
        controller = kind(env.world, Teacher())
    planner = planners.make(settings.planner, env.world, policy, settings.plan)
    return env, Agent(policy or controller, planner=planner, controller=controller, execute=settings.execute)


def evaluate(
    settings: Settings,
    seeds: Iterable[int],
    out: Path | str | None = None,
    workers: int | None = None,
    policy=None,
    watch: Watcher | None = None,
    until_sure: float | None = None,
) -> dict[str, Any]:
    """Run the seeds and return the summary; with `out` also write it, and resume what is already there.

    workers: processes (the number of cores by default); 0 runs in this process, which is what training
    does, with its own `policy`. until_sure: stop when the success rate is surely above or below this one; the
    summary is of the seeds up to there, whatever else had started by then. UserError for settings,
    checkpoints and files that do not fit.
    """
    seeds, started = list(seeds), time.perf_counter()
    if not seeds:
        raise UserError("episodes: expected at least 1, got 0")
    if policy is not None and workers:
        raise UserError("evaluate: expected workers=0 with a policy object, which lives in this process")
    sure = None if until_sure is None else UntilSure(until_sure, seeds)
    store = Store(Path(out) if out is not None else None, settings, policy)
    records = gather(settings, seeds, store, workers, policy, watch, sure=sure)
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
) -> list[Record]:
    """The records of the seeds, in their order: what is in the store already, the rest run and put there.
    measure: what makes a record (importable by name); an episode by default. sure: ends it early, with the
    records that it judged.
    """
    seeds = list(seeds)
    records: dict[int, Record] = {seed: store.finished[seed] for seed in seeds if seed in store.finished}
    todo = [seed for seed in seeds if seed not in records]
    measure = measure or _episode

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
        if policy is not None or workers == 0:
            _run_here(settings, policy, todo, take, measure)
        else:
            workers = min(workers or os.cpu_count() or 1, len(todo))
            _run_in_processes(settings, todo, workers, take, measure)
    if sure is not None and sure.update(records):
        seeds = seeds[: sure.used]
    return [records[seed] for seed in seeds]


# -- one process


def _episode(env, agent, seed: int) -> Record:
    from agent.evaluation.episode import run_episode

    record = run_episode(env, agent, seed)
    if record["failures"]:
        record["error"] = record["failures"][0]["event"]
    return record


def _measured(measure: Measure, env, agent, seed: int) -> Record:
    """One record, or one that says why there is none."""
    try:
        return measure(env, agent, seed)
    except Exception as error:
        line = f"{type(error).__name__}: {error}"
        return {"seed": seed, "error": line, "traceback": traceback.format_exc()}


def _run_here(
    settings: Settings, policy, seeds: Sequence[int], take: Callable[[Record], bool], measure: Measure
) -> None:
    env, agent = build(settings, policy)
    try:
        for seed in seeds:
            if take(_measured(measure, env, agent, seed)):
                break
    finally:
        env.close()


def _work(settings: Settings, pipe: Connection, measure: Measure) -> None:
    """A worker: says "ready", then answers each seed with a record until it is told None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    try:
        if settings.networked:
            import torch

            torch.set_num_threads(1)
        env, agent = build(settings)
    except (UserError, WorldError) as error:
        pipe.send(("refused", str(error)))
        return
    pipe.send(("ready", None))
    try:
        while (seed := pipe.recv()) is not None:
            pipe.send(("record", _measured(measure, env, agent, seed)))
    except (EOFError, BrokenPipeError):
        pass  # the parent is gone
    env.close()


def _run_in_processes(
    settings: Settings,
    seeds: Sequence[int],
    workers: int,
    take: Callable[[Record], bool],
    measure: Measure,
) -> None:
    """Hand out seeds one by one. A worker that dies costs its episode (an error record) and is replaced."""
    context = mp.get_context("spawn")
    queue = list(reversed(seeds))
    crew: dict[Connection, tuple[mp.Process, int | None]] = {}

    def hire() -> None:
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(settings, theirs, measure), daemon=True)
        process.start()
        theirs.close()
        crew[ours] = (process, None)

    def give(pipe: Connection) -> None:
        seed = queue.pop() if queue else None
        crew[pipe] = (crew[pipe][0], seed)
        pipe.send(seed)

    try:
        for _ in range(workers):
            hire()
        ready = False
        while queue or any(seed is not None for _, seed in crew.values()):
            for pipe in wait(list(crew)):
                process, seed = crew[pipe]
                try:
                    kind, value = pipe.recv()
                except (EOFError, ConnectionResetError):
                    process.join()
                    del crew[pipe]
                    if not ready and seed is None:
                        raise RuntimeError(
                            f"a worker ended with {process.exitcode} before it was ready"
                        ) from None
                    line = f"the worker process ended with {process.exitcode}"
                    if seed is not None and take({"seed": seed, "error": line}):
                        queue.clear()
                    if queue:
                        hire()
                    continue
                if kind == "refused":
                    raise UserError(value)
                ready = True
                if kind == "record" and take(value):
                    queue.clear()  # what has begun goes on to its end
                give(pipe)
        for process, _ in crew.values():
            process.join(timeout=10)
    finally:
        for process, _ in crew.values():
            if process.is_alive():
                process.terminate()


# -- files


class Store:
    """OUT/run.json (what is being evaluated), OUT/episodes.jsonl (a record a line) and OUT/summary.json."""

    def __init__(self, out: Path | None, settings: Settings, policy):
        self.out, self.finished, self._file = out, {}, None
        self.fingerprint = None if policy is not None else fingerprint(settings)
        if out is None:
            return
        identity = dataclasses.asdict(settings) | {"checkpoint_sha256": self.fingerprint}
        make_folder(out)
        run, lines = out / "run.json", out / "episodes.jsonl"
        now, runs = provenance(), []
        if lines.exists():
            before = _read_json(run)
            runs = before.get("runs", [{}])
            different = [key for key, value in identity.items() if before.get(key) != value]
            if different:
                key = different[0]
                raise UserError(
                    f"out: '{out}' holds episodes with {key} {before.get(key)!r}, not {identity[key]!r}; "
                    "choose another folder"
                )
            self.finished = _read_records(lines)
        # whoever wrote episodes here: a resumed run may have other versions or another machine
        write_json(run, identity | {"schema": SCHEMA, "runs": runs + [now] * (now not in runs)})
        self._file = lines.open("a")

    def append(self, record: Record) -> None:
        if self._file is not None:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()

    def summary(self, summary: dict[str, Any]) -> None:
        if self.out is not None:
            self._file.close()
            write_json(self.out / "summary.json", summary)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def _read_records(path: Path) -> dict[int, Record]:
    """Finished episodes by seed. A line that a kill cut off is removed, so that appending is safe."""
    finished, whole = {}, []
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        whole.append(line)
        if not record.get("error"):
            finished[record["seed"]] = record
    path.write_text("".join(line + "\n" for line in whole))
    return finished


def make_folder(path: Path) -> None:
    """Create it, with its parents; UserError where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out: expected a folder to write in, got '{path}' ({error.strerror})") from None


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(part, path)


def fingerprint(settings: Settings) -> str | None:
    """sha256 of the weights that are evaluated; None where no network takes part."""
    if not settings.networked:
        return None
    from backbone import checkpoint

    weights = checkpoint.find(settings.checkpoint) / checkpoint.WEIGHTS
    if not weights.is_file():
        raise UserError(f"checkpoint {settings.checkpoint}: expected a file {weights}, found none")
    return hashlib.sha256(weights.read_bytes()).hexdigest()
