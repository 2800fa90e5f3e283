"""Whether the world waits while the agent thinks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from agent.beside import Beside
from backbone.errors import UserError


@dataclass(frozen=True)
class Clock:
    """realtime=False ("sync"): the world waits, an answer is there in the tick that asked for it. True: it
    goes on, and answers come as many control ticks late as they took.

    rate: control ticks a second. plan, chunk: seconds that the planner and the controller take; None is as
    long as they do take here, one after the other. With `plan` given they think side by side, each at its own
    pace, and the controller goes by the plan that it has.
    keep: the actions that the robot will do until the answer is there are promised to the controller, which
    makes a chunk that begins with them (real-time chunking).
    skip: of a chunk that comes late, pass over as many actions as were done meanwhile; or begin with its
    first. None: pass them over where actions are positions, each of which is meant for its own time; enter a
    chunk of speeds where its path meets what was done (`agent.align`; nano, 200 ms late: 89 of 100, against
    6 that pass over and 31 that begin with the first).
    grace: seconds within a tick that an answer is waited for: one that comes in that time is not late. Less
    than a tick.
    beside: threads to think in. Then nobody waits in fact, answers are there when they are there, and `rate`
    is kept by who calls the agent (see `agent.live`).
    """

    realtime: bool = False
    rate: float = 20.0
    plan: float | None = None
    chunk: float | None = None
    keep: bool = False
    skip: bool | None = None
    grace: float = 0.0
    beside: Beside | None = None

    def __post_init__(self):
        if not self.rate > 0:
            raise UserError(f"rate: expected more than 0 control ticks a second, got {self.rate}")
        if self.beside is not None and not self.realtime:
            raise UserError("clock: expected 'realtime' for thinking in threads, got 'sync'")
        if not 0 <= self.grace < 1 / self.rate:
            raise UserError(f"grace: expected 0 seconds or more and less than a tick, got {self.grace}")
        for name in ("plan", "chunk"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise UserError(f"{name} delay: expected 0 seconds or more, got {value}")
            if value is not None and self.beside is not None:
                raise UserError(f"{name} delay: expected none beside threads, which take the time they take")
            if value is not None and not self.realtime:
                raise UserError(
                    f"{name} delay: expected the clock 'realtime', got 'sync', in which nothing is late"
                )

    @property
    def apart(self) -> bool:
        """Whether the levels think side by side."""
        return self.realtime and bool(self.plan)

    def ticks(self, given: float | None, took: float) -> int:
        """How many ticks late an answer comes. given: the delay that was asked for. took: seconds that it did
        take."""
        seconds = took if given is None else given
        if not self.realtime or seconds <= self.grace:
            return 0
        return math.ceil(seconds * self.rate - 1e-9)


SYNC = Clock()
