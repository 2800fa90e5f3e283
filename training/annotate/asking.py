"""A vision-language model as who labels: shown an episode's frames with their times, it says the segments."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from backbone.errors import PolicyError, UserError
from highlevel.language_model import shortened
from highlevel.loose_json import objects
from highlevel.plan import DONE
from training.annotate.episodes import Shown
from training.annotate.segments import LONGEST, Segment, Subtasks, checked
from training.labels import NOTHING

RULES = """You label a recorded episode of a robot arm. You are shown its instruction and some of its frames,
each behind the time at which it was taken, in seconds. Say what the robot does when: cut the episode into
segments that follow each other without gaps, from 0 to the end. Each is one short subtask in the imperative
("pick up the red block"); the next begins when the robot begins to do something else.

For each segment write the memory that the robot would keep while doing it: one short sentence about what is
done already and will matter later; "{nothing}" as long as there is nothing to remember. If the episode goes
on after the instruction is fulfilled, the last segment's subtask is "{done}".

Answer with one JSON object and nothing else:
{{"segments": [{{"start": 0.0, "end": seconds, "subtask": words, "memory": words}}, ...]}}"""
CHANGE = """A robot arm does "{before}" and then "{after}". You are shown frames around the change, each
behind its time in seconds. Answer with one JSON object and nothing else: {{"start": the time at which the
second begins}}"""
CLOSE = 9  # frames that are shown around a change
_CLOCK = re.compile(r"(?:(\d+):)?(\d+(?:\.\d+)?)\s*(?:s|sec|seconds)?", re.ASCII)
WRONG = 5  # mistakes of an answer that are told at once


class Speaks(Protocol):
    """A model to converse with (highlevel/openai_server.py, highlevel/vision_language.py)."""

    def converse(
        self,
        turns: Sequence[tuple[str, Sequence[str | np.ndarray]]],
        schema: Mapping[str, Any] | None = None,
    ) -> str: ...


class Asker:
    """Asks about one episode after the other.

    subtasks: those that there may be. frames: the most that are shown of an episode, rate: a second, side: of
    their pictures, pixels. tries: how often it is asked, told what was wrong with its last answer. refine: it
    is asked about each change once more, with the frames around it.
    """

    def __init__(
        self,
        model: Speaks,
        subtasks: Subtasks | None = None,
        frames: int = 32,
        rate: float = 2.0,
        side: int | None = 336,
        tries: int = 3,
        refine: bool = False,
    ):
        for name, value, least in (("frames", frames, 2), ("tries", tries, 1), ("side", side or 16, 16)):
            if value < least:
                raise UserError(f"{name}: expected at least {least}, got {value}")
        if not 0 < rate < 1000:
            raise UserError(f"rate: expected frames a second above 0, got {rate}")
        self.model, self.subtasks = model, subtasks or Subtasks()
        self.frames, self.rate, self.side, self.tries, self.refine = frames, rate, side, tries, refine

    def __call__(self, episode: Shown) -> tuple[Segment, ...]:
        """Its segments. UserError with what was wrong with the last answer, PolicyError where none came."""
        shown = episode.spread(self.frames, self.rate)
        turns: list[tuple[str, Sequence[str | np.ndarray]]] = [
            ("system", [self.rules()]),
            ("user", self.question(episode, shown)),
        ]
        for _ in range(self.tries):
            answer = ""
            try:
                answer = self.model.converse(turns, self.schema())
                segments = self.read(answer, episode, shown)
            except PolicyError:
                raise
            except UserError as error:
                wrong = str(error)
                again = f"That cannot be used: {wrong}. Answer again, with all segments."
                turns = [*turns[:2], ("assistant", [answer or "(nothing)"]), ("user", [again])]
            else:
                return self.sharper(episode, shown, segments) if self.refine else segments
        raise UserError(wrong)

    def sharper(
        self, episode: Shown, shown: Sequence[int], segments: Sequence[Segment]
    ) -> tuple[Segment, ...]:
        """The same segments with changes moved to the frame: for each the frames around it are shown, closer
        and closer. Where the answer is no time among those the change stays where it is.
        """
        found = list(segments)
        for k in range(len(found) - 1):
            one, other = found[k : k + 2]
            at, step = other.start, int(np.diff(shown).max(initial=1))
            while step > 1:
                low, high = max(one.start + 1, at - step), min(other.end - 1, at + step)
                near = sorted({int(n) for n in np.linspace(low, high, CLOSE).round()})
                words = [
                    CHANGE.format(before=one.subtask, after=other.subtask),
                    *self.pictures(episode, near),
                    f'When does the robot begin to "{other.subtask}"?',
                ]
                said = self._start(words)
                if said is None or not low <= episode.frame(said) <= high:
                    break
                at, step = episode.frame(said), int(np.diff(near).max(initial=1))
            found[k : k + 2] = replace(one, end=at), replace(other, start=at)
        return checked(found, len(episode))

    def _start(self, words: Sequence[str | np.ndarray]) -> float | None:
        try:
            answer = self.model.converse([("user", words)], _strict({"start": {"type": "number"}}))
        except PolicyError:
            raise
        except UserError:  # no text
            return None
        return next((_seconds(found.get("start")) for found in objects(answer)), None)

    def rules(self) -> str:
        known = "\n".join(f"- {text}" for text in dict.fromkeys([*self.subtasks.known, DONE]))
        only = f"\n\nThe subtask is one of these, word for word:\n{known}" if self.subtasks.known else ""
        return RULES.format(nothing=NOTHING, done=DONE) + only

    def question(self, episode: Shown, shown: Sequence[int]) -> list[str | np.ndarray]:
        return [
            f"Instruction: {episode.instruction}",
            *self.pictures(episode, shown),
            f"The episode ends at {episode.end:.2f} s. Its segments, from 0.00 to {episode.end:.2f}:",
        ]

    def pictures(self, episode: Shown, shown: Sequence[int]) -> list[str | np.ndarray]:
        """Frames behind their times."""
        parts: list[str | np.ndarray] = []
        for frame in shown:
            for camera in episode.cameras:
                name = f" {camera}" if len(episode.cameras) > 1 else ""
                parts += [f"{episode.times[frame]:.2f} s{name}:", episode.picture(camera, frame, self.side)]
        return parts

    def schema(self) -> dict[str, Any]:
        """Of an answer, of the kind that servers call strict."""
        words, seconds = {"type": "string"}, {"type": "number"}
        subtask: dict[str, Any] = dict(words)
        if self.subtasks.known:
            subtask["enum"] = list(dict.fromkeys([*self.subtasks.known, DONE]))
        segment = _strict({"start": seconds, "end": seconds, "subtask": subtask, "memory": words})
        return _strict({"segments": {"type": "array", "items": segment}})

    def read(self, answer: str, episode: Shown, shown: Sequence[int]) -> tuple[Segment, ...]:
        """What a model answered. Small gaps and overlaps are closed: it sees `shown` only, so it cannot know
        times better than from one to the next. UserError says what is wrong.
        """
        slack = max(np.diff(episode.times[list(shown)]).max(initial=0.0), 1 / episode.fps) + 1e-6
        found = _segments(answer)
        if not found:
            raise UserError(f'answer: expected a JSON object with "segments", got {shortened(answer)}')
        starts = [_seconds(one.get("start")) for one in found]
        ends = [_seconds(one.get("end")) for one in found]
        wrong: list[str] = []
        for k, (start, end) in enumerate(zip(starts, ends, strict=True)):
            name, until = f"segment {k + 1}", starts[k + 1] if k + 1 < len(found) else episode.end
            if start is None or end is None:
                got = shortened(str(found[k].get("start" if start is None else "end")))
                wrong.append(f"{name}: expected start and end in seconds, got {got}")
            elif not start < end:
                wrong.append(f"{name}: expected an end after its start, got {start:g} to {end:g}")
            elif k == 0 and start > slack:
                wrong.append(f"{name}: expected a start at 0, got {start:g}")
            elif end > episode.end + slack:
                wrong.append(f"{name}: expected an end by {episode.end:.2f}, the end of all, got {end:g}")
            elif until is not None and abs(end - until) > slack:
                what = "where the next begins" if k + 1 < len(found) else "the end of all"
                wrong.append(f"{name}: expected an end at {until:.2f}, {what}, got {end:g}")
        said = []
        for k, one in enumerate(found):
            try:
                said.append((self.subtasks.meant(_text(one.get("subtask"))), _memory(one.get("memory"))))
            except UserError as error:
                wrong.append(f"segment {k + 1}: {error}")
        if not wrong:
            at = [0, *(episode.frame(start) for start in starts[1:]), len(episode)]
            wrong = [
                f"segment {k + 1}: expected one frame (1/{episode.fps:g} s) at least"
                for k in range(len(found))
                if at[k] >= at[k + 1]
            ]
        if wrong:
            more = f"; and {len(wrong) - WRONG} more" if len(wrong) > WRONG else ""
            raise UserError("; ".join(wrong[:WRONG]) + more)
        parts = zip(at[:-1], at[1:], said, strict=True)
        return checked([Segment(a, b, *words) for a, b, words in parts], len(episode))


def _segments(answer: str) -> list[Mapping[str, Any]]:
    """Of the first object that has some; or the objects themselves, of a list without one around it."""
    bare: list[Mapping[str, Any]] = []
    for found in objects(answer):
        given = found.get("segments")
        if isinstance(given, list) and given and all(isinstance(one, Mapping) for one in given):
            return given
        bare += [found] if {"start", "subtask"} <= set(found) else []
    return bare


def _seconds(value: Any) -> float | None:
    """2.5, "2.5", "2.5 s" or "0:02.5"."""
    if isinstance(value, str) and (found := _CLOCK.fullmatch(value.strip())):
        value = 60 * int(found[1] or 0) + float(found[2])
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and 0 <= value < 1e6 else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _memory(value: Any) -> str:
    """One line; "" where the last one stands."""
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        value = "; ".join(value)
    text = " ".join(_text(value).split())
    if len(text) > LONGEST or not text.isprintable():
        raise UserError(f"memory: expected at most {LONGEST} characters of text, got {shortened(text)}")
    return text


def _strict(properties: Mapping[str, Any]) -> dict[str, Any]:
    names = list(properties)
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}
