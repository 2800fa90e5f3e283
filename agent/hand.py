"""What is left of the last chunk, one action a tick: where it is begun, at what pace, what holds still."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from agent.align import entered
from backbone.errors import UserError
from lowlevel.controller import ActionChunk

SLOWEST = 0.125  # of the pace it was taught


class Hand:
    """rest: "zero" where actions are speeds, "last" where they are positions. skip: how a late chunk is begun
    (`Clock.skip`). The gripper is the last number of an action.

    pace: share of the speed that it was taught. done: actions done so far, of all chunks. last: what was sent
    last; here: the last state that was seen.
    """

    def __init__(self, rest: str, skip: bool | None):
        self.rest, self.skip = rest, True if skip is None and rest == "last" else skip
        self.reset()

    def reset(self) -> None:
        self.pace, self.done = 1.0, 0
        self.last: np.ndarray | None = None
        self.here: np.ndarray | None = None
        self.drop()

    def drop(self) -> None:
        """What is left no longer counts."""
        self.chunk: ActionChunk | None = None
        self._used, self._part = 0, 0.0  # actions done or passed over; how much of the next one is done

    def begin(self, chunk: ActionChunk, sent: Sequence[np.ndarray] = (), passed: int = 0) -> None:
        """A chunk that has come. sent: what was sent since its observation. passed: the value of `done`
        then.
        """
        self.chunk, self._used, self._part = chunk, 0, 0.0
        if self.skip:
            self._used = self.done - passed
        elif self.skip is None and len(sent):
            way = np.array(sent)
            way[:, -1] *= self.pace  # the gripper's is no speed: it is told the same for longer
            actions, self._used = entered(chunk.actions, way)
            self.chunk = replace(chunk, actions=actions)

    def lasts(self, chunk: ActionChunk, late: int) -> int:
        """How many ticks a chunk is good for that comes so late."""
        return max(1, len(chunk.actions) - late * (self.skip is not False))

    @property
    def left(self) -> np.ndarray:
        """(n, A) actions that nobody has done yet."""
        return np.zeros((0, 0)) if self.chunk is None else self.chunk.actions[self._used :]

    @property
    def closed(self) -> bool:
        """Whether the gripper was told to close."""
        return self.last is not None and self.last[-1] > 0

    def act(self) -> tuple[np.ndarray, str]:
        """The next action, or its share at a slower pace, and the subtask that it belongs to."""
        assert self.chunk is not None
        action = np.array(self.chunk.actions[self._used], np.float32)
        if self.pace < 1:
            action = self._slowed(action)
        self._part += self.pace
        if self._part >= 1 - 1e-9:
            self._part, self._used, self.done = 0.0, self._used + 1, self.done + 1
        return action, self.chunk.subtask

    def hold(self, size: int) -> np.ndarray:
        """No motion; the gripper keeps what it was told. size: of an action, where none was sent yet."""
        if self.rest == "last":
            return np.array(self.here if self.last is None else self.last, np.float32)
        hold = np.zeros(size, np.float32) if self.last is None else np.zeros_like(self.last)
        hold[-1] = 0.0 if self.last is None else self.last[-1]
        return hold

    def ticks(self, actions: int) -> int:
        """How long so many actions take."""
        return math.ceil(actions / self.pace)

    def change_pace(self, faster: bool) -> float:
        """Twice or half as fast, never faster than it was taught: the new pace. UserError where it is that
        fast already.
        """
        if faster and self.pace >= 1:
            raise UserError("pace: expected slower; it is as fast as it was taught already")
        self.pace = float(np.clip(self.pace * (2 if faster else 0.5), SLOWEST, 1.0))
        return self.pace

    def _slowed(self, action: np.ndarray) -> np.ndarray:
        """Of a speed its share, of a way to a position so far."""
        if self.rest == "zero":
            return np.append(action[:-1] * self.pace, action[-1:])
        come_from = action if self.last is None else self.last
        share = min(1.0, self.pace / (1 - self._part))
        return np.append(come_from[:-1] + (action - come_from)[:-1] * share, action[-1:])
