"""The loop: a plan, a chunk of actions, one action a tick.

Every `execute` ticks the agent looks: the planner writes the next subtask and the controller makes a chunk
for that text. Between looks it needs no picture (`needs_observation` says so), so a world renders only what
is looked at. The clock (`agent.clock`) is `sync`: the world waits while the agent thinks, so a run is
deterministic; or `realtime`: it goes on with what it has, and answers come late.

Rules, learnt the hard way elsewhere:
- a change of instruction raises the revision and drops plan and chunk of the older one, at the next tick, and
  answers to questions of the older one when they come;
- every executed action carries the subtask that produced it;
- a planner that fails or writes nothing usable leaves the last subtask standing, a controller that fails
  leaves the rest of its chunk; when nothing is left the robot holds still. Only where somebody else's policy
  is not there, or not what was agreed (PolicyError), does that end the step;
- of a chunk of positions that comes late, as many are passed over as were done since its observation; one of
  speeds begins with its first (`Clock.skip`);
- "done" counts when it is said at two looks in a row. At the first the last subtask goes on: a hand that
  stops on a premature "done" sees the same picture for ever and never takes it back.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from agent.asks import Ask, Asking, run_alone
from agent.clock import SYNC, Clock
from agent.step import Answer, Step
from backbone.errors import PolicyError, UserError
from backbone.observation import History, Observation
from highlevel.plan import Plan
from highlevel.planner import Planner
from lowlevel.controller import ActionChunk, Controller

DONE_LOOKS = 2  # looks in a row that must say "done"
RETRY = 4  # ticks until the next look after one that gave no chunk


class Agent:
    """Runs a planner and a controller.

    policy: a network with both heads (`plan`, `act`, and `step` for both on one prefill); see `agent.policy`.
    planner: "learned" (the policy's own), "none" (the instruction stands in the subtask's place), a Planner.
    controller: any Controller; the policy's own by default.
    execute: control ticks between looks, at most the length of a chunk.
    clock: whether the world waits. rest: an action that holds still is all zeros but for the gripper, or the
    "last" one again (where actions are positions; before there was one, where the robot is).
    """

    def __init__(
        self,
        policy,
        planner: str | Planner = "learned",
        controller: Controller | None = None,
        execute: int = 8,
        clock: Clock = SYNC,
        rest: str = "zero",
    ):
        if isinstance(planner, str) and planner not in ("learned", "none"):
            raise UserError(f"planner: expected 'learned', 'none' or a planner object, got '{planner}'")
        if planner == "learned" and getattr(policy, "planner", policy) is None:
            raise UserError("planner: this checkpoint writes no plans, expected 'none', got 'learned'")
        if execute < 1:
            raise UserError(f"execute: expected at least 1 control step per look, got {execute}")
        self.policy, self.planner, self.execute = policy, planner, execute
        self.controller: Controller = policy if controller is None else controller
        self.clock, self.rest = clock, rest
        self._skip = (rest == "last" or clock.keep) if clock.skip is None else clock.skip
        self._past = _past(policy)
        other = not isinstance(planner, str)  # one that thinks by itself
        apart = clock.apart or (clock.beside is not None and other)
        self._joint = planner == "learned" and controller is None and not apart
        self._lanes = ("plan", "chunk") if apart else ("both",)
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
        for level in (self.policy, self.controller)[: 1 + (self.controller is not self.policy)]:
            if hasattr(level, "reset"):
                level.reset(seed)
        if self._past is not None:
            self._past.reset()
        self._noise = self.policy.noise(seed) if hasattr(self.policy, "noise") else None
        self.memory = ""
        self.plan: Plan | None = None  # in force
        self.said: Plan | None = None  # the planner's last word, believed or not
        self.revision += 1
        self.failures = 0
        if self.clock.beside is not None:
            self.clock.beside.forget()
        self._now = 0  # ticks
        self._late = 0  # ticks that the last chunk took
        self._answers: list[Answer] = []  # that are not there yet
        self._due = dict.fromkeys(self._lanes, 0)  # the tick of each lane's next look
        self._chunk: ActionChunk | None = None
        self._used = 0  # actions of the chunk that are done or passed over
        self._done_actions = 0  # of all chunks
        self._done_looks = 0
        self._last: np.ndarray | None = None
        self._here: np.ndarray | None = None  # the last state that was seen
        self._news: list[str] = []

    def say(self, text: str) -> None:
        """A correction while it runs: the instruction from the next tick on; the old plan is dropped."""
        if self.instruction is None:
            raise UserError("agent: expected reset(instruction) before say(text)")
        self.instruction = self._checked(text)
        self.revision += 1
        self.plan = self.said = self._chunk = None
        self._used = self._done_looks = 0
        self._due = dict.fromkeys(self._lanes, self._now)
        self._news.append("corrected")

    @property
    def needs_observation(self) -> bool:
        """Whether the next `step` needs to see: if it looks, or for the past of a network that looks back. If
        not, it may be called with None.
        """
        return self._past is not None or any(map(self._may_look, self._lanes))

    @property
    def blind(self) -> bool:
        """Whether neither level looks at pictures (a teacher does not)."""
        levels = (self.policy if self.planner == "learned" else self.planner), self.controller
        return all(level == "none" or getattr(level, "blind", False) for level in levels)

    @property
    def done(self) -> bool:
        return self._done_looks >= DONE_LOOKS

    def step(self, observation: Observation | Mapping | None = None) -> Step:
        """One control tick. `observation`: an Observation or a gymnasium observation; None between looks."""
        return run_alone(self.stepping(observation))

    def stepping(self, observation: Observation | Mapping | None = None) -> Asking[Step]:
        """The same, handing out the questions to its levels, so that those of several agents can be answered
        in one pass (see `agent.asks`).
        """
        if self.instruction is None:
            raise UserError("agent: expected reset(instruction) before step(observation)")
        events, self._news = self._news, []
        was_done, looked = self.done, False
        asked: list[Ask] = []
        observation, beside = self._seen(observation), self.clock.beside
        if beside is not None:
            beside.go_on()
        heard = self._hear(events)
        for lane in self._lanes:
            if not self._looks(lane) or observation is None:  # a thread got ready since it was asked for
                continue
            if not looked and hasattr(self.policy, "check"):
                self.policy.check(observation)  # a wrong one is the caller's to mend, before it moves
            looked, look = True, self._look(lane, observation.with_instruction(self.instruction))
            if beside is not None:
                beside.begin(lane, look)
                beside.wait(lane, self.clock.grace)
                heard = self._hear(events) or heard
                continue
            asked += yield from look
            heard = self._hear(events) or heard
        if self.done and not was_done:
            events.append("done")
        if self._chunk is not None and self._used < len(self._chunk.actions):
            action, subtask = np.asarray(self._chunk.actions[self._used], np.float32), self._chunk.subtask
            self._used += 1
            self._done_actions += 1
        else:
            action, subtask = self._hold(), self.plan.text if self.plan else ""
            events.append("held")
        self._last = action
        said, age, seconds = (heard.said, self._now - heard.asked, heard.seconds) if heard else (None, 0, 0.0)
        self._now += 1
        thinking, waited = sum(ask.seconds for ask in asked), sum(ask.waited for ask in asked)
        times = seconds, thinking, waited, age
        return Step(action, subtask, self.plan, tuple(events), looked, said, self.done, self.revision, *times)

    # -- when to look, and what has come of it

    def _busy(self, lane: str) -> bool:
        beside = self.clock.beside
        return (
            beside is not None
            and beside.busy(lane)
            or any(answer.lane == lane and answer.at > self._now for answer in self._answers)
        )

    def _looks(self, lane: str) -> bool:
        if lane == "chunk" and self.plan is None:
            return False
        return self._now >= self._due[lane] and not self._busy(lane)

    def _may_look(self, lane: str) -> bool:
        """The same before it is known what comes in with this tick."""
        beside = self.clock.beside
        if beside is not None:
            return self._now >= self._due[lane] and (not beside.busy(lane) or beside.ready())
        coming = any(answer.at <= self._now and answer.said is not None for answer in self._answers)
        return self._looks(lane) or (lane == "chunk" and coming and not self._busy(lane))

    def _seen(self, observation: Observation | Mapping | None) -> Observation | None:
        if not self.needs_observation:
            return None
        if observation is None:
            raise UserError("agent: expected an observation at this tick (needs_observation), got None")
        if not isinstance(observation, Observation):
            observation = Observation.from_env(observation, self.instruction)
        self._here = np.atleast_2d(observation.state)[-1]
        if self._past is not None and observation.history is None:
            observation = self._past.add(observation)
        return observation

    def _hear(self, events: list[str]) -> Answer | None:
        """Take what is there by now; the last answer in which the planner said something."""
        there = [answer for answer in self._answers if answer.at <= self._now]
        self._answers = [answer for answer in self._answers if answer.at > self._now]
        heard = None
        for answer in there:
            if answer.revision != self.revision:
                events += [f"late {answer.lane} dropped", *answer.failed]
                continue
            if answer.said is not None:
                heard, before = answer, self.plan
                self._believe(answer.said, events)
                changed = self.plan is not None and (before is None or before.text != self.plan.text)
                if "chunk" in self._due and changed:
                    self._due["chunk"] = self._now  # at once
            if answer.chunk is not None:
                done = self._done_actions - answer.used
                self._chunk, self._used = answer.chunk, done if self._skip else 0
            events += answer.failed
        return heard

    def _believe(self, said: Plan, events: list[str]) -> None:
        self.said = said
        if not said.subtask.strip():
            events.append("planner garbled: no subtask")
            return
        self.memory = said.memory
        self._done_looks = self._done_looks + 1 if said.done else 0
        if self._in_force(said, self._done_looks) is said:
            events.append("planned" if self.plan and self.plan.subtask == said.subtask else "replanned")
            self.plan = said

    def _in_force(self, said: Plan | None, done_looks: int) -> Plan | None:
        """The plan once this is heard: a "done" that is not believed yet leaves what was being done."""
        if said is None or not said.subtask.strip():
            return self.plan
        return self.plan if said.done and done_looks < DONE_LOOKS and self.plan is not None else said

    # -- one look

    def _look(self, lane: str, observation: Observation) -> Asking[list[Ask]]:
        """Plan (not in the lane "chunk"), then make a chunk for the plan that will be in force (not in the
        lane "plan") -> what was asked.
        """
        answer = Answer(lane, self._now, self._now, self.revision, self._done_actions)
        started, asked, clock = time.perf_counter(), [], self.clock
        plan = self.plan
        if lane != "chunk":
            answer.said, answer.chunk = yield from self._write(observation, asked, answer.failed)
            plan = self._in_force(answer.said, self._done_looks + 1)
            if plan is not answer.said:
                answer.chunk = None
        if lane != "plan" and plan is not None and answer.revision == self.revision:
            try:
                if answer.chunk is None:
                    answer.chunk = yield from self._act(observation, plan.text, asked)
                if not np.isfinite(answer.chunk.actions).all():
                    raise FloatingPointError("the chunk has non-finite actions")
            except Exception as error:  # must not stop the arm in mid-air: the rest of the old chunk stands
                answer.chunk = None
                self._failed("controller", error, answer.failed)
        given = clock.plan if lane == "plan" else clock.chunk
        late = self._now - answer.asked if clock.beside else clock.ticks(given, sum(a.seconds for a in asked))
        answer.at, answer.seconds = answer.asked + late, time.perf_counter() - started
        answer.seconds -= sum(ask.waited for ask in asked)
        self._late = late if lane != "plan" else self._late
        if lane == "plan":
            again = RETRY if answer.said is None else self.execute
        elif answer.chunk is None:
            again = RETRY
        else:  # the next one has to be there before this one is used up
            again = min(self.execute, max(1, len(answer.chunk.actions) - late * self._skip))
        self._due[lane] = answer.asked + max(again, late)
        self._answers.append(answer)
        return asked

    def _write(
        self, observation: Observation, asked: list[Ask], failed: list[str]
    ) -> Asking[tuple[Plan | None, ActionChunk | None]]:
        """The planner's words, and the chunk for them where both come from one prefill."""
        before, memory = self.said, self.memory
        try:
            if self.planner == "none":
                return Plan(self.instruction, memory=memory, origin="instruction"), None
            if self._joint:
                kept, left = self._promised()
                ask = self._ask(self.policy, "step", (observation, memory, before), kept, left)
                return (yield from _answered(ask, asked))
            if self.planner == "learned":
                ask = self._ask(self.policy, "plan", (observation, memory, before))
            else:
                told = observation, self.instruction, memory, before
                ask = Ask(lambda: self.planner.plan(*told), kind=(id(self.planner),))
            return (yield from _answered(ask, asked)), None
        except Exception as error:
            self._failed("planner", error, failed)
            return None, None

    def _act(self, observation: Observation, subtask: str, asked: list[Ask]) -> Asking[ActionChunk]:
        kept, left = self._promised()
        if self.controller is self.policy:
            ask = self._ask(self.policy, "act", (observation,), kept, left, subtask)
        else:
            given = () if kept is None else (kept,)
            ask = Ask(lambda: self.controller.act(observation, subtask, *given), kind=(id(self.controller),))
        return (yield from _answered(ask, asked))

    def _ask(self, policy, what: str, given: tuple, kept=None, left=None, subtask: str = "") -> Ask:
        """A question to a policy: together with others' where it can do that. kept, left: see `_promised`."""
        if hasattr(policy, "ask"):
            more = {"committed": kept, "leftover": left, "generator": self._noise}
            return policy.ask(what, *given, subtask=subtask, **more)
        more = (subtask,) if what == "act" else ()
        return Ask(lambda: getattr(policy, what)(*given, *more), kind=(id(policy),))

    def _promised(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The actions that will be done while the controller thinks, if it is to know them, and what the
        chunk has behind them.
        """
        clock = self.clock
        late = self._late if clock.beside else clock.ticks(clock.chunk or 0.0, 0.0)
        if not clock.keep or not late or self._chunk is None:
            return None, None
        rest = self._chunk.actions[self._used :]
        return (rest[:late], rest[late:]) if len(rest) >= late else (None, None)

    def _hold(self) -> np.ndarray:
        """No motion; the gripper (last dimension) keeps what it was told."""
        if self.rest == "last":
            return np.array(self._here if self._last is None else self._last, np.float32)
        if self._last is None:
            return np.zeros(self.policy.action_dim, np.float32)
        hold = np.zeros_like(self._last)
        hold[-1] = self._last[-1]
        return hold

    def _failed(self, part: str, error: Exception, events: list[str]) -> None:
        if isinstance(error, PolicyError) and self.clock.beside is None:
            raise error
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


def _answered(ask: Ask, asked: list[Ask]) -> Asking:
    asked.append(ask)
    return (yield ask)


def _past(policy) -> History | None:
    """Where a policy that was trained with a past at some interval finds it: its own observations."""
    interval = getattr(policy, "about", {}).get("history_interval")
    frames = max((c.frames for _, c in policy.network.preset.cameras), default=1) if interval else 1
    return History(frames, interval) if frames > 1 else None
