"""Where keys and values go: three answers to `extend(layer, k, v) -> (keys, values) to attend to`."""

from __future__ import annotations

import torch
from torch import Tensor


class Collect:
    """Training: attend to the sequence itself and keep its keys and values for the expert."""

    def __init__(self):
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k, v (B, S, kv_heads, D)."""
        if layer < len(self.keys):  # a block that is recomputed in the backward pass
            return k, v
        self.keys.append(k)
        self.values.append(v)
        return k, v


class Beside:
    """Training the expert: the collected prefix, then its own keys and values.

    `insulated` stops the gradient at the prefix (knowledge insulation).
    """

    def __init__(self, prefix: Collect, insulated: bool):
        self.prefix, self.insulated = prefix, insulated

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.prefix.keys[layer], self.prefix.values[layer]
        if self.insulated:
            keys, values = keys.detach(), values.detach()
        return torch.cat((keys, k), 1), torch.cat((values, v), 1)


class Cache:
    """Inference: one preallocated store, every token in the slot its layout gives it, written in place.

    Writing a slot again replaces what was there: a plan re-read, an action suffix at the next denoising step.
    """

    def __init__(self, layers: int, batch: int, slots: int, kv_heads: int, dim: int, device=None, dtype=None):
        shape = (layers, batch, slots, kv_heads, dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.valid = torch.zeros(batch, slots, dtype=torch.bool, device=device)
        self._runs: list[tuple[int, int, int]] = []
        self._end = 0

    def at(self, runs: list[tuple[int, int]], end: int) -> Cache:
        """The next tokens go to these runs [(start, length), ...] of slots and see the slots before `end`."""
        self._runs, first = [], 0
        for start, length in runs:
            self._runs.append((start, first, length))
            first += length
        self._end = end
        return self

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        for start, first, length in self._runs:
            self.keys[layer, :, start : start + length] = k[:, first : first + length]
            self.values[layer, :, start : start + length] = v[:, first : first + length]
        return self.keys[layer, :, : self._end], self.values[layer, :, : self._end]
