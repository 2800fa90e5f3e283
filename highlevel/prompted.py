"""The planner of a π network: a prompt goes in, memory and subtask come out as text."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from backbone.engine import Engine
from backbone.errors import UserError
from backbone.inference import Run
from backbone.inputs import together
from backbone.observation import Observation
from backbone.reader import Reader
from highlevel.decoding import Alphabet, Guess, Writing, Written
from highlevel.plan import DONE, Plan, parse_plan_text


class PromptedPlanner:
    """Writes the layout's targets in turn: π0.5 and π0.6 a subtask, π0.7 the memory and then a subtask.

    heard: if set, told what is written so far, word by word, in the thread that writes.
    """

    read_as_written = True  # by the controller, from the same store
    heard: Callable[[Plan], None] | None = None

    def __init__(self, engine: Engine, reader: Reader):
        self.targets = [s.name for s in reader.layout.segments if s.target]
        if not self.targets:
            raise UserError(f"planner: '{reader.network.preset.name}' writes no text")
        self.engine, self.reader, self.network, self.words = engine, reader, reader.network, reader.words
        self.alphabet = Alphabet(self.words.bos, (self.words.eos,), self.words.pad)

    def plan(
        self, observation: Observation, instruction: str = "", memory: str = "", previous: Plan | None = None
    ) -> Plan:
        """The next plan, from what is seen, told and remembered. `previous`, if it was this network's, is
        confirmed rather than written again.
        """
        told = observation.with_instruction(instruction or observation.instruction)
        with self.engine.quietly():
            return self.plan_on(self.engine.look(), [told], [memory], [previous], read=False)[0]

    @torch.no_grad()
    def plan_on(
        self,
        run: Run,
        observations: Sequence[Observation],
        memories: Sequence[str],
        previous: Sequence[Plan | None],
        read: bool = True,
    ) -> list[Plan]:
        """The same for the samples of a run, leaving what was read and written in it for the controller (if
        it will read it).
        """
        started = time.perf_counter()
        writing, inputs = self.begin(run, observations, memories, previous)
        run.read(run.layout.context, inputs, keep=())
        return self.plans(writing.finish(read), memories, time.perf_counter() - started)

    def begin(
        self,
        run: Run,
        observations: Sequence[Observation],
        memories: Sequence[str],
        previous: Sequence[Plan | None],
    ) -> tuple[Writing, dict]:
        """What is to be read, and the texts that are to be written behind it."""
        guesses = [self.guess(plan) for plan in previous]
        heard = self.heard and (lambda texts: self.heard(self._said(texts, memories[0])))
        return Writing(run, self.alphabet, guesses, heard), self.inputs(observations, memories)

    def inputs(self, observations: Sequence[Observation], memories: Sequence[str]) -> dict:
        """Everything the planner reads, as a batch; UserError says what does not fit."""
        pairs = zip(observations, memories, strict=True)
        inputs = [self.reader.inputs(look, look.instruction, memory) for look, memory in pairs]
        return self.engine.frames.add(together(inputs))

    def guess(self, plan: Plan | None) -> Guess | None:
        """A plan's tokens, text by text: each begins with <bos>."""
        texts: list[list[int]] = []
        for token in plan.tokens if plan is not None else ():
            if token == self.words.bos:
                texts.append([])
            if texts:
                texts[-1].append(token)
        return texts or None

    def plans(self, written: Sequence[Written], memories: Sequence[str], seconds: float) -> list[Plan]:
        """The texts as plans. memories: the last ones, which stand where none is written."""
        return [self._plan(*found, seconds) for found in zip(written, memories, strict=True)]

    def _plan(self, written: Written, memory: str, seconds: float) -> Plan:
        plan = self._said(written.texts, memory)
        subtask, target = parse_plan_text(plan.subtask)
        return replace(
            plan,
            subtask=subtask,
            target=target,
            done=subtask == DONE,
            margin=written.margin if written.finished else 0.0,
            origin="confirmed" if written.confirmed else "decoded",
            tokens=tuple(token for text in written.texts for token in text),
            seconds=seconds,
        )

    def _said(self, texts: Sequence[Sequence[int]], memory: str) -> Plan:
        """The words of the texts, or of their beginnings."""
        pairs = zip(self.targets, texts, strict=False)
        said = {name: self.words.decode(list(ids[1:])) for name, ids in pairs}
        return Plan(said.get("response", ""), memory=said.get("memory", memory))
