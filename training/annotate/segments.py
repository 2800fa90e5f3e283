"""What an episode is cut into: stretches of frames, each with its subtask and what is remembered in it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from backbone.errors import UserError
from highlevel.language_model import shortened
from highlevel.plan import DONE
from training.labels import NOTHING

LONGEST = 300  # characters of a subtask or a memory
NEAR = 0.85  # likeness (0 to 1) from which on another wording of a listed subtask is that one


@dataclass(frozen=True)
class Segment:
    """Frames start .. end - 1 of an episode."""

    start: int
    end: int
    subtask: str
    memory: str = ""


class Subtasks:
    """The only ones there may be, if they are listed; "done" always is one. known: none, if any will do."""

    def __init__(self, known: Sequence[str] = ()):
        self.known = tuple(dict.fromkeys(" ".join(text.split()) for text in known if text.strip()))
        self._plain = {plain(text): text for text in (*self.known, DONE)}

    def meant(self, said: str) -> str:
        """The one that is meant, whatever its case, punctuation and small slips; by its number too (from 1).
        UserError for none and for what could be two.
        """
        said = " ".join(said.split())
        if not said or not said.isprintable() or len(said) > LONGEST:
            raise UserError(f"subtask: expected 1 to {LONGEST} characters of text, got {shortened(said)}")
        if not self.known:
            return DONE if plain(said) == DONE else said
        if said.isdecimal() and 1 <= int(said) <= len(self.known):
            return self.known[int(said) - 1]
        if plain(said) in self._plain:
            return self._plain[plain(said)]
        found = difflib.get_close_matches(plain(said), self._plain, n=2, cutoff=NEAR)
        if len(found) == 1:
            return self._plain[found[0]]
        got = shortened(said)
        if found:
            one, other = (self._plain[text] for text in found)
            raise UserError(f"subtask: expected one of the list, got {got}: '{one}' or '{other}'?")
        raise UserError(f"subtask: expected one of the {len(self.known)} that are listed, got {got}")


def plain(text: str) -> str:
    return " ".join(text.lower().split()).strip(" .!\"'")


def checked(segments: Sequence[Segment], length: int) -> tuple[Segment, ...]:
    """Segments that follow each other from frame 0 to the last of `length`, each memory filled in: where none
    is written the last one stands. UserError where they do not.
    """
    at, memory, found = 0, NOTHING, []
    for segment in segments:
        if segment.start != at or segment.end <= at or not segment.subtask:
            got = f"{segment.start} to {segment.end} '{segment.subtask}'"
            raise UserError(f"segments: expected a subtask for some frames from {at} on, got {got}")
        at, memory = segment.end, segment.memory or memory
        found.append(replace(segment, memory=memory))
    if at != length:
        raise UserError(f"segments: expected them to end with frame {length}, got {at}")
    return tuple(found)


def texts(segments: Sequence[Segment]) -> tuple[list[str], list[str]]:
    """Subtask and memory of every frame."""
    each = [(s.subtask, s.memory) for s in segments for _ in range(s.start, s.end)]
    return [subtask for subtask, _ in each], [memory for _, memory in each]


def gathered(subtask: Sequence[str], memory: Sequence[str]) -> tuple[Segment, ...]:
    """The other way round: stretches of frames that say the same, with "" where nothing is said."""
    found: list[Segment] = []
    for frame, (said, kept) in enumerate(zip(subtask, memory, strict=True)):
        if found and (found[-1].subtask, found[-1].memory) == (said, kept):
            found[-1] = replace(found[-1], end=frame + 1)
        else:
            found.append(Segment(frame, frame + 1, said, kept))
    return tuple(found)


def agreement(given: Sequence[str], true: Sequence[str]) -> dict[str, float]:
    """How far the subtasks of an episode's frames are right.

    frames: share of frames with the right words. found, extra: share of the true changes of subtask that have
    a change from and to the same words, and share of changes that no true one has. error: frames between
    them, the median; nan if none was found.
    """
    one, other = np.array(given, object), np.array(true, object)
    theirs, left = _changes(one), _changes(one)
    errors = []
    for at, words in _changes(other):
        same = [change for change in left if change[1] == words]
        if same:
            nearest = min(same, key=lambda change: abs(change[0] - at))
            left.remove(nearest)
            errors.append(abs(nearest[0] - at))
    return {
        "frames": float((one == other).mean()),
        "found": len(errors) / max(1, len(_changes(other))),
        "extra": len(left) / max(1, len(theirs)),
        "error": float(np.median(errors)) if errors else float("nan"),
    }


def _changes(said: np.ndarray) -> list[tuple[int, tuple[str, str]]]:
    return [(int(k) + 1, (said[k], said[k + 1])) for k in np.flatnonzero(said[1:] != said[:-1])]
