"""What a count of successes says about the rate behind it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

PRIOR = 2.0  # episodes' worth of the overall rate that a stratum's variance leans on: 33 of 33 has some, too


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a binomial proportion: (low, high). (0, 1) when nothing was tried.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, 1927.
    Unlike p +- 1.96 sd it stays inside [0, 1] and keeps its coverage at 0% and 100%.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"wilson: expected 0 <= successes <= n, got {successes} of {n}")
    if n == 0:
        return 0.0, 1.0
    return _wilson(successes / n, n, confidence)


def _wilson(p: float, n: float, confidence: float) -> tuple[float, float]:
    z = normal(confidence)
    z2 = z * z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    # at the ends the formula gives exactly 0 and 1 up to rounding
    return (0.0 if p == 0 else centre - half), (1.0 if p == 1 else centre + half)


def normal(confidence: float) -> float:
    """How many standard deviations a two-sided interval reaches to: 1.96 for 95%."""
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def stratified_rate(
    successes: Sequence[int],
    n: Sequence[int],
    weights: Sequence[float] | None = None,
    confidence: float = 0.95,
) -> tuple[float, float, float]:
    """The rate over strata (families) that stand in fixed shares: (rate, low, high).

    weights: the strata's shares, in any unit; by default their sizes, where the rate is that of all
    episodes. With shares of one's own it is a rate that does not depend on how many episodes of which
    family there happen to be: what pooled counts get wrong.
    The interval is Wilson's for as many episodes as would be worth the same drawn without strata.
    Source: Kish's effective sample size; C. Franco et al., Comparative study of confidence intervals for
    proportions in complex sample surveys, 2019.
    """
    k, n, w = np.asarray(successes, float), np.asarray(n, float), shares(n, weights)
    if (k < 0).any() or (k > n).any():
        raise ValueError(f"stratified_rate: expected 0 <= successes <= n, got {k} of {n}")
    p = (k + PRIOR * (k.sum() + 0.5) / (n.sum() + 1)) / (n + PRIOR)
    overall = float(w @ p)
    worth = overall * (1 - overall) / float(w**2 @ (p * (1 - p) / n))
    rate = min(1.0, float(w @ (k / n)))  # the sum of shares may round to a little above one
    return (1.0 if (k == n).all() else rate), *_wilson(1.0 if (k == n).all() else rate, worth, confidence)


def shares(n: Sequence[int], weights: Sequence[float] | None) -> np.ndarray:
    """Weights of strata that sum to one; the strata's sizes by default."""
    n = np.asarray(n, float)
    w = n if weights is None else np.asarray(weights, float)
    if len(n) == 0 or (n <= 0).any() or w.shape != n.shape or (w < 0).any() or w.sum() <= 0:
        raise ValueError(f"strata: expected sizes above 0 and a weight for each, got {n} and {w}")
    return w / w.sum()


def rate(successes: int, n: int) -> dict[str, float | int]:
    """{n, successes, rate, low, high}: the row that summaries are made of. The rate of nothing is None."""
    low, high = wilson(successes, n)
    return {
        "n": n,
        "successes": successes,
        "rate": successes / n if n else None,
        "low": low,
        "high": high,
    }


def quantile(values: list[float], q: float) -> float | None:
    """The q-quantile by linear interpolation; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
