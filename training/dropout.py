"""Optional inputs that are left out in training, so that a network does without them when it has to.

Probabilities are OpenTau's for π0.7. Every draw is a sample's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Dropout:
    """history: the past of pictures and state. subgoal: all pictures of what it should look like. response:
    the subtask, only where there is a subgoal (told nothing at all, a controller could only guess).
    metadata_all, metadata_each: everything said of how and with what, or each field by itself; fps stays.
    """

    history: float = 0.3
    subgoal: float = 0.75
    response: float = 0.3
    metadata_all: float = 0.15
    metadata_each: float = 0.05

    def fields(self, metadata: Mapping[str, object], rng: np.random.Generator) -> dict[str, object]:
        """What is left of one sample's metadata."""
        all_gone = rng.random() < self.metadata_all
        kept = {name: not all_gone and rng.random() >= self.metadata_each for name in sorted(metadata)}
        return {name: value for name, value in metadata.items() if kept[name] or name == "fps"}

    def batch(self, inputs: Mapping, generator: torch.Generator) -> dict:
        """A batch of a prefix's inputs (backbone/prefix.py) with some of it gone, as a copy."""
        out = {**inputs, "there": dict(inputs.get("there", {})), "history": dict(inputs.get("history", {}))}
        size = next(iter(inputs["images"].values())).shape[0]

        def draw(probability: float) -> Tensor:
            return torch.rand(size, generator=generator) < probability

        gone = draw(self.history)
        for name, real in out["history"].items():
            kept = real & ~gone.to(real.device)[:, None]
            kept[:, -1] = real[:, -1]
            out["history"][name] = kept
        dropped, subgoal = draw(self.subgoal), torch.zeros(size, dtype=torch.bool)
        for camera in inputs.get("subgoals", {}):
            name = f"subgoals.{camera}"
            there = out["there"].get(name, torch.ones(size, dtype=torch.bool)) & ~dropped
            out["there"][name] = there
            subgoal |= there
        silent = draw(self.response) & subgoal
        if "response_ids" in inputs and silent.any():
            there = out["there"].get("response")
            there = inputs["response_ids"] != 0 if there is None else there
            out["there"]["response"] = there & ~(silent if there.dim() == 1 else silent[:, None])
        return out
