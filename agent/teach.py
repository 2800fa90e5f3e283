"""A person who teaches: takes the arm over while the agent works, shows how it goes, hands it back.

`Taught` stands in the agent's place in every loop that runs one. While the person drives, actions are those
of the teleop (see `agent.teleop`), through the safety layer as any other; the agent thinks nothing, and what
it was thinking no longer counts. Handed back it looks anew at once, with its memory and its instruction.

What a person types meanwhile says what the frames show, for who learns from them (docs/teaching.md):
"subtask: pick up the red block" (also "at 40% 62%", across and down) until another one or "subtask:", and
"memory: pressed red", which the agent keeps. "take over" and "hand back" are words too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from agent.asks import Asking, run_alone
from agent.loop import Agent
from agent.step import Step
from agent.talk import pointed
from agent.teleop import Reader, Teleop, close, connect, numbers, said
from backbone.errors import UserError
from backbone.observation import Observation
from highlevel.plan import DONE, Plan, Target, parse_plan_text
from lowlevel.controller import ActionChunk

_TYPED = re.compile(r"(subtask|memory) ?:(.*)", re.IGNORECASE | re.DOTALL)
TAKE, GIVE = ("take over", "my turn"), ("hand back", "your turn")


class Taught:
    """agent: who drives otherwise. names: the robot's numbers of an action, in order; by default those that
    the teleop says it has. called: the teleop's name for some of them, where it is another; ours: its numbers
    (A,) in the robot's units, where they are in others.

    driving: the person drives from the start of every episode, and until handed back. moves: takes over when
    a number of the teleop has gone so far from where it was let go; None only when told (`take_over`). rests:
    seconds without a move after which it is handed back; None only when told.

    A context manager: connects the teleop, and disconnects it. A teleop that fails or gives nothing: the arm
    holds still, and an event says why. What is asked of it and not found here is the agent's.
    """

    def __init__(
        self,
        agent: Agent,
        teleop: Teleop,
        names: Sequence[str] = (),
        called: Mapping[str, str] | None = None,
        ours: Callable[[np.ndarray], np.ndarray] | None = None,
        driving: bool = False,
        moves: float | None = None,
        rests: float | None = None,
    ):
        self.agent, self.teleop = agent, teleop
        self.names = tuple(names) or names_of(teleop)
        self.called, self.ours, self.moves, self.rests = dict(called or {}), ours, moves, rests
        self._live = agent.clock.beside is not None
        waits = self._live and not getattr(teleop, "instant", False)
        self._device: Teleop = Reader(teleop, agent.clock.rate) if waits else teleop
        self._first = driving
        self._forget()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.agent, name)

    def __enter__(self) -> Taught:
        self._device.connect() if isinstance(self._device, Reader) else connect(self._device)
        return self

    def __exit__(self, *_: object) -> None:
        close(self._device)

    def reset(self, instruction: str, seed: int = 0) -> None:
        """As the agent's; the arm is the person's where they drive from the start."""
        self.agent.reset(instruction, seed)
        self._forget()

    def _forget(self) -> None:
        self.driving = False
        self._wish: bool | None = True if self._first else None  # what the person wants from the next tick on
        self._words, self._target = "", None
        self._failing = False
        self._let_go: np.ndarray | None = None  # where the teleop was then
        self._before: np.ndarray | None = None  # where it was in the last tick
        self._resting = 0  # ticks

    # -- what a person may do

    def take_over(self) -> None:
        """From the next tick on."""
        self._wish = None if self.driving else True

    def hand_back(self) -> None:
        """From the next tick on the agent drives. UserError where there is no policy to do so."""
        if isinstance(self.agent.controller, Nobody):
            raise UserError("hand back: expected a policy to go on, got none")
        self._wish = False if self.driving else None

    @property
    def drives(self) -> bool:
        """Whether the person will drive in the next tick."""
        return self.driving if self._wish is None else self._wish

    def say(self, text: str) -> str:
        """As the agent's, and the words that are for who teaches."""
        plain = " ".join(text.lower().split()).rstrip(".!")
        if plain in TAKE or plain in GIVE:
            self.take_over() if plain in TAKE else self.hand_back()
            return TAKE[0] if plain in TAKE else GIVE[0]
        if self.drives and hasattr(self.teleop, "obey") and self.teleop.obey(plain):
            return plain
        typed = _TYPED.fullmatch(text.strip())
        if typed and typed[1].lower() == "memory":
            self.agent.memory = " ".join(typed[2].split())
            return f"memory: {self.agent.memory}"
        if typed and self.drives:
            words, target = parse_plan_text(pointed(" ".join(typed[2].split())))
            if target is not None and not words:
                raise UserError(f"subtask: expected words with the location, got '{text}'")
            self._words, self._target = words, target
            if self.agent.ordered:  # what it was told before the person took over
                self.agent.order(None)
            return f"shows: {words}" if words else "shows no subtask"
        return self.agent.say(text)

    # -- one tick

    @property
    def needs_observation(self) -> bool:
        """As the agent's; a loop in real time looks on while the person drives."""
        if self.drives:
            return self._live or self.agent._past is not None
        return self.driving or self.agent.needs_observation

    @property
    def done(self) -> bool:
        return not self.driving and self.agent.done

    def step(self, observation: Observation | Mapping | None = None) -> Step:
        return run_alone(self.stepping(observation))

    def stepping(self, observation: Observation | Mapping | None = None) -> Asking[Step]:
        """As the agent's."""
        if self.moves is not None and not self.driving and self._wish is None:
            self._watch()
        events = self._turn()
        if self.driving:
            return self._drive(observation, events)
        step = yield from self.agent.stepping(observation)
        return replace(step, events=(*events, *step.events)) if events else step

    def _turn(self) -> list[str]:
        """Whose turn it is from now on."""
        wish, self._wish = self._wish, None
        if wish is None or wish == self.driving:
            return []
        self.driving, self._failing, self._resting = wish, False, 0
        if not wish:
            self._words, self._target = "", None
            self._let_go = self._before
            self.agent.look_again("handed back", drop=True)
            return ["handed back"]
        order = self.agent.present_order
        if order is not None:  # what the person ordered is what they show
            self._words, self._target = order.subtask, order.target
        self.agent.look_again("taken over", drop=True)
        if hasattr(self.teleop, "begin"):
            self.teleop.begin(self.agent.last_action)
        return ["taken over"]

    def _drive(self, observation: Observation | Mapping | None, events: list[str]) -> Step:
        try:
            action: np.ndarray | None = self._reading()
        except Exception as error:  # a device that somebody else wrote: anything
            if not self._live and self.agent.rest == "last" and self.agent.last_action is None:
                raise UserError(f"teleop: expected where to hold the arm, got: {said(error)}") from error
            events += [] if self._failing else [f"teleop failed: {said(error)}"]
            events.append("held")
            self._failing, self._resting = True, 0
            action = None if self._live else self.agent.hold()
        else:
            events += ["teleop back"] if self._failing else []
            self._failing = False
            self._tire(action)
        self.agent.moved(action, observation)
        target: Target | None = self._target
        plan = Plan(self._words, target, self.agent.memory, self._words == DONE, origin="person")
        return Step(action, plan.text, plan, tuple(events), revision=self.agent.revision, person=True)

    def _reading(self) -> np.ndarray:
        found = numbers(self._device.get_action(), self.names, self.called)
        return found if self.ours is None else np.asarray(self.ours(found), np.float32)

    def _watch(self) -> None:
        """Take over if the teleop was moved."""
        try:
            here = self._reading()
        except Exception:
            return  # the agent drives: nobody needs it
        self._let_go = here if self._let_go is None else self._let_go
        self._before = here
        if np.abs(here - self._let_go).max() > self.moves:
            self._wish = True

    def _tire(self, here: np.ndarray) -> None:
        """Hand back if the teleop has rested for long enough."""
        still = self._before is not None and np.abs(here - self._before).max() <= 1e-3
        self._resting = self._resting + 1 if still else 0
        self._before = here
        alone = isinstance(self.agent.controller, Nobody)
        if self.rests is not None and not alone and self._resting >= self.rests * self.agent.clock.rate:
            self._wish = False


class Nobody:
    """In the agent's place where a person drives from start to end: it holds still."""

    blind = True

    def __init__(self, action_dim: int):
        self.action_dim = action_dim

    def act(self, observation: Observation, subtask: str, committed: np.ndarray | None = None) -> ActionChunk:
        raise UserError("expected a policy to go on, got none")


def names_of(teleop: Teleop) -> tuple[str, ...]:
    """As a LeRobot teleop tells them: {name: kind}, or {"names": {name: place}}."""
    told = getattr(teleop, "action_features", None)
    told = told.get("names", told) if isinstance(told, Mapping) else told
    if not told:
        raise UserError("teleop: expected the names of its numbers (action_features), got none")
    return tuple(told)
