"""Demonstrations of a public benchmark's teacher, in the benchmark's layout of pictures, state and action.

Trials from EVALUATION_START on are recorded: an evaluation's begin at 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from agent.recording.columns import layout_of
from agent.recording.statistics import describe_images
from backbone.errors import UserError
from envs.contract import EvaluationEnv
from envs.registry import BENCHMARKS, make
from envs.suites import EVALUATION_START, SUITES
from training.drivers import Shakes
from training.episodes import Episode, Job, Layout, Row, encode_png, from_rows, take_turns

STATISTICS_EVERY = 8  # frames; large pictures would fill the memory


def of_benchmarks(suites: Sequence[str]) -> bool:
    """Whether suites are of public benchmarks. UserError where some are the tabletop's and some are not."""
    known = {suite for found in BENCHMARKS for suite in found.suites} - set(SUITES)
    foreign = [suite for suite in suites if suite in known]
    if foreign and len(foreign) < len(suites):
        own = next(suite for suite in suites if suite not in known)
        raise UserError(f"suites: expected those of one world, got '{foreign[0]}' and '{own}'")
    return bool(foreign)


def survey(suites: Sequence[str], drawing: str = "published") -> tuple[Layout, dict[str, tuple[str, ...]]]:
    """The layout of benchmark suites' frames, and the tasks of each suite. UserError where one has no teacher
    or their layouts differ."""
    layouts, tasks = {}, {}
    for suite in dict.fromkeys(suites):
        env = make(suite, pixels="lazy", drawing=drawing)
        if env.teacher() is None:
            raise UserError(f"suite: expected one with a teacher, got '{suite}'")
        env.reset(seed=0)
        layouts[suite], tasks[suite] = layout_of(env), tuple(env.tasks[suite])
        env.close()
    first = suites[0]
    for suite, layout in layouts.items():
        if layout != layouts[first]:
            raise UserError(f"suites: expected frames of one layout, '{first}' and '{suite}' have two")
    return layouts[first], tasks


def plan_trials(
    tasks: Mapping[str, Sequence[str]],
    suites: Sequence[str],
    episodes: int,
    seed: int,
    families: Sequence[str] | None,
) -> list[Job]:
    """Suites in turn, in each its `tasks` in turn, of each task the trials `seed`, `seed` + 1, ..."""
    if seed < 0:
        raise UserError(f"seed: expected 0 or more, got {seed}")
    turns = take_turns(tasks, suites, episodes, families)
    return [Job(suite, task, seed + before) for suite, task, before in turns]


class Demonstrator:
    """Records whole episodes, every frame with its pictures, up to the first success."""

    def __init__(self, drawing: str = "published") -> None:
        self.drawing = drawing
        self._env: EvaluationEnv | None = None

    def episode(self, job: Job, max_steps: int | None = None) -> Episode:
        env = self._world(job)
        env.reset(seed=EVALUATION_START + job.seed)
        teacher = env.teacher()
        teacher.reset()
        driver = Shakes(np.random.default_rng([job.seed, 7]), env.action_space.low, env.action_space.high)
        images: dict[str, list[bytes]] = {}
        some: dict[str, list[np.ndarray]] = {}
        rows: list[Row] = []
        solved = False
        while not solved and len(rows) < (max_steps or env.max_steps):
            seen, label, instruction = env.look(), teacher.label(), env.task_description
            for name, picture in seen["pixels"].items():
                images.setdefault(name, []).append(encode_png(picture))
                if len(rows) % STATISTICS_EVERY == 0:
                    some.setdefault(name, []).append(picture)
            action, who = driver.drive(label.action)
            solved = bool(env.step(action)[-1]["is_success"])
            rows.append(Row(None, seen["agent_pos"], label, instruction, action, who, solved))
        stats = {name: describe_images(np.stack(stack)) for name, stack in some.items()}
        return from_rows(job, rows, images, stats)

    def _world(self, job: Job) -> EvaluationEnv:
        if self._env is None or (self._env.suite, self._env.family) != (job.suite, job.family):
            if self._env is not None:
                self._env.close()
            self._env = make(job.suite, job.family, pixels="lazy", drawing=self.drawing)
        return self._env
