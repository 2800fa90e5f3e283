"""Recorded episodes in memory: how a world's frames are laid out, which column holds what, what is to be
recorded."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from backbone.errors import UserError

if TYPE_CHECKING:
    from envs.contract import Label
    from highlevel.plan import Plan

FPS = 20
CAMERAS = {"front": (128, 128), "wrist": (64, 64)}
TEACHER, DISTURBED, AGENT = 0, 1, 2  # who chose `action_executed`


@dataclass(frozen=True)
class Layout:
    """What the frames of a world are like: pictures (height, width), the names of the numbers in state and
    action, frames a second."""

    robot: str
    fps: float
    cameras: Mapping[str, tuple[int, int]]
    state: tuple[str, ...]
    action: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"cameras": {name: list(size) for name, size in self.cameras.items()}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Layout:
        cameras = {name: tuple(size) for name, size in values["cameras"].items()}
        names = {part: tuple(values[part]) for part in ("state", "action")}
        return cls(robot=values["robot"], fps=values["fps"], cameras=cameras, **names)


TABLETOP = Layout(
    "steersman_tabletop",
    FPS,
    CAMERAS,
    ("x", "y", "z", "axis_angle_x", "axis_angle_y", "axis_angle_z", "finger_left", "finger_right"),
    ("dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper"),
)


def _scalar(dtype: str) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [1], "names": None}


def _named(names: tuple[str, ...]) -> dict[str, Any]:
    return {"dtype": "float32", "shape": [len(names)], "names": list(names)}


def features(layout: Layout = TABLETOP) -> dict[str, dict[str, Any]]:
    """The columns of the data files. LeRobot wants exactly those that info.json declares."""
    images = {
        f"observation.images.{name}": {
            "dtype": "image",
            "shape": [height, width, 3],
            "names": ["height", "width", "channels"],
        }
        for name, (height, width) in layout.cameras.items()
    }
    return images | {
        "observation.state": _named(layout.state),
        "action": _named(layout.action),  # the teacher's
        "action_executed": _named(layout.action),
        "target": _named(("y", "x")),  # front camera, or -1
        "driver": _scalar("int64"),
        "subtask_index": _scalar("int64"),
        "memory": _scalar("string"),
        "next.success": _scalar("bool"),
        "timestamp": _scalar("float32"),
        "frame_index": _scalar("int64"),
        "episode_index": _scalar("int64"),
        "index": _scalar("int64"),
        "task_index": _scalar("int64"),
    }


def encode_png(image: np.ndarray) -> bytes:
    """(H, W, 3) uint8 -> PNG bytes. Level 1: three times faster than the default, a tenth larger."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def decode_png(data: bytes) -> np.ndarray:
    """PNG bytes -> (H, W, 3) uint8."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@dataclass
class Episode:
    """One episode of T frames in memory; `images` holds PNG bytes, the rest is described in `features`."""

    seed: int
    suite: str
    family: str
    images: dict[str, list[bytes]]
    state: np.ndarray  # (T, D) float32, D = 8 in the tabletop world
    action: np.ndarray  # (T, A) float32, A = 7 there
    action_executed: np.ndarray  # (T, A) float32
    target: np.ndarray  # (T, 2) float32
    driver: np.ndarray  # (T,) int64
    success: np.ndarray  # (T,) bool
    instruction: list[str]
    subtask: list[str]
    memory: list[str]
    image_stats: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.state)

    @property
    def key(self) -> str:
        return episode_key(self.suite, self.family, self.seed)


def episode_key(suite: str, family: str, seed: int) -> str:
    """What makes an episode the same one when collection resumes."""
    return f"{suite}/{family}/{seed}"


@dataclass(frozen=True)
class Job:
    """One episode to be recorded."""

    suite: str
    family: str
    seed: int

    @property
    def key(self) -> str:
        return episode_key(self.suite, self.family, self.seed)


def take_turns(
    tasks: Mapping[str, Sequence[str]], suites: Sequence[str], episodes: int, families: Sequence[str] | None
) -> list[tuple[str, str, int]]:
    """Suites in turn (name one twice for twice the share), in each its `tasks` in turn -> suite, task, how
    often that has come before."""
    places = dict.fromkeys(suites, 0)
    turns = []
    for n in range(episodes):
        suite = suites[n % len(suites)]
        known = [task for task in tasks[suite] if families is None or task in families]
        if not known:
            raise UserError(f"family: expected one of suite '{suite}', got {', '.join(families or ())}")
        before, task = divmod(places[suite], len(known))
        places[suite] += 1
        turns.append((suite, known[task], before))
    return turns


class Row(NamedTuple):
    """One control step: what the caller kept before it, what the teacher said, who did what. told: the plan
    that an agent went by whose answers come late.
    """

    kept: Any
    state: np.ndarray
    label: Label
    instruction: str
    executed: np.ndarray
    who: int
    success: bool
    told: Plan | None = None


def from_rows(
    job: Job, rows: Sequence[Row], images: dict[str, list[bytes]], image_stats: dict[str, Any]
) -> Episode:
    """The episode of all its steps and their pictures."""
    _, state, labels, instruction, executed, who, success, _ = zip(*rows, strict=True)
    points = [(-1.0, -1.0) if label.point is None else label.point for label in labels]
    return Episode(
        seed=job.seed,
        suite=job.suite,
        family=job.family,
        images=images,
        state=np.array(state, np.float32),
        action=np.array([label.action for label in labels], np.float32),
        action_executed=np.array(executed, np.float32),
        target=np.array(points, np.float32),
        driver=np.array(who, np.int64),
        success=np.array(success, bool),
        instruction=list(instruction),
        subtask=[label.subtask for label in labels],
        memory=[label.memory for label in labels],
        image_stats=image_stats,
    )
