"""What is kept of one client between its requests, and how a request is answered. All of it happens in the
event loop's thread; what takes time is asked of workers.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from agent import talk
from agent.asks import Ask
from agent.looking import DONE_LOOKS
from agent.serving.model import Served
from agent.serving.question import Question
from agent.serving.worker import drive
from agent.sound import line, sound_chunk, sound_plan
from backbone.errors import UserError
from backbone.observation import Observation
from highlevel.plan import Plan, parse_plan_text

PLANS = 16  # last ones that a client may name as `previous`
EVENTS = 16  # that nobody has heard of yet

Answer = Callable[[Ask, Question], Any]  # a coroutine: asks whoever it is for


class Session:
    """memory, plan (in force), said (the planner's last word, believed or not), order (somebody's subtask in
    the planner's place).

    An answer to what was asked before a reset, a correction or an order (an older revision) is dropped.
    """

    def __init__(self, served: Served, answer: Answer):
        self.served, self._answer = served, answer
        self.pair = served.pair()
        self._width = np.zeros(served.policy.action_dim)
        self.lock = asyncio.Lock()  # one request at a time: each goes on from what the last one left
        self.asked = 0  # requests that are under way
        self.used = time.monotonic()
        self.revision = 0
        self.thought: asyncio.Task | None = None  # of a planner apart
        self._knows = False  # whether the client has words for what openpi's protocol has none for
        self.reset(0)

    def reset(self, seed: int) -> None:
        """A new episode: nothing is kept of the last one."""
        self.pair.reset(seed)
        self.prompt = self.spoken = ""  # what the client says; what a person said instead
        self.memory, self.order, self.stopped = "", None, False
        self.plans: OrderedDict[str, Plan] = OrderedDict()
        self.events: deque[str] = deque(maxlen=EVENTS)
        self._last: tuple[np.ndarray, float] | None = None  # the last chunk, and when it was made
        self._anew()

    def close(self) -> None:
        if self.thought is not None:
            self.thought.cancel()

    @property
    def instruction(self) -> str:
        return self.spoken or self.prompt

    async def reply(self, question: Question) -> dict[str, Any]:
        """What the client is told. UserError for what cannot be done."""
        self.asked += 1
        try:
            if question.want == "plan" and question.observation is not None:  # leaves the rest as it is
                return await self._reply(question)
            async with self.lock:
                return await self._reply(question)
        finally:
            self.asked -= 1
            self.used = time.monotonic()

    # -- what is said

    async def _reply(self, question: Question) -> dict[str, Any]:
        named = (question.id, question.session, question.reset, question.say, question.memory)
        self._knows = self._knows or any(value is not None for value in named)
        if question.reset is not None:
            self.reset(question.reset)
            self.events.append("reset")
        given = question.want == "actions" and bool(question.subtask)  # the planner is not asked at all
        if not given and (question.prompt is not None or question.observation is not None):
            await self._prompted(question)
        found: dict[str, Any] = {}
        if question.say is not None:
            found["said"] = await self._say(question.say)
        if question.subtask is not None and question.want != "actions":
            await self._order(question.subtask)
        if question.observation is None:
            return found | self._news()
        said = (question.prompt if given else None) or self.instruction
        observation = question.observation.with_instruction(said)
        if self.stopped and question.want != "plan":
            self.events.append("held")
            return (
                found | self._told(self.plan, question) | {"actions": self._hold(observation)} | self._news()
            )
        if given:
            await self._readable(question.subtask, "check_subtask")
            plan, chunk = None, await self._act(observation, question.subtask, question)
            found["subtask"] = question.subtask
        else:
            plan, chunk = await self._look(observation, question)
            found |= self._told(plan, question)
        if chunk is not None:
            actions = sound_chunk(chunk, self._width).actions
            found["actions"] = np.ascontiguousarray(actions, np.float32)
            self._last = found["actions"], time.monotonic()
        return found | self._news()

    async def _prompted(self, question: Question) -> None:
        """Another prompt is another task: what was thought of the last one no longer counts. It is a
        correction where the client could have said that an episode begins; else one begins.
        """
        prompt = question.prompt if question.prompt and question.prompt.strip() else self.prompt
        prompt = " ".join((prompt or self.served.serving.prompt).split())
        if not prompt:
            raise UserError("prompt: expected some words, got none")
        if prompt != self.prompt:
            await self._readable(prompt, "check_prompt")
            if self.prompt:
                self._anew()
                self.memory = self.memory if self._knows else ""
                self.events.append("corrected" if self._knows else "reset")
            self.prompt, self.spoken = prompt, ""

    async def _say(self, text: str) -> str:
        """-> what was understood, as `agent.loop.Agent.say` tells it."""
        said = talk.understand(text, self.instruction, self.plan.subtask if self.plan else "")
        if said.kind == "instruction":
            await self._readable(said.text, "check_prompt")
            self.spoken, self.stopped, self.order = " ".join(said.text.split()), False, None
            self._anew()
            self.events.append("corrected")
            return self.spoken
        if said.kind == "order":
            await self._order(said.text)
            return f"subtask: {said.text}" if said.text else "the planner plans again"
        if said.kind in ("stop", "cancel"):
            self.stopped = True
            self.events.append("stopped")
        elif said.kind == "go on":
            self.stopped = False
            self._anew()
        else:
            raise UserError(
                f"say: expected words for the policy, got '{said.kind}', which is the robot's to do"
            )
        return said.kind

    async def _order(self, subtask: str) -> None:
        """A subtask in the planner's place, until "" gives it back."""
        words, target = parse_plan_text(subtask)
        if not words:
            if target is not None:
                raise UserError(f"subtask: expected words with the location, got '{subtask}'")
            if self.order is not None:
                self.order = None
                self._anew()
                self.events.append("given back")
            return
        if self.order is not None and (words, target) == (self.order.subtask, self.order.target):
            return
        if self.served.planner == "none":
            raise UserError("subtask: expected a server that plans, this one goes by the prompt")
        await self._readable(subtask, "check_subtask")
        self.order, self.stopped = Plan(words, target, origin="person"), False
        self._anew()
        self.events.append("ordered")

    async def _readable(self, text: str, how: str) -> None:
        """UserError where the network was never taught these words; it looks in a thread."""
        check = self.served.check_prompt if how == "check_prompt" else None
        check = check or getattr(self.served.policy, how, None)
        if check is not None:
            await self._answer(Ask(lambda: check(text), kind=("reading",)), None)

    def _anew(self) -> None:
        self.revision += 1
        self.plan: Plan | None = None
        self.said: Plan | None = None
        self._taken = 0.0  # when what the plan in force was written on was seen
        self._done_looks = 0
        if self.thought is not None:
            self.thought.cancel()
            self.thought = None

    # -- what is thought

    async def _look(self, observation: Observation, question: Question) -> tuple[Plan | None, Any]:
        """The plan for the reply, and a chunk for it where one is wanted."""
        if question.want == "actions":
            if self.plan is None:
                raise UserError("request: expected `subtask` with want 'actions', no plan is in force")
            return self.plan, await self._act(observation, self.plan.text, question)
        if self.order is not None:
            return await self._ordered(observation, question)
        if self.served.apart and question.want == "both":
            return await self._beside(observation, question)
        if self.served.apart and question.whole is not None:
            shown = question.whole.with_instruction(self.instruction)
        else:
            shown = observation
        memory = self.memory if question.memory is None else question.memory
        before = self.said if question.previous is None else self.plans.get(question.previous)
        revision, garbled = self.revision, None
        try:
            said, chunk = await self._write(shown, memory, before, question)
            self._remember(said)
        except UserError as error:
            if question.stateless or self.plan is None:
                raise
            garbled, said, chunk = error, None, None
        if question.stateless:
            if chunk is None and question.want == "both":
                chunk = await self._act(observation, said.text, question)
            if question.want == "both" and revision == self.revision:
                self.plan = self.said = said
                self._taken, self.memory = question.born, said.memory
            return said, chunk
        if garbled is not None:
            self.events.append(f"planner garbled: {line(garbled)}")
            self.said = replace(self.said, tokens=()) if self.said else None  # perhaps because of it
        else:
            self._believe(said, question.born)
        if chunk is None or self.plan is not said:
            chunk = await self._act(observation, self.plan.text, question)
        return self.plan, chunk

    async def _write(self, observation: Observation, memory: str, before: Plan | None, question: Question):
        """The planner's words, and the chunk for them where both come from one look."""
        if question.refused:
            asking = self.pair.otherwise(observation, memory, before, question.refused, [])
            return await drive(asking, lambda ask: self._answer(ask, question)), None
        if question.want == "plan" and self.pair.joint:
            ask = self.served.policy.ask("plan", observation, memory, before)
            return sound_plan(await self._answer(ask, question)), None
        writing = self.pair.write(observation, memory, before, (question.committed, None), [])
        return await drive(writing, lambda ask: self._answer(ask, question))

    async def _ordered(self, observation: Observation, question: Question) -> tuple[Plan, Any]:
        """The order, pointed at by the planner where nobody did."""
        memory = self.memory if question.memory is None else question.memory
        given = observation, memory, self.said, self.order
        asking = self.pair.ground(*given, [])
        plan, said = await drive(asking, lambda ask: self._answer(ask, question))
        if said is not None:
            self._remember(said)
            self.said, self.memory = said, said.memory
        plan = replace(plan, memory=self.memory)
        self.plan, self._taken, self._done_looks = plan, question.born, 0
        if question.want == "plan":
            return plan, None
        return plan, await self._act(observation, plan.text, question)

    async def _beside(self, observation: Observation, question: Question) -> tuple[Plan, Any]:
        """A planner apart thinks beside: it is waited for only where there is no plan yet."""
        if self.thought is None or self.thought.done():
            whole = (question.whole or observation).with_instruction(self.instruction)
            self.memory = self.memory if question.memory is None else question.memory
            self.thought = asyncio.create_task(self._think(whole, self.revision, question))
        if self.plan is None:
            await asyncio.wait([self.thought])
        if self.plan is None:
            raise UserError(self.events.pop() if self.events else "planner: expected a plan, got none")
        return self.plan, await self._act(observation, self.plan.text, question)

    async def _think(self, observation: Observation, revision: int, question: Question) -> None:
        """One plan of a planner apart, believed unless something else was asked for meanwhile."""
        given = observation, self.memory, self.said, (None, None), []
        patient = replace(question, id=None, passes=[])  # nobody waits for it in vain
        try:
            said, _ = await drive(self.pair.write(*given), lambda ask: self._answer(ask, patient))
        except Exception as error:
            if revision == self.revision:
                self.events.append(f"planner failed: {line(error)}")
            return
        if revision == self.revision and said.subtask.strip():
            self._remember(said)
            self._believe(said, question.born)
        elif revision == self.revision:
            self.events.append("planner garbled: no subtask")

    def _believe(self, said: Plan, seen: float) -> None:
        """Take a plan, as the loop does: a "done" that is said once leaves what was being done."""
        self.said = said
        if not said.subtask.strip():
            self.events.append("planner garbled: no subtask")
            if self.plan is None:
                raise UserError("planner garbled: no subtask")
            return
        self.memory = said.memory
        self._done_looks = self._done_looks + 1 if said.done else 0
        if said.done and self._done_looks < DONE_LOOKS and self.plan is not None:
            return
        self.events.append("planned" if self.plan and self.plan.subtask == said.subtask else "replanned")
        self.plan, self._taken = said, seen

    def _remember(self, said: Plan) -> None:
        self.plans[said.text] = said
        self.plans.move_to_end(said.text)
        while len(self.plans) > PLANS:
            self.plans.popitem(last=False)

    async def _act(self, observation: Observation, subtask: str, question: Question):
        asking = self.pair.act(observation, subtask, (question.committed, None), [])
        return await drive(asking, lambda ask: self._answer(ask, question))

    # -- what is told

    def _told(self, plan: Plan | None, question: Question) -> dict[str, Any]:
        if plan is None:
            return {}
        old = max(0.0, question.born - self._taken) if plan is self.plan else 0.0
        done = plan.done if question.stateless else self._done_looks >= DONE_LOOKS
        return {
            "subtask": plan.text,
            "memory": plan.memory,
            "margin": float(plan.margin),
            "done": done,
            "origin": plan.origin,
            "plan_age_ms": 1000 * old,
        }

    def _news(self) -> dict[str, Any]:
        events = list(self.events)
        self.events.clear()
        return {"events": events}

    def _hold(self, observation: Observation) -> np.ndarray:
        """(H, A) that hold still: the gripper keeps what it was told last, as far as is known."""
        horizon, size = self.served.policy.horizon, self.served.policy.action_dim
        last = None
        if self._last is not None:
            actions, made = self._last
            ticks = int((time.monotonic() - made) * self.served.serving.rate)
            last = actions[min(ticks, len(actions) - 1)]
        if self.served.format.rest == "last":
            row = observation.state[:size] if last is None else last
        else:
            row = np.zeros(size, np.float32)
            row[-1] = 0.0 if last is None else last[-1]
        held = np.tile(np.asarray(row, np.float32), (horizon, 1))
        self._last = (held, time.monotonic()) if last is not None else None
        return held
