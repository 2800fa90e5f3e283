"""LIBERO and LIBERO-PRO behind our contract, by the published protocol (openpi's): initial states by number,
ten ticks to settle, 20 Hz, action 7, state 8, two pictures turned by 180 degrees."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces

from envs.benchmarks.libero_tasks import HORIZONS, LiberoTask, base_suite, episode, find, quiet, tasks
from envs.contract import PIXELS, EvaluationEnv, check_action, check_choice, state_key
from envs.errors import WorldError
from envs.tabletop.gl import mujoco, no_gl

CAMERAS = {"front": "agentview", "wrist": "robot0_eye_in_hand"}
SIDE = 256  # of the policy's square pictures
SETTLE = 10  # ticks inside reset, in which what floats comes to rest
IDLE = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)  # stands still, gripper open
DRAWINGS = ("published", "fast")
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


class LiberoEnv(EvaluationEnv):
    """One episode after another of a suite.

    reset(seed): task and published initial state by `episode`. Observation: {"pixels": {"front", "wrist"}
    (256, 256, 3) uint8, "agent_pos" (8,) float32: hand's position (m), axis-angle (rad), two finger joints
    (m)}. Action (7,) in [-1, 1]: changes of the hand's pose (OSC) and the gripper, 1 closes. Reward: 1 at
    success.
    `terminated` on success; `truncated` after `max_steps`.

    pixels="lazy": observations carry None as pixels, `look()` renders when asked.
    drawing: "published" draws as robosuite does; "fast" without reflections and smooth edges, three times
    faster on a CPU, but another look (a stove's steel is dark), which policies have not been trained on.
    Raises WorldError for an unknown suite, task, render mode, pixels setting or drawing.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}
    rate, linger, rest = 20, 0, "zero"

    def __init__(
        self,
        suite: str = "libero_spatial",
        family: str | None = None,
        render_mode: str | None = None,
        pixels: str = "always",
        drawing: str = "published",
    ) -> None:
        tasks(suite)
        if family is not None:
            find(suite, family)
        if render_mode is not None:
            check_choice("render mode", render_mode, self.metadata["render_modes"])
        check_choice("pixels setting", pixels, PIXELS)
        check_choice("drawing", drawing, DRAWINGS)
        self.suite, self.family, self.render_mode, self.pixels = suite, family, render_mode, pixels
        self.drawing = drawing
        self.max_steps = HORIZONS[base_suite(suite)]
        self.task: LiberoTask = tasks(suite)[episode(suite, family, 0)[0]]
        self._scene: Scene | None = None
        self._state_id: int | None = None
        self._steps = 0
        self.action_space = spaces.Box(-1.0, 1.0, (7,), np.float32)
        parts: dict[str, spaces.Space] = {"agent_pos": spaces.Box(-np.inf, np.inf, (8,), np.float32)}
        if pixels == "always":
            picture = spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)
            parts["pixels"] = spaces.Dict({name: picture for name in CAMERAS})
        self.observation_space = spaces.Dict(parts)

    @property
    def stratum(self) -> str:
        return self.task.name

    @property
    def task_description(self) -> str:
        return self.task.instruction

    @property
    def state_id(self) -> int | None:
        return self._state_id

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        """Starts evaluation episode `seed` (or one drawn at random), settled."""
        if seed is None:
            count = 1 if self.family else len(tasks(self.suite))
            seed = int(self.np_random.integers(count * len(self.task.states)))
        number, trial = episode(self.suite, self.family, seed)
        super().reset(seed=seed)
        task = tasks(self.suite)[number]
        if self._scene is None or self._scene.task is not task:
            self.close()  # one at a time: each holds a gigabyte
            self._scene = Scene(task, self.drawing)
        self.task, self._state_id, self._steps = task, trial % len(task.states), 0
        self._scene.start(self._state_id, _SEED + trial)
        for _ in range(SETTLE):
            self._scene.step(np.array(IDLE))
        return self._observation(), self._info()

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        """One control tick. Raises WorldError on a bad action or before `reset`."""
        found = check_action(action, 7)
        self._here("step").step(found.astype(np.float64))
        self._steps += 1
        info = self._info()
        success = info["is_success"]
        return self._observation(), float(success), success, self._steps >= self.max_steps, info

    def look(self) -> dict[str, Any]:
        scene = self._here("look")
        # Turned by 180 degrees from robosuite's buffer, whose first row is the bottom one: the right way up,
        # left and right exchanged. Our own renderer's first row is the top one.
        shown = {
            name: np.ascontiguousarray(scene.picture(camera, SIDE, SIDE)[:, ::-1])
            for name, camera in CAMERAS.items()
        }
        return {"pixels": shown, "agent_pos": scene.state()}

    def state(self) -> np.ndarray:
        return self._here("state").state()

    def render(self) -> np.ndarray | None:
        """(480, 640, 3) uint8 for people, not mirrored, so that the instruction's left is left; None without
        a render mode."""
        return self._here("render").picture("agentview", 640, 480) if self.render_mode else None

    def initial_state(self) -> str:
        """Of all joints, and of where the fixtures stand."""
        model, data = self._here("initial_state").handles
        return state_key(data.qpos, data.qvel, model.body_pos, model.body_quat)

    def close(self) -> None:
        if self._scene is not None:
            self._scene.close()
        self._scene = None

    def _here(self, asker: str) -> Scene:
        if self._scene is None:
            raise WorldError(f"{asker}: expected a reset() first")
        return self._scene

    def _observation(self) -> dict[str, Any]:
        return self.look() if self.pixels == "always" else {"pixels": None, "agent_pos": self._scene.state()}

    def _info(self) -> dict[str, Any]:
        success, progress = self._scene.goal()
        return {
            "is_success": success,
            "progress": progress,
            "family": self.stratum,
            "task_description": self.task_description,
            "instruction_changed": False,
        }


class Scene:
    """One task's simulation: the benchmark's own environment, without its cameras, and renderers of ours."""

    def __init__(self, task: LiberoTask, drawing: str = "published") -> None:
        check_mujoco(mujoco.__version__)
        self.task, self.drawing = task, drawing
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
        self._renderers: dict[tuple[int, int], mujoco.Renderer] = {}
        self._look = mujoco.MjvOption()
        self._look.geomgroup[0] = 0  # collision shapes

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

    def picture(self, camera: str, width: int, height: int) -> np.ndarray:
        """(H, W, 3) uint8, the first row on top."""
        model, data = self.handles
        if (width, height) not in self._renderers:
            if self.drawing == "fast":
                model.vis.quality.offsamples = 0  # read once, when the context is made
            try:
                self._renderers[width, height] = mujoco.Renderer(model, height, width)
            except Exception as error:  # MuJoCo raises many kinds here, depending on what is missing
                raise no_gl(error) from error
        renderer = self._renderers[width, height]
        renderer.update_scene(data, camera, scene_option=self._look)
        if self.drawing == "fast":
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        return renderer.render()

    def close(self) -> None:
        """Frees simulation and GL contexts."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()
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
