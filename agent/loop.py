"""The loop: a plan, a chunk of actions, one action a tick.

The clock here is `sync`: the world waits while the agent thinks, so a run is deterministic. Every `execute`
ticks the agent looks: the planner writes the next subtask and the controller makes a chunk for that text.
Between looks it needs no picture (`needs_observation` says so), so a world renders only what is looked at.

Rules, learnt the hard way elsewhere:
- a change of instruction raises the revision and drops plan and chunk of the older one, at the next tick;
- every executed action carries the subtask that produced it;
- a planner that fails or writes nothing usable leaves the last subtask standing, a controller that fails
  leaves the rest of its chunk; when nothing is left the robot holds still;
- "done" counts when it is said at two looks in a row. At the first the last subtask goes on: a hand that
  stops on a premature "done" sees the same picture for ever and never takes it back.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from backbone.errors import UserError
from backbone.observation import History, Observation
from highlevel.plan import Plan
from highlevel.planner import Planner
from lowlevel.controller import ActionChunk, Controller

DONE_LOOKS = 2  # looks in a row that must say "done"
RETRY = 4  # ticks until the next look after one that gave no chunk


@dataclass(frozen=True)
class Step:
    """What the agent did in one control tick.

    action: (A,) float32 in robot units. subtask: the text that conditioned it. plan: the plan in force.
    events: what happened, among "planned", "replanned" (the subtask changed), "corrected" (a new instruction
    is in force), "held", "done", and "planner failed: ..." (or "controller"; "garbled" instead of "failed"
    where the text was at fault and not the software).
    looked: whether this tick used an observation; then `said` is what the planner wrote (also a "done" that
    is not believed yet) and `seconds` is what plan and chunk took together.
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


class Agent:
    """Runs a planner and a controller.

    policy: a network with both heads (`plan`, `act`, and `step` for both on one prefill); see `agent.policy`.
    planner: "learned" (the policy's own), "none" (the instruction stands in the subtask's place), a Planner.
    controller: any Controller; the policy's own by default.
    execute: control ticks between looks, at most the length of a chunk.
    """

    def __init__(
        self,
        policy,
        planner: str | Planner = "learned",
        controller: Controller | None = None,
        execute: int = 8,
    ):
        if isinstance(planner, str) and planner not in ("learned", "none"):
            raise UserError(f"planner: expected 'learned', 'none' or a planner object, got '{planner}'")
        if planner == "learned" and getattr(policy, "planner", policy) is None:
            raise UserError("planner: this checkpoint writes no plans, expected 'none', got 'learned'")
        if execute < 1:
            raise UserError(f"execute: expected at least 1 control step per look, got {execute}")
        self.policy, self.planner, self.execute = policy, planner, execute
        self.controller: Controller = policy if controller is None else controller
        self._past = _past(policy)
        self._joint = planner == "learned" and controller is None
        self.instruction: str | None = None
        self.revision = 0
        self.failures = 0

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: str = "nano",
        planner: str | Planner = "learned",
        execute: int = 8,
        device: str = "cpu",
    ) -> Agent:
        """The shipped agent ("nano") or one from a directory. UserError if it is absent or does not fit."""
        from agent.policy import load  # late: the loop itself needs no torch

        return cls(load(checkpoint, device), planner=planner, execute=execute)

    def reset(self, instruction: str, seed: int = 0) -> None:
        """Start an episode; the same seed and observations give the same actions.

        UserError if the instruction is empty or has words that the agent was never taught.
        """
        self.instruction = self._checked(instruction)
        if hasattr(self.policy, "reset"):
            self.policy.reset(seed)
        if self._past is not None:
            self._past.reset()
        self.memory = ""
        self.plan: Plan | None = None  # in force
        self.said: Plan | None = None  # the planner's last word, believed or not
        self.revision += 1
        self.failures = 0
        self._chunk: ActionChunk | None = None
        self._used = 0  # actions of the chunk already executed
        self._ticks_left = 0  # until the next look
        self._done_looks = 0
        self._last: np.ndarray | None = None
        self._news: list[str] = []

    def say(self, text: str) -> None:
        """A correction while it runs: the instruction from the next tick on; the old plan is dropped."""
        if self.instruction is None:
            raise UserError("agent: expected reset(instruction) before say(text)")
        self.instruction = self._checked(text)
        self.revision += 1
        self.plan = self.said = self._chunk = None
        self._used = self._ticks_left = self._done_looks = 0
        self._news.append("corrected")

    @property
    def needs_observation(self) -> bool:
        """Whether the next `step` needs to see: if it looks, or for the past of a network that looks back. If
        not, it may be called with None.
        """
        return self._ticks_left <= 0 or self._past is not None

    @property
    def done(self) -> bool:
        return self._done_looks >= DONE_LOOKS

    def step(self, observation: Observation | Mapping | None = None) -> Step:
        """One control tick. `observation`: an Observation or a gymnasium observation; None between looks."""
        if self.instruction is None:
            raise UserError("agent: expected reset(instruction) before step(observation)")
        events, self._news = self._news, []
        looked, said, seconds, was_done = self._ticks_left <= 0, None, 0.0, self.done
        if self.needs_observation:
            if observation is None:
                raise UserError("agent: expected an observation at this tick (needs_observation), got None")
            if not isinstance(observation, Observation):
                observation = Observation.from_env(observation, self.instruction)
            if self._past is not None and observation.history is None:
                observation = self._past.add(observation)
        if looked:
            if hasattr(self.policy, "check"):  # a wrong observation is the caller's to mend, before it moves
                self.policy.check(observation)
            start = time.perf_counter()
            said = self._look(observation.with_instruction(self.instruction), events)
            self.said = said or self.said
            seconds = time.perf_counter() - start
        if self.done and not was_done:
            events.append("done")
        if self._chunk is not None and self._used < len(self._chunk.actions):
            action, subtask = np.asarray(self._chunk.actions[self._used], np.float32), self._chunk.subtask
            self._used += 1
        else:
            action, subtask = self._hold(), self.plan.text if self.plan else ""
            events.append("held")
        self._ticks_left -= 1
        self._last = action
        return Step(
            action, subtask, self.plan, tuple(events), looked, said, self.done, self.revision, seconds
        )

    # -- one look

    def _look(self, observation: Observation, events: list[str]) -> Plan | None:
        """Plan, then make a chunk for the plan in force. What the planner wrote, None if it failed."""
        self._ticks_left = RETRY
        said, chunk = self._write(observation, events)
        if said is not None and not said.subtask.strip():
            events.append("planner garbled: no subtask")
            chunk = None
        elif said is not None:
            self.memory = said.memory
            self._done_looks = self._done_looks + 1 if said.done else 0
            if said.done and not self.done and self.plan is not None:
                chunk = None  # not believed yet: go on with what was being done
            else:
                events.append("planned" if self.plan and self.plan.subtask == said.subtask else "replanned")
                self.plan = said
        if self.plan is None:
            return said
        try:
            chunk = chunk or self.controller.act(observation, self.plan.text)
            if not np.isfinite(chunk.actions).all():
                raise FloatingPointError("the chunk has non-finite actions")
        except Exception as error:  # must not stop the arm in mid-air: the rest of the old chunk stands
            self._failed("controller", error, events)
        else:
            self._chunk, self._used = chunk, 0
            self._ticks_left = min(self.execute, len(chunk.actions))
        return said

    def _write(self, observation: Observation, events: list[str]) -> tuple[Plan | None, ActionChunk | None]:
        """The planner's words, and the chunk for them where both come from one prefill."""
        before = self.said
        try:
            if self.planner == "none":
                return Plan(self.instruction, memory=self.memory, origin="instruction"), None
            if self._joint:
                return self.policy.step(observation, self.memory, before)
            if self.planner == "learned":
                return self.policy.plan(observation, self.memory, before), None
            return self.planner.plan(observation, self.instruction, self.memory, before), None
        except Exception as error:
            self._failed("planner", error, events)
            return None, None

    def _hold(self) -> np.ndarray:
        """No motion; the gripper (last dimension) keeps what it was told."""
        if self._last is None:
            return np.zeros(self.policy.action_dim, np.float32)
        hold = np.zeros_like(self._last)
        hold[-1] = self._last[-1]
        return hold

    def _failed(self, part: str, error: Exception, events: list[str]) -> None:
        if isinstance(error, UserError):  # unreadable text: the planner's fault, not the software's
            events.append(f"{part} garbled: {error}")
            return
        self.failures += 1
        events.append(f"{part} failed: {type(error).__name__}: {error}")

    def _checked(self, instruction: str) -> str:
        if not isinstance(instruction, str) or not instruction.strip():
            raise UserError(f"instruction: expected some words, got {instruction!r}")
        if hasattr(self.policy, "check_instruction"):
            self.policy.check_instruction(instruction)
            if self.planner == "none":
                self.policy.check_subtask(instruction)
        return " ".join(instruction.split())


def _past(policy) -> History | None:
    """Where a policy that was trained with a past at some interval finds it: its own observations."""
    interval = getattr(policy, "about", {}).get("history_interval")
    frames = max((c.frames for _, c in policy.network.preset.cameras), default=1) if interval else 1
    return History(frames, interval) if frames > 1 else None
