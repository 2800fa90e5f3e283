"""Demonstrations and DAgger rounds: episodes of the tabletop world, labelled by the teacher, on all cores;
demonstrations of a benchmark's teacher too (`demonstrations.py`).

Which episodes a dataset holds follows from suites, families and seeds alone, so collecting again after a
kill makes the missing ones, and the same command gives the same dataset.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.recording.statistics import describe_images
from backbone.errors import UserError
from backbone.observation import Observation
from training.dataset import DatasetWriter
from training.drivers import Bursts, Turns
from training.episodes import (
    CAMERAS,
    DISTURBED,
    TABLETOP,
    TEACHER,
    Episode,
    Job,
    Row,
    encode_png,
    from_rows,
    take_turns,
)
from training.progress import Bar

if TYPE_CHECKING:
    from agent.levels import Levels
    from envs.tabletop.world import World
    from training.demonstrations import Demonstrator

META_EVERY = 50  # episodes between two renewals of meta/
MAX_SEED = 9_999_999  # evaluation seeds lie above: no scene of an evaluation is ever trained on
AFTER = (5, 40)  # frames of "done" at the end of an episode


def plan_episodes(
    suites: Sequence[str], episodes: int, seed: int, families: Sequence[str] | None
) -> list[Job]:
    """Suites and their families in turn, a new seed each."""
    from envs.suites import SUITES

    for suite in suites:
        if suite not in SUITES or not SUITES[suite].training:
            known = ", ".join(name for name, s in SUITES.items() if s.training)
            raise UserError(f"suite: expected one of {known}, got '{suite}'")
    if seed < 0 or seed + episodes - 1 > MAX_SEED:
        raise UserError(f"seed: expected seeds from 0 to {MAX_SEED}, got {seed} .. {seed + episodes - 1}")
    tasks = {suite: SUITES[suite].families for suite in suites}
    turns = take_turns(tasks, suites, episodes, families)
    return [Job(suite, family, seed + n) for n, (suite, family, _) in enumerate(turns)]


class Walker:
    """Runs episodes, one after another, in one world. `policy` drives in turn with the teacher (DAgger).
    late: the share of its turns in which its answers come late.
    """

    def __init__(self, policy: Levels | None = None, late: float = 0.0):
        from agent.loop import Agent
        from agent.oracle import OraclePlanner
        from envs.tabletop.env import TabletopEnv
        from envs.tabletop.teacher import Teacher

        self.teacher, self.env = Teacher(), TabletopEnv(pixels="lazy")
        self.agents: list[Agent] = []
        self.late = late
        if policy is not None:
            oracle = OraclePlanner(self.env.teacher())
            writes = policy.planner is not None
            self.agents = [Agent(policy, "learned" if writes else "none")]
            self.agents += [Agent(policy, oracle)] if writes else []

    def walk(self, job: Job, keep: Callable[[World], Any], max_steps: int | None = None) -> list[Row]:
        """One episode, until it has been done for a while or its time is up; `keep(world)` before each
        step."""
        env, world, rng = self.env, self.env.world, np.random.default_rng([job.seed, 7])
        env.suite, env.family = job.suite, job.family  # one world serves all
        env.reset(seed=job.seed)
        self.teacher.reset()
        driver: Bursts | Turns = Bursts(rng)
        if self.agents:
            driver = Turns(rng, self.agents[int(rng.integers(len(self.agents)))], self.late)
        rows: list[Row] = []
        done, after = 0, int(rng.integers(*AFTER))
        last_event = max((event.at for event in env.task.events), default=0)
        for t in range(max_steps or env.task.max_steps):
            instruction, label = env.task_description, self.teacher.label(world)
            kept, state = keep(world), world.state_vector()
            look = partial(self._look, instruction)
            action, who = driver.drive(world, label, instruction, look)
            waiting = len(env._pending)
            _, _, _, _, info = env.step(action)
            if len(env._pending) < waiting and who == TEACHER:
                who = DISTURBED  # something happened: what comes next does not follow from here
            rows.append(Row(kept, state, label, instruction, action, who, info["is_success"], driver.told))
            done = done + 1 if label.subtask == "done" else 0
            if done > after and t > last_event:
                break
        return rows

    def _look(self, instruction: str) -> Observation:
        return Observation.from_env(self.env.look(), instruction)


class Recorder(Walker):
    """Records whole episodes, every frame with its pictures."""

    def episode(self, job: Job, max_steps: int | None = None) -> Episode:
        rows = self.walk(job, lambda world: world.observe()["pixels"], max_steps)
        stacks = {name: np.stack([row.kept[name] for row in rows]) for name in CAMERAS}
        images = {name: [encode_png(image) for image in stack] for name, stack in stacks.items()}
        return from_rows(job, rows, images, {name: describe_images(stack) for name, stack in stacks.items()})


_recorder: Recorder | Demonstrator | None = None


def begin_worker(checkpoint: str | None) -> Levels | None:
    """A worker process's first act: leave Ctrl-C to the parent, end with it, load what drives, if any."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    if checkpoint is None:
        return None
    import torch

    from agent.policy import load

    torch.set_num_threads(1)
    return load(checkpoint)


def _start(checkpoint: str | None, drawing: str | None) -> None:
    levels = begin_worker(checkpoint)
    _set_recorder(levels, drawing)


def _set_recorder(levels: Levels | None, drawing: str | None) -> None:
    global _recorder
    from training.demonstrations import Demonstrator

    _recorder = Recorder(levels) if drawing is None else Demonstrator(drawing)


def _record(job: Job) -> Episode:
    assert _recorder is not None
    return _recorder.episode(job)


def _episodes(
    jobs: Sequence[Job], checkpoint: str | None, drawing: str | None, workers: int
) -> Iterator[Episode]:
    """Episodes in the order of the jobs, made by `workers` processes (0: here). drawing: of a benchmark's
    pictures, None on the tabletop.
    """
    if workers == 0:
        _start_here(checkpoint, drawing)
        yield from map(_record, jobs)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(checkpoint, drawing))
    try:
        running: deque[Future[Episode]] = deque()
        waiting = iter(jobs)
        for job in waiting:
            running.append(pool.submit(_record, job))
            if len(running) >= 3 * workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _start_here(checkpoint: str | None, drawing: str | None) -> None:
    levels = None
    if checkpoint is not None:
        from agent.policy import load

        levels = load(checkpoint)
    _set_recorder(levels, drawing)


def collect(
    out: str | Path,
    suites: Sequence[str] = ("core",),
    episodes: int = 600,
    seed: int = 0,
    families: Sequence[str] | None = None,
    checkpoint: str | None = None,
    workers: int | None = None,
    quiet: bool = False,
    drawing: str = "published",
) -> DatasetWriter:
    """Make the dataset `out`, or what it lacks. See `plan_episodes` for what is in it; for the suites of a
    benchmark, `demonstrations.plan_trials`.

    checkpoint: a policy that drives in turn with the teacher (DAgger; the tabletop's suites alone). workers:
    processes, all cores by default. drawing: of a benchmark's pictures, "published" or "fast".
    """
    from training.demonstrations import of_benchmarks, plan_trials, survey

    foreign = of_benchmarks(suites)
    if foreign and checkpoint is not None:
        raise UserError(f"checkpoint: expected a suite of the tabletop for DAgger, got '{suites[0]}'")
    if foreign:
        layout, tasks = survey(suites, drawing)
        jobs = plan_trials(tasks, suites, episodes, seed, families)
    else:
        layout, jobs = TABLETOP, plan_episodes(suites, episodes, seed, families)
    if checkpoint is not None:
        from backbone import checkpoint as checkpoints

        checkpoint = str(checkpoints.find(checkpoint))
    writer = DatasetWriter(out, layout)
    missing = [job for job in jobs if job.key not in writer.keys]
    frames, solved, start = 0, 0, time.monotonic()
    with writer, Bar("collect", len(jobs), quiet=quiet) as bar:
        count = min(os.cpu_count() or 1 if workers is None else workers, len(missing))
        made = _episodes(missing, checkpoint, drawing if foreign else None, count)
        try:
            bar.update(len(jobs) - len(missing))
            for n, episode in enumerate(made):
                writer.add(episode)
                frames, solved = frames + len(episode), solved + bool(episode.success[-1])
                if (n + 1) % META_EVERY == 0:
                    writer.write_meta()
                rate = frames / (time.monotonic() - start)
                text = f"{writer.frames} frames, {rate:.0f} a second, {solved / (n + 1):.0%} solved"
                bar.update(len(jobs) - len(missing) + n + 1, text)
        except KeyboardInterrupt:
            bar.log(f"interrupted: {len(writer.episodes)} whole episodes are kept; the same command goes on")
            raise
        finally:
            made.close()
    return writer
