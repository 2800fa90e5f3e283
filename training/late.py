"""What frames teach that an agent met whose answers come late.

Its hand goes on with what it has while it thinks. So a chunk begins with what will be done anyway, often
something else than the teacher would do, and the rest has to go on from where that leads. And the words that
it goes by may be of a subtask that has ended: then it holds still until there are new ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from agent.clock import Clock
from agent.loop import Agent
from highlevel.plan import Plan
from training.episodes import Row
from training.labels import HORIZON

if TYPE_CHECKING:
    from highlevel.planner import Planner

RATE = 20
MOST = 5  # ticks that a chunk is late
PLAN = (2, 41)  # ticks that a plan is, where it is thought of beside the hand's work
APART = 0.5  # share of late agents whose planner works beside the hand
PATIENCE = 60  # ticks that a subtask may be over while somebody still goes by it


def late_agent(policy, planner: str | Planner, rng: np.random.Generator) -> Agent:
    """An agent that drives under a realtime clock, its delays drawn."""
    chunk = float(rng.integers(1, MOST + 1)) / RATE
    plan = float(rng.integers(*PLAN)) / RATE if rng.random() < APART else None
    return Agent(policy, planner, clock=Clock(True, RATE, plan, chunk))


def overtaken(rows: Sequence[Row], t: int) -> Plan | None:
    """The plan that the agent goes by at frame t, if the teacher wrote it before and is further now."""
    told, now = rows[t].told, rows[t].label.subtask
    if told is None or told.done or told.subtask == now:
        return None
    before = [row for row in rows[max(0, t - PATIENCE) : t] if row.instruction == rows[t].instruction]
    return told if any(row.label.subtask == told.subtask for row in before) else None


def waiting(rows: Sequence[Row], t: int, told: Plan) -> np.ndarray:
    """The chunk (H, A) for a subtask that has ended: no motion, the gripper as the subtask left it."""
    last = next(row.label.action for row in reversed(rows[:t]) if row.label.subtask == told.subtask)
    chunk = np.zeros((HORIZON, len(last)), np.float32)
    chunk[:, -1] = last[-1]
    return chunk
