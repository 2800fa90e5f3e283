"""Numbers and words as tokens. Numbers enter through Fourier features, so that neighbours are near."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from backbone.tokenizer import LOC_BINS


def fourier(x: Tensor, octaves: int) -> Tensor:
    """x (..., D) -> (..., D * (1 + 2 * octaves)): x, then sines and cosines of pi x, 2 pi x, 4 pi x ..."""
    scale = math.pi * 2.0 ** torch.arange(octaves, device=x.device, dtype=torch.float32)
    angle = x[..., None] * scale
    return torch.cat((x, angle.sin().flatten(-2), angle.cos().flatten(-2)), -1)


class StateToken(nn.Module):
    """The robot's state as one token, or its history as one token a step."""

    def __init__(self, dim: int, width: int, octaves: int):
        super().__init__()
        self.octaves = octaves
        self.linear = nn.Linear(dim * (1 + 2 * octaves), width)

    def forward(self, state: Tensor) -> Tensor:
        """Normalised state (B, D) -> (B, 1, width), or (B, T, D) -> (B, T, width).

        With Fourier features values far outside the training range are pulled in.
        """
        state = state[:, None] if state.dim() == 2 else state
        with torch.autocast(state.device.type, enabled=False):
            return self.linear(fourier(state.clamp(-3, 3), self.octaves) if self.octaves else state)


class TextEmbedding(nn.Module):
    """Token ids to vectors. Ids from `words` on are locations <loc0000> .. <loc1023>.

    "table": every id has its own vector. "words": so it is, and locations are among the `words` (pretrained
    families). "fourier": a location is a linear function of Fourier features of its value plus a vector for
    its axis (y and x take turns), so 0412 is near 0413 from the start.
    """

    OCTAVES = 8

    def __init__(self, words: int, width: int, locations: str, scale: bool):
        super().__init__()
        if locations not in ("fourier", "table", "words"):
            raise ValueError(f"location embedding: expected 'fourier', 'table' or 'words', got {locations!r}")
        self.in_words = locations == "words"
        self.words, self.scale = words, math.sqrt(width) if scale else 1.0
        self.table = nn.Embedding(words + (LOC_BINS if locations == "table" else 0), width)
        nn.init.normal_(self.table.weight, std=1 / math.sqrt(width) if scale else 0.5)
        self.value = nn.Linear(1 + 2 * self.OCTAVES, width) if locations == "fourier" else None
        self.axis = nn.Embedding(2, width) if locations == "fourier" else None

    @property
    def size(self) -> int:
        """The number of ids there are, locations included."""
        return self.words if self.in_words else self.words + LOC_BINS

    def forward(self, ids: Tensor) -> Tensor:
        """ids (B, S) -> (B, S, width)."""
        if self.value is None:
            return self.table(ids) * self.scale
        located = ids >= self.words
        x = self.table(ids.masked_fill(located, 0)) * self.scale
        asks = ids.device.type == "cpu" and not torch.compiler.is_compiling()
        if asks and not located.any():  # elsewhere the question would wait for the device
            return x
        with torch.autocast(ids.device.type, enabled=False):
            value = (ids - self.words + 0.5) / LOC_BINS * 2 - 1
            places = self.value(fourier(value[..., None].clamp(-1, 1), self.OCTAVES))
            places = places + self.axis((located.cumsum(1) - 1).clamp(min=0) % 2)
        return torch.where(located[..., None], places, x)
