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


def promised_times(steps: int, horizon: int, delay: Tensor) -> Tensor:
    """(steps, B, H) flow times where the first `delay` (B,) actions are promised: those are data, at time 0.

    For networks trained with delays (training-time real-time chunking, arXiv:2512.05964).
    """
    promised = torch.arange(horizon, device=delay.device) < delay[:, None]
    return times(steps).to(delay.device)[:, None, None].expand(-1, *promised.shape).masked_fill(promised, 0.0)


def integrate_promised(
    velocity: Callable[[Tensor, int], Tensor], noise: Tensor, steps: int, committed: Tensor, delay: Tensor
) -> Tensor:
    """The same for such networks: the first `delay` (B,) rows of committed (B, H, A) stand in every step."""
    promised = (torch.arange(noise.shape[1], device=noise.device) < delay[:, None])[..., None]
    x = torch.where(promised, committed, noise)
    for step in range(steps):
        x = torch.where(promised, committed, x - velocity(x, step) / steps)
    return x
