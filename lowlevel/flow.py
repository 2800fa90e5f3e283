"""From noise (t = 1) to actions (t = 0) along a learnt velocity."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from backbone.errors import UserError

SOLVERS = ("euler", "midpoint", "adams")


def times(evaluations: int, solver: str = "euler") -> Tensor:
    """The flow times at which the velocity is asked for, (evaluations,), from 1 downwards.

    "euler" and "adams" (Adams-Bashforth, second order: the last two velocities, extrapolated) ask once a
    step, "midpoint" (second order) at the start and in the middle of half as many, so all cost the same.
    """
    if solver not in SOLVERS:
        raise UserError(f"solver: expected one of {', '.join(SOLVERS)}, got '{solver}'")
    if evaluations < 1 or (solver == "midpoint" and evaluations % 2):
        kind = "an even number of" if solver == "midpoint" else "at least 1"
        raise UserError(f"steps: expected {kind} evaluations, got {evaluations}")
    return torch.linspace(1, 0, evaluations + 1)[:-1]


def integrate(
    velocity: Callable[[Tensor, int], Tensor],
    noise: Tensor,
    evaluations: int,
    promised: tuple[Tensor, Tensor] | None = None,
    clean: bool = False,
    solver: str = "euler",
) -> Tensor:
    """noise (..., H, A) -> actions, alike. velocity(x, k) is d x / d t at times(evaluations, solver)[k].

    promised: actions (..., H, A) that are given already, and which of them are, bool (..., H, 1). They are
    held on the straight path they would have come along, so that the rest is made to continue them; clean:
    as they are, at time 0, for networks trained with delays (training-time real-time chunking,
    arXiv:2512.05964).
    """

    def held(x: Tensor, time: float) -> Tensor:
        if promised is None:
            return x
        actions, given = promised
        return torch.where(given, actions if clean else torch.lerp(actions, noise, time), x)

    when = [*times(evaluations, solver).tolist(), 0.0]
    x, before = noise, None
    if solver == "midpoint":
        for k in range(0, evaluations, 2):
            half = held(x, when[k])
            half = half - velocity(half, k) * (when[k] - when[k + 1])
            x = held(x, when[k]) - velocity(held(half, when[k + 1]), k + 1) * (when[k] - when[k + 2])
        return held(x, 0.0)
    for k in range(evaluations):
        x = held(x, when[k])
        now = velocity(x, k)
        slope = now if before is None or solver == "euler" else 1.5 * now - 0.5 * before
        x, before = x - slope * (when[k] - when[k + 1]), now
    return held(x, 0.0)
