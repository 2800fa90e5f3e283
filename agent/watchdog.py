"""Whether what a robot shows can be believed, and a line for each fault that begins and ends."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from agent.sound import line
from backbone.errors import UserError
from backbone.observation import Observation

FROZEN = 8  # ticks that a picture may stay the same to the last bit while the robot moves
MOTION = 0.05  # metres or radians that it moves in that time, at least
AGAIN = 20  # ticks after which it is believed again: it may not see the robot. Twice as long each time


class Eyes:
    """Looks, and believes what it sees if it is like what was seen first, and the pictures live.

    look: gives {"pixels": {camera: (H, W, 3) uint8}, "agent_pos": (D,) float}. frozen: see FROZEN; None for
    pictures that may stand still. motion: see MOTION, or that of
    each number of the state. again: whether a picture is believed again after a while.
    Pictures are copied: a driver may write into them again.

    sure: since when (`time.perf_counter`) what is shown may be old: when the last observation that was
    believed was taken, or, of a camera that shows the same since the robot moved, the last before that; minus
    infinity of one that is frozen and not believed again.
    """

    def __init__(
        self,
        look: Callable[[], Mapping[str, Any]],
        frozen: int | None = FROZEN,
        motion: float | Sequence[float] = MOTION,
        again: bool = True,
    ):
        self._look, self._frozen, self._motion, self._again = look, frozen, motion, again
        self.first: Observation | None = None  # believed as it is: whoever reads it checks it
        self.sure: float | None = None
        self._pictures: dict[str, _Picture] = {}

    def look(self, instruction: str, tick: int) -> Observation:
        """The present. UserError, in one line, for what cannot be believed; and whatever `look` raises."""
        began = time.perf_counter()
        shown = self._look()
        if not isinstance(shown, Mapping):
            raise UserError(f"observation: expected pixels and agent_pos, got {type(shown).__name__}")
        seen = Observation.from_env(shown, instruction)
        images = {name: np.array(image) for name, image in seen.images.items()}
        seen = replace(seen, images=images, state=np.array(seen.state))
        if self.first is not None:
            self._check(seen)
        taken = float(shown.get("time", began))
        if self._frozen is None:
            self.sure = taken
        elif dead := self._dead(seen, tick, taken):
            self.sure = self.sure if self._again else -math.inf
            raise UserError(f"camera frozen: {', '.join(dead)}")
        if self.first is None:
            self.first = seen
        return seen

    def _check(self, seen: Observation) -> None:
        for name, before in self.first.images.items():
            if name not in seen.images:
                raise UserError(f"camera missing: {name}")
            image = seen.images[name]
            if (image.shape, image.dtype) != (before.shape, before.dtype):
                expected, got = (f"{a.shape} {a.dtype}" for a in (before, image))
                raise UserError(f"camera wrong: {name}, expected {expected}, got {got}")
            if image.dtype.kind == "f" and not np.isfinite(image).all():
                raise UserError(f"camera wrong: {name}, expected finite numbers")
        state, before = seen.state, self.first.state
        if state.shape != before.shape or state.dtype.kind != before.dtype.kind:
            expected, got = (f"{a.shape} {a.dtype}" for a in (before, state))
            raise UserError(f"state wrong: expected {expected}, got {got}")
        if not np.isfinite(state).all():
            raise UserError("state wrong: expected finite numbers")

    def _dead(self, seen: Observation, tick: int, taken: float) -> list[str]:
        """Cameras whose picture has been the same for too long for how far the robot moved."""
        dead: list[str] = []
        for name, image in seen.images.items():
            last = self._pictures.get(name)
            if last is None or not np.array_equal(image, last.image):
                self._pictures[name] = _Picture(image, tick, seen.state, taken)
                continue
            # without the sign: a rotation by half a turn may be written either way
            moved = np.abs(np.abs(seen.state) - np.abs(last.state))
            if not (moved > self._motion).any():
                last.sure = taken
                last.since = last.since if self._again else tick
                continue
            if tick - last.since < self._frozen:
                continue
            last.dead = tick if last.dead is None else last.dead
            if not self._again or tick - last.dead < AGAIN * 2**last.times:
                dead.append(name)
            else:
                again = {"since": tick, "state": seen.state, "sure": taken, "dead": None}
                self._pictures[name] = replace(last, **again, times=last.times + 1)
        self.sure = min([taken, *(self._pictures[name].sure for name in seen.images)])
        return dead


@dataclass
class _Picture:
    """Of a camera, since which tick it is the same, and where the robot was then. sure: see `Eyes`. dead:
    since which tick it is not believed; times: how often it was again, as there was no other.
    """

    image: np.ndarray
    since: int
    state: np.ndarray
    sure: float
    dead: int | None = None
    times: int = 0


@dataclass
class Faults:
    """Faults as they come and go. A part has at most one at a time: "camera", "robot", "agent", "safety",
    "watch" or "clock". count: how often each began.
    """

    count: Counter[str] = field(default_factory=Counter)
    _open: dict[str, str] = field(default_factory=dict)
    _news: list[str] = field(default_factory=list)

    def __contains__(self, part: str) -> bool:
        return part in self._open

    def begin(self, part: str, said: str) -> None:
        """It is there (perhaps since long ago, then that was told)."""
        if self._open.get(part) != said:
            self._news.append(said)
            self.count[part] += part not in self._open
            self._open[part] = said

    @contextmanager
    def caught(self, part: str, early: bool = False) -> Iterator[None]:
        """What is raised in it is a fault of this part; unless it is early, then it is the caller's."""
        try:
            yield
        except Exception as error:
            if early:
                raise
            self.failed(part, error)
        else:
            self.end(part)

    def failed(self, part: str, error: Exception) -> None:
        """The same for an exception. One that says what is wrong with an observation says it all."""
        told = line(error)
        self.begin(
            part, told if isinstance(error, UserError) and part == "camera" else f"{part} failed: {told}"
        )

    def end(self, part: str) -> None:
        if self._open.pop(part, None) is not None:
            self._news.append(f"{part} back")

    def news(self) -> tuple[str, ...]:
        """What has not been told yet."""
        told, self._news = tuple(self._news), []
        return told
