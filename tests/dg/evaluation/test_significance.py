"""t tests against SciPy, a published test and simulations."""

import numpy as np
import pytest
from scipy import stats

from dg.evaluation.significance import (
    bootstrapped_mean,
    mean_interval,
    one_sample_t,
    one_sample_t_from_summary,
    paired_t,
    power,
    rank_correlation,
    smallest_detectable_difference,
    welch_t,
)


def normal(seed, n, mean=0.0, sd=1.0):
    return mean + sd * np.random.default_rng(seed).standard_normal(n)


def same_as_scipy(got, scipy_test, *sets):
    expected = scipy_test(*sets)
    interval = expected.confidence_interval()
    assert (got.t, got.df, got.p) == pytest.approx(
        (expected.statistic, expected.df, expected.pvalue), rel=1e-12
    )
    assert (got.low, got.high) == pytest.approx((interval.low, interval.high), rel=1e-10, abs=1e-12)
    for alternative in ("less", "greater"):
        assert getattr(got, f"p_{alternative}") == pytest.approx(
            scipy_test(*sets, alternative=alternative).pvalue
        )


@pytest.mark.parametrize("n, m", [(2, 2), (3, 9), (20, 5)])
def test_tests_equal_scipy(n, m):
    a, b, c = normal(0, n, 1.84, 0.01), normal(1, n, 1.85, 0.02), normal(2, m, 1.85, 0.02)
    difference = a - b
    same_as_scipy(one_sample_t(a, 1.85), lambda *x, **k: stats.ttest_1samp(x[0] - 1.85, 0, **k), a)
    same_as_scipy(paired_t(a, b), stats.ttest_rel, a, b)
    same_as_scipy(welch_t(a, c), lambda *x, **k: stats.ttest_ind(*x, equal_var=False, **k), a, c)
    assert one_sample_t(a, 1.85).effect == pytest.approx((a.mean() - 1.85) / a.std(ddof=1))
    assert paired_t(a, b).effect == pytest.approx(difference.mean() / difference.std(ddof=1))
    assert [
        test.effect_name for test in (one_sample_t(a, 1.85), paired_t(a, b), welch_t(a, c))
    ] == ["Cohen's d", "Cohen's d_z", "Hedges' g"]
    assert (one_sample_t(a, 1.85).n, paired_t(a, b).n, welch_t(a, c).n) == (n, n, (n, m))


@pytest.mark.slow
def test_hedges_g_is_unbiased():
    """The correction takes off what Cohen's d is too large by: 1 / 0.8 on average of 3 + 3
    values."""
    effects = [welch_t(normal(2 * i, 3, 1), normal(2 * i + 1, 3)).effect for i in range(4000)]
    assert np.mean(effects) == pytest.approx(1, abs=3 * np.std(effects) / np.sqrt(4000))


# Six discriminators of a reproduction of Discriminator Guidance, FIDs of mean 1.8433 and sd
# 0.01082, against EDM's 1.96: published as t = -26.42, p < 0.0005. The rounded mean and sd leave
# -26.44 .. -26.40.


def published(test):
    assert test.t == pytest.approx(-26.42, abs=0.005) and (test.df, test.n) == (5, 6)
    assert test.p == pytest.approx(1.45e-6, rel=0.01) and test.p < 0.0005
    assert (test.difference, test.low, test.high) == pytest.approx(
        (-0.1167, -0.1281, -0.1053), abs=1e-4
    )
    assert test.effect == pytest.approx(-10.79, abs=0.01)


def test_published_test_is_reproduced():
    published(one_sample_t_from_summary(1.8433, 0.01082, 6, 1.96))
    values = normal(0, 6)
    values = 1.8433 + 0.01082 * (values - values.mean()) / values.std(ddof=1)
    published(one_sample_t(values, 1.96))
    assert one_sample_t_from_summary(1.84335, 0.010815, 6, 1.96).t == pytest.approx(
        -26.42, abs=0.02
    )


def test_common_seeds_find_what_independent_sets_hide():
    seeds, noise = normal(0, 6, 2, 0.05), normal(1, 6, 0.01, 0.001)
    assert paired_t(seeds, seeds - noise).p < 1e-4 < 0.3 < welch_t(seeds, seeds - noise).p


def test_interval_of_many_degrees_of_freedom_is_normal():
    assert mean_interval(1, 2, 10**9) == pytest.approx(
        (1 - 2 * 1.959964, 1 + 2 * 1.959964), abs=1e-6
    )


@pytest.mark.parametrize("design, n", [("one-sample", 5), ("paired", 5), ("two-sample", 4)])
def test_power_is_the_share_of_found_differences(design, n):
    rng, difference, sd = np.random.default_rng(0), 1.6, 0.9
    values = difference + sd * rng.standard_normal((4000, n))
    if design == "two-sample":
        p = stats.ttest_ind(values, sd * rng.standard_normal((4000, n)), axis=1).pvalue
    else:
        p = stats.ttest_1samp(values, 0, axis=1).pvalue
    expected = power(difference, sd, n, design=design)
    assert 0.5 < expected < 0.95 and power(-difference, sd, n, design=design) == expected
    assert (p < 0.05).mean() == pytest.approx(
        expected, abs=4 * np.sqrt(expected * (1 - expected) / 4000)
    )


@pytest.mark.parametrize("design", ["one-sample", "paired", "two-sample"])
@pytest.mark.parametrize("n", [2, 3, 6, 1000])
def test_smallest_detectable_difference_inverts_power(design, n):
    for alpha, wanted in ((0.05, 0.8), (0.01, 0.99), (0.2, 0.21)):
        found = smallest_detectable_difference(0.02, n, alpha, wanted, design)
        assert power(found, 0.02, n, alpha, design) == pytest.approx(wanted, abs=1e-6)
    assert power(0, 0.02, n, 0.05, design) == pytest.approx(0.05)
    assert power(100, 0.02, n, 0.05, design) == pytest.approx(1)


def test_published_sample_sizes():
    """Cohen 1988: d = 0.5 at alpha 0.05 and power 0.8 takes 34 values, or 64 in each of two
    sets."""
    assert power(0.5, 1, 34) > 0.8 > power(0.5, 1, 33)
    assert power(0.5, 1, 64, design="two-sample") > 0.8 > power(0.5, 1, 63, design="two-sample")
    large = smallest_detectable_difference(1, 10**5) * np.sqrt(10**5)
    assert large == pytest.approx(1.959964 + 0.841621, abs=1e-3)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: one_sample_t([1.9], 2), "1 numbers in values; give at least 2"),
        (lambda: one_sample_t([0.1 + 0.2, 0.3], 2), "values are all equal"),
        (lambda: one_sample_t([1, np.nan], 2), "values hold NaN"),
        (lambda: one_sample_t([1, 2], np.nan), "reference is nan"),
        (lambda: one_sample_t([[1, 2]], 2), r"the shape \[1, 2\]; give a list of numbers"),
        (lambda: one_sample_t_from_summary(1, 0, 6, 2), "sd is 0.0; give a number above 0"),
        (lambda: one_sample_t_from_summary(1, 0.1, 1, 2), "n is 1; give at least 2 values"),
        (lambda: one_sample_t_from_summary(1, np.inf, 6, 2), "sd is inf"),
        (lambda: paired_t([1, 2, 3], [1, 2]), "a has 3 values and b 2"),
        (lambda: paired_t([1.1, 2.2, 3.3], [1.0, 2.1, 3.2]), "differences are all equal"),
        (lambda: welch_t([1, 1], [2, 2]), "some variance"),
        (lambda: welch_t([1, 2], [2, np.inf]), "b hold NaN or infinite"),
        (
            lambda: power(1, 1, 5, design="crossed"),
            "design is 'crossed'; use one-sample or paired or two-sample",
        ),
        (lambda: power(1, 1, 5, alpha=0), "alpha is 0"),
        (lambda: power(np.nan, 1, 5), "difference is nan"),
        (lambda: power(1, -1, 5), "sd is -1.0"),
        (lambda: smallest_detectable_difference(1, 1), "at least 2 values"),
        (lambda: smallest_detectable_difference(1, 5, power=0.05), "between alpha = 0.05 and 1"),
    ],
)
def test_errors_are_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_rank_correlation_is_spearmans_and_its_interval_holds_the_truth():
    x, truth = normal(0, 40), 6 / np.pi * np.arcsin(np.sqrt(0.5) / 2)  # of a normal pair, r^2 = 1/2
    found = rank_correlation(np.exp(x), x + normal(1, 40))
    assert found.value == pytest.approx(stats.spearmanr(x, x + normal(1, 40)).statistic)
    assert found.low < found.value < found.high and found.n == 40
    held = 0
    for seed in range(20):
        x, noise = normal(seed, 40), normal(1000 + seed, 40)
        found = rank_correlation(x, x + noise, draws=100, seed=seed)
        held += found.low < truth < found.high
    assert held >= 16


def test_rank_correlation_of_ties_and_of_what_has_none():
    assert rank_correlation([1, 2, 2], [3, 5, 5]).value == pytest.approx(1)
    for x, y in (([1, 1, 1], [1, 2, 3]), ([1, 2], [1, 2]), ([1, 2, 3], [1, 2])):
        with pytest.raises(ValueError, match="at least 3 pairs"):
            rank_correlation(x, y)


def test_pairs_of_one_unit_are_drawn_together():
    """Pairs that are copied say nothing new: the interval is that of the units, not of the
    pairs."""
    x, y = normal(0, 12), normal(0, 12) + normal(1, 12)
    apart = rank_correlation(x, y)
    units = [f"unit {i}" for i in range(12)]
    whole = rank_correlation(np.tile(x, 5), np.tile(y, 5), units * 5)
    assert (whole.n, whole.units) == (60, 12) and whole.value == pytest.approx(apart.value)
    assert (whole.low, whole.high) == pytest.approx((apart.low, apart.high))
    mistaken = rank_correlation(np.tile(x, 5), np.tile(y, 5))
    assert mistaken.units == 60
    assert mistaken.high - mistaken.low < 0.6 * (whole.high - whole.low)


def test_interval_of_units_holds_the_truth_where_that_of_pairs_misses_it():
    """Both sides share the unit's own value in 5 pairs each; the correlation over all is 0."""
    held = {"units": 0, "pairs": 0}
    for seed in range(40):
        names = np.repeat(np.arange(10), 5)
        x, y = (np.repeat(normal(seed + i, 10), 5) + 0.1 * normal(seed + i, 50) for i in (0, 500))
        for name, units in (("units", names), ("pairs", None)):
            found = rank_correlation(x, y, units, draws=200, seed=seed)
            held[name] += found.low < 0 < found.high
    assert held["units"] >= 34 and held["pairs"] <= 26


def test_mean_has_the_interval_of_its_standard_error():
    values = normal(3, 100)
    found, error = bootstrapped_mean(values), values.std() / 10
    assert found.value == pytest.approx(values.mean()) and (found.n, found.units) == (100, 100)
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)
    shifted = bootstrapped_mean(values + 2)  # on the same draws
    assert shifted.low - found.low == pytest.approx(2)


def test_a_single_unit_has_no_interval():
    with pytest.raises(ValueError, match="at least 2 units"):
        rank_correlation([1, 2, 3], [1, 2, 4], ["one"] * 3)
    with pytest.raises(ValueError, match="at least 2"):
        bootstrapped_mean([1.0])
