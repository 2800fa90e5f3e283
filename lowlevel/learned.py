"""The controller of a network: reads a subtask beside wrist camera and state, makes a chunk of actions."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from backbone.engine import Engine
from backbone.inference import Run
from backbone.inputs import encode_words, observed
from backbone.observation import Observation
from backbone.tokenizer import Tokenizer
from lowlevel.sampled import SampledController


class LearnedController(SampledController):
    """Any planner's text, or a person's, will do: it is read again, never taken over as hidden states."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, seed: int = 0):
        network = engine.network
        super().__init__(engine, network.preset.action_dim, seed)
        self.tokenizer = tokenizer
        layout = network.layout.controller
        self.plan_segment = next(s for s in layout.segments if s.kind == "text")
        # What is in one block with the text, or sees it, has to be read together with it.
        plan = self.plan_segment.name
        self.context = tuple(name for name in layout.names if plan not in layout.closure((name,)))
        self.with_plan = tuple(name for name in layout.names if name not in self.context)
        self.cameras = {
            camera: (config.image_size,) * 2
            for camera, config in network.preset.cameras
            if any(s.source == f"images.{camera}" for s in layout.segments)
        }

    def read(self, run: Run, observations: Sequence[Observation], subtasks: Sequence[str]) -> None:
        for observation in observations:
            observation.check(self.cameras, self.network.preset.state_dim)
        inputs = observed(observations, self.cameras, self.network.device)
        if self.context:
            run.read(self.context, inputs, keep=())
        self.tell(run, subtasks, inputs)

    def tell(self, run: Run, subtasks: Sequence[str], inputs: dict | None = None) -> None:
        """Read the subtasks onto what was seen. inputs: of what has to be read with them."""
        length = self.plan_segment.length
        ids = [encode_words(self.tokenizer, text, length, "subtask") for text in subtasks]
        words = {self.plan_segment.source: torch.tensor(ids, device=self.network.device)}
        run.read(self.with_plan, {**(inputs or {}), **words}, keep=())

    def untell(self, run: Run, half: int) -> None:
        start = run.layout.start(self.plan_segment.name)
        run.valid[half:, start : start + self.plan_segment.length] = False
