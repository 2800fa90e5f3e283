"""FrankaKitchen of gymnasium-robotics with the sets of tasks that D4RL defines: a Franka arm that opens,
turns, moves and switches four things of a kitchen, in any order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium_robotics.envs.franka_kitchen import KitchenEnv
from gymnasium_robotics.envs.franka_kitchen.franka_env import DEFAULT_CAMERA_CONFIG

from envs.benchmarks.common import BenchmarkEnv, Camera
from envs.tabletop.gl import mujoco

SIDE = 480
_COMPLETE = ("microwave", "kettle", "light switch", "slide cabinet")
ASKED = {
    "kitchen_complete": _COMPLETE,
    "kitchen_partial": _COMPLETE,  # D4RL's two differ in their data, not in what they ask for
    "kitchen_mixed": ("microwave", "kettle", "bottom burner", "light switch"),
}
_TEXTS = {
    "microwave": "open the microwave",
    "kettle": "move the kettle to the top left burner",
    "light switch": "turn on the light",
    "slide cabinet": "slide the cabinet door open",
    "bottom burner": "turn on the bottom burner with its knob",
}


def _camera() -> mujoco.MjvCamera:
    """The free camera that the package draws with."""
    camera = mujoco.MjvCamera()
    for name in ("distance", "azimuth", "elevation"):
        setattr(camera, name, DEFAULT_CAMERA_CONFIG[name])
    camera.lookat[:] = DEFAULT_CAMERA_CONFIG["lookat"]
    return camera


class FrankaKitchenEnv(BenchmarkEnv):
    """Action (9,) in [-1, 1]: velocities of the seven joints and two fingers (1 is 2 rad or m a second).
    State (18,): their measured positions and velocities, with the package's noise."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 12}
    rate, max_steps = 12.5, 280  # 40 physics steps of 2 ms a tick
    tasks = {suite: (suite.removeprefix("kitchen_"),) for suite in ASKED}
    cameras = {"front": Camera(_camera(), SIDE, SIDE)}
    state_size = 18
    action_low, action_high = (-1.0,) * 9, (1.0,) * 9

    def __init__(self, suite: str, *args: Any, **options: Any) -> None:
        super().__init__(suite, *args, **options)
        self._env: KitchenEnv | None = None
        self._seen = np.zeros(18)

    @property
    def task_description(self) -> str:
        *first, last = (_TEXTS[name] for name in ASKED[self.suite])
        return f"{', '.join(first)} and {last}"

    def close(self) -> None:
        super().close()
        if self._env is not None:
            self._env.close()
            self._env = None

    @property
    def _simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        return self._env.model, self._env.data

    def _start(self, task: str, trial: int) -> float:
        if self._env is None:
            self._env = KitchenEnv(tasks_to_complete=list(ASKED[self.suite]))
        seen, _ = self._env.reset(seed=trial)
        self._seen = seen["observation"][: self.state_size]
        return 0.0

    def _act(self, action: np.ndarray) -> tuple[float, bool, float]:
        seen, reward, solved, _, info = self._env.step(action)
        self._seen = seen["observation"][: self.state_size]
        return reward, solved, len(info["episode_task_completions"]) / len(ASKED[self.suite])

    def _state(self) -> np.ndarray:
        return self._seen
