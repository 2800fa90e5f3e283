"""gym-aloha: two ViperX arms over a table, one camera above it, 50 Hz, positions of all joints as actions.

Physics, tasks, rewards and the drawing of initial states are the package's; its environment is not used, for
it draws three pictures at every step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from dm_control import mujoco as dm_mujoco
from dm_control.rl import control
from gym_aloha.constants import ASSETS_DIR, DT
from gym_aloha.tasks import sim
from gym_aloha.utils import sample_box_pose, sample_insertion_pose

from envs.benchmarks.common import BenchmarkEnv, Camera
from envs.tabletop.gl import mujoco

SOLVED = 4  # the reward of the last stage
_ARM = ((-3.14158, 3.14158), (-1.85005, 1.25664), (-1.76278, 1.6057), (-3.14158, 3.14158))
_ARM = (*_ARM, (-1.8675, 2.23402), (-3.14158, 3.14158), (0.0, 1.0))  # six joints and the gripper
_TEXTS = {
    "transfer_cube": "pick up the red cube with the right arm and hand it over to the left arm",
    "insertion": "pick up the red peg with the right arm and the blue socket with the left arm "
    "and push the peg into the socket",
}


class _Unseen:
    """A task of the package without its pictures."""

    def get_observation(self, physics: Any) -> dict[str, np.ndarray]:
        return {"qpos": self.get_qpos(physics)}


class _TransferCube(_Unseen, sim.TransferCubeTask):
    pass


class _Insertion(_Unseen, sim.InsertionTask):
    pass


_TASKS = {"transfer_cube": _TransferCube, "insertion": _Insertion}


class AlohaEnv(BenchmarkEnv):
    """Action (14,): for each arm, left first, six joint angles in radians and how far the gripper is open, 0
    to 1. State (14,): the same as measured. Hold still with the last action."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}
    rate, max_steps, rest = 50.0, 400, "last"
    tasks = {f"aloha_{name}": (name,) for name in _TEXTS}
    cameras = {"front": Camera("top", 480, 640)}
    state_size = 14
    action_low = tuple(low for low, _ in _ARM) * 2
    action_high = tuple(high for _, high in _ARM) * 2

    def __init__(self, suite: str, *args: Any, **options: Any) -> None:
        super().__init__(suite, *args, **options)
        self._env: Any = None
        self._seen = np.zeros(14)
        self._best = 0.0

    @property
    def task_description(self) -> str:
        return _TEXTS[self.task]

    @property
    def _simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        return self._env.physics.model.ptr, self._env.physics.data.ptr

    def _start(self, task: str, trial: int) -> float:
        if self._env is None:
            scene = dm_mujoco.Physics.from_xml_path(str(ASSETS_DIR / f"bimanual_viperx_{task}.xml"))
            self._env = control.Environment(scene, _TASKS[task](), float("inf"), control_timestep=DT)
        # The package's way to say where things lie.
        insertion = task == "insertion"
        sim.BOX_POSE[0] = (
            np.concatenate(sample_insertion_pose(trial)) if insertion else sample_box_pose(trial)
        )
        self._seen, self._best = self._env.reset().observation["qpos"], 0.0
        return 0.0

    def _act(self, action: np.ndarray) -> tuple[float, bool, float]:
        step = self._env.step(action)
        self._seen, self._best = step.observation["qpos"], max(self._best, float(step.reward))
        return step.reward, step.reward == SOLVED, self._best / SOLVED

    def _state(self) -> np.ndarray:
        return self._seen
