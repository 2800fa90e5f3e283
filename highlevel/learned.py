"""The planner of a network: reads what it sees and is told, writes memory, scene, subtask and place."""

from __future__ import annotations

import time

import torch

from backbone.errors import UserError
from backbone.inference import Run, encode_words, observed
from backbone.network import Network
from backbone.observation import Observation
from backbone.pointer import read_out
from backbone.tokenizer import POINT, SCENE, SUBTASK, Tokenizer
from highlevel.decoding import Decoded, decode
from highlevel.plan import DONE, Plan, Target

NO_MEMORY = "nothing"  # how an empty memory is written


class LearnedPlanner:
    def __init__(self, network: Network, tokenizer: Tokenizer):
        self.network, self.tokenizer = network, tokenizer
        layout = network.layout.planner
        self.segment = next(s.name for s in layout.segments if s.target)
        self.context = tuple(name for name in layout.names if name != self.segment)
        self.lengths = {s.source: s.length for s in layout.segments if s.kind == "text"}
        self.cameras = {name: (config.image_size,) * 2 for name, config in network.preset.cameras}

    def plan(
        self, observation: Observation, instruction: str = "", memory: str = "", previous: Plan | None = None
    ) -> Plan:
        """The next plan. `previous`, if it was this network's, is confirmed rather than written again."""
        return self.plan_on(Run(self.network), observation, instruction, memory, previous)

    @torch.inference_mode()
    def plan_on(
        self, run: Run, observation: Observation, instruction: str, memory: str, previous: Plan | None
    ) -> Plan:
        """The same, leaving what was read in `run` for the controller."""
        started = time.perf_counter()
        run.read(self.context, self.inputs(observation, instruction or observation.instruction, memory))
        decoded = decode(run, self.segment, previous.tokens if previous is not None else ())
        return self._plan(run, decoded, started)

    def inputs(self, observation: Observation, instruction: str, memory: str) -> dict:
        """Everything the planner reads, as a batch of one; UserError says what does not fit."""
        observation.check(self.cameras, self.network.preset.state_dim)
        if not instruction.strip():
            raise UserError("instruction: expected some words, got nothing")
        device, texts = self.network.device, {"instruction": instruction, "memory": memory or NO_MEMORY}
        found = observed(observation, self.cameras, device)
        for what, text in texts.items():
            ids = encode_words(self.tokenizer, text, self.lengths[f"{what}_ids"], what)
            found[f"{what}_ids"] = torch.tensor([ids], device=device)
        return found

    def _plan(self, run: Run, decoded: Decoded, started: float) -> Plan:
        tokens, target = decoded.tokens, None
        split = tokens.index(SUBTASK) if SUBTASK in tokens else len(tokens)
        scene = tokens.index(SCENE) if SCENE in tokens[:split] else split
        memory = self.tokenizer.decode(tokens[1:scene][: self.lengths["memory_ids"]])  # readable next time
        subtask = self.tokenizer.decode(tokens[split + 1 :])
        if tokens[-1] == POINT and self.network.preset.pointer:
            target = self._target(run, decoded.query)
        return Plan(
            subtask=subtask,
            target=target,
            memory=memory,
            scene=self.tokenizer.decode(tokens[scene + 1 : split]),
            done=subtask == DONE,
            margin=decoded.margin if decoded.finished else 0.0,
            origin="confirmed" if decoded.confirmed else "decoded",
            tokens=tokens,
            seconds=time.perf_counter() - started,
        )

    def _target(self, run: Run, query: torch.Tensor) -> Target:
        camera = self.network.preset.pointer
        image = next(s.name for s in run.layout.segments if s.source == f"images.{camera}")
        y, x = read_out(self.network.pointer(run.fine[camera], run.hidden[image], query))[0].tolist()
        return Target(y, x, camera)
