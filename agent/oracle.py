"""The world's scripted teacher in the places of the two levels: for diagnosis, never for a result.

`OraclePlanner` writes what the teacher would write (with the exact point), so that a controller can be judged
alone; `TeacherController` moves as the teacher would, so that the loop and a planner's timing can;
`ObedientController` moves as the teacher would if the subtask were its own, so that a plan can be judged by
what comes of it; `GuideTeleop` is a person who does as the teacher would (see `agent.teach`). All read the
simulator's state, which no learned part ever sees.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from backbone.errors import UserError
from backbone.observation import Observation
from envs.contract import Guide, Label
from envs.errors import WorldError
from envs.tabletop.commands import motion, understand
from envs.tabletop.teacher import Teacher
from envs.tabletop.world import World
from highlevel.plan import DONE, Plan, Target, parse_plan_text
from lowlevel.controller import ActionChunk


def plan_of(label: Label, seconds: float = 0.0) -> Plan:
    """The teacher's label as a plan."""
    target = None if label.point is None else Target(*(float(v) for v in label.point))
    done = label.subtask == DONE
    return Plan(label.subtask, target, label.memory, done, origin="oracle", seconds=seconds)


class OraclePlanner:
    """The teacher of a world as a planner: the true subtask, point and memory."""

    blind = True

    def __init__(self, guide: Guide):
        self.guide = guide

    def plan(self, observation: Observation, instruction: str, memory: str, previous: Plan | None) -> Plan:
        start = time.perf_counter()
        label = self.guide.label()
        return plan_of(label, time.perf_counter() - start)


class GuideController:
    """The teacher of any world as a controller: one action a look. It reads no subtask."""

    blind = True

    def __init__(self, guide: Guide, action_dim: int):
        self.guide, self.action_dim = guide, action_dim

    def act(self, observation: Observation, subtask: str, committed: np.ndarray | None = None) -> ActionChunk:
        start = time.perf_counter()
        action = np.asarray(self.guide.label().action, np.float32)
        return ActionChunk(action[None], subtask, seconds=time.perf_counter() - start)


class GuideTeleop:
    """The teacher of any world behind a teleop's interface, and what it would type. names: of an action."""

    instant = True

    def __init__(self, guide: Guide, names: Sequence[str]):
        self.guide, self.names = guide, tuple(names)
        self.action_features = dict.fromkeys(self.names, float)

    def connect(self) -> None:
        self.guide.reset()

    def disconnect(self) -> None: ...

    def get_action(self) -> dict[str, float]:
        return dict(zip(self.names, np.asarray(self.guide.label().action, float).tolist(), strict=True))

    def typed(self) -> tuple[str, str]:
        """The lines "subtask: ..." and "memory: ..." for the present moment."""
        plan = plan_of(self.guide.label())
        return f"subtask: {plan.text}", f"memory: {plan.memory}"


class TeacherController:
    """The tabletop's teacher as a controller: rolls the world forward for a chunk, then back. It reads no
    subtask.
    """

    blind = True
    action_dim = 7

    def __init__(self, world: World, teacher: Teacher, horizon: int = 10):
        self.world, self.teacher, self.horizon = world, teacher, horizon

    def act(self, observation: Observation, subtask: str, committed: np.ndarray | None = None) -> ActionChunk:
        start, here, actions = time.perf_counter(), self.world.save(), []
        for _ in range(self.horizon):
            actions.append(np.asarray(self.action(subtask), np.float32))
            self.world.step(actions[-1])
        self.world.restore(here)
        return ActionChunk(np.stack(actions), subtask, seconds=time.perf_counter() - start)

    def action(self, subtask: str) -> np.ndarray:
        """(7,) the next one."""
        return self.teacher.label(self.world).action


class ObedientController(TeacherController):
    """The teacher's motions for whatever it is told: the words say what to do, the point which thing or what
    place. UserError for words that command nothing in this scene.
    """

    def act(self, observation: Observation, subtask: str, committed: np.ndarray | None = None) -> ActionChunk:
        here = self.world.save()
        try:
            return super().act(observation, subtask, committed)
        except WorldError as error:  # half way through the chunk, perhaps
            self.world.restore(here)
            raise UserError(f"subtask: expected what this scene has, got '{subtask}' ({error})") from None

    def action(self, subtask: str) -> np.ndarray:
        words, target = parse_plan_text(subtask)
        command = understand(words)
        if command is None:
            raise UserError(f"subtask: expected one of the tabletop's, got '{words}'")
        return motion(self.world, command, None if target is None else (target.y, target.x))
