"""Segments while a person makes them: parts that have no words yet, and every change can be undone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from backbone.errors import UserError
from training.annotate.segments import Segment, checked

STEPS = 500  # changes that can be undone


class Draft:
    """Of an episode of `length` frames. parts: they follow each other and cover it; "" where no words are.
    before: segments to begin with.
    """

    def __init__(self, length: int, before: Sequence[Segment] = ()):
        self.parts: tuple[Segment, ...] = tuple(before) or (Segment(0, length, ""),)
        self._past: list[tuple[Segment, ...]] = []

    def at(self, frame: int) -> int:
        """Which part a frame is in."""
        return next(k for k, part in enumerate(self.parts) if frame < part.end)

    def split(self, frame: int) -> None:
        """Something else begins here. UserError where it does already."""
        k = self.at(frame)
        part = self.parts[k]
        if frame == part.start:
            raise UserError("split: expected a frame inside of a segment, got its first")
        halves = replace(part, end=frame), Segment(frame, part.end, "")
        self._become((*self.parts[:k], *halves, *self.parts[k + 1 :]))

    def join(self, frame: int) -> None:
        """The part that a frame is in goes on with the one before it."""
        k = self.at(frame)
        if k == 0:
            raise UserError("join: expected a segment that has one before it, got the first")
        one = replace(self.parts[k - 1], end=self.parts[k].end)
        self._become((*self.parts[: k - 1], one, *self.parts[k + 1 :]))

    def move(self, frame: int, to: int) -> None:
        """The part that a frame is in begins at another frame of its own or of the part before it."""
        k = self.at(frame)
        if k == 0 or not self.parts[k - 1].start < to < self.parts[k].end:
            raise UserError("move: expected a place between the segments beside it")
        pair = replace(self.parts[k - 1], end=to), replace(self.parts[k], start=to)
        self._become((*self.parts[: k - 1], *pair, *self.parts[k + 1 :]))

    def name(self, frame: int, subtask: str) -> None:
        self._change(frame, subtask=subtask)

    def remember(self, frame: int, memory: str) -> None:
        self._change(frame, memory=memory)

    def put(self, start: int, end: int, subtask: str, memory: str = "") -> None:
        """These frames are one part now, whatever was there."""
        if not 0 <= start < end <= self.parts[-1].end:
            raise UserError(
                f"segment: expected frames within 0 to {self.parts[-1].end}, got {start} to {end}"
            )
        before = [replace(p, end=min(p.end, start)) for p in self.parts if p.start < start]
        after = [replace(p, start=max(p.start, end)) for p in self.parts if p.end > end]
        self._become((*before, Segment(start, end, subtask, memory), *after))

    def undo(self) -> None:
        if not self._past:
            raise UserError("undo: nothing was changed")
        self.parts = self._past.pop()

    @property
    def changed(self) -> bool:
        return bool(self._past)

    def segments(self) -> tuple[Segment, ...]:
        """The whole. UserError where words are missing."""
        for k, part in enumerate(self.parts):
            if not part.subtask:
                raise UserError(f"segment {k + 1}: expected a subtask, got none")
        return checked(self.parts, self.parts[-1].end)

    def _change(self, frame: int, **words: str) -> None:
        k = self.at(frame)
        self._become((*self.parts[:k], replace(self.parts[k], **words), *self.parts[k + 1 :]))

    def _become(self, parts: tuple[Segment, ...]) -> None:
        self._past = [*self._past[-STEPS:], self.parts]
        self.parts = parts
