"""Tests that may be looked at after every episode and stopped at any time, without more false alarms.

A fixed test read again and again finds a difference sooner or later where there is none. These bet: a wealth
of 1 is staked, episode by episode, on the hypothesis being wrong, at odds that are fair if it is right. So
it stays below 20 for ever in 95 of 100 worlds where it is right (Ville, 1939), and 1 / its highest is a
p-value at any time. What is not rejected is a confidence sequence: an interval that holds at all times at
once. How much is staked is mixed over a prior, chosen by simulation of stopping times.
Sources: I. Waudby-Smith and A. Ramdas, Estimating means of bounded random variables by betting, 2024; A.
Ramdas et al., Game-theoretic statistics and safe anytime-valid inference, 2023.

Families that take turns, as those of a suite do, may differ in rate and in difference: by the inequality of
the means the wealth then grows less, not more, over each full round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import betaln, logsumexp, roots_jacobi, xlog1py, xlogy

from backbone.errors import UserError

ALPHA = 0.05
PRIOR_RATE = 0.5  # Beta(1/2, 1/2) on the rate: most agents are near 0 or 1
PRIOR_SHARE = 2.0  # Beta(2, 2) on who wins a discordant pair
FAR = 100_000  # pairs: a forecast beyond this is none
LOOKS = 200  # the confidence sequence is intersected at so many moments, evenly: fewer are as valid
HALVINGS = 45
_STAKES, _WEIGHTS = roots_jacobi(200, PRIOR_SHARE - 1, PRIOR_SHARE - 1)
_LOG_WEIGHTS = np.log(_WEIGHTS / _WEIGHTS.sum())


@dataclass(frozen=True)
class Verdict:
    """What a sequential test has to say after n episodes or pairs."""

    n: int
    settled_at: int | None  # how many it took; None: open
    sign: int  # 1: above, -1: below, 0: open
    p: float  # anytime-valid
    low: float  # confidence sequence, at all times at once
    high: float


def rate_wealth(successes, n, rate):
    """Log of the wealth staked against "the success rate is `rate`"; arrays welcome."""
    failures = n - successes
    likely = betaln(successes + PRIOR_RATE, failures + PRIOR_RATE) - betaln(PRIOR_RATE, PRIOR_RATE)
    return likely - xlogy(successes, rate) - xlog1py(failures, -np.asarray(rate))


def difference_wealth(wins, losses, n, difference=0.0):
    """Log of the wealth staked against "second minus first is `difference`"; arrays of one shape welcome.

    At 0 only discordant pairs count, and it is the beta-binomial mixture against a fair coin.
    """
    wins, losses, n, d = (np.asarray(x, float)[..., None] for x in (wins, losses, n, difference))
    stake = _STAKES / np.where(_STAKES > 0, 1 + d, 1 - d)  # so much that a loss never takes all
    gains = wins * np.log1p(stake * (1 - d)) + losses * np.log1p(-stake * (1 + d))
    return logsumexp(_LOG_WEIGHTS + gains + (n - wins - losses) * np.log1p(-stake * d), axis=-1)


def sequential_rate(outcomes: Sequence[bool], rate: float, alpha: float = ALPHA) -> Verdict:
    """Is the success rate above or below `rate`? Outcomes in an order fixed beforehand (by seed)."""
    successes = np.cumsum(np.asarray(outcomes, float))
    n = np.arange(1, len(successes) + 1)
    return _verdict(rate_wealth, (successes, n), successes / n, rate, (0.0, 1.0), alpha)


def sequential_difference(outcomes: Sequence[int], alpha: float = ALPHA) -> Verdict:
    """Is the second better (outcome 1: it wins) or worse (-1) than the first? 0: a tie. In order of seeds."""
    outcomes = np.asarray(outcomes, int)
    wins, losses = np.cumsum(outcomes > 0), np.cumsum(outcomes < 0)
    n, most = np.arange(1, len(outcomes) + 1), 1 - 1e-9
    estimate = np.clip((wins - losses) / n, -most, most)
    return _verdict(difference_wealth, (wins, losses, n), estimate, 0.0, (-most, most), alpha)


def more_pairs(wins: int, losses: int, n: int, alpha: float = ALPHA) -> int | None:
    """Pairs that it takes from here if discordant ones keep coming as they did; None: no end in sight.

    A guess, as good as the rates so far: half of such comparisons take longer.
    """

    def settled(more: int) -> bool:
        grown = 1 + more / n
        return bool(difference_wealth(wins * grown, losses * grown, n * grown) >= -np.log(alpha))

    if wins == losses or not settled(FAR):
        return None
    low, high = -1, FAR
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if settled(middle) else (middle, high)
    return high


class UntilSure:
    """Stops an evaluation once its success rate is surely above or below `rate`.

    Episodes finish in any order, solved ones sooner. So they are judged in order of seeds and only as far as
    there is no gap: the first to finish would look better than they are. Errors count as nothing.
    """

    def __init__(self, rate: float, seeds: Sequence[int], alpha: float = ALPHA):
        if not 0 < rate < 1:
            raise UserError(f"until_sure: expected a rate between 0 and 1, got {rate}")
        self.rate, self.alpha, self.seeds = rate, alpha, list(seeds)
        self.used = 0  # seeds judged so far
        self.sure = False
        self._outcomes: list[bool] = []

    def update(self, records: Mapping[int, Mapping[str, Any]]) -> bool:
        """Records by seed, those that have finished -> whether that is enough."""
        while not self.sure and self.used < len(self.seeds) and self.seeds[self.used] in records:
            record = records[self.seeds[self.used]]
            self.used += 1
            if not record.get("error") and record["success"] is not None:
                self._outcomes.append(bool(record["success"]))
                wealth = rate_wealth(sum(self._outcomes), len(self._outcomes), self.rate)
                self.sure = bool(wealth >= -np.log(self.alpha))
        return self.sure

    def summary(self) -> dict[str, Any]:
        """JSON-ready: {rate, alpha, verdict: above, below or None, low, high, episodes_planned}."""
        found = sequential_rate(self._outcomes, self.rate, self.alpha)
        verdict = {1: "above", -1: "below", 0: None}[found.sign]
        summary = {"rate": self.rate, "alpha": self.alpha, "verdict": verdict}
        return summary | {"low": found.low, "high": found.high, "episodes_planned": len(self.seeds)}


def _verdict(
    wealth: Callable,
    counts: tuple[np.ndarray, ...],
    estimate: np.ndarray,
    hypothesis: float,
    ends: tuple[float, float],
    alpha: float,
) -> Verdict:
    """Counts and estimates after 1, 2, ... outcomes -> the first crossing, and the running intersection of
    what is not rejected. The wealth is log-convex in the hypothesis and at most 1 at the estimate, so each
    set is an interval around that.
    """
    n, enough = len(estimate), -np.log(alpha)
    if n == 0:
        return Verdict(0, None, 0, 1.0, *ends)
    grown = wealth(*counts, np.full(n, hypothesis))
    crossed = np.flatnonzero(grown >= enough)[:1]
    looks = np.unique(np.append(np.linspace(0, n - 1, min(n, LOOKS)).astype(int), crossed))
    counts, bounds = [x[looks] for x in counts], []
    for end in ends:
        inside, outside = estimate[looks], np.full(len(looks), end)
        for _ in range(HALVINGS):
            middle = (inside + outside) / 2
            kept = wealth(*counts, middle) < enough
            inside, outside = np.where(kept, middle, inside), np.where(kept, outside, middle)
        bounds.append(outside)  # the rejected side of the border: never too narrow
    low, high = np.maximum.accumulate(bounds[0]), np.minimum.accumulate(bounds[1])
    last = np.flatnonzero(low <= high)[
        -1
    ]  # an empty set (one of the 5%) tells nothing: the last that was not
    at = int(crossed[0]) if len(crossed) else None
    sign = 0 if at is None else int(np.sign(estimate[at] - hypothesis))
    settled_at = None if at is None else at + 1
    return Verdict(
        n, settled_at, sign, min(1.0, float(np.exp(-grown.max()))), float(low[last]), float(high[last])
    )
