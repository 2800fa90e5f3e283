"""The half of an agent that heeds: what a person says or orders, and what happened without it."""

from __future__ import annotations

from agent import orders, talk
from agent.looking import Looking
from agent.orders import Orders
from agent.recovery import Watch
from backbone.errors import UserError
from highlevel.plan import Plan
from highlevel.planner import Planner


class Heeding(Looking):
    """instruction: in force. stopped: told to hold still. gave_up: why, if it did."""

    instruction: str | None
    planner: str | Planner
    stopped: bool
    gave_up: str | None
    _news: list[str]

    def say(self, text: str) -> str:
        """Anything a person says while it runs (see `agent.talk`) -> what was understood. A new instruction
        is in force from the next tick on; the old plan is dropped. UserError if it cannot be obeyed.
        """
        if self.instruction is None:
            raise UserError("agent: expected reset(instruction) before say(text)")
        parts = self._trace.parts
        said = talk.understand(text, self.instruction, parts[-1].subtask if parts else "")
        if said.kind == "instruction":
            self.instruction = self._checked(said.text)
            self._orders = Orders()  # it is about something else
            self._anew("correction")
            self._news.append("corrected")
            return self.instruction
        if said.kind == "order":
            self.order(said.text or None)
            return f"subtask: {said.text}" if said.text else "the planner plans again"
        if said.kind in ("slower", "faster"):
            self._news.append(f"pace {self._hand.change_pace(said.kind == 'faster'):g}")
            self._due = dict.fromkeys(self._lanes, self._now)  # a chunk lasts shorter or longer now
        elif said.kind == "put back":
            way = orders.way_to_put_back(self._plans, self._hand.closed)
            self._orders.errand(way, self._now)
            self._anew("ordered")
            self._news.append("ordered")
            if not way:
                self.stop()
        elif said.kind == "go on":
            self.go_on()
        else:
            self.stop()
        return said.kind

    def order(self, subtask: str | None) -> None:
        """A person's subtask in the planner's place, with location tokens or without (then the learned
        planner points); None gives it back. UserError if the controller cannot read it.
        """
        if self.planner == "none" and subtask:
            raise UserError("subtask: expected an agent with a planner, got one that goes by the instruction")
        if subtask and hasattr(self.policy, "check_subtask"):
            self.policy.check_subtask(subtask)
        self._orders.give(subtask, self._now)
        self._anew("ordered" if subtask else "given back")
        self._news.append("ordered" if subtask else "given back")

    @property
    def ordered(self) -> bool:
        """Whether somebody else than the planner plans."""
        return bool(self._orders.left)

    @property
    def present_order(self) -> Plan | None:
        """What somebody else than the planner planned."""
        return self._orders.left[0] if self._orders.left else None

    def stop(self) -> None:
        """Hold still, and keep in mind what was being done."""
        self.stopped = True
        self._news.append("stopped")

    def go_on(self) -> None:
        """After a stop, an errand, or after it gave up."""
        self._orders.go_on()
        self._anew("go on")

    # -- what happened without it

    def look_again(self, call: str = "pause", drop: bool = False) -> None:
        """Time went by unseen: what was thought is of another moment. It holds until it has looked. drop: nor
        does the plan in force count.
        """
        if self.clock.beside is not None:
            self.clock.beside.forget()
        idle = self.stopped, self.gave_up
        self._anew(call, drop)
        if call == "pause":  # nobody said that it may go on
            self.stopped, self.gave_up = idle
        if self._watch is not None:
            self._watch.begun = self._now  # nothing could be done meanwhile

    def _anew(self, call: str, drop: bool = True) -> None:
        """What was thought before no longer counts; think at once. drop: nor do the plan in force, a retreat
        and what was tried so far.
        """
        self.revision += 1
        self.stopped, self.gave_up = False, None
        if drop:
            self._orders.let_go()
            self._hope()
        self.said, self._call = None, (call,)
        self.plan = None if drop else self.plan
        self._done_looks = 0
        self._hand.drop()
        self._due = dict.fromkeys(self._lanes, self._now)

    def _hope(self) -> None:
        """As if nothing had gone wrong so far."""
        self._retreat = 0  # until which tick the hand backs off
        self._swung = False  # between plans: the next one is kept for a while
        self._refused: tuple[str, ...] = ()  # subtasks that led nowhere
        watched = self.recovery is not None and self.planner != "none"  # an instruction may take its time
        since = max(0, len(self._trace.parts) - 1)
        self._watch = Watch(self.recovery, since, self._now) if watched else None

    def _checked(self, instruction: str) -> str:
        if not isinstance(instruction, str) or not instruction.strip():
            raise UserError(f"instruction: expected some words, got {instruction!r}")
        self.pair.check(instruction)
        return " ".join(instruction.split())
