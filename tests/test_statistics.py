"""Intervals, tests and plans, proven by exact sums where the sums are short and by simulation elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import betaln
from scipy.stats import binom, binomtest, multinomial

from agent.evaluation.paired import (
    episodes_needed,
    holm,
    mcnemar,
    mcnemar_power,
    paired_interval,
    stratified_difference,
)
from agent.evaluation.sequential import (
    UntilSure,
    difference_wealth,
    more_pairs,
    rate_wealth,
    sequential_difference,
    sequential_rate,
)
from agent.evaluation.statistics import rate, stratified_rate, wilson
from backbone.errors import UserError

ENOUGH = np.log(20)  # of wealth, for 5%


def pairs(rng, trials: int, n: int, win: float, lose: float) -> np.ndarray:
    """(trials, n) of 1: only the second solves it, -1: only the first, 0: both or neither."""
    u = rng.random((trials, n))
    return (u < win).astype(int) - (u > 1 - lose)


def crossed(wins: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Where the wealth staked against "no difference" reaches 20; by a table of the discordant pairs."""
    counts = np.meshgrid(np.arange(wins.max() + 1), np.arange(losses.max() + 1), indexing="ij")
    return (difference_wealth(*counts, counts[0] + counts[1]) >= ENOUGH)[wins, losses]


# -- intervals


def test_wilson_covers_95_percent_on_average():
    """Summed over all counts, not drawn. For a single rate it swings: at 50 episodes from 93.2% to 97.8%."""
    grid = np.linspace(0.05, 0.95, 91)
    for n in (50, 100, 200, 500):
        low, high = np.array([wilson(k, n) for k in range(n + 1)]).T
        inside = (low <= grid[:, None]) & (grid[:, None] <= high)
        coverage = (binom.pmf(np.arange(n + 1), n, grid[:, None]) * inside).sum(1)
        assert 0.94 < coverage.mean() < 0.96
        assert coverage.min() > 0.93


def test_the_paired_interval_covers_95_percent_on_average():
    """Over differences of 0 to 20 points with 1 to 25% losses; summed over all counts up to 200 pairs."""
    cases = [
        (lose + d, lose) for d in (0.0, 0.02, 0.05, 0.1, 0.2) for lose in (0.01, 0.03, 0.05, 0.1, 0.15, 0.25)
    ]
    for n in (50, 100, 200):
        wins, losses = (x.ravel() for x in np.meshgrid(np.arange(n + 1), np.arange(n + 1)))
        wins, losses = wins[wins + losses <= n], losses[wins + losses <= n]
        low, high = paired_interval(wins, losses, n)
        coverage = []
        for win, lose in cases:
            chance = multinomial.pmf(
                np.stack([wins, losses, n - wins - losses], -1), n, [win, lose, 1 - win - lose]
            )
            coverage.append(chance[(low <= win - lose + 1e-12) & (win - lose - 1e-12 <= high)].sum())
        assert 0.94 < np.mean(coverage) < 0.96 and min(coverage) > 0.935
    rng, n, coverage = np.random.default_rng(0), 500, []
    for win, lose in cases:
        wins, losses, _ = rng.multinomial(n, [win, lose, 1 - win - lose], 4000).T
        low, high = paired_interval(wins, losses, n)
        coverage.append(np.mean((low <= win - lose) & (win - lose <= high)))
    assert 0.94 < np.mean(coverage) < 0.96 and min(coverage) > 0.935


def test_the_paired_interval_against_a_published_value():
    """Children with airway reactivity before and after a transplantation (Fagerland et al., 2014)."""
    assert paired_interval(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)


def test_the_paired_interval_by_definition():
    """Its ends are 1.96 standard deviations off, by the most likely losses found by a numeric search."""
    for wins, losses, n in ((1, 7, 21), (40, 20, 160), (3, 1, 50)):
        for sign, d in zip((1, -1), paired_interval(wins, losses, n), strict=True):

            def unlikely(q, d=d, wins=wins, losses=losses, n=n):
                ties = (n - wins - losses) * np.log(1 - 2 * q - d)
                return -(wins * np.log(q + d) + losses * np.log(q) + ties)

            bounds = (max(0, -d) + 1e-12, (1 - d) / 2 - 1e-12)
            lose = minimize_scalar(unlikely, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
            deviation = np.sqrt(n * (2 * lose + d * (1 - d)))
            assert (wins - losses - n * d) / deviation == pytest.approx(sign * 1.959964, abs=1e-5)


def test_the_paired_interval_at_the_ends():
    assert paired_interval(0, 0, 30) == pytest.approx((-wilson(0, 30)[1], wilson(0, 30)[1]))
    low, high = paired_interval(7, 2, 40)
    assert paired_interval(2, 7, 40) == pytest.approx((-high, -low))
    assert paired_interval(20, 0, 20)[1] == pytest.approx(1.0)


# -- strata


def test_pooling_lies_and_strata_do_not():
    """The second is worse in both families, but happened to run more of the easy one."""
    first, second = ([45, 80], [50, 150]), ([140, 24], [160, 50])
    assert all(k2 / n2 < k1 / n1 for k1, n1, k2, n2 in zip(*first, *second, strict=True))
    pooled = [rate(sum(k), sum(n))["rate"] for k, n in (first, second)]
    assert pooled[1] > pooled[0] + 0.1
    same = [stratified_rate(k, n, weights=[1, 1])[0] for k, n in (first, second)]
    assert same[1] < same[0] - 0.02


def test_pairs_can_be_pooled_into_a_lie_too():
    """180 shared seeds of one family, 20 of another, where the second agent fails at half of them."""
    wins, losses, n = [12, 0], [0, 10], [180, 20]
    low, high = paired_interval(sum(wins), sum(losses), sum(n))
    assert low < 0 < high  # nothing to see
    difference, low, high = stratified_difference(wins, losses, n, weights=[1, 1])
    assert difference == pytest.approx((12 / 180 - 10 / 20) / 2) and high < -0.05
    assert stratified_difference(wins, losses, n)[0] == pytest.approx(2 / 200)


def test_one_stratum_is_no_stratum():
    assert stratified_rate([17], [20]) == pytest.approx((0.85, *wilson(17, 20)))
    assert stratified_difference([5], [2], [40]) == pytest.approx((3 / 40, *paired_interval(5, 2, 40)))
    assert stratified_rate([33] * 6, [33] * 6) == pytest.approx((1.0, *wilson(198, 198)))
    with pytest.raises(ValueError, match="sizes above 0"):
        stratified_rate([1, 0], [2, 0])


def test_stratified_intervals_cover_95_percent_on_average():
    """Six families of different difficulty, shares by size and not; 33 episodes of each, as in `core`."""
    rng = np.random.default_rng(1)
    n, size, trials = [33] * 6, 33, 400
    rates = ([0.45, 0.35, 0.33, 0.09, 0.85, 0.06], [0.99, 0.94, 0.94, 0.91, 0.99, 0.94], [0.7] * 6)
    differ = (
        [(0.06, 0.02)] * 6,
        [(0.3, 0.05), (0.05, 0.3), (0.1, 0.1), (0.2, 0.1), (0.02, 0.1), (0.1, 0.02)],
    )
    one, two = [], []
    for weights in (None, [3, 1, 1, 1, 1, 1]):
        w = np.array(weights or n, float) / sum(weights or n)
        for p in rates:
            for k in rng.binomial(size, p, (trials, 6)):
                _, low, high = stratified_rate(k, n, weights)
                one.append(low <= w @ p <= high)
        for wl in map(np.array, differ):
            truth = w @ (wl[:, 0] - wl[:, 1])
            drawn = np.stack([rng.multinomial(size, [b, c, 1 - b - c], trials) for b, c in wl], 1)
            for row in drawn:
                _, low, high = stratified_difference(row[:, 0], row[:, 1], n, weights)
                two.append(low <= truth <= high)
    assert 0.94 < np.mean(one) < 0.96 and 0.94 < np.mean(two) < 0.96


# -- fixed tests


def test_mcnemar_is_the_sign_test():
    for wins, losses in ((8, 2), (0, 5), (3, 3), (0, 0), (40, 61)):
        expected = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
        assert mcnemar(wins, losses) == pytest.approx(expected)


def test_mcnemar_keeps_its_level():
    for n in (20, 50, 200, 500):
        for discordance in (0.02, 0.1, 0.3):
            assert mcnemar_power(n, discordance, 0.5) <= 0.05
    drawn = pairs(np.random.default_rng(2), 4000, 200, 0.1, 0.1)
    wins, losses = (drawn > 0).sum(1), (drawn < 0).sum(1)
    assert np.mean([mcnemar(*x) <= 0.05 for x in zip(wins, losses, strict=True)]) <= 0.05


def test_holm():
    """Worked example: 0.01 x 3, then 0.03 x 2, and nothing below what came before."""
    adjusted, levels = holm([0.01, 0.04, 0.03])
    assert adjusted == pytest.approx([0.03, 0.06, 0.06])
    assert levels == pytest.approx([0.05 / 3, 0.025, 0.025])
    rng = np.random.default_rng(3)
    for p in rng.random((200, 4)) ** 3:
        adjusted, levels = holm(list(p))
        assert [a <= 0.05 for a in adjusted] == [x <= level for x, level in zip(p, levels, strict=True)]
    wrong = [min(holm(list(p))[0]) <= 0.05 for p in rng.random((4000, 4))]
    assert np.mean(wrong) < 0.06


# -- sequential tests


def test_discordant_pairs_alone_decide():
    expected = betaln(12 + 2, 5 + 2) - betaln(2, 2) + 17 * np.log(2)  # beta-binomial against a fair coin
    assert difference_wealth(12, 5, 17) == pytest.approx(expected)
    assert difference_wealth(12, 5, 400) == pytest.approx(expected)


def test_the_stake_is_fair():
    """Expected wealth after n outcomes is exactly 1 where the hypothesis is right, summed over all."""
    n = 12
    for p in (0.3, 0.9):
        k = np.arange(n + 1)
        assert binom.pmf(k, n, p) @ np.exp(rate_wealth(k, n, p)) == pytest.approx(1.0)
    for win, lose in ((0.2, 0.2), (0.3, 0.1), (0.0, 0.5)):
        wins, losses = (x.ravel() for x in np.meshgrid(np.arange(n + 1), np.arange(n + 1)))
        wins, losses = wins[wins + losses <= n], losses[wins + losses <= n]
        either = win + lose
        chance = binom.pmf(wins + losses, n, either) * binom.pmf(wins, wins + losses, win / either)
        wealth = difference_wealth(wins, losses, np.full(len(wins), n), np.full(len(wins), win - lose))
        assert chance @ np.exp(wealth) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "families", [[(0.1, 0.1)], [(0.3, 0.0), (0.0, 0.3), (0.1, 0.2), (0.2, 0.1)]], ids=["alike", "opposite"]
)
def test_the_sequential_test_keeps_its_level_though_looked_at_after_every_pair(families):
    """Also where families differ in opposite ways and take turns. The fixed test does not keep it."""
    rng = np.random.default_rng(4)
    drawn = np.empty((3000, 600), int)
    for i, (win, lose) in enumerate(families):
        drawn[:, i :: len(families)] = pairs(rng, 3000, 600 // len(families), win, lose)
    wins, losses = (drawn > 0).cumsum(1), (drawn < 0).cumsum(1)
    assert crossed(wins, losses).any(1).mean() <= 0.05
    edge = binom.ppf(0.025, np.arange(601), 0.5) - 1
    naive = np.minimum(wins, losses) <= edge[wins + losses]
    assert naive.any(1).mean() > 0.1


def test_its_power_and_how_long_it_takes():
    """At the number of pairs with which the fixed test has 90%: nearly as much, and most stop far earlier."""
    win, lose = 0.15, 0.05
    n = episodes_needed(0.8, 0.9, power=0.9, discordance=0.2)
    drawn = pairs(np.random.default_rng(5), 3000, 2 * n, win, lose)
    wins, losses = (drawn > 0).cumsum(1), (drawn < 0).cumsum(1)
    enough = crossed(wins, losses)
    right = enough & (wins > losses)
    assert 0.7 < right[:, :n].any(1).mean() < 0.9 and right.any(1).mean() > 0.97
    stops = np.where(enough.any(1), enough.argmax(1) + 1, 2 * n)
    assert stops.mean() < 0.85 * n


def test_confidence_sequences_hold_at_all_times_at_once():
    rng = np.random.default_rng(6)
    held = []
    for outcomes in rng.random((300, 120)) < 0.9:
        found = sequential_rate(outcomes, 0.5)
        held.append(found.low <= 0.9 <= found.high)
    assert np.mean(held) >= 0.95
    held = []
    for outcomes in pairs(rng, 100, 100, 0.15, 0.05):
        found = sequential_difference(outcomes)
        held.append(found.low <= 0.1 <= found.high)
    assert np.mean(held) >= 0.95


def test_the_verdict_and_the_confidence_sequence_agree():
    drawn = pairs(np.random.default_rng(7), 40, 120, 0.2, 0.04)
    for outcomes in drawn:
        found = sequential_difference(outcomes)
        assert (found.settled_at is not None) == (found.low > 0 or found.high < 0) == (found.p <= 0.05)
    outcomes = [1] * 9
    assert sequential_difference(outcomes).settled_at == 9
    assert sequential_difference(outcomes + [0] * 5).settled_at == 9
    assert sequential_difference([-x for x in outcomes]).sign == -1
    assert sequential_difference([]).settled_at is None


def test_the_forecast_of_pairs_is_met_by_half():
    """Where the rates so far are the true ones."""
    wins, losses, n = 12, 5, 100
    more = more_pairs(wins, losses, n)
    drawn = pairs(np.random.default_rng(8), 2000, more, wins / n, losses / n)
    enough = crossed(wins + (drawn > 0).cumsum(1), losses + (drawn < 0).cumsum(1))
    assert 0.4 < enough.any(1).mean() < 0.75
    assert more_pairs(3, 3, 100) is None and more_pairs(0, 0, 100) is None


def test_episodes_are_judged_in_order_of_seeds():
    """Twenty solved ones overtake a failure that takes longer: nothing is sure until that is in."""
    sure = UntilSure(0.8, range(40))
    records = {seed: {"success": True} for seed in range(1, 40)}
    assert not sure.update(records) and sure.used == 0
    assert sure.update(records | {0: {"seed": 0, "error": "RuntimeError: no"}})
    alone = sequential_rate([True] * 39, 0.8)
    assert sure.used == alone.settled_at + 1  # the error is no outcome
    found = sure.summary()
    assert found["verdict"] == "above" and found["low"] > 0.8 and found["episodes_planned"] == 40
    with pytest.raises(UserError, match="between 0 and 1"):
        UntilSure(1.0, range(3))


def test_stopping_when_sure_keeps_its_level():
    rng = np.random.default_rng(9)
    n = np.arange(1, 601)
    for p in (0.5, 0.9, 0.98):
        successes = (rng.random((4000, 600)) < p).cumsum(1)
        assert (rate_wealth(successes, n, p) >= ENOUGH).any(1).mean() <= 0.05
    successes = (rng.random((2000, 600)) < 0.97).cumsum(1)
    assert (rate_wealth(successes, n, 0.9) >= ENOUGH).any(1).mean() > 0.97


# -- plans


def test_as_many_episodes_as_planned_have_the_power_wished_for():
    rng = np.random.default_rng(10)
    trials = 4000
    for p1, p2, discordance in ((0.8, 0.9, 0.2), (0.90, 0.95, 0.09), (0.5, 0.6, 0.5)):
        n = episodes_needed(p1, p2, power=0.8, discordance=discordance)
        wins, losses, _ = rng.multinomial(
            n, [(discordance + p2 - p1) / 2, (discordance - p2 + p1) / 2, 1 - discordance], trials
        ).T
        p = 2 * binom.cdf(np.minimum(wins, losses), wins + losses, 0.5)
        assert np.mean(p <= 0.05) == pytest.approx(0.8, abs=0.02)
        assert mcnemar_power(n, discordance, (discordance + p2 - p1) / (2 * discordance)) >= 0.8
    for p1, p2 in ((0.5, 0.6), (0.84, 0.92), (0.95, 0.99)):
        n = episodes_needed(p1, p2, power=0.8)
        a, b = rng.binomial(n, p1, trials) / n, rng.binomial(n, p2, trials) / n
        middle = (a + b) / 2
        z = np.abs(a - b) / np.sqrt(2 * middle * (1 - middle) / n)
        assert np.mean(z >= 1.959964) == pytest.approx(0.8, abs=0.02)


def test_plans_against_published_values():
    """By formula 387, 258, 3825; and pairing on seeds saves the more, the more the two agree."""
    planned = [episodes_needed(*p) for p in ((0.5, 0.6), (0.84, 0.92), (0.97, 0.98))]
    assert planned == pytest.approx([387, 258, 3825], rel=0.03)
    paired = [episodes_needed(0.84, 0.92, discordance=d) for d in (0.1, 0.12, 0.15)]
    assert paired == sorted(paired) and paired[-1] < 258
    with pytest.raises(ValueError, match="different rates"):
        episodes_needed(0.9, 0.9)
    with pytest.raises(ValueError, match="discordance of 0.1 to 0.5"):
        episodes_needed(0.7, 0.8, discordance=0.05)
