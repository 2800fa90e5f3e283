"""The planner of a network: reads what it sees and is told, writes memory, scene, subtask and place."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import torch

from backbone.engine import Engine
from backbone.errors import UserError
from backbone.inference import Run
from backbone.inputs import encode_words, observed
from backbone.observation import Observation
from backbone.pointer import read_out
from backbone.tokenizer import BOS, EOS, MEMORY, PAD, POINT, SCENE, SUBTASK, UNK, Tokenizer
from highlevel.decoding import Alphabet, Written, write
from highlevel.forced import Told
from highlevel.plan import DONE, Plan, Target

NO_MEMORY = "nothing"  # how an empty memory is written
ALPHABET = Alphabet(MEMORY, (EOS, POINT), PAD, never=(PAD, UNK, BOS, MEMORY), open_end=True)


class LearnedPlanner:
    """Writes memory, scene and subtask in one text, and points into a picture.

    heard: if set, told what is written so far, word by word, in the thread that writes.
    """

    read_as_written = False  # the controller reads the plan anew, as text
    heard: Callable[[Plan], None] | None = None

    def __init__(self, engine: Engine, tokenizer: Tokenizer):
        self.engine, self.network, self.tokenizer = engine, engine.network, tokenizer
        layout = self.network.layout.planner
        self.segment = next(s.name for s in layout.segments if s.target)
        self.context = tuple(name for name in layout.names if name != self.segment)
        self.lengths = {s.source: s.length for s in layout.segments if s.kind == "text"}
        self.cameras = {name: (config.image_size,) * 2 for name, config in self.network.preset.cameras}
        self.keep = tuple(
            s.name for s in layout.segments if s.source == f"images.{self.network.preset.pointer}"
        )

    def plan(
        self, observation: Observation, instruction: str = "", memory: str = "", previous: Plan | None = None
    ) -> Plan:
        """The next plan. `previous`, if it was this network's, is confirmed rather than written again."""
        told = observation.with_instruction(instruction or observation.instruction)
        with self.engine.quietly():
            return self.plan_on(self.engine.look(), [told], [memory], [previous])[0]

    def ground(
        self, observation: Observation, instruction: str, memory: str, previous: Plan | None, subtask: str
    ) -> tuple[Target | None, Plan]:
        """Where this planner would point if it had written `subtask`, and what it did write. UserError for
        words it does not know.
        """
        unknown = self.tokenizer.unknown_words(subtask)
        if unknown:
            raise UserError(f"subtask: expected words that the planner knows, got '{unknown[0]}'")
        with self.engine.quietly():
            told = self._told(observation.with_instruction(instruction), memory, previous)
            return told.target(tuple(self.tokenizer.ids(subtask))), told.said

    def otherwise(
        self,
        observation: Observation,
        instruction: str,
        memory: str,
        previous: Plan | None,
        refused: Collection[str],
    ) -> Plan:
        """The likeliest plan with another subtask than those that are refused; the plan itself where that is
        another one, or where there is none."""
        with self.engine.quietly():
            return self._told(observation.with_instruction(instruction), memory, previous).otherwise(refused)

    def _told(self, observation: Observation, memory: str, previous: Plan | None) -> Told:
        run = self.engine.look()
        (said,) = self.plan_on(run, [observation], [memory], [previous])
        seen = self.keep[0] if self.keep else ""
        return Told(self.network, self.tokenizer, run, said, self.segment, seen)

    @torch.no_grad()
    def plan_on(
        self,
        run: Run,
        observations: Sequence[Observation],
        memories: Sequence[str],
        previous: Sequence[Plan | None],
    ) -> list[Plan]:
        """The same for the samples of a run, leaving what was read in it for the controller."""
        started = time.perf_counter()
        run.read(self.context, self.inputs(observations, memories), self.keep)
        heard = self.heard and (lambda texts: self.heard(self._said(texts[0])))
        guesses = [(p.tokens,) if p is not None and p.tokens else None for p in previous]
        written = write(run, ALPHABET, guesses, heard)
        targets = self._targets(run, written)
        seconds = time.perf_counter() - started
        return [self._plan(*found, seconds) for found in zip(written, targets, strict=True)]

    def inputs(self, observations: Sequence[Observation], memories: Sequence[str]) -> dict:
        """Everything the planner reads, as a batch; UserError says what does not fit."""
        for observation in observations:
            observation.check(self.cameras, self.network.preset.state_dim)
            if not observation.instruction.strip():
                raise UserError("instruction: expected some words, got nothing")
        device = self.network.device
        found = observed(observations, self.cameras, device)
        texts = {
            "instruction": [observation.instruction for observation in observations],
            "memory": [memory or NO_MEMORY for memory in memories],
        }
        for what, given in texts.items():
            length = self.lengths[f"{what}_ids"]
            ids = [encode_words(self.tokenizer, text, length, what) for text in given]
            found[f"{what}_ids"] = torch.tensor(ids, device=device)
        return found

    def _plan(self, written: Written, target: Target | None, seconds: float) -> Plan:
        (tokens,) = written.texts
        return replace(
            self._said(tokens),
            target=target,
            margin=written.margin if written.finished else 0.0,
            origin="confirmed" if written.confirmed else "decoded",
            tokens=tokens,
            seconds=seconds,
        )

    def _said(self, tokens: Sequence[int]) -> Plan:
        """The words of a text, or of its beginning."""
        split = tokens.index(SUBTASK) if SUBTASK in tokens else len(tokens)
        scene = tokens.index(SCENE) if SCENE in tokens[:split] else split
        memory = self.tokenizer.decode(tokens[1:scene][: self.lengths["memory_ids"]])  # readable next time
        subtask = self.tokenizer.decode(tokens[split + 1 :])
        seen = self.tokenizer.decode(tokens[scene + 1 : split])
        return Plan(subtask, memory=memory, scene=seen, done=subtask == DONE)

    def _targets(self, run: Run, written: Sequence[Written]) -> list[Target | None]:
        """Where each plan points, if it does."""
        camera = self.network.preset.pointer
        pointing = [w.texts[0][-1] == POINT for w in written]
        if not camera or not any(pointing):
            return [None] * len(written)
        query = torch.stack([w.state for w in written])
        places = read_out(self.network.pointer(run.fine[camera], run.hidden[self.keep[0]], query)).tolist()
        pairs = zip(pointing, places, strict=True)
        return [Target(y, x, camera) if points else None for points, (y, x) in pairs]
