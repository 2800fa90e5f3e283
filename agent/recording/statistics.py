"""Statistics of a dataset as LeRobot v3 keeps them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}


def describe(values: np.ndarray) -> dict[str, list[float]]:
    """LeRobot's statistics of (N, D) numbers, one per dimension; `count` is [N]."""
    values = np.asarray(values, np.float64)
    stats = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
    stats |= dict(zip(QUANTILES, np.quantile(values, list(QUANTILES.values()), axis=0), strict=True))
    return {name: np.atleast_1d(v).tolist() for name, v in stats.items()} | {"count": [len(values)]}


def describe_images(images: np.ndarray) -> dict[str, Any]:
    """Statistics per channel of (N, H, W, 3) uint8 in [0, 1], shaped (3, 1, 1) as LeRobot has them. Of every
    fourth pixel each way."""
    return describe_pixels(images[:, ::4, ::4])


def describe_pixels(images: np.ndarray) -> dict[str, Any]:
    """The same of every pixel."""
    stats = describe(images.reshape(-1, 3) / 255.0)
    shaped = {k: [[[x]] for x in v] for k, v in stats.items() if k != "count"}
    return shaped | {"count": [len(images)]}


def pool(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Statistics of several episodes as one. Mean and std are exact; quantiles are averaged by count."""
    parts = list(parts)
    count = np.array([p["count"][0] for p in parts], np.float64)
    weight = count / count.sum()
    array = {k: np.array([p[k] for p in parts]) for k in parts[0] if k != "count"}
    mixed = {k: np.tensordot(weight, v, 1) for k, v in array.items()}
    spread = np.tensordot(weight, array["std"] ** 2 + array["mean"] ** 2, 1) - mixed["mean"] ** 2
    mixed |= {"min": array["min"].min(0), "max": array["max"].max(0), "std": np.sqrt(np.maximum(spread, 0))}
    return {k: v.tolist() for k, v in mixed.items()} | {"count": [int(count.sum())]}
