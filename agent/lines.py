"""The links of an agent whose levels are elsewhere: what is told of them, and when the arm has to hold."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from agent.pair import Pair
from agent.sound import line

STANDS = 1.0  # seconds without a sign of life of the planner's server that the last subtask stands


class Lines:
    """Where the world waits (no threads) so does a question, until the link is back; then nothing is held.
    Else the arm holds as long as the controller's link is down, and the planner's for longer than STANDS.

    hold: whether it has to. mute: whether the planner cannot be asked. broke: whether a link was lost that
    the arm hangs on, since `look` was called last (it may be back already); unplanned: the planner's.
    """

    def __init__(self, pair: Pair, waits: bool):
        controller = getattr(pair.controller, "link", None)
        planner = getattr(pair.policy if pair.planner == "learned" else pair.planner, "link", None)
        self.waits = waits
        self._hand = None if controller is None else _Line(controller)
        self._plan = None if planner is None or planner is controller else _Line(planner)
        for found in self._all:
            found.link.patient = waits
        self.hold = self.mute = self.broke = self.unplanned = False

    @property
    def _all(self) -> list[_Line]:
        return [found for found in (self._hand, self._plan) if found is not None]

    def close(self) -> None:
        for found in self._all:
            found.link.close()

    def look(self) -> list[str]:
        """How it stands now -> events."""
        events = [event for found in self._all for event in found.news()]
        if self.waits:
            return events
        hand, plan = self._hand, self._plan
        silent = plan is not None and plan.down and time.monotonic() - plan.link.heard >= STANDS
        self.hold = (hand is not None and hand.down) or silent
        self.mute = plan is not None and plan.down
        self.broke, self.unplanned = hand is not None and hand.broke, plan is not None and plan.broke
        return events


@dataclass
class _Line:
    """down: as was told. broke: whether it was lost since it was looked at before."""

    link: Any
    down: bool = False
    broke: bool = False
    breaks: int | None = None

    def news(self) -> list[str]:
        breaks, down, events = self.link.breaks, self.link.down, []
        self.broke = self.breaks is not None and breaks != self.breaks
        self.breaks = breaks
        if not self.down and (self.broke or down):
            why = self.link.broke if self.broke else down
            events.append(f"link down: {self.link.name}: {line(why)}")
            self.down = True
        if self.down and not down:
            events.append("link back")
            self.down = False
        return events
