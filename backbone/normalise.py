"""Physical units to about [-1, 1] and back, by quantiles. Part of the network, so never lost."""

from __future__ import annotations

import torch
from torch import Tensor, nn

NARROW = 1e-3  # a dimension that moves less than this is only centred: dividing would blow its noise up


class Normaliser(nn.Module):
    """q01 -> -1 and q99 -> 1 per dimension, without clipping."""

    def __init__(self, dim: int):
        super().__init__()
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
        return (self.high + self.low) / 2, torch.where(half < NARROW / 2, torch.ones_like(half), half)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) physical -> normalised, float32."""
        middle, half = self._middle_and_half()
        return (x.float() - middle) / half

    def inverse(self, x: Tensor) -> Tensor:
        middle, half = self._middle_and_half()
        return x.float() * half + middle
