"""Faults of a robot, of the levels, the process, the clock and the disk, put in where they would come from.

An `Injector` says which fault there is now; `Robot`, `Faulty` and `Apart` stand around a world, a policy and
a planner and do what it says. `Robot` also checks every action that reaches it, by code of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from agent.asks import Ask
from agent.safety import Limits
from agent.step import Step
from highlevel.plan import Plan, Target
from lowlevel.controller import ActionChunk

USUAL = ("planned", "replanned", "corrected", "held", "done")  # events of a run without faults
CHANGE = 0.4  # the most that a speed changes in a tick: the limit on acceleration that is kept
SHOWN = (  # what the robot shows
    *(
        "look raises",
        "look gives None",
        "camera missing",
        "camera frozen",
        "image NaN",
        "image of wrong shape",
    ),
    *("image of wrong type", "state NaN", "state of wrong shape", "state missing"),
)
LEVELS = {  # what a level answers
    "planner": ("raises", "hangs", "answer lost", "garbage text", "wrong type", "numbers not finite"),
    "controller": ("raises", "hangs", "answer lost", "wrong shape", "wrong type", "numbers not finite"),
}
ANSWERS = tuple(f"{level} {what}" for level, kinds in LEVELS.items() for what in kinds)
OTHERS = ("robot refuses", "clock jumps", "process stopped", "disk full")
KINDS = SHOWN + ANSWERS + OTHERS
MOST = 5.0  # seconds
LOST = 4.0  # seconds after which an answer that was lost comes after all, to nobody


@dataclass(frozen=True)
class Draw:
    """kinds: that are drawn. shortest, longest: seconds that a fault lasts, log-uniform; a hang three times
    as long; one in twenty five times as long. told: until some event tells of it, but at most MOST.
    """

    kinds: tuple[str, ...] = KINDS
    shortest: float = 0.01
    longest: float = 0.3
    told: bool = False


@dataclass
class Fault:
    kind: str
    began: float  # of time.perf_counter
    ends: float
    noticed: bool = False  # some event told of it
    held: int = 0  # ticks
    acts: float | None = None  # seconds after its end
    anew: float | None = None
    crashed: str = ""
    violations: int = 0


class Injector:
    """Which fault there is now; also the wrong answers themselves."""

    def __init__(self, draw: Draw, rate: float, seed: int = 0):
        self.draw, self.rate, self.rng = draw, rate, np.random.default_rng(seed)
        self.fault: Fault | None = None
        self.done: list[Fault] = []
        self.next = time.perf_counter() + 0.5
        self.tick, self._ended = 0, None
        self._over = threading.Event()
        self._lost = threading.Semaphore(0)
        self._time = time.time

    def now(self, *kinds: str) -> str | None:
        """The kind of the fault that is on, if it is one of these."""
        fault = self.fault
        on = fault is not None and fault.kind in kinds and time.perf_counter() < fault.ends
        return fault.kind if on else None

    def begin(self) -> None:
        s, now = self.draw, time.perf_counter()
        weights = np.array([0.25 if kind.endswith("lost") else 1.0 for kind in s.kinds])  # they take long
        kind = str(self.rng.choice(s.kinds, p=weights / weights.sum()))
        seconds = float(np.exp(self.rng.uniform(np.log(s.shortest), np.log(s.longest))))
        seconds *= 3.0 if kind.endswith("hangs") else 1.0
        seconds *= 5.0 if self.rng.random() < 0.05 else 1.0
        self._over, self._lost = threading.Event(), threading.Semaphore(1)
        self._ended, self._planned = None, False
        self.fault = Fault(kind, now, now + (MOST if s.told else seconds))
        if kind == "clock jumps":
            by = float(self.rng.choice([-1e6, -10.0, 10.0, 1e6]))
            time.time = lambda: self._time() + by
        elif kind == "process stopped":
            self.fault.ends = np.inf
            delay = float(self.rng.uniform(0, 2 / self.rate))
            threading.Thread(target=self._stop, args=(self.fault, delay, seconds), daemon=True).start()
        elif kind.endswith("answer lost"):
            self.fault.ends = np.inf  # until somebody asked

    def after(self, step: Step, reached: bool, sent: float, taken_at: float) -> None:
        """At the end of each tick. reached: whether the robot got an action that was thought of; sent: when;
        taken_at: when the question was asked that its chunk answers.
        """
        self.tick += 1
        fault = self.fault
        if fault is None:
            if sent >= self.next:
                self.begin()
            return
        fault.noticed |= any(e not in USUAL and not e.startswith("late ") for e in step.events)
        fault.held += not reached
        if self.draw.told and fault.noticed:
            fault.ends = min(fault.ends, time.perf_counter())
        if time.perf_counter() < fault.ends:
            return
        if self._ended is None:
            self._ended = self.tick
            self._over.set()
            time.time = self._time
            return
        if reached and fault.acts is None:
            fault.acts = max(0.0, sent - fault.ends)
        self._planned |= step.said is not None and self.tick - step.age > self._ended
        if reached and self._planned and taken_at > fault.ends:
            fault.anew = sent - fault.ends
            self.close()
        elif sent - fault.ends > 30:  # it never does
            self.close()

    def close(self, crashed: str = "") -> None:
        fault, self.fault = self.fault, None
        self._over.set()
        time.time = self._time
        if fault is not None:
            fault.crashed = crashed
            self.done.append(fault)
            self.next = time.perf_counter() + float(self.rng.uniform(0, 0.03))

    def _stop(self, fault: Fault, delay: float, seconds: float) -> None:
        time.sleep(delay)
        again = f"sleep {seconds}; for i in 1 2 3 4 5; do kill -CONT {os.getpid()}; echo on; sleep 0.1; done"
        with subprocess.Popen(["sh", "-c", again], stdout=subprocess.PIPE) as helper:
            os.kill(os.getpid(), signal.SIGSTOP)
            helper.stdout.readline()  # the stop comes a moment after the call
            fault.ends = time.perf_counter()
            helper.kill()

    # -- in the threads of the levels

    def answer(self, level: str, ask: Callable[[], Any], asked: float) -> Any:
        """What `level` ("planner", "controller" or "both") says to a question of that time."""
        fault = self.fault
        found = self.now(*(k for k in ANSWERS if level == "both" or k.startswith(level)))
        if found is None:
            return _stamped(ask(), asked)
        what = found.partition(" ")[2]
        if what == "raises":
            raise RuntimeError("a level that fails, on purpose\nwith a second line")
        if what == "hangs":
            self._over.wait(30)
            return _stamped(ask(), asked)
        if what == "answer lost":
            if self._lost.acquire(blocking=False):
                fault.ends = time.perf_counter()
                time.sleep(LOST)
            return _stamped(ask(), asked)
        right = _stamped(ask(), asked)
        plan, chunk = right if isinstance(right, tuple) else (right, right)
        if found.startswith("planner"):
            plan = self._wrong_plan(plan, what)
        else:
            chunk = self._wrong_chunk(chunk, what)
        return (plan, chunk) if isinstance(right, tuple) else plan if found.startswith("planner") else chunk

    def _wrong_plan(self, plan: Plan, what: str) -> Any:
        rng = np.random.default_rng(time.perf_counter_ns())
        if what == "garbage text":
            text = "".join(map(chr, rng.integers(1, 0x2FFF, int(rng.integers(1, 200)))))
            where = rng.choice(["subtask", "memory", "tokens", "empty"])
            wrong = {
                "subtask": {"subtask": text, "tokens": ()},
                "memory": {"memory": " ".join(text)},
                "tokens": {"tokens": tuple(rng.integers(0, 2**40, 20).tolist())},
                "empty": {"subtask": ""},
            }
            return replace(plan, **wrong[where])
        if what == "numbers not finite":
            return replace(plan, target=Target(np.nan, np.inf), margin=np.nan)
        return [None, "pick up", {"subtask": 3}, replace(plan, subtask=None), b"\x00"][rng.integers(5)]

    def _wrong_chunk(self, chunk: ActionChunk, what: str) -> Any:
        rng, a = np.random.default_rng(time.perf_counter_ns()), np.array(chunk.actions)
        if what == "wrong shape":
            a = [a[:, :3], a[:0], a[0], a[None], np.hstack([a, a])][rng.integers(5)]
            return replace(chunk, actions=a)
        if what == "numbers not finite":
            a[rng.integers(len(a)), rng.integers(a.shape[1])] = rng.choice([np.nan, np.inf, -np.inf])
            return replace(chunk, actions=a)
        return [None, "left", a, replace(chunk, actions=None), replace(chunk, actions=[["x"]])][
            rng.integers(5)
        ]


def _stamped(right: Any, asked: float) -> Any:
    if isinstance(right, tuple):
        return right[0], replace(right[1], taken_at=asked)
    return replace(right, taken_at=asked) if isinstance(right, ActionChunk) else right


class Robot:
    """The world, shown and driven through the injector. Checks what it is told."""

    def __init__(self, env, injector: Injector, limits: Limits):
        self.env, self.injector = env, injector
        self.low, self.high = np.array(limits.low), np.array(limits.high)
        self.last, self.missed, self.sent = np.zeros(len(self.low)), 0, []
        self.reached = False
        self.frozen: dict | None = None

    def look(self) -> Any:
        kind = self.injector.now(*SHOWN)
        if kind == "look raises":
            raise OSError("no camera")
        shown = self.env.look()
        pixels, state = dict(shown["pixels"]), shown["agent_pos"]
        camera = sorted(pixels)[self.injector.tick // 64 % len(pixels)]
        if kind == "camera frozen":
            if self.frozen is None:
                self.frozen = pixels
            return {"pixels": {**pixels, camera: self.frozen[camera]}, "agent_pos": state}
        self.frozen = None
        if kind is None:
            return shown
        if kind == "look gives None":
            return None
        if kind == "camera missing":
            del pixels[camera]
        elif kind == "image NaN":
            pixels[camera] = np.full(pixels[camera].shape, np.nan, np.float32)
        elif kind == "image of wrong shape":
            pixels[camera] = pixels[camera][::2]
        elif kind == "image of wrong type":
            pixels[camera] = pixels[camera].astype(np.int64)
        elif kind == "state NaN":
            state = np.where(np.arange(len(state)) == self.injector.tick % len(state), np.nan, state)
        elif kind == "state of wrong shape":
            state = state[:3]
        return {"pixels": pixels} if kind == "state missing" else {"pixels": pixels, "agent_pos": state}

    def step(self, action: np.ndarray) -> None:
        self.missed += 1
        self.reached = False
        if self.injector.now("robot refuses"):
            raise ConnectionError("the robot does not answer")
        a = np.asarray(action)
        right = a.shape == self.low.shape and np.isfinite(a).all()
        right = right and (a >= self.low).all() and (a <= self.high).all()
        right = right and (np.abs(a - self.last)[:-1] <= CHANGE * self.missed + 1e-6).all()
        if not right and self.injector.fault is not None:
            self.injector.fault.violations += 1
        self.wrong = not right
        self.last, self.missed, self.reached = a.astype(float), 0, True
        self.sent.append(time.perf_counter())
        self.env.step(action)


class Faulty:
    """A policy whose answers go through the injector."""

    def __init__(self, policy, injector: Injector, level: str):
        self._policy, self._injector, self._level = policy, injector, level

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def ask(self, *given, **more) -> Ask:
        ask = self._policy.ask(*given, **more)
        right = ask.alone
        ask.alone = lambda: self._injector.answer(self._level, right, ask.born)
        return ask


class Apart:
    """A planner beside the policy: another copy of the network."""

    def __init__(self, policy, injector: Injector):
        self._policy, self._injector = policy, injector

    def plan(self, observation, instruction, memory, previous) -> Plan:
        told = observation.with_instruction(instruction)
        right = lambda: self._policy.plan(told, memory, previous)
        return self._injector.answer("planner", right, time.perf_counter())

    def renew(self) -> None:
        self._policy.renew()
