"""From noise (t = 1) to actions (t = 0) along a learnt velocity, by Euler steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def times(steps: int) -> Tensor:
    """The flow time at the start of each step: 1, 1 - 1/steps, ..., 1/steps."""
    return torch.linspace(1, 0, steps + 1)[:-1]


def integrate(
    velocity: Callable[[Tensor, int], Tensor], noise: Tensor, steps: int, committed: Tensor | None = None
) -> Tensor:
    """noise (B, H, A) -> actions (B, H, A). velocity(x, step) is d x / d t at the start of that step.

    committed (B, K, A): actions already promised. They are held on the straight path they would have come
    along, so the rest of the chunk is made to continue them.
    """
    x = noise
    for step in range(steps):
        if committed is not None:
            time = 1 - step / steps
            kept = torch.lerp(committed, noise[:, : committed.shape[1]], time)
            x = torch.cat((kept, x[:, committed.shape[1] :]), 1)
        x = x - velocity(x, step) / steps
    return x if committed is None else torch.cat((committed, x[:, committed.shape[1] :]), 1)
