"""A plan: what to remember, what stands where, the next subtask in words, and where it points."""

from __future__ import annotations

import re
from dataclasses import dataclass

from backbone.errors import UserError

LOC_BINS = 1024  # PaliGemma's location tokens <loc0000> .. <loc1023>, y before x
DONE = "done"
_LOC = re.compile(r"<loc(\d{4})>")


@dataclass(frozen=True)
class Target:
    """A point in a camera picture, y and x in [0, 1) from the top left."""

    y: float
    x: float
    camera: str = "front"

    @property
    def tokens(self) -> str:
        return "".join(f"<loc{min(LOC_BINS - 1, max(0, int(v * LOC_BINS))):04d}>" for v in (self.y, self.x))


@dataclass(frozen=True)
class Plan:
    """What the planner says. `margin`: log-probability gap of the weakest token to its rival, 0 if none.
    `scene`: what it sees, "red box green table"; the subtask is written after it, so it can be reasoned from.
    """

    subtask: str
    target: Target | None = None
    memory: str = ""
    done: bool = False
    margin: float = 0.0
    origin: str = "decoded"  # decoded, confirmed, oracle, person, instruction
    tokens: tuple[int, ...] = ()
    seconds: float = 0.0
    scene: str = ""

    @property
    def text(self) -> str:
        """The subtask as the controller reads it: words, then the location tokens if it is grounded."""
        return f"{self.subtask} {self.target.tokens}" if self.target else self.subtask


def parse_plan_text(text: str) -> tuple[str, Target | None]:
    """Split "pick up the red block <loc0412><loc0630>" into words and target.

    UserError unless there are 0 or 2 locations.
    """
    values = [int(v) for v in _LOC.findall(text)]
    words = " ".join(_LOC.sub(" ", text).split())
    if not values:
        return words, None
    if len(values) != 2 or max(values) >= LOC_BINS:
        raise UserError(f"subtask: expected no or two locations <loc0000>..<loc{LOC_BINS - 1}>, got {text!r}")
    return words, Target((values[0] + 0.5) / LOC_BINS, (values[1] + 0.5) / LOC_BINS)
