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
  speeds is entered where its path meets what was done (`Clock.skip`);
- "done" counts when it is said at two looks in a row. At the first the last subtask goes on: a hand that
  stops on a premature "done" sees the same picture for ever and never takes it back.

How it looks and hears is in `agent.looking`, how it heeds a person in `agent.heeding`. When to plan again is
a matter of rules (`agent.when`), what to do when it is stuck of `agent.recovery`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from agent import recovery
from agent.asks import Ask, Asking, run_alone
from agent.clock import SYNC, Clock
from agent.hand import Hand
from agent.heeding import Heeding
from agent.lines import Lines
from agent.looking import DONE_LOOKS
from agent.orders import Orders
from agent.pair import Pair, past
from agent.recovery import Recovery
from agent.step import Step
from agent.trace import Trace
from agent.when import ALWAYS, Moment, Rule, why
from backbone.errors import UserError
from backbone.observation import Observation
from highlevel.planner import Planner
from lowlevel.controller import ActionChunk, Controller


class Agent(Heeding):
    """Runs a planner and a controller (see `agent.pair`).

    execute: control ticks between looks, at most the length of a chunk.
    clock: whether the world waits. rest: an action that holds still is all zeros but for the gripper, or the
    "last" one again (where actions are positions; before there was one, where the robot is).
    replan: the rules that call for a plan; at every look by default. recovery: what is done when it is stuck.
    """

    def __init__(
        self,
        policy,
        planner: str | Planner = "learned",
        controller: Controller | None = None,
        execute: int = 8,
        clock: Clock = SYNC,
        rest: str = "zero",
        replan: Sequence[Rule] = ALWAYS,
        recovery: Recovery | None = None,
    ):
        self.pair = Pair(policy, planner, controller, clock)
        if execute < 1:
            raise UserError(f"execute: expected at least 1 control step per look, got {execute}")
        self.execute, self.clock, self.rest = execute, clock, rest
        self.replan, self.recovery = tuple(replan), recovery
        self._hand = Hand(rest, clock.skip)
        self._past = past(policy)
        self._lanes = ("plan", "chunk") if self.pair.apart else ("both",)
        self._lines = Lines(self.pair, waits=clock.beside is None)
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

    @property
    def policy(self):
        return self.pair.policy

    @property
    def planner(self) -> str | Planner:
        return self.pair.planner

    @property
    def controller(self) -> Controller:
        return self.pair.controller

    @property
    def pace(self) -> float:
        """Share of the speed that it was taught."""
        return self._hand.pace

    def reset(self, instruction: str, seed: int = 0) -> None:
        """Start an episode; the same seed and observations give the same actions.

        UserError if the instruction is empty or has words that the agent was never taught.
        """
        self.instruction = self._checked(instruction)
        self.pair.reset(seed)
        if self._past is not None:
            self._past.reset()
        self._forget()
        self.stopped = False
        self.gave_up: str | None = None
        self.revision += 1
        self.failures = 0
        if self.clock.beside is not None:
            self.clock.beside.forget()
        self._hand.reset()
        self._news: list[str] = []
        self._orders, self._trace = Orders(), Trace(self.clock.rate)
        self._hope()

    def close(self) -> None:
        """Say good-bye to levels that are elsewhere, for good."""
        self._lines.close()

    # -- one tick

    @property
    def last_action(self) -> np.ndarray | None:
        """(A,) that was sent last, before safety."""
        return self._hand.last

    def moved(self, action: np.ndarray | None, observation: Observation | Mapping | None = None) -> None:
        """A tick in which somebody else did this (see `agent.teach`), or held (None); observation: what was
        seen, if anything was. After the last such tick it has to `look_again`.
        """
        if observation is not None:
            self._seen(observation)
        if action is not None:
            self._hand.last = np.array(action, np.float32)
            self._trace.sent.append(self._hand.last)
        self._now += 1

    @property
    def needs_observation(self) -> bool:
        """Whether the next `step` needs to see: if it looks, or for the past of a network that looks back. If
        not, it may be called with None.
        """
        return self._past is not None or (not self._idle and any(map(self._may_look, self._lanes)))

    @property
    def blind(self) -> bool:
        """Whether neither level looks at pictures (a teacher does not)."""
        return self.pair.blind

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
        called: tuple[str, ...] = ()
        observation, beside = self._seen(observation), self.clock.beside
        self._see_lines(events)
        if beside is not None:
            beside.go_on()
        heard = self._hear(events)
        for lane in self._lanes:
            if self._idle or not self._looks(lane) or observation is None:  # a thread got ready meanwhile
                continue
            if not looked:
                if hasattr(self.policy, "check"):
                    self.policy.check(observation)  # a wrong one is the caller's to mend, before it moves
                self._trace.see(self._now, observation)
                self._judge(events)
                if self._idle or not self._looks(lane):  # gave up, or backs off
                    break
            calls = () if lane == "chunk" else self._calls()
            if lane == "plan" and not calls:
                self._due[lane] = self._now + self.execute
                continue
            looked, called = True, called or calls
            look = self._look(lane, observation.with_instruction(self.instruction), bool(calls))
            if beside is not None:
                beside.begin(lane, look)
                beside.wait(lane, self.clock.grace)
                heard = self._hear(events) or heard
                continue
            asked += yield from look
            heard = self._hear(events) or heard
        if asked or looked:
            self._see_lines(events)
        if self.done and not was_done:
            events.append("done")
        if self._idle or not len(self._hand.left):
            events.append("held")
            action, subtask = self.hold(), self.plan.text if self.plan else ""
        else:
            action, subtask = self._hand.act()
        self._hand.last = action
        self._trace.sent.append(action)
        said, age, seconds = (heard.said, self._now - heard.asked, heard.seconds) if heard else (None, 0, 0.0)
        self._now += 1
        thinking, waited = sum(ask.seconds for ask in asked), sum(ask.waited for ask in asked)
        times = seconds, thinking, waited, age
        now = action, subtask, self.plan, tuple(events), looked, said, self.done, self.revision
        return Step(*now, *times, called)

    @property
    def _idle(self) -> bool:
        return self.stopped or self.gave_up is not None or self._lines.hold

    def _see_lines(self, events: list[str]) -> None:
        """While a link is down that it hangs on, it holds; when it is back, it looks anew."""
        lines, held = self._lines, self._lines.hold
        events += lines.look()
        if self.clock.beside is None:
            return
        if lines.hold:
            if not held:
                self.clock.beside.forget()
                self._hand.drop()
        elif held or lines.broke:
            self.clock.beside.meet_anew()
            self.look_again()
        elif lines.unplanned and "plan" in self._due:
            self.clock.beside.forget("plan")
            self._due["plan"], self._call = self._now, ("again",)

    def _seen(self, observation: Observation | Mapping | None) -> Observation | None:
        if not self.needs_observation:
            return None
        if observation is None and self.clock.beside is not None:
            return None  # a camera that is out: it goes on with what it has
        if observation is None:
            raise UserError("agent: expected an observation at this tick (needs_observation), got None")
        if not isinstance(observation, Observation):
            observation = Observation.from_env(observation, self.instruction)
        self._hand.here = np.atleast_2d(observation.state)[-1]
        if self._past is not None and observation.history is None:
            observation = self._past.add(observation)
        return observation

    def _judge(self, events: list[str]) -> None:
        """How it goes: whether an errand has ended, whether it is stuck, and what then."""
        ended = self._orders.advance(self._trace, self._now)
        if ended is not None:
            self._call = ("next",)
        if ended == "errand":
            self.stop()
            events += self._news
            self._news = []
        if self._watch is None or self.plan is None or self.ordered or self._now < self._retreat:
            return
        wrong = self._watch.wrong(self._trace, self._now)
        if wrong is None:
            return
        rules, tries = self._watch.rules, self._watch.again(self._trace, self._now)
        events.append(wrong)
        if tries > rules.tries:
            self.gave_up = f"{wrong} at '{self.plan.subtask}', {rules.tries} times tried again"
            events.append(f"gave up: {self.gave_up}")
            return
        events.append("backs off")
        self._anew("recovery", drop=False)
        self._refused = self._watch.refused if tries > 1 else ()
        self._swung = bool(self._refused) or wrong != "stalled"
        ticks = math.ceil(rules.retreat * self.clock.rate)
        self._retreat = self._watch.begun = self._now + ticks
        if rules.home is None:
            back = recovery.way_back(self._trace, ticks, self.rest == "last")
            self._hand.begin(ActionChunk(back, "back off"), passed=self._hand.done)
            self._due = dict.fromkeys(self._lanes, self._retreat)

    def _calls(self) -> tuple[str, ...]:
        """What speaks for a plan now."""
        if self._call or self.plan is None or self.said is None or self._done_looks == 1:
            return self._call or ("again",)
        return why(self.replan, Moment(self._now, self._trace, self._asked, self.said))

    def hold(self) -> np.ndarray:
        """The action that holds still, the gripper as it is."""
        if self._hand.last is not None or self.rest == "last":
            return self._hand.hold(0)
        acts = self.pair.controller if hasattr(self.pair.controller, "action_dim") else self.policy
        return self._hand.hold(acts.action_dim)
