"""Meta-World (MT50 and parts of it) as LeRobot evaluates it: one camera at the robot's opposite corner, four
numbers of state, 500 steps, success at any of them.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np

from envs.benchmarks.common import BenchmarkEnv, Camera
from envs.benchmarks.metaworld_tasks import INSTRUCTIONS, TASKS
from envs.contract import NO_MEMORY, Label
from envs.tabletop.gl import mujoco

GOALS = 50  # initial states of a task
GOAL_SEED = 42  # of the goals that Meta-World's own tests and LeRobot draw
HORIZON = 500
SIDE = 480


@cache
def goals(name: str) -> tuple[Any, ...]:
    """The fifty published initial states of a task (positions of objects and of the goal)."""
    from metaworld import MT1

    return tuple(MT1(name, seed=GOAL_SEED).train_tasks)


class MetaworldEnv(BenchmarkEnv):
    """Action (4,) in [-1, 1]: motion of the hand (full scale 1 cm) and the fingers' force (1 closes).
    State (4,): the hand's x, y, z in metres and how far the fingers are open, 0 to 1. What lies where and
    where the goal is, a policy has to see."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 80}
    rate, max_steps = 80.0, HORIZON  # 5 physics steps of 2.5 ms a tick
    tasks = TASKS
    # LeRobot moves corner2 to where corner4 is (and looks the same way); both are mounted upside down.
    cameras = {
        "front": Camera("corner4", SIDE, SIDE, turned=True),
        "wrist": Camera("gripperPOV", SIDE, SIDE),
    }
    state_size = 4
    action_low, action_high = (-1.0,) * 4, (1.0,) * 4

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._env: Any = None
        self._name: str | None = None
        self._full = np.zeros(39)

    @property
    def task_description(self) -> str:
        return INSTRUCTIONS[self.task]

    @property
    def state_id(self) -> int:
        return self.trial % GOALS

    def teacher(self) -> Scripted:
        return Scripted(self)

    def close(self) -> None:
        super().close()
        if self._env is not None:
            self._env.close()
            self._env = self._name = None

    @property
    def _simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        return self._env.model, self._env.data

    def _start(self, task: str, trial: int) -> float:
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS

        if self._name != task:
            self.close()
            self._env, self._name = ALL_V3_ENVIRONMENTS[task](), task
        self._env.set_task(goals(task)[trial % GOALS])
        self._full, _ = self._env.reset()
        return 0.0

    def _act(self, action: np.ndarray) -> tuple[float, bool, float]:
        self._full, reward, _, _, info = self._env.step(action)
        return reward, bool(info["success"]), 0.0

    def _state(self) -> np.ndarray:
        return self._full[:4]


class Scripted:
    """Meta-World's scripted policy of the task under way. It reads what the policy may not: where things
    are, and the goal."""

    def __init__(self, env: MetaworldEnv) -> None:
        self._env = env

    def reset(self) -> None:
        """Nothing: the scripts remember nothing."""

    def label(self) -> Label:
        from metaworld.policies import ENV_POLICY_MAP

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that actions will be clipped
            action = ENV_POLICY_MAP[self._env.task]().get_action(self._env._full)
        words = self._env.task_description
        return Label(words, None, NO_MEMORY, np.clip(action, -1.0, 1.0).astype(np.float32))
