"""OGBench's manipulation worlds with a sentence in place of the goal picture: a UR5e at a table with cubes,
and in the scene suite a drawer and a window that buttons lock.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from ogbench.manipspace.envs.cube_env import CubeEnv
from ogbench.manipspace.envs.scene_env import SceneEnv

from envs.benchmarks import ogbench_words as words
from envs.benchmarks.common import BenchmarkEnv, Camera
from envs.benchmarks.ogbench_teacher import Oracle
from envs.benchmarks.ogbench_words import Arrangement
from envs.tabletop.gl import mujoco

TASKS = {
    "ogbench_scene": (
        *("task1_open", "task2_unlock_and_lock", "task3_rearrange_medium"),
        *("task4_put_in_drawer", "task5_rearrange_hard"),
    ),
    "ogbench_cube_single": (
        *("task1_horizontal", "task2_vertical1", "task3_vertical2", "task4_diagonal1", "task5_diagonal2"),
    ),
    "ogbench_cube_double": (
        *("task1_single_pnp", "task2_double_pnp1", "task3_double_pnp2", "task4_swap", "task5_stack"),
    ),
    "ogbench_cube_triple": (
        *("task1_single_pnp", "task2_triple_pnp", "task3_pnp_from_stack", "task4_cycle", "task5_stack"),
    ),
    "ogbench_cube_quadruple": (
        *("task1_double_pnp", "task2_quadruple_pnp", "task3_pnp_from_square", "task4_cycle", "task5_stack"),
    ),
}
SIDE = 64  # of the published pixel versions


class _Unseen:
    """A pixel version that draws nothing by itself, and whose reset is its seed's alone: the two random steps
    in it come from a generator of their own."""

    _steps = gymnasium.spaces.Box(-1.0, 1.0, (5,), np.float32)

    @property
    def action_space(self) -> gymnasium.spaces.Box:
        return self._steps

    def get_pixel_observation(self) -> np.ndarray:
        return np.zeros(0)

    def reset(self, options: dict | None = None, seed: int | None = None) -> tuple[Any, dict]:
        self._steps.seed(seed)
        return super().reset(options=options, seed=seed)


class _Scene(_Unseen, SceneEnv):
    pass


class _Cubes(_Unseen, CubeEnv):
    pass


class OgbenchEnv(BenchmarkEnv):
    """Action (5,) in [-1, 1]: motion of the gripper (full scale 5 cm), turn about the vertical (0.3 rad),
    change of the fingers (1 closes). State (6,): the gripper's x, y, z in metres, cosine and sine of its yaw,
    how far the fingers are closed, 0 to 1.

    Progress is the share of the goal's parts (cubes, locks, drawer, window) that have come true of those
    that were not at the start.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}
    rate = 20.0
    tasks = TASKS
    cameras = {"front": Camera("front_pixels", SIDE, SIDE, smooth=2)}
    state_size = 6
    action_low, action_high = (-1.0,) * 5, (1.0,) * 5

    def __init__(self, suite: str, *args: Any, **options: Any) -> None:
        super().__init__(suite, *args, **options)
        published = gymnasium.spec(f"visual-{suite.removeprefix('ogbench_').replace('_', '-')}-v0")
        self.max_steps = int(published.max_episode_steps)
        self.world = (_Scene if suite == "ogbench_scene" else _Cubes)(**published.kwargs)
        self.goal: Arrangement | None = None
        self._words, self._begun_with = "", 0

    @property
    def task_description(self) -> str:
        return self._words

    def teacher(self) -> Oracle:
        return Oracle(self.world, lambda: self.goal)

    @property
    def _simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        return self.world.model, self.world.data

    def _start(self, task: str, trial: int) -> float:
        number = self.tasks[self.suite].index(task) + 1
        self.world.reset(seed=trial, options={"task_id": number})
        start, self.goal = self._arrangements()
        scene = self.suite == "ogbench_scene"
        self._words = (words.scene_instruction if scene else words.cubes_instruction)(start, self.goal)
        self._begun_with = sum(self._reached())
        return 0.0

    def _act(self, action: np.ndarray) -> tuple[float, bool, float]:
        _, reward, _, _, info = self.world.step(action)
        reached = self._reached()
        gained = (sum(reached) - self._begun_with) / max(len(reached) - self._begun_with, 1)
        return float(reward), bool(info["success"]), max(gained, 0.0)

    def _state(self) -> np.ndarray:
        seen = self.world.compute_ob_info()
        yaw = seen["proprio/effector_yaw"][0]
        hand = (seen["proprio/effector_pos"], (np.cos(yaw), np.sin(yaw)), seen["proprio/gripper_opening"])
        return np.concatenate(hand)

    def _arrangements(self) -> tuple[Arrangement, Arrangement]:
        """The start and the goal of the episode that has just been reset."""
        world, seen = self.world, self.world.compute_ob_info()
        cubes = range(sum(name.endswith("_quat") for name in seen))
        targets = [world.model.body(f"object_target_{i}").mocapid[0] for i in cubes]
        start = np.stack([seen[f"privileged/block_{i}_pos"] for i in cubes])
        goal = world.data.mocap_pos[targets].copy()
        if self.suite != "ogbench_scene":
            return Arrangement(start), Arrangement(goal)
        asked = world.cur_task_info["goal"]
        slides = tuple(float(seen[f"privileged/{name}_pos"][0]) for name in words.SLIDES)
        wanted = tuple(float(asked[f"{name}_pos"]) for name in words.SLIDES)
        locks = tuple(int(s) for s in seen["button_states"])
        return (
            Arrangement(start, slides, locks),
            Arrangement(goal, wanted, tuple(int(s) for s in asked["button_states"])),
        )

    def _reached(self) -> list[bool]:
        """Which parts of the goal are true now, by the benchmark's own measures."""
        found = self.world._compute_successes()
        return [bool(x) for part in found for x in np.atleast_1d(np.asarray(part, bool))]
