"""Two agents on the same seeds: pairs of outcomes, of which those that differ (discordant) say who is better.

`wins` are pairs that only the second agent solved, `losses` those that only the first did.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import binom

from agent.evaluation.statistics import PRIOR, normal, shares

HALVINGS = 50  # of an interval of length 2: to the last bit or so


def mcnemar(wins: int, losses: int) -> float:
    """Exact two-sided p of "both are equally good": discordant pairs fall either way like a fair coin.

    Summed over families it tests "equally good in every family". Source: Q. McNemar, 1947; the exact form
    is the sign test.
    """
    return min(1.0, 2 * float(binom.cdf(min(wins, losses), wins + losses, 0.5)))


def paired_interval(wins, losses, n, confidence: float = 0.95):
    """Tango's score interval of the difference of success rates (second minus first): (low, high).

    wins, losses, n: numbers or arrays of one shape; need not be whole.
    Source: T. Tango, Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design, 1998. Chosen over Newcombe's method 10 by simulation: mean coverage 95.6% at 50
    pairs and 95.0% at 500 (96.4% and 95.2% for Newcombe's), and it keeps it where both nearly always succeed.
    """
    wins, losses, n = np.broadcast_arrays(*(np.asarray(x, float) for x in (wins, losses, n)))
    z, estimate, ends = normal(confidence), (wins - losses) / n, []
    for side in (1, -1):
        inside, outside = estimate.copy(), np.full(estimate.shape, -1.0 * side)
        for _ in range(HALVINGS):
            middle = (inside + outside) / 2
            kept = side * _score(wins, losses, n, middle) <= z
            inside, outside = np.where(kept, middle, inside), np.where(kept, outside, middle)
        ends.append(inside)
    low, high = ends
    return (float(low), float(high)) if low.ndim == 0 else (low, high)


def _score(wins, losses, n, difference):
    """How many standard deviations the counts are above what `difference` leads one to expect."""
    b = (2 * n - wins + losses) * difference - wins - losses
    c = -losses * difference * (1 - difference)
    lose = (np.sqrt(np.maximum(b * b - 8 * n * c, 0)) - b) / (4 * n)  # most likely P(loss), given it
    variance = n * (2 * lose + difference * (1 - difference))
    return (wins - losses - n * difference) / np.sqrt(np.maximum(variance, 1e-300))


def stratified_difference(
    wins: Sequence[int],
    losses: Sequence[int],
    n: Sequence[int],
    weights: Sequence[float] | None = None,
    confidence: float = 0.95,
) -> tuple[float, float, float]:
    """The paired difference over strata in fixed shares: (difference, low, high).

    As `stratified_rate`, with Tango's interval for the effective number of pairs.
    """
    w = shares(n, weights)
    wins, losses, n = (np.asarray(x, float) for x in (wins, losses, n))

    def spread(win, lose):
        return win + lose - (win - lose) ** 2

    win, lose = (
        (x + PRIOR * (x.sum() + 0.5) / (n.sum() + 1.5)) / (n + PRIOR) for x in (wins, losses)
    )  # leaning on the overall rates: a stratum without a discordant pair is not without variance
    worth = spread(w @ win, w @ lose) / (w**2 @ (spread(win, lose) / n))
    won, lost = float(w @ (wins / n)), float(w @ (losses / n))
    return won - lost, *paired_interval(won * worth, lost * worth, worth, confidence)


def holm(p: Sequence[float], alpha: float = 0.05) -> tuple[list[float], list[float]]:
    """Several tests at once: (p-values adjusted, the level at which each test has to be significant).

    The adjusted values and levels agree: adjusted <= alpha where p <= level. Source: S. Holm, 1979.
    """
    order = np.argsort(p, kind="stable")
    adjusted, levels, worst, level = [0.0] * len(p), [0.0] * len(p), 0.0, 0.0
    for place, i in enumerate(order):
        tests = len(p) - place
        if worst <= alpha:  # after the first that is not significant, no later one gets a wider level
            level = alpha / tests
        worst = max(worst, min(1.0, p[i] * tests))
        adjusted[i], levels[i] = worst, level
    return adjusted, levels


def episodes_needed(
    p1: float, p2: float, power: float = 0.8, alpha: float = 0.05, discordance: float | None = None
) -> int:
    """Episodes per agent so that a real difference of p1 and p2 is found with this probability.

    discordance: share of pairs that only one of the two solves. With it: the same seeds for both and the
    exact McNemar test. Without: other seeds for each and the z test of two proportions. Both powers are
    summed exactly; the usual formula for the z test (Fleiss's) asks for 14% too many at 95 against 99%.
    """
    difference = abs(p1 - p2)
    if not (0 <= p1 <= 1 and 0 <= p2 <= 1 and difference > 0 and 0 < alpha < power < 1):
        raise ValueError(
            "episodes_needed: expected two different rates and 0 < alpha < power < 1, "
            f"got {p1}, {p2}, power {power}, alpha {alpha}"
        )
    if discordance is None:
        return _fewest(lambda n: z_power(n, p1, p2, alpha) >= power)
    most = min(p1 + p2, 2 - p1 - p2)
    if not difference - 1e-12 <= discordance <= most + 1e-12:
        raise ValueError(
            f"episodes_needed: expected a discordance of {difference:.4g} to {most:.4g}, got {discordance}"
        )
    share = min(1.0, (discordance + difference) / (2 * discordance))
    return _fewest(lambda n: mcnemar_power(n, discordance, share, alpha) >= power)


def _fewest(enough: Callable[[int], bool]) -> int:
    """Power grows with n but for small teeth, so halving finds the place."""
    low, high = 1, 2
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def z_power(n: int, p1: float, p2: float, alpha: float = 0.05) -> float:
    """P(the z test with pooled variance rejects) with n episodes of each agent."""
    a, b = (np.arange(binom.ppf(1e-9, n, p), binom.ppf(1 - 1e-9, n, p) + 1) for p in (p1, p2))
    middle = (a[:, None] + b) / (2 * n)
    z = np.abs(a[:, None] - b) / np.sqrt(np.maximum(2 * n * middle * (1 - middle), 1e-300))
    return float(binom.pmf(a, n, p1) @ (z >= normal(1 - alpha)) @ binom.pmf(b, n, p2))


def mcnemar_power(n: int, discordance: float, share: float, alpha: float = 0.05) -> float:
    """P(the exact test rejects) with n pairs, of which `discordance` differ, `share` of those one way."""
    k = np.arange(n + 1)
    edge = binom.ppf(alpha / 2, k, 0.5)
    edge = np.where(binom.cdf(edge, k, 0.5) <= alpha / 2, edge, edge - 1)  # -1: never rejects
    rejects = binom.cdf(edge, k, share) + binom.cdf(edge, k, 1 - share)
    return float(binom.pmf(k, n, discordance) @ rejects)
