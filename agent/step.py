"""What an agent did in a tick, and what comes of a look."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from highlevel.plan import Plan
from lowlevel.controller import ActionChunk


@dataclass(frozen=True)
class Step:
    """What the agent did in one control tick.

    action: (A,) float32 in robot units. subtask: the text that conditioned it. plan: the plan in force.
    events: what happened, among "planned", "replanned" (the subtask changed), "corrected" (a new instruction
    is in force), "ordered" (a person plans) and "given back", "stopped", "pace 0.5", "held", "done";
    "went back" (to an earlier subtask with a closed hand: something was dropped), "stalled", "oscillates" or
    "failed again", then "backs off" or "gave up: ..."; and "planner failed: ..." (or "controller"; "garbled"
    instead of "failed" where the text was at fault and not the software).
    looked: whether this tick used an observation; then `said` is what the planner wrote (also a "done" that
    is not believed yet) and `seconds` is what that look took, plan and chunk together. Under a realtime clock
    `said` comes `age` ticks after the observation that it was written on. thinking: seconds that the levels
    took in this tick; waited: how long their questions waited for those of others. why: what called for this
    look's plan (rules of `agent.when`, "start", "correction", ..); empty where only a chunk was made.
    person: whether a person had the arm (see `agent.teach`; events "taken over", "handed back", "teleop
    failed: ..", "teleop back").
    """

    action: np.ndarray
    subtask: str
    plan: Plan | None
    events: tuple[str, ...] = ()
    looked: bool = False
    said: Plan | None = None
    done: bool = False
    revision: int = 0
    seconds: float = 0.0
    thinking: float = 0.0
    waited: float = 0.0
    age: int = 0
    why: tuple[str, ...] = ()
    person: bool = False


@dataclass
class Answer:
    """What a look led to, and the tick in which it is there. used: actions done when the look began. said: by
    the planner. ordered: by a person, or the way home.
    """

    lane: str
    asked: int
    at: int
    revision: int
    used: int
    said: Plan | None = None
    ordered: Plan | None = None
    chunk: ActionChunk | None = None
    seconds: float = 0.0
    failed: list[str] = field(default_factory=list)

    @property
    def planned(self) -> bool:
        """Whether there is a plan in it."""
        return self.said is not None or self.ordered is not None
