"""Acting in real time: a control loop at a fixed rate. It waits for thinking within a tick, and no longer.

Each tick: look if the agent wants to see, take what has been thought by now, send an action through the
safety layer, sleep until the next tick. The action goes out at the same time in every tick, when an answer
has had its `grace`, so that a robot gets them evenly. One that comes late is counted, and the loop goes on.
Once the robot has moved, no fault of a camera, a level, the robot or the watcher ends the loop (see
docs/realtime.md): it is told as an event, the robot is held, and when it is over the agent acts again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from agent.beside import FIRST, PATIENCE, Beside
from agent.clock import Clock
from agent.evaluation.statistics import quantile
from agent.loop import Agent
from agent.safety import Safety
from agent.sound import line
from agent.step import Step
from agent.watchdog import FROZEN, MOTION, Eyes, Faults
from backbone.errors import UserError

OVERRUN = 1.5  # periods between two actions, from which on a tick counts as late
SPARE = 0.1  # of a period, for looking and bookkeeping, besides the grace
GAP = 0.5  # seconds in which nothing was done, from which on what was thought before is too old
WRONG = " failed: ", " garbled: ", "link down: "  # in events, of a level that does not answer


class Robot(Protocol):
    """What is acted on: a world that `envs.contract` describes, or a real robot. It may also have `hand()`,
    its position in metres (3,) or None, for a box to stay in; and `position()`, the action (A,) that holds it
    where it is, or None: there it begins, and goes on after it was gone.
    """

    def look(self) -> dict[str, Any]:
        """{"pixels": {camera: (H, W, 3) uint8}, "agent_pos": (D,) float32} of the present, and "time" when it
        was taken (`time.perf_counter`), if that is another.
        """

    def step(self, action: np.ndarray) -> Any:
        """Send an action; returns at once."""


def clock(rate: float, keep: bool = False, grace: float = 0.6, patience: float = PATIENCE) -> Clock:
    """For an `Agent` that is run here: its levels think in threads. grace: the part of a tick in which an
    answer is waited for, so that a quick one still counts for the tick that asked. patience: see `Beside`.
    """
    return Clock(realtime=True, rate=rate, keep=keep, grace=grace / rate, beside=Beside(patience))


@dataclass
class Cadence:
    """How a run kept its time. seconds: in all, and of it seeing, acting (the robot's `step`) and agent (its
    own bookkeeping); the rest was slept. ages: seconds from an observation to the plan written on it.
    intervals: seconds between actions; last: when that was. faults: how many of each part (see `Faults`).
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
    last: float | None = None
    faults: dict[str, int] = field(default_factory=dict)

    def add(
        self, step: Step, started: float, seen: float, thought: float, sent: float, done: float, held: bool
    ) -> None:
        """A tick, and when its parts ended; sent: when the action was."""
        self.ticks += 1
        self.held += held
        self.dropped += sum(e.startswith("late ") for e in step.events)
        self.seeing += seen - started
        self.agent += thought - seen
        self.acting += done - sent
        if self.last is not None:
            self.intervals.append(sent - self.last)
            self.overruns += sent - self.last > OVERRUN / self.rate
        self.last = sent
        if step.said is not None:
            self.ages.append(step.age / self.rate)

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
            "faults": self.faults,
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
    frozen: int | None = FROZEN,
    always: bool = False,
    motion: float | Sequence[float] = MOTION,
) -> Cadence:
    """Run an agent, which has been reset, for so long, or until `watch` (given each step and its tick) says
    True.

    first: seconds that it may take until something has been thought; what is done before (warming up) does
    not count as time. frozen: ticks after which a picture that stays the same counts as dead while the robot
    moves (`motion`: metres or radians, at least); None for never.

    always: look at every tick, where pictures are cheap, as a real robot's are. Then `safety.stale` may be a
    few ticks: a camera that is dead, or frozen for so long (then it is not believed until it changes), and a
    robot that does not answer are braked for; after each the agent looks anew.

    UserError if the agent's clock has no threads, if its rate is not the robot's, or where nothing comes in
    that time. What the robot or the agent raises before the robot was moved is raised;
    later it is an event, and the robot is held until it is over. Whatever ends the run otherwise (an error,
    Ctrl-C) brakes the robot first (`halt`).
    """
    eyes = Eyes(robot.look, frozen, motion, not always)
    try:
        return _act(agent, robot, safety, seconds, watch, first, eyes, always)
    except BaseException:
        with suppress(Exception):  # what went wrong first is what is told
            halt(robot, safety)
        raise


def halt(robot: Robot, safety: Safety) -> None:
    """Emergency stop: brake until the robot is at rest, a second at most. It is held until `safety.reset`."""
    safety.stop()
    if not safety.tick:
        return  # it was told nothing yet, and where its joints are is not known
    rate = safety.limits.rate
    for _ in range(math.ceil(rate)):
        robot.step(safety(None, getattr(robot, "hand", lambda: None)()))
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
    eyes: Eyes,
    always: bool,
) -> Cadence:
    beside, rate = agent.clock.beside, agent.clock.rate
    if beside is None:
        raise UserError("live: expected an agent with the clock of agent.live.clock, which thinks in threads")
    if rate != safety.limits.rate:
        raise UserError(f"rate: expected {safety.limits.rate} a second of this robot, got {rate}")
    cadence, period, size = Cadence(rate), 1.0 / rate, len(safety.limits.low)
    faults, beside.first = Faults(), first
    hand, position = (getattr(robot, name, lambda: None) for name in ("hand", "position"))
    if safety.tick == 0 and (at := position()) is not None:
        safety.reset(at)
    grace = agent.clock.grace
    phase = grace + SPARE * period if grace else 0.0
    began = done = time.perf_counter()
    due, acted, moved, gone, reason, tick = began, False, False, False, "", 0
    while True:
        started = time.perf_counter()
        observation, tick = None, tick + 1
        if always or agent.needs_observation:
            with faults.caught("camera", early=eyes.first is None):
                observation = eyes.look(agent.instruction, tick)
                safety.seen(started)
                if gone and (at := position()) is not None:
                    safety.found(at)
            if always and eyes.sure is not None:
                safety.seen(eyes.sure)
        seen = time.perf_counter()
        step = Step(None, "", None)  # None: hold
        with faults.caught("agent", early=not acted):
            step = agent.step(observation)
        idle = time.perf_counter() - done - (seen - started)
        if idle > period + GAP and "clock" not in faults:  # it was stopped, or busy; but not slow for ever
            faults.begin("clock", f"nothing done for {idle:.1f} s")
            agent.look_again()
            step = replace(step, action=None)
        else:
            faults.end("clock")
        if not acted and step.action is not None and np.shape(step.action) != (size,):
            raise UserError(f"action: expected {size} numbers of this robot, got {np.shape(step.action)}")
        action = safety(step.action, hand(), time.perf_counter())
        thought = time.perf_counter()
        if safety.refused is None:
            faults.end("safety")
        else:
            if always and safety.refused == "stale" and "safety" not in faults:
                agent.look_again()  # what it has in mind goes by without it
            faults.begin("safety", f"held: {safety.refused}")
        held = "held" in step.events or safety.refused is not None
        if not acted and held:
            reason = next((e for e in step.events if any(map(e.__contains__, WRONG))), reason)
            if thought - began > first and not agent.stopped:
                got = f"none ({reason})" if reason else "none"
                raise UserError(f"planner: expected a first plan within {first:.0f} s, got {got}")
        elif not acted:
            acted, cadence.first, cadence.seconds = True, thought - began, 0.0
            running = due = started
        reached = False
        time.sleep(max(0.0, due + phase - time.perf_counter()))
        sent = time.perf_counter()
        with faults.caught("robot", early=not moved):
            robot.step(action)
            reached = moved = True
        if not reached:
            safety.lost()
        if always and gone == reached:  # it begins, or is over
            gone = not reached
            agent.look_again()
        done = time.perf_counter()
        if acted:
            cadence.add(step, started, seen, thought, sent, done, held)
        stop = False
        if watch is not None:
            given = step.action if step.action is not None else action
            events = tuple(map(line, step.events)) + ("held",) * (held and "held" not in step.events)
            step = replace(step, action=given, events=events + faults.news())
            with faults.caught("watch"):  # a full disk is no reason to let the arm go
                stop = watch(step, cadence.ticks)
        if stop or (acted and done - running >= seconds):
            break
        due += period
        wait = due - time.perf_counter()
        time.sleep(max(0.0, wait))
        late = time.perf_counter() - due
        if wait < 0 or late > period / 4:
            due += late  # no hurry to catch up, which would be two actions at once
    cadence.seconds, cadence.faults = time.perf_counter() - running if acted else 0.0, dict(faults.count)
    beside.forget()
    return cadence


def _ms(values: list[float], q: float) -> float | None:
    found = quantile(values, q)
    return None if found is None else round(found * 1000, 2)
