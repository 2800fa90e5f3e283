"""Whether an answer of a level is what it was asked for: a plan, a chunk of actions. Everything else is the
level's fault, told in one line, and must not get into what the agent remembers.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any
from unicodedata import category

import numpy as np

from backbone.errors import UserError
from highlevel.plan import Plan
from lowlevel.controller import ActionChunk

LONGEST = 4000  # characters of a text


def sound_plan(said: Any) -> Plan:
    """The plan; TypeError for what is none, UserError for text that nobody can read."""
    _is(said, Plan, "a plan")
    for what in ("subtask", "memory"):
        _readable(getattr(said, what), what)
    target = said.target
    if target is not None and not all(0 <= v <= 1 for v in (target.y, target.x)):
        raise UserError(f"target: expected a point within the picture, got {target.y}, {target.x}")
    if not math.isfinite(said.margin):
        raise UserError(f"margin: expected a finite number, got {said.margin}")
    return said


def sound_chunk(made: Any, like: np.ndarray | None = None) -> ActionChunk:
    """The chunk, its actions (H, A) float32 and finite. like: (A,) an action of before; TypeError, ValueError
    or FloatingPointError.
    """
    _is(made, ActionChunk, "a chunk of actions")
    _is(made.subtask, str, "words")
    given = np.asarray(made.actions)
    if given.dtype.kind not in "fiu":
        raise TypeError(f"expected actions as numbers, got {given.dtype}")
    width = "A" if like is None else len(like)
    if given.ndim != 2 or not given.size or (like is not None and given.shape[1] != width):
        raise ValueError(f"expected actions of shape (H, {width}), got {given.shape}")
    with np.errstate(over="ignore"):  # what overflows is not finite
        actions = np.asarray(given, np.float32)
    if not np.isfinite(actions).all():
        raise FloatingPointError("the chunk has non-finite actions")
    return made if actions is made.actions else replace(made, actions=actions)


def line(error: object, most: int = 200) -> str:
    """An error, or what a level said, as one line that can be printed."""
    name = f"{type(error).__name__}: " if isinstance(error, Exception) else ""
    if isinstance(error, UserError):
        name = ""
    text = " ".join(f"{name}{error}".split())
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= most else text[: most - 3] + "..."


def _is(found: Any, kind: type, what: str) -> None:
    if not isinstance(found, kind):
        raise TypeError(f"expected {what}, got {type(found).__name__}")


def _readable(text: Any, what: str) -> None:
    _is(text, str, f"words as {what}")
    if len(text) > LONGEST:
        raise UserError(f"{what}: expected at most {LONGEST} characters, got {len(text)}")
    odd = next((c for c in text if category(c) in ("Cc", "Cs") and not c.isspace()), None)
    if odd is not None:
        raise UserError(f"{what}: expected words, got the control character {odd!r}")
