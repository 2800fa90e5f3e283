"""The two levels as the loop asks them: one network or two, ours or somebody else's, one question or two."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from agent.asks import Ask, Asking
from agent.clock import Clock
from agent.sound import sound_plan
from backbone.errors import PolicyError, UserError
from backbone.observation import History, Observation
from highlevel.plan import Plan
from highlevel.planner import Planner
from lowlevel.controller import ActionChunk, Controller

Promise = tuple[np.ndarray | None, np.ndarray | None]  # actions that will be done meanwhile, and what follows


class Pair:
    """A planner and a controller.

    policy: a network with both heads (`plan`, `act`, and `step` for both on one prefill); see `agent.policy`.
    planner: "learned" (the policy's own), "none" (the instruction stands in the subtask's place), a Planner.
    controller: any Controller; the policy's own by default.
    """

    def __init__(self, policy, planner: str | Planner, controller: Controller | None, clock: Clock):
        if isinstance(planner, str) and planner not in ("learned", "none"):
            raise UserError(f"planner: expected 'learned', 'none' or a planner object, got '{planner}'")
        if planner == "learned" and getattr(policy, "planner", policy) is None:
            raise UserError("planner: this checkpoint writes no plans, expected 'none', got 'learned'")
        self.policy, self.planner = policy, planner
        self.controller: Controller = policy if controller is None else controller
        other = not isinstance(planner, str)  # one that thinks by itself
        self.apart = clock.apart or (clock.beside is not None and other)
        self.joint = planner == "learned" and controller is None and not self.apart
        self._noise = None
        self._memory = Memory()

    def reset(self, seed: int) -> None:
        for level in (self.policy, self.controller)[: 1 + (self.controller is not self.policy)]:
            if hasattr(level, "reset"):
                level.reset(seed)
        self._noise = self.policy.noise(seed) if hasattr(self.policy, "noise") else None
        self._memory = Memory()

    def check(self, instruction: str) -> None:
        """UserError if it cannot be read."""
        if hasattr(self.policy, "check_instruction"):
            self.policy.check_instruction(instruction)
            if self.planner == "none":
                self.policy.check_subtask(instruction)

    @property
    def blind(self) -> bool:
        """Whether neither level looks at pictures (a teacher does not)."""
        levels = (self.policy if self.planner == "learned" else self.planner), self.controller
        return all(level == "none" or getattr(level, "blind", False) for level in levels)

    def write(
        self, observation: Observation, memory: str, before: Plan | None, promise: Promise, asked: list[Ask]
    ) -> Asking[tuple[Plan | None, ActionChunk | None]]:
        """The planner's words, and the chunk for them where both come from one prefill."""
        if self.planner == "none":
            return Plan(observation.instruction, memory=memory, origin="instruction"), None
        memory = self._memory.readable(memory)
        if self.joint:
            ask = self._ask("step", (observation, memory, before), *promise)
        elif self.planner == "learned":
            ask = self._ask("plan", (observation, memory, before))
        else:
            ask = self._ask_planner("plan", (observation, observation.instruction, memory, before))
        try:
            found = yield from _answered(ask, asked)
            said, chunk = found if self.joint else (found, None)
            sound_plan(said)
        except Exception as error:
            self._memory.failed(memory, error)
            raise
        self._memory.read(memory)
        return said, chunk

    def ground(
        self, observation: Observation, memory: str, before: Plan | None, order: Plan, asked: list[Ask]
    ) -> Asking[tuple[Plan, Plan | None]]:
        """A subtask that somebody ordered, pointed at by the learned planner where nobody did; and what the
        planner itself would have said, where it tells.
        """
        if order.target is not None or not hasattr(self._writer, "ground"):
            return order, None
        given = observation, observation.instruction, memory, before, order.subtask
        target, said = yield from _answered(self._ask_planner("ground", given), asked)
        return sound_plan(replace(order, target=target)), None if said is None else sound_plan(said)

    def otherwise(
        self,
        observation: Observation,
        memory: str,
        before: Plan | None,
        refused: Collection[str],
        asked: list[Ask],
    ) -> Asking[Plan]:
        """The planner's likeliest plan that is none of those; its plan where it knows no other."""
        if not hasattr(self._writer, "otherwise"):
            return (yield from self.write(observation, memory, before, (None, None), asked))[0]
        given = observation, observation.instruction, memory, before, refused
        return sound_plan((yield from _answered(self._ask_planner("otherwise", given), asked)))

    def act(
        self, observation: Observation, subtask: str, promise: Promise, asked: list[Ask]
    ) -> Asking[ActionChunk]:
        """A chunk for this text."""
        if self.controller is self.policy:
            ask = self._ask("act", (observation,), *promise, subtask)
        else:
            given = () if promise[0] is None else promise[:1]
            ask = _alone(self.controller, lambda: self.controller.act(observation, subtask, *given))
        return (yield from _answered(ask, asked))

    @property
    def _writer(self):
        """Who plans."""
        return getattr(self.policy, "planner", None) if self.planner == "learned" else self.planner

    def _ask_planner(self, what: str, given: Sequence) -> Ask:
        """A question that is never one with others'. It goes to the same thread as those of its network."""
        who = self.policy if self.planner == "learned" else self.planner
        return _alone(who, lambda: getattr(self._writer, what)(*given))

    def _ask(self, what: str, given: Sequence, kept=None, left=None, subtask: str = "") -> Ask:
        """A question to the policy: together with others' where it can do that."""
        policy = self.policy
        if hasattr(policy, "ask"):
            more = {"committed": kept, "leftover": left, "generator": self._noise}
            return policy.ask(what, *given, subtask=subtask, **more)
        more = (subtask,) if what == "act" else ()
        return _alone(policy, lambda: getattr(policy, what)(*given, *more))


class Memory:
    """What a planner wrote may be such that it cannot read it: then it fails for ever. After it failed so
    often it is given the last that it could read.
    """

    TRIES = 3

    def __init__(self):
        self._read, self._failing, self._times = "", "", 0

    def readable(self, memory: str) -> str:
        """This memory, or the last one that could be read."""
        return self._read if memory == self._failing and self._times >= self.TRIES else memory

    def read(self, memory: str) -> None:
        self._read, self._times = memory, self._times * (memory != self._failing)

    def failed(self, memory: str, error: Exception) -> None:
        """PolicyError: the planner is not there, which says nothing of what it can read."""
        if isinstance(error, UserError) and not isinstance(error, PolicyError):
            self._failing, self._times = memory, self._times * (memory == self._failing) + 1


def past(policy) -> History | None:
    """Where a policy that was trained with a past at some interval finds it: its own observations."""
    interval = getattr(policy, "about", {}).get("history_interval")
    frames = max((c.frames for _, c in policy.network.preset.cameras), default=1) if interval else 1
    return History(frames, interval) if frames > 1 else None


def _alone(level, question: Callable[[], Any]) -> Ask:
    return Ask(question, kind=(id(level),), renew=getattr(level, "renew", None))


def _answered(ask: Ask, asked: list[Ask]) -> Asking:
    asked.append(ask)
    return (yield ask)
