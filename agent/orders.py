"""Subtasks that a person orders in the planner's place, until they are given back or have been done."""

from __future__ import annotations

import re
from dataclasses import replace

from agent.trace import Trace
from agent.when import grasped
from backbone.errors import UserError
from highlevel.plan import Plan, parse_plan_text

LET = 0.4  # seconds, likewise, of a plan that was kept
SETTLE = 0.8  # seconds that a hand goes on after it closed or opened: it lifts, or leaves
_PICKED = re.compile(r"(?:pick up|grasp|grab|take|lift) (the .+)")


class Orders:
    """What was ordered. The last one stands; those before it end when the hand has closed or opened, and all
    of an errand do (`Orders.errand`), after which the agent stops. A plan may also be kept for a while
    (`Orders.keep`), whatever the planner says meanwhile.
    """

    def __init__(self):
        self.left: list[Plan] = []
        self._errand, self._since = False, 0
        self._kept: Plan | None = None
        self._until = 0

    def give(self, subtask: str | None, tick: int) -> None:
        """In words, perhaps with location tokens; none gives it back. UserError for half a location."""
        words, target = parse_plan_text(subtask or "")
        if target is not None and not words:
            raise UserError(f"subtask: expected words with the location, got '{subtask}'")
        self.left = [Plan(words, target, origin="person")] if words else []
        self._errand, self._since = False, tick

    def errand(self, plans: list[Plan], tick: int) -> None:
        """Do these one after the other, then no more."""
        self.left, self._errand, self._since = list(plans), True, tick

    def keep(self, plan: Plan, tick: int, until: int) -> None:
        """Go on with this one until the hand has closed or opened, at most until then."""
        self._kept = replace(plan, target=None, origin="kept", tokens=())
        self._since, self._until = tick, until

    def let_go(self) -> None:
        """What was kept is of another moment."""
        self._kept = None

    def go_on(self) -> None:
        """An errand is over; what a person ordered stands."""
        if self._errand:
            self.left, self._errand = [], False

    @property
    def present(self) -> Plan | None:
        """The order in force."""
        return self.left[0] if self.left else self._kept

    def advance(self, trace: Trace, tick: int) -> str | None:
        """At each look: whether something ended by now; "errand" if it was the last of one."""
        if self._kept is not None and (tick >= self._until or grasped(trace, tick - self._since, LET)):
            self._kept = None
            return "kept"
        going = len(self.left) > 1 or (self._errand and self.left)
        if not going or not grasped(trace, tick - self._since, SETTLE):
            return None
        self.left.pop(0)
        self._since = tick
        if self.left:
            return "order"
        self._errand = False
        return "errand"


def way_to_put_back(said: list[Plan], closed: bool) -> list[Plan]:
    """The subtasks that bring the thing that was picked up last back to where it was; none where it still is
    there. said: the plans that were in force. closed: whether the hand is. UserError where nothing was picked
    up.
    """
    for plan in reversed(said):
        if plan is said[-1] and not closed and _PICKED.fullmatch(plan.subtask):
            return []
        if found := _PICKED.fullmatch(plan.subtask):
            put = Plan(f"put {found[1]} on the table", plan.target, origin="person")
            pick = replace(plan, target=None, origin="person", memory="", tokens=())
            return [put] if closed else [pick, put]
    raise UserError("say: expected something that was picked up to put back, got none so far")
