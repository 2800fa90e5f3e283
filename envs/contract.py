"""What the evaluation asks of a world, ours or a public benchmark's: a gymnasium environment that also tells
how fast it is controlled, what results are grouped by, and, where it has one, what its teacher would do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np

from envs.errors import WorldError

PIXELS = ("always", "lazy")
DONE = "done"  # the subtask of a teacher that has nothing left to do
NO_MEMORY = "nothing"  # the memory of one that needs none


@dataclass(frozen=True)
class Label:
    """What a teacher would do now.

    point: (y, x) in the front camera's picture, normalised; None when done, or where a benchmark has none.
    action: (A,) float32 in the world's own units; None where only words were asked for.
    """

    subtask: str
    point: tuple[float, float] | None
    memory: str
    action: np.ndarray | None


class Guide(Protocol):
    """A world's scripted teacher, bound to that world."""

    def reset(self) -> None:
        """A new episode has begun."""

    def label(self) -> Label:
        """What it would do in the world's present state; asked at every tick or not, it answers alike."""


class EvaluationEnv(gymnasium.Env):
    """Observations are {"pixels": {camera: (H, W, 3) uint8} or None, "agent_pos": (D,) float32}: upright
    pictures, physical units. `info["is_success"]` and `info["progress"]` (0 to 1) come with every reset and
    step.

    pixels="lazy": observations carry None as pixels; `look()` renders when asked, so that a run draws only
    what its agent looks at.
    """

    suite: str
    pixels: str = "always"
    rate: float  # control ticks a second
    max_steps: int  # of the episode under way
    linger: int = 0  # ticks that an episode runs on after its goal is reached
    rest: str = "zero"  # an action that holds still: zeros but for the gripper, or the "last" one again

    @property
    def stratum(self) -> str:
        """What results are grouped by: the task family or the task of the episode under way."""
        raise NotImplementedError

    @property
    def task_description(self) -> str:
        """The instruction as it stands now."""
        raise NotImplementedError

    def begin(self, seed: int) -> dict[str, Any]:
        """Evaluation episode `seed` from its start -> info."""
        return self.reset(seed=seed)[1]

    def look(self) -> dict[str, Any]:
        """The full observation of the present, pictures included."""
        raise NotImplementedError

    def render(self) -> np.ndarray | None:
        """(H, W, 3) uint8 of the present, for people; None without a render mode."""
        raise NotImplementedError

    def state(self) -> np.ndarray:
        """(D,) float32, `agent_pos` of the present."""
        raise NotImplementedError

    def teacher(self) -> Guide | None:
        """The scripted teacher, where the world has one."""
        return None

    def initial_state(self) -> str:
        """16 hex digits that stand for the state the world is in."""
        raise NotImplementedError

    @property
    def state_id(self) -> int | None:
        """The number of the published initial state that the episode began in, where there are such."""
        return None

    def scene(self) -> str | None:
        """What stands where, in the planner's words, where those exist."""
        return None

    def asks_for(self, instruction: str) -> bool:
        """Whether an instruction asks for the goal that this episode is judged by."""
        return " ".join(instruction.split()) == self.task_description


def state_key(*parts: np.ndarray) -> str:
    """16 hex digits for arrays of numbers, rounded to 1e-5, so that another machine's last bits are no other
    state."""
    rounded = [np.round(np.asarray(part, np.float64), 5) + 0.0 for part in parts]  # + 0.0: no minus zero
    return hashlib.sha256(b"".join(part.tobytes() for part in rounded)).hexdigest()[:16]


def check_choice(name: str, value: Any, known: Sequence[str]) -> None:
    """WorldError unless the value is one of the known ones."""
    if value not in known:
        raise WorldError(f"unknown {name} {value!r}; known: {', '.join(known)}")


def check_action(action: Any, size: int) -> np.ndarray:
    """(size,) float32; WorldError for another shape or numbers that are not finite."""
    found = np.asarray(action, dtype=np.float32)
    if found.shape != (size,) or not np.isfinite(found).all():
        came = f"shape {found.shape}" if found.shape != (size,) else "numbers that are not finite"
        raise WorldError(f"action: expected {size} finite numbers, got {came}")
    return found
