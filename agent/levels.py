"""Planner and controller of one network, on one prefill: look once, write the subtask, read it, act."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from huggingface_hub import ModelHubMixin
from torch import Tensor

from agent.asks import Ask
from backbone.engine import Engine
from backbone.errors import UserError
from backbone.inference import Run
from backbone.inputs import leaves, tree
from backbone.observation import Observation
from highlevel.plan import Plan
from lowlevel.controller import ActionChunk
from lowlevel.sampling import draw


@dataclass(frozen=True)
class Look:
    """One agent's moment in a batch of several: what it sees and is told, what it remembers, its last plan,
    the actions (K, A) it has promised, where its noise comes from (the controller's by default), and what its
    last chunk had behind the promised actions, (M, A).
    """

    observation: Observation
    memory: str = ""
    previous: Plan | None = None
    committed: np.ndarray | None = None
    generator: torch.Generator | None = None
    leftover: np.ndarray | None = None


class Levels(ModelHubMixin):
    """What every policy of ours is: `planner` and `controller` can be used, and replaced, one by one.
    Observations leave nothing behind.

    A network may lack either: without a planner it acts on the instruction itself. `save_pretrained` and
    `push_to_hub` are Hugging Face's.
    """

    def __init__(self, engine: Engine, planner, controller):
        self.engine, self.planner, self.controller = engine, planner, controller
        self.network = engine.network.eval()

    @property
    def horizon(self) -> int:
        return self.network.preset.horizon

    @property
    def action_dim(self) -> int:
        return self._there(self.controller, "controller", "makes actions").action_dim

    def prepare(self, how: str = "eager") -> None:
        """Run "eager" (the readable reference), "compiled" or as CUDA "graphs"; see backbone/engine.py."""
        self.engine.prepare(how)

    def renew(self) -> None:
        """A look that was given up may still be under way: the next one gets stores of its own."""
        self.engine.forget()

    def reset(self, seed: int = 0) -> None:
        """Start the controller's noise anew."""
        if self.controller is not None:
            self.controller.reset(seed)

    def plan(self, observation: Observation, memory: str = "", previous: Plan | None = None) -> Plan:
        planner = self._there(self.planner, "planner", "writes plans")
        return planner.plan(observation, observation.instruction, memory, previous)

    def act(
        self, observation: Observation, subtask: str, committed: np.ndarray | None = None, **more
    ) -> ActionChunk:
        """See the controller's own."""
        controller = self._there(self.controller, "controller", "makes actions")
        return controller.act(observation, subtask, committed, **more)

    def step(
        self,
        observation: Observation,
        memory: str = "",
        previous: Plan | None = None,
        committed: np.ndarray | None = None,
        leftover: np.ndarray | None = None,
    ) -> tuple[Plan, ActionChunk]:
        """Plan, then act on that plan; cameras, state and words are encoded once for both."""
        return self.step_batch([Look(observation, memory, previous, committed, leftover=leftover)])[0]

    def step_batch(self, looks: Sequence[Look]) -> list[tuple[Plan, ActionChunk]]:
        """The same for several agents in one pass; each gets what it would get alone."""
        if not looks:
            return []
        self._there(self.controller, "controller", "makes actions")
        with self.engine.quietly():
            return self._step(looks)

    def plan_batch(self, looks: Sequence[Look]) -> list[Plan]:
        """`plan` for several agents in one pass."""
        planner = self._there(self.planner, "planner", "writes plans")
        with self.engine.quietly():
            run, seen = self.engine.look(len(looks)), [look.observation for look in looks]
            return planner.plan_on(
                run, seen, [look.memory for look in looks], [look.previous for look in looks]
            )

    def act_batch(self, looks: Sequence[Look], subtasks: Sequence[str]) -> list[ActionChunk]:
        """`act` for several agents in one pass."""
        controller = self._there(self.controller, "controller", "makes actions")
        started, copies = time.perf_counter(), controller.copies
        seen, kept = [look.observation for look in looks], [look.committed for look in looks]
        with self.engine.quietly():
            run = controller.look(len(looks))
            controller.read(run, seen * copies, list(subtasks) * copies)
            noise = [look.generator for look in looks]
            left = [look.leftover for look in looks]
            return controller.act_on(run, seen, list(subtasks), kept, noise, started, left)

    def ask(self, what: str, *look, subtask: str = "", **more) -> Ask:
        """A question for `asks`: "step", "plan" or "act" on this look, alone or with others'. Of the actions
        that are promised no more are kept than the network was trained with, unless chunks are guided.
        """
        sampling = getattr(self.controller, "sampling", None)
        most = 0 if sampling is not None and sampling.prefix else self.network.preset.trained_delay
        if most and more.get("committed") is not None:
            more["committed"] = more["committed"][:most]

        def together(asks: Sequence[Ask], size: int) -> list:
            looks, texts = (list(column) for column in zip(*(ask.content for ask in asks), strict=True))
            spare = size - len(looks)  # rows that nobody asked for; their noise is nobody's
            looks += [replace(looks[0], generator=torch.Generator())] * spare
            texts += [texts[0]] * spare
            answers = self.act_batch(looks, texts) if what == "act" else getattr(self, f"{what}_batch")(looks)
            return answers[: len(asks)]

        content = Look(*look, **more), subtask
        ask = Ask(lambda: together([ask], 1)[0], together, (id(self), what), content, self.renew)
        return ask

    def noise(self, seed: int) -> torch.Generator:
        """What an agent's chunks are drawn from: the same seed and observations give the same actions."""
        return torch.Generator().manual_seed(seed)

    def _step(self, looks: Sequence[Look]) -> list[tuple[Plan, ActionChunk]]:
        controller = self.controller
        started, run, copies = time.perf_counter(), controller.look(len(looks)), controller.copies
        seen, kept = [look.observation for look in looks], [look.committed for look in looks]
        noise = [look.generator for look in looks]
        if self.planner is None:
            texts = [observation.instruction for observation in seen]
            plans = [
                Plan(t, memory=x.memory, origin="instruction") for t, x in zip(texts, looks, strict=True)
            ]
            controller.read(run, seen * copies, texts * copies)
        else:
            memories, before = [look.memory for look in looks], [look.previous for look in looks]
            if self.engine.whole_ticks and copies == 1 and self.planner.read_as_written and all(before):
                return self._tick(run, looks)
            plans = self.planner.plan_on(run, seen * copies, memories * copies, before * copies)
            controller.tell(run, [plan.text for plan in plans])
            plans, started = plans[: len(looks)], time.perf_counter()
        texts = [plan.text for plan in plans]
        left = [look.leftover for look in looks]
        return list(zip(plans, controller.act_on(run, seen, texts, kept, noise, started, left), strict=True))

    def _tick(self, run: Run, looks: Sequence[Look]) -> list[tuple[Plan, ActionChunk]]:
        """All of it as one step of work, for networks whose controller reads what the planner wrote: the last
        plans are taken to hold, and the chunks are drawn on them. Where one does not, only what follows from
        it is done again.
        """
        planner, controller, started = self.planner, self.controller, time.perf_counter()
        seen, memories = [look.observation for look in looks], [look.memory for look in looks]
        committed = [look.committed for look in looks]
        writing, inputs = planner.begin(run, seen, memories, [look.previous for look in looks])
        noise = controller.noise([look.generator for look in looks])
        promised = controller.promised(run, committed, [look.leftover for look in looks])
        keys, tensors = leaves(run.whole(inputs))

        def work(ids: Tensor, slots: Tensor, noise: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
            promised, tensors = rest[: len(rest) - len(keys)], rest[len(rest) - len(keys) :]
            run.read(run.layout.context, tree(keys, tensors), keep=())
            said = run.predict(ids, slots, writing.alphabet.never)
            return *said, draw(run, controller.modulation, noise, controller.sampling, promised)

        name = "tick", keys, len(promised), controller.sampling
        fed = writing.feed(whole=True)
        *said, drawn = run.replayed(name, work, (*fed, noise, *promised, *tensors))
        writing.take(*said)
        held = writing.done
        plans = planner.plans(writing.finish(), memories, time.perf_counter() - started)
        if not held:
            drawn = draw(run, controller.modulation, noise, controller.sampling, promised)
        texts = [plan.text for plan in plans]
        return list(zip(plans, controller.chunks(drawn, seen, texts, committed, started), strict=True))

    def _there(self, level, name: str, does: str):
        if level is None:
            got = self.network.preset.name
            raise UserError(f"{name}: expected a network that {does}, got '{got}', which has none")
        return level
