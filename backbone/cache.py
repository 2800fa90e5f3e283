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
    """Inference: one preallocated store, written in place; what a place held before is overwritten.

    keys, values (layers, B, places, kv_heads, D).
    """

    def __init__(
        self, layers: int, batch: int, places: int, kv_heads: int, dim: int, device=None, dtype=None
    ):
        shape = (layers, batch, places, kv_heads, dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self._first = torch.arange(batch, device=device)[:, None] * places  # of each sample, all in a row
        self._rows = self._first[:, 0]
        self._end = 0

    def at(self, places: Tensor, end: int) -> Cache:
        """The next tokens go to these places, (S,) for all samples or (B, S), and see those before `end`."""
        self._rows = (self._first + places).flatten()
        self._end = end
        return self

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.keys[layer], self.values[layer]
        keys.flatten(0, 1).index_copy_(0, self._rows, k.flatten(0, 1))
        values.flatten(0, 1).index_copy_(0, self._rows, v.flatten(0, 1))
        return keys[:, : self._end], values[:, : self._end]
