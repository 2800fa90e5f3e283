"""Means of a run's metrics."""

from __future__ import annotations

import time

import torch


class Totals:
    """Means of metrics since the last look, without waiting for the device at every step."""

    def __init__(self) -> None:
        self._sum: dict[str, torch.Tensor] = {}
        self._count: dict[str, int] = {}
        self._start, self._steps = time.monotonic(), 0

    def add(self, metrics: dict[str, torch.Tensor]) -> None:
        for name, value in metrics.items():
            self._sum[name] = self._sum.get(name, 0) + value.detach().float()
            self._count[name] = self._count.get(name, 0) + 1
        self._steps += 1

    def means(self) -> dict[str, float]:
        """And start again."""
        out = {name: float(value) / self._count[name] for name, value in self._sum.items()}
        out["steps_per_second"] = self._steps / max(time.monotonic() - self._start, 1e-9)
        self.__init__()
        return out
