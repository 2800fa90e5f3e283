"""Physical units to about [-1, 1] and back, by quantiles. Part of the network, so never lost."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SMALLEST = 1e-6  # is added to every range, as openpi does


class Normaliser(nn.Module):
    """q01 -> -1 and q99 -> 1 per dimension, without clipping.

    narrow: a dimension that moves less than this is only centred, as dividing would blow its noise up. 0 for
    networks that were trained without such a rule (the published ones): a dimension that never moves is -1.
    """

    def __init__(self, dim: int, narrow: float = 1e-3):
        super().__init__()
        self.narrow = narrow
        self.register_buffer("low", -torch.ones(dim))
        self.register_buffer("high", torch.ones(dim))

    def set_quantiles(self, q01, q99) -> None:
        """q01, q99 (D,) in physical units."""
        for buffer, value in ((self.low, q01), (self.high, q99)):
            value = torch.as_tensor(value, dtype=torch.float32)
            if value.shape != buffer.shape or not value.isfinite().all():
                raise ValueError(
                    f"quantiles: expected {buffer.shape[0]} finite numbers, got {value.tolist()}"
                )
            buffer.copy_(value)

    def _middle_and_half(self) -> tuple[Tensor, Tensor]:
        half = (self.high - self.low) / 2
        return (self.high + self.low) / 2, torch.where(half < self.narrow / 2, torch.ones_like(half), half)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) physical -> normalised, float32."""
        if not self.narrow:
            return (x.float() - self.low) / (self.high - self.low + SMALLEST) * 2 - 1
        middle, half = self._middle_and_half()
        return (x.float() - middle) / half

    def inverse(self, x: Tensor) -> Tensor:
        if not self.narrow:
            return (x.float() + 1) / 2 * (self.high - self.low + SMALLEST) + self.low
        middle, half = self._middle_and_half()
        return x.float() * half + middle
