"""Guided real-time chunking: while it flows, a chunk is drawn towards what is left of the one before it.

For networks that were not trained with delays (Black, Galliker, Levine, "Real-Time Execution of Action
Chunking Flow Policies", arXiv:2506.07339). At each step the clean chunk that the velocity points to is
compared with what the last chunk still had to do, and the difference, weighed action by action, is pulled
back through the network to the noisy chunk. Here time is 1 at the noise and the velocity points from actions
to noise, so the correction is taken off it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from backbone.errors import UserError

SCHEDULES = ("zeros", "ones", "linear", "exp")
JACOBIANS = ("true", "identity")


@dataclass(frozen=True)
class Guided:
    """schedule: how the weights of what is left fall behind the promised actions, which weigh 1. weight: the
    most that a correction counts; above the number of steps a step goes further than to what is wanted.
    horizon: actions from here on weigh 0; by default, those that the last chunk said nothing of. jacobian:
    "true", the network's own; or "identity", which takes the velocity for constant and needs no backward
    pass: it pulls as hard as it is told to, the true one no further than the network finds likely.
    """

    schedule: str = "exp"
    weight: float = 5.0
    horizon: int | None = None
    jacobian: str = "true"

    def __post_init__(self):
        for name, known in (("schedule", SCHEDULES), ("jacobian", JACOBIANS)):
            value = getattr(self, name)
            if value not in known:
                raise UserError(f"guided {name}: expected one of {', '.join(known)}, got '{value}'")
        if not 0 <= self.weight < math.inf:
            raise UserError(f"guided weight: expected 0 or more, got {self.weight}")
        if self.horizon is not None and self.horizon < 1:
            raise UserError(f"guided horizon: expected at least 1 action, got {self.horizon}")

    def weights(self, promised: int, left: int, total: int) -> Tensor:
        """(total,), of a chunk whose first `promised` actions will be done and `left` more are there."""
        end = promised + left if self.horizon is None else min(promised + left, self.horizon)
        return prefix_weights(self.schedule, promised, end, total)

    def strength(self, time: float) -> float:
        """What a correction counts at this flow time: (t^2 + (1 - t)^2) / (t (1 - t)), at most `weight`."""
        product = time * (1 - time)
        return min(self.weight, (time**2 + (1 - time) ** 2) / product) if product > 0 else self.weight


def prefix_weights(schedule: str, start: int, end: int, total: int) -> Tensor:
    """(total,): 1 before `start`, 0 from `end` on; between, the schedule. float32."""
    end = min(max(end, start), total)
    falling = torch.linspace(1, 0, end - start + 2, dtype=torch.float64)[1:-1]
    middle = {
        "zeros": torch.zeros_like(falling),
        "ones": torch.ones_like(falling),
        "linear": falling,
        "exp": falling * torch.expm1(falling) / math.expm1(1),
    }[schedule]
    return torch.cat((torch.ones(start), middle, torch.zeros(total - end)))[:total].float()


def corrected(
    velocity: Callable[[Tensor], Tensor],
    x: Tensor,
    time: float,
    wanted: Tensor,
    weights: Tensor,
    guided: Guided,
) -> Tensor:
    """The velocity at x (..., H, A), led towards actions `wanted` (..., H, A) with weights (..., H, 1).

    With the true Jacobian `velocity` is differentiated, in whatever mode this is called.
    """
    strength = guided.strength(time)
    if guided.jacobian == "identity":
        v = velocity(x)
        return v - strength * (wanted - (x - time * v)) * weights
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone().requires_grad_()  # what inference mode made cannot be traced, a copy can
        v = velocity(x)
        clean = x - time * v
        error = (wanted - clean.detach()) * weights
        (pulled,) = torch.autograd.grad(clean, x, error)
        return v.detach() - strength * pulled
