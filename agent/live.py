"""Acting in real time: a control loop at a fixed rate. It waits for thinking within a tick, and no longer.

Each tick: look if the agent wants to see, take what has been thought by now, send an action through the
safety layer, sleep until the next tick. A tick that comes late is counted, and the loop goes on from there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from agent.beside import Beside
from agent.clock import Clock
from agent.evaluation.statistics import quantile
from agent.loop import Agent
from agent.safety import Safety
from agent.step import Step
from backbone.errors import UserError
from backbone.observation import Observation

FIRST = 60.0  # seconds that the first plan may take
OVERRUN = 1.5  # periods between two actions, from which on a tick counts as late


class Robot(Protocol):
    """What is acted on: a world that `envs.contract` describes, or a real robot."""

    def look(self) -> dict[str, Any]:
        """{"pixels": {camera: (H, W, 3) uint8}, "agent_pos": (D,) float32} of the present."""

    def step(self, action: np.ndarray) -> Any:
        """Send an action; returns at once."""


def clock(rate: float, keep: bool = False, grace: float = 0.6) -> Clock:
    """For an `Agent` that is run here: its levels think in threads. grace: the part of a tick in which an
    answer is waited for, so that a quick one still counts for the tick that asked.
    """
    return Clock(realtime=True, rate=rate, keep=keep, grace=grace / rate, beside=Beside())


@dataclass
class Cadence:
    """How a run kept its time. seconds: in all, and of it seeing, acting (the robot's `step`) and agent (its
    own bookkeeping); the rest was slept. ages: seconds from an observation to the plan written on it.
    intervals: seconds between actions.
    """

    rate: float
    ticks: int = 0
    overruns: int = 0
    held: int = 0
    dropped: int = 0
    seconds: float = 0.0
    seeing: float = 0.0
    acting: float = 0.0
    agent: float = 0.0
    first: float | None = None  # seconds until the first action that was thought of
    ages: list[float] = field(default_factory=list)
    intervals: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """JSON-ready: the effective rate, overruns, ages of plans, shares of time."""
        wall = self.seconds or 1.0
        return {
            "hertz_wished": self.rate,
            "hertz": round(len(self.intervals) / sum(self.intervals), 3) if self.intervals else None,
            "ticks": self.ticks,
            "overruns": self.overruns,
            "held": self.held,
            "late_dropped": self.dropped,
            "first_action_seconds": self.first,
            "interval_ms": {
                q: _ms(self.intervals, v) for q, v in (("p50", 0.5), ("p99", 0.99), ("most", 1.0))
            },
            "plan_age_ms": {q: _ms(self.ages, v) for q, v in (("p50", 0.5), ("p95", 0.95))},
            "share": {name: round(getattr(self, name) / wall, 4) for name in ("seeing", "acting", "agent")},
        }


def act_live(
    agent: Agent,
    robot: Robot,
    safety: Safety,
    seconds: float,
    watch: Callable[[Step, int], bool | None] | None = None,
    first: float = FIRST,
) -> Cadence:
    """Run an agent, which has been reset, for so long, or until `watch` (given each step and its tick) says
    True.

    first: seconds that it may take until something has been thought; what is done before (warming up) does
    not count as time. UserError if the agent's clock has no threads, if its rate is not the robot's, or where
    nothing comes in that time. Whatever ends it otherwise (an error, Ctrl-C) brakes the robot first (`halt`).
    """
    try:
        return _act(agent, robot, safety, seconds, watch, first)
    except BaseException:
        with suppress(Exception):  # what went wrong first is what is told
            halt(robot, safety)
        raise


def halt(robot: Robot, safety: Safety) -> None:
    """Emergency stop: brake until the robot is at rest, a second at most. It is held until `safety.reset`."""
    safety.stop()
    rate = safety.limits.rate
    for _ in range(math.ceil(rate)):
        robot.step(safety(None))
        if safety.resting:
            return
        time.sleep(1 / rate)


def _act(
    agent: Agent,
    robot: Robot,
    safety: Safety,
    seconds: float,
    watch: Callable[[Step, int], bool | None] | None,
    first: float,
) -> Cadence:
    beside, rate = agent.clock.beside, agent.clock.rate
    if beside is None:
        raise UserError("live: expected an agent with the clock of agent.live.clock, which thinks in threads")
    if rate != safety.limits.rate:
        raise UserError(f"rate: expected {safety.limits.rate} a second of this robot, got {rate}")
    cadence, period = Cadence(rate), 1.0 / rate
    began = time.perf_counter()
    due, last, acted = began, None, False
    while True:
        started = time.perf_counter()
        observation = None
        if agent.needs_observation:
            observation = Observation.from_env(robot.look(), agent.instruction)
            safety.seen(time.perf_counter())
        seen = time.perf_counter()
        step = agent.step(observation)
        action = safety(step.action, now=time.perf_counter())
        thought = time.perf_counter()
        if not acted and "held" in step.events:
            if thought - began > first:
                raise UserError(f"planner: expected a first plan within {first:.0f} s, got none")
        elif not acted:
            acted, cadence.first, cadence.seconds = True, thought - began, 0.0
            running = due = started
        robot.step(action)
        done = time.perf_counter()
        if acted:
            cadence.ticks += 1
            cadence.held += "held" in step.events
            cadence.dropped += sum(e.startswith("late ") for e in step.events)
            cadence.seeing += seen - started
            cadence.agent += thought - seen
            cadence.acting += done - thought
            if last is not None:
                cadence.intervals.append(thought - last)
                cadence.overruns += thought - last > OVERRUN * period
            last = thought
            if step.said is not None:
                cadence.ages.append(step.age * period)
        if (watch is not None and watch(step, cadence.ticks)) or (acted and done - running >= seconds):
            break
        due += period
        wait = due - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        else:
            due = time.perf_counter()  # late: no hurry to catch up, which would be two actions at once
    cadence.seconds = time.perf_counter() - running if acted else 0.0
    beside.forget()
    return cadence


def _ms(values: list[float], q: float) -> float | None:
    found = quantile(values, q)
    return None if found is None else round(found * 1000, 2)
