"""The controller of a π network: a subtask is read as text, a chunk of actions flows out of noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from backbone.engine import Engine
from backbone.errors import UserError
from backbone.inference import Run
from backbone.inputs import together
from backbone.observation import Observation
from backbone.reader import Reader
from lowlevel.sampled import SampledController


class PromptedController(SampledController):
    """Where the subtask goes is the layout's choice: into a segment of its own (π0.7), behind the prompt as
    if the network had written it (π0.5, π0.6 with a planner), or into the prompt in the task's place.
    """

    def __init__(self, engine: Engine, reader: Reader, action_dim: int, seed: int = 0):
        if engine.network.preset.expert is None:
            raise UserError(f"controller: '{engine.network.preset.name}' makes no actions")
        super().__init__(engine, action_dim, seed)
        self.reader, self.words = reader, reader.words
        self.told = next((s for s in reader.layout.segments if s.name == "response"), None)

    def read(self, run: Run, observations: Sequence[Observation], subtasks: Sequence[str]) -> None:
        inputs, told = [], len(observations) // self.copies
        for row, (look, subtask) in enumerate(zip(observations, subtasks, strict=True)):
            # With guidance the second half is never told the subtask: it is as if there were none.
            subtask = "" if self.told and row >= told else subtask
            task = look.instruction if self.told and look.instruction else subtask
            inputs.append(self.reader.inputs(look, task, subtask=subtask))
        run.read(run.layout.context, self.engine.frames.add(together(inputs)), keep=())
        if self.told and self.told.target:
            self._say(run, subtasks)

    def tell(self, run: Run, subtasks: Sequence[str], inputs: dict | None = None) -> None:
        """Nothing to do: what the planner wrote is where the expert reads it."""

    def untell(self, run: Run, half: int) -> None:
        if self.told is None:
            raise UserError("guidance: expected a network that is told a subtask apart from its task")
        if self.told.target:
            start = run.layout.start(self.told.name)
            run.valid[half:, start : start + self.told.length] = False

    def _say(self, run: Run, subtasks: Sequence[str]) -> None:
        texts = [[self.words.bos, *self.words.encode(text), self.words.eos] for text in subtasks]
        width = max(map(len, texts))
        if width > self.told.length:
            raise UserError(f"subtask: expected at most {self.told.length} tokens, got {width}")
        ids = torch.tensor([text + [0] * (width - len(text)) for text in texts], device=self.network.device)
        lengths = torch.tensor([len(text) for text in texts], device=self.network.device)
        run.open([self.told.name])
        run.write(self.told.name, ids, 0, torch.arange(width, device=ids.device) < lengths[:, None])
