"""What changes over a run: the learning rate, and the averaged weights that are kept in the end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def learning_rate(
    kind: str, step: int, progress: float, warmup: int, decay: float = 0.25, floor: float = 0.02
) -> float:
    """The factor on the peak rate. progress: share of the run that is over, in [0, 1].

    "cosine" falls from the peak over the whole run. "stable" stays at the peak and falls in the last
    `decay` of the run: the choice where the length may still change, or more data comes.
    """
    warm = min(1.0, (step + 1) / max(1, warmup))
    progress = min(1.0, max(0.0, progress))
    if kind == "cosine":
        shape = 0.5 * (1 + math.cos(math.pi * progress))
    else:
        shape = min(1.0, (1 - progress) / decay)
    return warm * (floor + (1 - floor) * shape)


class Average:
    """Exponential moving average of parameters, in float32. Early on it forgets faster: (1 + n) / (10 +
    n).
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float):
        self.decay, self.updates = decay, 0
        self.parameters = list(parameters)
        self.shadow = [p.detach().clone().float() for p in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        torch._foreach_lerp_(self.shadow, self.parameters, 1 - decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """The averaged weights in the network, within the block."""
        kept = [p.detach().clone() for p in self.parameters]
        self._copy(self.shadow)
        try:
            yield
        finally:
            self._copy(kept)

    @torch.no_grad()
    def _copy(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)

    def state_dict(self) -> dict:
        return {"updates": self.updates, "shadow": self.shadow}

    def load_state_dict(self, state: dict) -> None:
        self.updates = state["updates"]
        for mine, theirs in zip(self.shadow, state["shadow"], strict=True):
            mine.copy_(theirs)
