"""The last seconds of an episode, for who judges how it goes: what was seen, sent and planned."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from backbone.observation import Observation
from highlevel.plan import Plan

SECONDS = 20.0  # kept
SIDE = 32  # pixels of a small picture


class Part(NamedTuple):
    """A subtask in force. Two with the same words are two things where the memory differs: the second press
    of a button is no failure of the first.
    """

    tick: int
    subtask: str
    memory: str


@dataclass
class Trace:
    """seen: (tick, state (D,)) of each look. pictures: of the first camera at the last two, None where there
    was none. sent: the action of each tick. parts: the subtasks in force, in the order they came.
    """

    rate: float
    seen: deque[tuple[int, np.ndarray]] = field(init=False)
    pictures: deque[np.ndarray | None] = field(default_factory=lambda: deque(maxlen=2))
    sent: deque[np.ndarray] = field(init=False)
    parts: list[Part] = field(default_factory=list)

    def __post_init__(self):
        kept = int(SECONDS * self.rate)
        self.seen, self.sent = deque(maxlen=kept), deque(maxlen=kept)

    def see(self, tick: int, observation: Observation) -> None:
        self.pictures.append(next(iter(observation.images.values()), None))
        self.seen.append((tick, np.atleast_2d(observation.state)[-1]))

    def plan(self, tick: int, plan: Plan) -> None:
        """This plan is in force now."""
        last = self.parts[-1] if self.parts else None
        if last is None or (last.subtask, last.memory) != (plan.subtask, plan.memory):
            self.parts.append(Part(tick, plan.subtask, plan.memory))

    def since(self, tick: int) -> list[np.ndarray]:
        """The states seen from then on."""
        return [state for at, state in self.seen if at >= tick]


def small(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8, or the last of (T, H, W, 3) -> (about SIDE, about SIDE) grey, 0 to 255."""
    grey = np.asarray(image).reshape(-1, *np.shape(image)[-3:])[-1].mean(-1, dtype=np.float32)
    step = max(1, min(grey.shape) // SIDE)
    high, wide = (n // step * step for n in grey.shape)
    return grey[:high, :wide].reshape(high // step, step, wide // step, step).mean((1, 3))
