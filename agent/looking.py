"""The half of an agent that thinks: what a look asks of the two levels, and what comes of the answers."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np

from agent.asks import Ask, Asking
from agent.clock import Clock
from agent.hand import Hand
from agent.lines import Lines
from agent.orders import Orders
from agent.pair import Pair
from agent.recovery import Recovery, Watch
from agent.sound import line, sound_chunk
from agent.step import Answer
from agent.trace import Trace
from backbone.errors import LinkError, PolicyError, UserError
from backbone.observation import Observation
from highlevel.plan import Plan

DONE_LOOKS = 2  # looks in a row that must say "done"
RETRY = 4  # ticks until the next look after one that gave no chunk


class Looking:
    """A lane is a line of looks: "both" levels one after the other, or "plan" and "chunk" side by side.

    plan: in force. said: the planner's last word, believed or not. revision: of what was asked for; an answer
    to a question of an older one is dropped.
    """

    pair: Pair
    clock: Clock
    execute: int
    recovery: Recovery | None
    revision: int
    failures: int
    _lanes: tuple[str, ...]
    _hand: Hand
    _lines: Lines
    _orders: Orders
    _trace: Trace
    _watch: Watch | None
    _retreat: int
    _refused: tuple[str, ...]
    _swung: bool

    def _forget(self) -> None:
        """As at the start of an episode."""
        self.memory = ""
        self.plan: Plan | None = None
        self.said: Plan | None = None
        self._now = 0  # ticks
        self._asked = 0  # the tick at which the planner was last asked
        self._call: tuple[str, ...] = ("start",)  # for a plan, whatever the rules say
        self._late = 0  # ticks that the last chunk took
        self._answers: list[Answer] = []  # that are not there yet
        self._due = dict.fromkeys(self._lanes, 0)  # the tick of each lane's next look
        self._done_looks = 0
        self._plans: list[Plan] = []  # that were in force

    # -- when to look

    def _busy(self, lane: str) -> bool:
        beside = self.clock.beside
        return (
            beside is not None
            and beside.busy(lane)
            or any(answer.lane == lane and answer.at > self._now for answer in self._answers)
        )

    def _looks(self, lane: str) -> bool:
        if (lane == "chunk" and self.plan is None) or (lane == "plan" and self._lines.mute):
            return False
        return self._now >= self._due[lane] and not self._busy(lane)

    def _may_look(self, lane: str) -> bool:
        """The same before it is known what comes in with this tick."""
        beside = self.clock.beside
        if beside is not None:
            if lane == "plan" and self._lines.mute:
                return False
            return self._now >= self._due[lane] and (not beside.busy(lane) or beside.ready())
        coming = any(answer.at <= self._now and answer.planned for answer in self._answers)
        return self._looks(lane) or (lane == "chunk" and coming and not self._busy(lane))

    # -- what has come of it

    def _hear(self, events: list[str]) -> Answer | None:
        """Take what is there by now; the last answer with a plan in it."""
        there = [answer for answer in self._answers if answer.at <= self._now]
        self._answers = [answer for answer in self._answers if answer.at > self._now]
        heard = None
        for answer in there:
            if answer.revision != self.revision:
                events += [f"late {answer.lane} dropped", *answer.failed]
                continue
            if answer.planned:
                heard, before = answer, self.plan
                self._believe(answer.said, answer.ordered, events)
                changed = self.plan is not None and (before is None or before.text != self.plan.text)
                if "chunk" in self._due and changed:
                    self._due["chunk"] = self._now  # at once
            if answer.chunk is not None:
                late = self._now - answer.asked
                sent = list(self._trace.sent)[-late:] if late else ()
                self._hand.begin(answer.chunk, sent, answer.used)
            events += answer.failed
        return heard

    def _believe(self, said: Plan | None, ordered: Plan | None, events: list[str]) -> None:
        if said is not None:
            self.said = said
            if not said.subtask.strip():
                events.append("planner garbled: no subtask")
                said = None
        if said is not None:
            self.memory = said.memory
            self._done_looks = self._done_looks + 1 if said.done and ordered is None else 0
        plan = self._in_force(said, ordered, self._done_looks)
        if plan is None or plan is not (ordered or said):
            return
        events.append("planned" if self.plan and self.plan.subtask == plan.subtask else "replanned")
        if plan is said and self._went_back(plan):
            events.append("went back")
        if self.plan is None or self.plan.subtask != plan.subtask:
            self._plans.append(plan)
        self.plan = plan
        if plan.origin != "recovery":
            self._trace.plan(self._now, plan)
        if self._swung and plan is said and not plan.done:
            self._swung, self._refused = False, ()
            self._watch.begun = self._now + math.ceil(self.recovery.patience * self.clock.rate)
            self._orders.keep(plan, self._now, self._watch.begun)

    def _went_back(self, plan: Plan) -> bool:
        """Whether this is a subtask that came before the one in force, though the hand is told to hold on:
        most likely what it held slipped or fell.
        """
        parts = [part.subtask for part in self._trace.parts]
        back = plan.subtask in parts and parts.index(plan.subtask) < parts.index(parts[-1])
        return back and self._hand.closed

    def _in_force(self, said: Plan | None, ordered: Plan | None, done_looks: int) -> Plan | None:
        """The plan once this is heard: a "done" that is not believed yet leaves what was being done."""
        if ordered is not None:
            return ordered
        if said is None or not said.subtask.strip():
            return self.plan
        return self.plan if said.done and done_looks < DONE_LOOKS and self.plan is not None else said

    # -- one look

    def _look(self, lane: str, observation: Observation, planning: bool) -> Asking[list[Ask]]:
        """Plan if it is time, then (not in the lane "plan") make a chunk for the plan that will be in force
        -> what was asked.
        """
        answer = Answer(lane, self._now, self._now, self.revision, self._hand.done)
        started, asked, clock = time.perf_counter(), [], self.clock
        plan = self.plan
        if planning:
            self._asked, self._call = self._now, ()
            yield from self._write(observation, answer, asked)
            plan = self._in_force(answer.said, answer.ordered, self._done_looks + 1)
            if plan is not answer.said:
                answer.chunk = None
        if lane != "plan" and plan is not None and answer.revision == self.revision:
            try:
                if answer.chunk is None:
                    answer.chunk = yield from self.pair.act(observation, plan.text, self._promised(), asked)
                answer.chunk = sound_chunk(answer.chunk, self._hand.last)
            except Exception as error:  # must not stop the arm in mid-air: the rest of the old chunk stands
                answer.chunk = None
                self._failed("controller", error, answer.failed)
        given = clock.plan if lane == "plan" else clock.chunk
        late = self._now - answer.asked if clock.beside else clock.ticks(given, sum(a.seconds for a in asked))
        answer.at, answer.seconds = answer.asked + late, time.perf_counter() - started
        answer.seconds -= sum(ask.waited for ask in asked)
        self._late = late if lane != "plan" else self._late
        if lane == "plan":
            again = self.execute if answer.planned else RETRY
        elif answer.chunk is None:
            again = RETRY
        else:  # the next one has to be there before this one is used up
            again = self._hand.ticks(min(self.execute, self._hand.lasts(answer.chunk, late)))
        if answer.revision == self.revision:
            self._due[lane] = answer.asked + max(again, late)
        self._answers.append(answer)
        return asked

    def _write(self, observation: Observation, answer: Answer, asked: list[Ask]) -> Asking[None]:
        """A plan, the planner's or somebody else's, into the answer."""
        order = self._orders.present
        given = observation, self.memory, self.said
        try:
            if self._now < self._retreat and self.recovery.home is not None:
                answer.ordered = Plan(self.recovery.home, memory=self.memory, origin="recovery")
            elif order is not None:
                answer.ordered, answer.said = yield from self.pair.ground(*given, order, asked)
                memory = self.memory if answer.said is None else answer.said.memory
                answer.ordered = replace(answer.ordered, memory=memory)
            elif self._refused:
                answer.said = yield from self.pair.otherwise(*given, self._refused, asked)
            else:
                answer.said, answer.chunk = yield from self.pair.write(*given, self._promised(), asked)
        except Exception as error:
            self._call = ("again",)
            if self.said is not None:  # perhaps because of it: the next one is written anew
                self.said = replace(self.said, tokens=())
            self._failed("planner", error, answer.failed)

    def _promised(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The actions that will be done while the controller thinks, if it is to know them, and what the
        chunk has behind them.
        """
        clock = self.clock
        late = self._late if clock.beside else clock.ticks(clock.chunk or 0.0, 0.0)
        if not clock.keep or not late:
            return None, None
        rest = self._hand.left
        return (rest[:late], rest[late:]) if len(rest) >= late else (None, None)

    def _failed(self, part: str, error: Exception, events: list[str]) -> None:
        if isinstance(error, PolicyError) and self.clock.beside is None:
            raise error
        if isinstance(error, LinkError):
            return  # told as "link down"
        if isinstance(error, UserError):  # unreadable text: the planner's fault, not the software's
            events.append(f"{part} garbled: {line(error)}")
            return
        self.failures += 1
        events.append(f"{part} failed: {line(error)}")
