"""What a count of successes says about the rate behind it."""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a binomial proportion: (low, high). (0, 1) when nothing was tried.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, 1927.
    Unlike p +- 1.96 sd it stays inside [0, 1] and keeps its coverage at 0% and 100%.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"wilson: expected 0 <= successes <= n, got {successes} of {n}")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p, z2 = successes / n, z * z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    # at the ends the formula gives exactly 0 and 1 up to rounding
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)


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
