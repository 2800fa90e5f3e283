"""When to plan again: small rules, each switched on by naming it. Between their calls the plan in force
stands and a look makes a chunk alone.

Planning at every look is right where the last plan is confirmed in one pass (nano: a sixth of the cost of
writing it anew). A large planner, or one behind a network, is better asked when something speaks for it.

Three calls are no rule's to make: at the start, after a correction (plans of the older instruction do not
count) and after a "done", which counts when it is said twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, Protocol

import numpy as np

from agent.trace import Trace, small
from backbone.errors import UserError
from highlevel.plan import Plan


@dataclass(frozen=True)
class Moment:
    """A look, when it begins. asked: the tick at which the planner was last asked. said: its last word."""

    tick: int
    trace: Trace
    asked: int
    said: Plan | None

    @property
    def seconds(self) -> float:
        """Since the planner was last asked."""
        return (self.tick - self.asked) / self.trace.rate


class Rule(Protocol):
    name: ClassVar[str]

    def calls(self, moment: Moment) -> bool:
        """Whether it is time to plan."""


@dataclass(frozen=True)
class EveryLook:
    name: ClassVar[str] = "every-look"

    def calls(self, moment: Moment) -> bool:
        return True


@dataclass(frozen=True)
class Interval:
    """So many seconds after the last time."""

    seconds: float = 1.0
    name: ClassVar[str] = "interval"

    def calls(self, moment: Moment) -> bool:
        return moment.seconds >= self.seconds - 1e-9


@dataclass(frozen=True)
class Completion:
    """The hand closed or opened since the last plan and so many seconds have passed: most subtasks end so."""

    seconds: float = 0.4
    name: ClassVar[str] = "completion"

    def calls(self, moment: Moment) -> bool:
        return grasped(moment.trace, moment.tick - moment.asked, self.seconds)


@dataclass(frozen=True)
class Margin:
    """The last plan was written with a lead of less than this, in log-probability: ask until it is sure."""

    least: float = 1.0
    name: ClassVar[str] = "margin"

    def calls(self, moment: Moment) -> bool:
        return moment.said is not None and moment.said.margin < self.least


@dataclass(frozen=True)
class Stall:
    """No number of the state moved by more than `motion` for so many seconds."""

    seconds: float = 1.0
    motion: float = 0.01
    name: ClassVar[str] = "stall"

    def calls(self, moment: Moment) -> bool:
        first = moment.tick - self.seconds * moment.trace.rate
        if moment.seconds < self.seconds or not moment.trace.seen or moment.trace.seen[0][0] > first:
            return False
        states = np.array(moment.trace.since(int(first)))
        return len(states) > 1 and bool(np.ptp(states, axis=0).max() < self.motion)


@dataclass(frozen=True)
class Perturbation:
    """Since the last look the first camera's picture changed in two places far from each other: the arm is in
    one, so something else moved in the other. levels: of grey, of 255; apart: of the picture's side.
    """

    levels: float = 25.0
    apart: float = 0.3
    name: ClassVar[str] = "perturbation"

    def calls(self, moment: Moment) -> bool:
        pictures = list(moment.trace.pictures)
        if len(pictures) < 2 or any(picture is None for picture in pictures):
            return False
        before, now = map(small, pictures)
        if before.shape != now.shape:
            return False
        from scipy.ndimage import label

        blobs, count = label(np.abs(now - before) > self.levels, np.ones((3, 3)))
        places = [np.argwhere(blobs == n + 1) for n in range(count)]
        places = [place for place in places if len(place) > 2]  # less is the arm's edge
        if len(places) < 2:
            return False
        largest = max(places, key=len)
        gap = lambda place: np.abs(place[:, None] - largest[None]).max(-1).min() / len(now)
        return any(gap(place) > self.apart for place in places if place is not largest)


RULES: dict[str, type] = {
    rule.name: rule for rule in (EveryLook, Interval, Completion, Margin, Stall, Perturbation)
}
ALWAYS: tuple[Rule, ...] = (EveryLook(),)


def read_rules(text: str) -> tuple[Rule, ...]:
    """ "every-look", or some of the others with a comma between, each perhaps with its first number:
    "interval:2,completion,margin:1.5". UserError for others.
    """
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, colon, number = part.partition(":")
        if name not in RULES:
            raise UserError(f"replan: expected some of {', '.join(RULES)}, got '{name}'")
        given = {}
        if colon:
            numbers = [f.name for f in fields(RULES[name])]
            try:
                given = {numbers[0]: float(number)}
            except (ValueError, IndexError):
                raise UserError(f"replan: expected {name} with a number or none, got '{part}'") from None
        found.append(RULES[name](**given))
    if not found:
        raise UserError(f"replan: expected some of {', '.join(RULES)}, got nothing")
    return tuple(found)


def grasped(trace: Trace, ticks: int, seconds: float) -> bool:
    """Whether the gripper's command (the last number of an action) changed sides within the last so many
    ticks, and that is at least so many seconds ago.
    """
    wait = int(round(seconds * trace.rate))
    told = [action[-1] for action in list(trace.sent)[-max(ticks, 1) - 1 :]]
    if len(told) < wait + 1:
        return False
    low, high = min(told), max(told)
    if high - low < 1e-6:
        return False
    closed = [value > (low + high) / 2 for value in told]
    last = max((i for i in range(1, len(closed)) if closed[i] != closed[i - 1]), default=None)
    return last is not None and len(closed) - last >= wait


def why(rules: Sequence[Rule], moment: Moment) -> tuple[str, ...]:
    """The names of the rules that call."""
    return tuple(rule.name for rule in rules if rule.calls(moment))
