"""Noticing that it is stuck, trying again from elsewhere, and giving up with a reason instead of looping.

A subtask that lasts far too long is stalled; one that comes back again and again has failed, or the plan
swings between two. Then the hand backs off: it goes back the way it came, or home where the controller knows
words for that. From there the planner sees what the hand hid and the controller starts its way anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from agent.trace import Part, Trace
from backbone.errors import UserError
from highlevel.plan import DONE

STUCK = ("stalled", "oscillates", "failed again")  # what may be wrong
MOVED = 0.05  # of an action's range: less is no way to go back
RETRACED = 20  # actions of the way it came


@dataclass(frozen=True)
class Recovery:
    """patience: seconds that a subtask may take. returns: times that the same subtask, with the same memory,
    may begin. retreat: seconds that the hand backs off. tries: times that it does for one subtask before the
    agent gives up. home: the subtask that brings the hand home; None: it goes back the way it came.
    """

    patience: float = 4.0
    returns: int = 4
    retreat: float = 1.2
    tries: int = 4
    home: str | None = DONE

    def __post_init__(self):
        for name in ("patience", "retreat"):
            if not getattr(self, name) > 0:
                raise UserError(f"recovery: expected {name} above 0 seconds, got {getattr(self, name)}")
        if self.returns < 2 or self.tries < 0:
            raise UserError(
                f"recovery: expected at least 2 returns and 0 tries, got {self.returns} and {self.tries}"
            )


@dataclass
class Watch:
    """One episode's. `wrong` is asked at each look."""

    rules: Recovery
    since: int = 0  # parts before this number are forgiven
    begun: int = 0  # the tick from which patience counts
    tried: dict[tuple[str, str], int] = field(default_factory=dict)

    def wrong(self, trace: Trace, tick: int) -> str | None:
        """What is wrong with the subtask in force: "stalled", "oscillates" (between two), "failed again"."""
        parts = trace.parts[self.since :]
        if not parts or parts[-1].subtask == DONE:
            return None
        last = parts[-1]
        if tick - max(last.tick, self.begun) >= self.rules.patience * trace.rate:
            return "stalled"
        times = [part for part in parts if _key(part) == _key(last)]
        if len(times) < self.rules.returns:
            return None
        lately = {_key(part) for part in parts[-2 * self.rules.returns + 1 :]}
        return "oscillates" if len(lately) == 2 else "failed again"

    def again(self, trace: Trace, tick: int) -> int:
        """The subtask in force is tried once more from now: how many times that makes."""
        key = _key(trace.parts[-1])
        self.tried[key] = self.tried.get(key, 0) + 1
        self.since, self.begun = len(trace.parts) - 1, tick
        return self.tried[key]

    @property
    def refused(self) -> tuple[str, ...]:
        """The subtasks that it was stuck at."""
        return tuple(subtask for subtask, _ in self.tried)


def way_back(trace: Trace, ticks: int, positions: bool) -> np.ndarray:
    """(ticks, A) actions that undo the last motion, the gripper as it is. positions: whether actions are
    positions of the robot, or its speeds.
    """
    sent = np.array(trace.sent, np.float32)
    if positions:
        moved = [i for i in range(1, len(sent)) if np.abs(sent[i] - sent[i - 1])[:-1].max(initial=0) > 1e-3]
        back = sent[[i - 1 for i in moved[-RETRACED:]][::-1]]
    else:
        moving = sent[np.abs(sent[:, :-1]).max(1, initial=0) > MOVED]
        back = -moving[-RETRACED:][::-1]
    rest = back[-1:] if positions and len(back) else np.zeros((1, sent.shape[1]), np.float32)
    rest = sent[-1:] if positions and not len(back) else rest
    back = np.concatenate([back, np.repeat(rest, max(0, ticks - len(back)), 0)])[:ticks]
    back[:, -1] = sent[-1, -1]
    return back


def _key(part: Part) -> tuple[str, str]:
    return part.subtask, part.memory
