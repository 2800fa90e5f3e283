"""The tabletop world as a gymnasium environment with LIBERO's contract (20 Hz, action 7, state 8, two
cameras)."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from envs.contract import PIXELS, EvaluationEnv, check_choice, state_key
from envs.errors import WorldError
from envs.suites import EVALUATION_START, get_suite, suite_family, suite_task
from envs.tabletop import scene as S
from envs.tabletop import skills, tasks
from envs.tabletop.inventory import inventory
from envs.tabletop.reading import fits, read
from envs.tabletop.tasks import Event, Task
from envs.tabletop.teacher import Label, Teacher, free_place
from envs.tabletop.world import CAMERAS, CONTROL_HZ, World

AFTER = 30  # ticks that an episode runs on after its goal is reached: time to say "done"
_STATE_LOW = np.array([-1.5, -1.5, -0.5, -7, -7, -7, -0.01, -0.01], dtype=np.float32)
_STATE_HIGH = np.array([1.5, 1.5, 1.5, 7, 7, 7, 0.05, 0.05], dtype=np.float32)


class TabletopEnv(EvaluationEnv):
    """One episode after another of a suite.

    reset(seed) draws task and scene from (suite, family, seed); without a seed from the environment's own
    generator.
    Observation: {"pixels": {"front" (128, 128, 3), "wrist" (64, 64, 3)} uint8, "agent_pos" (8,) float32: TCP
    position, axis-angle, two finger joints}. Action (7,) in [-1, 1]. Reward: gain of progress, 1 in all for
    the whole task.
    `terminated` on success; stepping on is allowed. `truncated` after `task.max_steps`.

    pixels="lazy": observations carry None as pixels, `look()` renders when asked (a policy looks every few
    steps).
    Raises WorldError for an unknown suite, family, render mode or pixels setting.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": CONTROL_HZ}
    rate, linger = CONTROL_HZ, AFTER

    def __init__(
        self,
        suite: str = "core",
        family: str | None = None,
        render_mode: str | None = None,
        pixels: str = "always",
    ) -> None:
        get_suite(suite)
        suite_family(suite, 0, family)
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise WorldError(f"unknown render mode {render_mode!r}; known: rgb_array")
        check_choice("pixels setting", pixels, PIXELS)
        self.suite, self.family, self.render_mode, self.pixels = suite, family, render_mode, pixels
        self.world = World()
        self.task: Task = suite_task(suite, 0, family)
        self._pending: list[Event] = []
        self._begun = False
        self._progress = 0.0
        self._over = 0
        self.action_space = spaces.Box(-1.0, 1.0, (7,), np.float32)
        state = spaces.Box(_STATE_LOW, _STATE_HIGH, dtype=np.float32)
        parts: dict[str, spaces.Space] = {"agent_pos": state}
        if pixels == "always":
            images = {name: spaces.Box(0, 255, (n, n, 3), np.uint8) for name, n in CAMERAS.items()}
            parts["pixels"] = spaces.Dict(images)
        self.observation_space = spaces.Dict(parts)

    @property
    def task_description(self) -> str:
        """The instruction as it stands now."""
        return self.task.instruction

    @property
    def stratum(self) -> str:
        return self.task.family

    @property
    def max_steps(self) -> int:
        return self.task.max_steps

    def begin(self, seed: int) -> dict[str, Any]:
        """Evaluation episode `seed`: a scene that no training episode ever shows."""
        return self.reset(seed=EVALUATION_START + seed)[1]

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        """Starts the episode `seed` (or one drawn at random)."""
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(10_000_000))
        self.task = suite_task(self.suite, seed, self.family)
        self._pending = list(self.task.events)
        self._begun = True
        self.world.reset(self.task, seed)
        self._progress = self.task.progress(self.world)
        self._over = self.task.max_steps
        return self._observation(), self._info()

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        """One control step, then whatever happens midway. Raises WorldError on a bad action or before
        `reset`."""
        if not self._begun:
            raise WorldError("step: expected a reset() first")
        self.world.step(action)
        said = self._happen()
        info = self._info()
        if said:
            info["instruction_changed"] = True
        reward = info["progress"] - self._progress
        self._progress = info["progress"]
        return self._observation(), float(reward), info["is_success"], self.world.steps >= self._over, info

    def look(self) -> dict[str, Any]:
        """The full observation of the present, pictures included."""
        return self.world.observe()

    def render(self) -> np.ndarray | None:
        """(480, 640, 3) uint8 with shadows, for people; None without a render mode."""
        return self.world.render() if self.render_mode == "rgb_array" else None

    def state(self) -> np.ndarray:
        return self.world.state_vector()

    def teacher(self) -> Bound:
        return Bound(self.world)

    def initial_state(self) -> str:
        """Of where every object and the arm are, and their colours."""
        data = self.world.data
        return state_key(data.qpos, data.qvel, data.mocap_pos, self.world.model.geom_rgba)

    def scene(self) -> str:
        return inventory(self.world)

    def asks_for(self, instruction: str) -> bool:
        asked, corrected = read(instruction), any(e.kind == "say" for e in self.task.events)
        return asked is not None and fits(asked, self.task) and not corrected

    def close(self) -> None:
        self.world.close()

    def _observation(self) -> dict[str, Any]:
        if self.pixels == "always":
            return self.world.observe()
        return {"pixels": None, "agent_pos": self.world.state_vector()}

    def _info(self) -> dict[str, Any]:
        # The person's last word counts: until it is said nothing is achieved.
        waiting = any(e.kind == "say" for e in self._pending)
        return {
            "is_success": not waiting and self.task.success(self.world),
            "progress": self.task.progress(self.world),
            "family": self.task.family,
            "task_description": self.task_description,
            "instruction_changed": False,
        }

    def _happen(self) -> bool:
        """Fires the events that are due; True if the instruction changed."""
        said = False
        for event in [e for e in self._pending if self.world.steps >= e.at]:
            if event.kind == "say" and event.task is not None:
                self.task = self.world.task = event.task
                self._progress = self.task.progress(self.world)
                self._pending.remove(event)
                said = True
            elif disturb(self.world, self.task, event):
                self._pending.remove(event)
        return said


class Bound:
    """The teacher of one world."""

    def __init__(self, world: World):
        self.world, self._teacher = world, Teacher()

    def reset(self) -> None:
        self._teacher.reset()

    def label(self) -> Label:
        return self._teacher.label(self.world)

    def say(self) -> Label:
        return self._teacher.label(self.world, act=False)


def disturb(world: World, task: Task, event: Event) -> bool:
    """Lets something happen to the table that the robot did not do. False if it cannot happen now (it
    waits)."""
    rng = np.random.default_rng(event.seed)
    held = skills.in_hand(world)
    if event.kind == "slip":  # out of the hand, onto the table below or beside
        if held is None or world.block_pos(held)[2] < 0.08:
            return False
        return _drop_somewhere(world, held, rng, 0.12)
    if event.kind == "shut":
        hand = world.eef_pos()
        if world.drawer_opening() < tasks.OPEN or hand[2] < 0.11:
            return False
        world.set_drawer(0.0)
        return True
    placed = [c for c in world.scene.blocks if c != held and _is_placed(world, task, c)]
    if event.kind == "take":
        pool = [c for c in placed if _nothing_above(world, c)]
    else:
        pool = [c for c in world.scene.blocks if c != held and c not in placed and _nothing_above(world, c)]
        pool = [c for c in pool if np.abs(world.block_pos(c) - world.eef_pos()).max() > 0.07]
    if not pool:
        return False
    return _drop_somewhere(world, pool[int(rng.integers(len(pool)))], rng, 0.25)


def _drop_somewhere(world: World, color: str, rng: np.random.Generator, spread: float) -> bool:
    near = world.block_pos(color)[:2] + rng.uniform(-spread, spread, 2)
    at = free_place(world, near, color, gap=0.005)
    if np.linalg.norm(at[:2] - world.eef_pos()[:2]) < 0.06 and world.eef_pos()[2] < 0.1:
        return False
    world.place_block(color, at + (0, 0, 0.002), float(rng.uniform(-np.pi / 4, np.pi / 4)))
    return True


def _is_placed(world: World, task: Task, color: str) -> bool:
    p, family = task.params, task.family
    if family == "sort":
        return any(tasks.in_bin(world, color, b) for b in world.scene.bins)
    if family == "stack":
        tower = p["tower"]
        return color in tower[1:] and tasks.on_block(world, color, tower[tower.index(color) - 1])
    if family == "stow":
        return tasks.in_drawer(world, color) and world.drawer_opening() > tasks.OPEN
    if family == "clear":
        return tasks.in_box(world, color)
    if family == "swap":
        return color in tasks.swap_goal(task) and tasks.on_mat(world, color, tasks.swap_goal(task)[color])
    return False


def _nothing_above(world: World, color: str) -> bool:
    p = world.block_pos(color)
    return not any(
        c != color and np.abs(q[:2] - p[:2]).max() < 0.04 and q[2] > p[2] + S.BLOCK_HALF
        for c, q in ((c, world.block_pos(c)) for c in world.scene.blocks)
    )
