"""Where a plan points: attention of one hidden state over a camera's fine feature map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbone.transformer import RMSNorm


class Pointer(nn.Module):
    """Keys: the fine map plus, spread over it, the decoder's states of its tokens. Query: the text."""

    def __init__(self, channels: int, width: int, dim: int):
        super().__init__()
        self.from_fine, self.from_tokens = nn.Linear(channels, dim), nn.Linear(width, dim)
        self.key = nn.Linear(dim, dim)
        self.query_norm, self.query = RMSNorm(width), nn.Linear(width, dim)

    def forward(self, fine: Tensor, tokens: Tensor, query: Tensor) -> Tensor:
        """fine (B, h, h, C), tokens (B, g * g, width), query (B, width) -> logits (B, h * h), float32."""
        side, grid = fine.shape[1], int(tokens.shape[1] ** 0.5)
        coarse = self.from_tokens(tokens).unflatten(1, (grid, 1, grid, 1))
        coarse = coarse.expand(-1, -1, side // grid, -1, side // grid, -1).reshape(*fine.shape[:3], -1)
        keys = self.key(F.gelu(self.from_fine(fine) + coarse)).flatten(1, 2)
        query = self.query(self.query_norm(query))
        with torch.autocast(fine.device.type, enabled=False):
            return (keys.float() @ query.float()[..., None]).squeeze(-1) * query.shape[-1] ** -0.5


def soft_target(points: Tensor, side: int, sigma: float) -> Tensor:
    """points (B, 2), y and x in [0, 1) -> a Gaussian over the cells, (B, side * side), sums to 1."""
    cells = torch.arange(side, device=points.device, dtype=torch.float32) + 0.5
    squared = ((cells - points.float()[..., None] * side) / sigma) ** 2  # (B, 2, side)
    return torch.softmax(-0.5 * (squared[:, 0, :, None] + squared[:, 1, None, :]).flatten(1), -1)


def read_out(logits: Tensor, window: int = 5) -> Tensor:
    """logits (B, side * side) -> points (B, 2): the mean place over a window around the most likely cell."""
    side = int(logits.shape[1] ** 0.5)
    best = logits.argmax(-1)
    cells = torch.arange(side, device=logits.device)
    near_y = (cells - (best // side)[:, None]).abs() <= window // 2
    near_x = (cells - (best % side)[:, None]).abs() <= window // 2
    near = (near_y[:, :, None] & near_x[:, None, :]).flatten(1)
    weight = logits.float().masked_fill(~near, -torch.inf).softmax(-1).unflatten(1, (side, side))
    middle = (cells + 0.5) / side
    return torch.stack(((weight.sum(2) * middle).sum(1), (weight.sum(1) * middle).sum(1)), -1)
