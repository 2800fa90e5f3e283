"""LIBERO and LIBERO-PRO behind our contract, by the published protocol (openpi's): initial states by number,
ten ticks to settle, 20 Hz, action 7, state 8, two pictures turned by 180 degrees."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from envs.benchmarks.common import BenchmarkEnv, Camera
from envs.benchmarks.libero_tasks import HORIZONS, LiberoTask, base_suite, quiet, tasks
from envs.errors import WorldError
from envs.tabletop.gl import mujoco

SIDE = 256  # of the policy's square pictures
SETTLE = 10  # ticks inside reset, in which what floats comes to rest
IDLE = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)  # stands still, gripper open
COLLISION = (0,)  # the group of shapes that only collide
_SEED = 7  # of the protocol. Initial states leave out where fixtures stand: that is drawn at reset
_STATE = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")


def axis_angle(quaternion: np.ndarray) -> np.ndarray:
    """(4,) x, y, z, w -> (3,) rotation vector, its angle from 0 to 2 pi, as robosuite defines it.

    Not brought to w >= 0: the hand points down, at an angle of about pi, and w changes its sign all the time.
    There the shorter way round would flip the whole vector; published data has the one that does not.
    """
    w = float(np.clip(quaternion[3], -1.0, 1.0))
    length = math.sqrt(1.0 - w * w)
    if math.isclose(length, 0.0):
        return np.zeros(3)
    return np.asarray(quaternion[:3], np.float64) * (2.0 * math.acos(w) / length)


class LiberoEnv(BenchmarkEnv):
    """Action (7,) in [-1, 1]: changes of the hand's pose (OSC) and the gripper, 1 closes. State (8,): hand's
    position (m), axis-angle (rad), two finger joints (m). Reward: 1 at success. People's picture is not
    mirrored, so that the instruction's left is left.

    "fast" drawing is three times faster on a CPU, but another look (a stove's steel is dark), which policies
    have not been trained on.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}
    rate = 20
    # robosuite's buffer begins with the bottom row; published pictures are that turned by 180 degrees: the
    # right way up, left and right exchanged.
    cameras = {
        "front": Camera("agentview", SIDE, SIDE, mirrored=True, hidden=COLLISION),
        "wrist": Camera("robot0_eye_in_hand", SIDE, SIDE, mirrored=True, hidden=COLLISION),
    }
    people = Camera("agentview", 480, 640, hidden=COLLISION)
    moved = ("body_pos", "body_quat")  # where the fixtures stand
    state_size = 8
    action_low, action_high = (-1.0,) * 7, (1.0,) * 7

    def __init__(self, suite: str, *args: Any, **options: Any) -> None:
        self._tasks = {task.name: task for task in tasks(suite)}
        self.tasks = {suite: tuple(self._tasks)}
        super().__init__(suite, *args, **options)
        self.max_steps = HORIZONS[base_suite(suite)]
        self._scene: Scene | None = None

    @property
    def task_description(self) -> str:
        return self._tasks[self.task].instruction

    @property
    def state_id(self) -> int:
        return self.trial % len(self._tasks[self.task].states)

    def close(self) -> None:
        super().close()
        if self._scene is not None:
            self._scene.close()
        self._scene = self.steps = None

    @property
    def _simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        return self._scene.handles

    def _start(self, task: str, trial: int) -> float:
        if self._scene is None or self._scene.task.name != task:
            self.close()  # one at a time: each holds a gigabyte
            self._scene = Scene(self._tasks[task])
        self._scene.start(self.state_id, _SEED + trial)
        for _ in range(SETTLE):
            self._scene.step(np.array(IDLE))
        return self._scene.goal()[1]

    def _act(self, action: np.ndarray) -> tuple[float, bool, float]:
        self._scene.step(action.astype(np.float64))
        success, progress = self._scene.goal()
        return float(success), success, progress

    def _state(self) -> np.ndarray:
        return self._scene.state()


class Scene:
    """One task's simulation: the benchmark's own environment, without its cameras."""

    def __init__(self, task: LiberoTask) -> None:
        check_mujoco(mujoco.__version__)
        self.task = task
        with quiet():
            from libero.libero.envs.env_wrapper import ControlEnv

            # hard_reset=False: a reset puts the state back instead of compiling the same model once more.
            self._env = drawn_with(
                _SEED,
                lambda: ControlEnv(
                    bddl_file_name=task.bddl,
                    use_camera_obs=False,
                    has_offscreen_renderer=False,
                    hard_reset=False,
                    ignore_done=True,
                ),
            )
        self._world = self._env.env
        for name in self._world.observation_names - set(_STATE):  # each is computed 25 times a tick
            self._world.modify_observable(name, "enabled", False)
        self._seen: dict[str, np.ndarray] = {}

    @property
    def handles(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        return self._world.sim.model._model, self._world.sim.data._data

    def start(self, number: int, seed: int) -> None:
        """Published initial state `number`; `seed` for what it leaves out."""
        # Not the wrapper's reset: it tries for ever, whatever goes wrong.
        drawn_with(seed, self._world.reset)
        for robot in self._world.robots:  # the fingers' ramp, which only a new model would begin anew
            robot.gripper.current_action = np.zeros(robot.gripper.dof)
        self._seen = self._env.set_init_state(self.task.states[number])

    def step(self, action: np.ndarray) -> None:
        self._seen = self._world.step(action)[0]

    def state(self) -> np.ndarray:
        """(8,) float32, from the benchmark's own observation."""
        place, turn, fingers = (self._seen[name] for name in _STATE)
        return np.concatenate([place, axis_angle(turn), fingers]).astype(np.float32)

    def goal(self) -> tuple[bool, float]:
        """Whether the benchmark calls it a success, and the share of the goal's conditions that hold."""
        success = bool(self._env.check_success())
        held = [bool(self._world._eval_predicate(part)) for part in self._world.parsed_problem["goal_state"]]
        return success, 1.0 if success else sum(held) / max(len(held), 1)

    def close(self) -> None:
        """Frees the simulation."""
        self._env.close()


def drawn_with(seed: int, make: Callable[[], Any], tries: int = 20) -> Any:
    """What `make` returns, numpy's global generator seeded for it (the benchmark draws from that one) and
    put back after. Again with the next numbers where objects found no free place."""
    from robosuite.utils.errors import RandomizationError

    before = np.random.get_state()
    np.random.seed(seed)
    try:
        for _ in range(tries - 1):
            try:
                return make()
            except RandomizationError:
                continue
        return make()
    finally:
        np.random.set_state(before)


def check_mujoco(version: str) -> None:
    """WorldError for the versions that the benchmark's package does not run with."""
    if (3, 4) <= tuple(int(n) for n in version.split(".")[:2]) < (3, 10):
        raise WorldError(f"LIBERO: expected mujoco 3.3, found {version}; pip install 'mujoco>=3.3,<3.4'")
