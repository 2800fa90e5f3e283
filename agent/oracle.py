"""The world's scripted teacher in the places of the two levels: for diagnosis, never for a result.

`OraclePlanner` writes what the teacher would write (with the exact point), so that a controller can be judged
alone; `TeacherController` moves as the teacher would, so that the loop and a planner's timing can. Both
read the simulator's state, which no learned part ever sees.
"""

from __future__ import annotations

import time

import numpy as np

from backbone.observation import Observation
from envs.tabletop.teacher import Label, Teacher
from envs.tabletop.world import World
from highlevel.plan import DONE, Plan, Target
from lowlevel.controller import ActionChunk


def plan_of(label: Label, seconds: float = 0.0) -> Plan:
    """The teacher's label as a plan."""
    target = None if label.point is None else Target(*(float(v) for v in label.point))
    done = label.subtask == DONE
    return Plan(label.subtask, target, label.memory, done, origin="oracle", seconds=seconds)


class OraclePlanner:
    """The teacher as a planner: the true subtask, point and memory of the world it was given."""

    def __init__(self, world: World, teacher: Teacher):
        self.world, self.teacher = world, teacher

    def plan(self, observation: Observation, instruction: str, memory: str, previous: Plan | None) -> Plan:
        start = time.perf_counter()
        label = self.teacher.label(self.world)
        return plan_of(label, time.perf_counter() - start)


class TeacherController:
    """The teacher as a controller: rolls the world forward for a chunk, then back. It reads no subtask."""

    action_dim = 7

    def __init__(self, world: World, teacher: Teacher, horizon: int = 10):
        self.world, self.teacher, self.horizon = world, teacher, horizon

    def act(self, observation: Observation, subtask: str, committed: np.ndarray | None = None) -> ActionChunk:
        start, here, actions = time.perf_counter(), self.world.save(), []
        for _ in range(self.horizon):
            actions.append(np.asarray(self.teacher.label(self.world).action, np.float32))
            self.world.step(actions[-1])
        self.world.restore(here)
        return ActionChunk(np.stack(actions), subtask, seconds=time.perf_counter() - start)
