"""What the adapters of public benchmarks share: episodes by number, the contract's frame around a MuJoCo
simulation, quick pictures of it.
"""

from __future__ import annotations

import difflib
import re
import sys
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces

from envs.contract import PIXELS, EvaluationEnv, check_action, check_choice, state_key
from envs.errors import WorldError
from envs.tabletop.gl import mujoco, no_gl

DRAWINGS = ("published", "fast")
PERSON = 480  # height in pixels of the picture that people get


@dataclass(frozen=True)
class Camera:
    """A camera of the model as a policy sees through it.

    view: its name in the model, or a free camera. turned: by 180 degrees, for one that is mounted upside
    down. mirrored: left and right exchanged. hidden: groups of shapes that are not drawn. smooth: in fast
    drawing a pixel is the mean of so many by so many; for small pictures.
    """

    view: str | mujoco.MjvCamera
    height: int
    width: int
    turned: bool = False
    mirrored: bool = False
    hidden: tuple[int, ...] = ()
    smooth: int = 1


class Pictures:
    """Pictures of one model, "published" as its package draws them or "fast": no shadows, no reflections.
    Renderers are made when first needed."""

    def __init__(self, model: mujoco.MjModel, drawing: str = "fast") -> None:
        self.model, self._fast = model, drawing == "fast"
        self._renderers: dict[tuple[int, int], mujoco.Renderer] = {}

    def draw(self, data: mujoco.MjData, camera: Camera) -> np.ndarray:
        """(H, W, 3) uint8, upright. WorldError on a machine that cannot draw."""
        smooth = camera.smooth if self._fast else 1
        key = (camera.height * smooth, camera.width * smooth)
        if key not in self._renderers:
            self._renderers[key] = self._open(*key)
        renderer = self._renderers[key]
        option = mujoco.MjvOption()
        option.geomgroup[list(camera.hidden)] = 0
        renderer.update_scene(data, camera.view, option)
        if self._fast:
            for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
                renderer.scene.flags[flag] = 0
        picture = renderer.render()
        if smooth > 1:  # the card's own smoothing takes a software renderer twice as long
            parts = picture.reshape(camera.height, smooth, camera.width, smooth, 3)
            picture = np.rint(parts.mean((1, 3))).astype(np.uint8)
        if camera.turned:
            picture = picture[::-1, ::-1]
        return np.ascontiguousarray(picture[:, ::-1] if camera.mirrored else picture)

    def _open(self, height: int, width: int) -> mujoco.Renderer:
        vis = self.model.vis  # read once, when the context is made
        vis.global_.offwidth = max(vis.global_.offwidth, width)
        vis.global_.offheight = max(vis.global_.offheight, height)
        if self._fast:
            vis.quality.offsamples = vis.quality.shadowsize = 0
        try:
            return mujoco.Renderer(self.model, height, width)
        except Exception as error:  # MuJoCo raises many kinds here, depending on what is missing
            raise no_gl(error) from error

    def close(self) -> None:
        """Frees the GL contexts."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()


def find_task(suite: str, tasks: Sequence[str], name: str) -> str:
    """The task of a suite that is called so, or the only one whose name has this in it. WorldError for none,
    and for several."""

    def plain(text: str) -> str:
        return re.sub(r"[\s_-]+", "_", text.strip()).lower()

    wanted = plain(name)
    hits = [task for task in tasks if plain(task) == wanted]
    hits = hits or [task for task in tasks if wanted and wanted in plain(task)]
    if len(hits) == 1:
        return hits[0]
    if hits:
        some = ", ".join(hits[:4]) + (", ..." if len(hits) > 4 else "")
        raise WorldError(f"task {name!r} of suite '{suite}': expected one, {len(hits)} have it: {some}")
    close = difflib.get_close_matches(wanted, tasks, n=3, cutoff=0.3) or tasks[:3]
    raise WorldError(f"unknown task {name!r} in suite '{suite}' of {len(tasks)}; such as {', '.join(close)}")


def episode(seed: int, tasks: Sequence[str], family: str | None = None) -> tuple[str, int]:
    """(task, trial) of an episode: seeds go round the tasks, so any run of consecutive seeds is balanced.
    With a family it is that task and the seed is the trial."""
    if family is not None:
        return family, seed
    return tasks[seed % len(tasks)], seed // len(tasks)


class BenchmarkEnv(EvaluationEnv):
    """The contract around a benchmark's own simulation, one task at a time.

    A benchmark says which `tasks` its suites have, its `cameras`, its instructions, and writes `_start`,
    `_act`, `_state` and `_simulation`. family: a task, as `find_task` understands it. A success counts from
    the tick it is seen at, whatever comes after. Rewards are the benchmark's own. drawing: "published" gives
    the pictures that the package draws, for policies trained on them; "fast" leaves out shadows and smooth
    edges and is many times quicker on a CPU.
    """

    metadata = {"render_modes": ["rgb_array"]}
    tasks: ClassVar[Mapping[str, tuple[str, ...]]]  # of each suite
    cameras: ClassVar[Mapping[str, Camera]]  # the policy's, by its names
    people: ClassVar[Camera | None] = None  # what people get; by default the first of these, larger
    moved: ClassVar[Sequence[str]] = ("body_pos", "site_pos", "geom_rgba")  # of the model, by an episode
    state_size: ClassVar[int]
    action_low: ClassVar[Sequence[float]]
    action_high: ClassVar[Sequence[float]]

    def __init__(
        self,
        suite: str,
        family: str | None = None,
        render_mode: str | None = None,
        pixels: str = "always",
        drawing: str = "published",
    ) -> None:
        check_choice("suite", suite, tuple(self.tasks))
        if family is not None:
            family = find_task(suite, self.tasks[suite], family)
        if render_mode is not None:
            check_choice("render mode", render_mode, self.metadata["render_modes"])
        check_choice("pixels setting", pixels, PIXELS)
        check_choice("drawing", drawing, DRAWINGS)
        self.suite, self.family, self.render_mode, self.pixels = suite, family, render_mode, pixels
        self.drawing = drawing
        self.task, self.trial = episode(0, self.tasks[suite], family)
        self.steps: int | None = None  # none before the first reset
        self._success, self._progress = False, 0.0
        self._pictures: Pictures | None = None
        low, high = np.array(self.action_low, np.float32), np.array(self.action_high, np.float32)
        self.action_space = spaces.Box(low, high, dtype=np.float32)
        parts: dict[str, spaces.Space] = {
            "agent_pos": spaces.Box(-np.inf, np.inf, (self.state_size,), np.float32)
        }
        if pixels == "always":
            shapes = {name: (c.height, c.width, 3) for name, c in self.cameras.items()}
            parts["pixels"] = spaces.Dict({n: spaces.Box(0, 255, s, np.uint8) for n, s in shapes.items()})
        self.observation_space = spaces.Dict(parts)

    # ---- what a benchmark writes ----

    @property
    @abstractmethod
    def _simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """The simulation of the episode under way."""

    @abstractmethod
    def _start(self, task: str, trial: int) -> float:
        """Put the simulation at the start of a task's trial, the same whatever came before -> progress,
        1 where the goal is reached already."""

    @abstractmethod
    def _act(self, action: np.ndarray) -> tuple[float, bool, float]:
        """One control step -> (reward, whether the goal is reached now, progress)."""

    @abstractmethod
    def _state(self) -> np.ndarray:
        """(D,) what the policy is told about the robot."""

    # ---- the contract ----

    @property
    def stratum(self) -> str:
        return self.task

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        """Starts the episode `seed` (or one drawn at random)."""
        if seed is not None and (not isinstance(seed, (int, np.integer)) or seed < 0):
            raise WorldError(f"a seed is a whole number from 0 up; got {seed!r}")
        super().reset(seed=None if seed is None else int(seed))
        if seed is None:
            seed = int(self.np_random.integers(10_000_000))
        self.task, self.trial = episode(int(seed), self.tasks[self.suite], self.family)
        with redirect_stdout(sys.stderr):  # some packages print
            self._progress = self._start(self.task, self.trial)
        self.steps, self._success = 0, self._progress >= 1.0
        return self._observation(), self._info()

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        """One control step. Raises WorldError on a bad action, before `reset`, and after the last step."""
        self._check_begun("step")
        space = self.action_space
        found = check_action(action, len(self.action_low))
        if self.steps >= self.max_steps:
            raise WorldError(f"step: the episode ended after {self.max_steps} steps; expected a reset()")
        with redirect_stdout(sys.stderr):
            reward, success, progress = self._act(np.clip(found, space.low, space.high))
        self.steps += 1
        self._success = self._success or bool(success)
        self._progress = 1.0 if self._success else float(progress)
        truncated = self.steps >= self.max_steps
        return self._observation(), float(reward), self._success, truncated, self._info()

    def look(self) -> dict[str, Any]:
        self._check_begun("look")
        pictures = {name: self._draw(camera) for name, camera in self.cameras.items()}
        return {"pixels": pictures, "agent_pos": self.state()}

    def render(self) -> np.ndarray | None:
        """(480, W, 3) uint8 for people; None without a render mode."""
        if self.render_mode is None:
            return None
        self._check_begun("render")
        if self.people is not None:
            return self._draw(self.people)
        seen = next(iter(self.cameras.values()))
        width = round(PERSON * seen.width / seen.height)
        return self._draw(replace(seen, height=PERSON, width=width, smooth=2))

    def state(self) -> np.ndarray:
        self._check_begun("state")
        return np.array(self._state(), np.float32)

    def initial_state(self) -> str:
        """Of where everything is and what can be seen of its state."""
        self._check_begun("initial_state")
        model, data = self._simulation
        moved = (getattr(model, name) for name in self.moved)
        return state_key(data.qpos, data.qvel, data.mocap_pos, *moved)

    def close(self) -> None:
        if self._pictures is not None:
            self._pictures.close()
            self._pictures = None

    def _check_begun(self, what: str) -> None:
        if self.steps is None:
            raise WorldError(f"{what}: expected a reset() first")

    def _draw(self, camera: Camera) -> np.ndarray:
        model, data = self._simulation
        if self._pictures is None or self._pictures.model is not model:
            BenchmarkEnv.close(self)  # only the pictures of the model that was
            self._pictures = Pictures(model, self.drawing)
        return self._pictures.draw(data, camera)

    def _observation(self) -> dict[str, Any]:
        return self.look() if self.pixels == "always" else {"pixels": None, "agent_pos": self.state()}

    def _info(self) -> dict[str, Any]:
        return {
            "is_success": self._success,
            "progress": self._progress,
            "family": self.stratum,
            "task_description": self.task_description,
            "instruction_changed": False,
        }
