"""Do repeated measurements differ from a number or from each other? Student's t tests, and how many
repetitions it takes; rank correlations and means with bootstrap intervals.

`values` are independent repetitions of one measurement: FIDs of disjoint seed ranges, or of one
seed range under several trained discriminators. The tests assume nearly normal values, which holds
for FIDs of thousands of images. A test covers the repeated part alone: FIDs that share a
discriminator say nothing about another training of it.
"""

from dataclasses import dataclass

import numpy as np
from scipy import special, stats
from scipy.optimize import brentq

DESIGNS = ("one-sample", "paired", "two-sample")


@dataclass(frozen=True)
class TTest:
    """Result of a t test of the mean difference (first less second, or values less reference)
    against 0.

    test        "one-sample", "paired" or "Welch"
    t, df       statistic and degrees of freedom
    p           two-sided
    p_less      one-sided, for a difference below 0 that was foreseen; p_greater likewise
    difference  mean difference with its 95% confidence interval low .. high
    effect      difference in standard deviations, `effect_name` says by which definition
    n           number of values or of pairs; of Welch's test both numbers
    """

    test: str
    t: float
    df: float
    p: float
    p_less: float
    p_greater: float
    difference: float
    low: float
    high: float
    effect: float
    effect_name: str
    n: int | tuple[int, int]


def one_sample_t(values, reference: float) -> TTest:
    """Is the mean of values [n] the number `reference`? Effect size: Cohen's d, difference / sd."""
    x = _values(values, "values")
    reference = _number(reference, "reference")
    return _one_sample(
        "one-sample", x.mean() - reference, _sd(x, "values", abs(reference)), len(x), "Cohen's d"
    )


def one_sample_t_from_summary(mean: float, sd: float, n: int, reference: float) -> TTest:
    """`one_sample_t` of n values of which only the mean and the sd (denominator n - 1) are
    known."""
    mean, sd, reference = _number(mean, "mean"), _number(sd, "sd"), _number(reference, "reference")
    _require_spread(n, sd)
    return _one_sample("one-sample", mean - reference, sd, n, "Cohen's d")


def paired_t(a, b) -> TTest:
    """Do a [n] and b [n] have equal means, where a[i] and b[i] share their seeds? Effect size:
    Cohen's d_z.

    The test of the differences a - b, whose sd the common seeds keep small.
    """
    a, b = _values(a, "a"), _values(b, "b")
    if len(a) != len(b):
        raise ValueError(f"a has {len(a)} values and b {len(b)}; a paired test needs equally many")
    difference = a - b
    return _one_sample(
        "paired",
        difference.mean(),
        _sd(difference, "differences", np.abs(a).max()),
        len(a),
        "Cohen's d_z",
    )


def welch_t(a, b) -> TTest:
    """Do independent a [n] and b [m] have equal means, whatever their variances? Effect size:
    Hedges' g.

    Welch 1947. Hedges' g is the difference over the pooled sd, times the exact correction for few
    values.
    """
    a, b = _values(a, "a"), _values(b, "b")
    n, m = len(a), len(b)
    scale = max(np.abs(a).max(), np.abs(b).max())
    if max(a.std(), b.std()) <= _rounding(scale):
        raise ValueError(
            "the values of a are all equal, and so are those of b; give values with some variance"
        )
    part_a, part_b = a.var(ddof=1) / n, b.var(ddof=1) / m
    df = (part_a + part_b) ** 2 / (part_a**2 / (n - 1) + part_b**2 / (m - 1))
    pooled = n + m - 2
    sd = np.sqrt(((n - 1) * a.var(ddof=1) + (m - 1) * b.var(ddof=1)) / pooled)
    correction = np.sqrt(2 / pooled) * np.exp(
        special.gammaln(pooled / 2) - special.gammaln((pooled - 1) / 2)
    )
    difference = a.mean() - b.mean()
    return _test(
        "Welch",
        difference,
        np.sqrt(part_a + part_b),
        df,
        correction * difference / sd,
        "Hedges' g",
        (n, m),
    )


def mean_interval(
    mean: float, standard_error: float, df: float, confidence: float = 0.95
) -> tuple[float, float]:
    """Confidence interval (low, high) of an estimate whose error is distributed as t with df
    degrees of freedom."""
    reach = float(stats.t.isf((1 - confidence) / 2, df)) * standard_error
    return float(mean - reach), float(mean + reach)


def power(
    difference: float, sd: float, n: int, alpha: float = 0.05, design: str = "one-sample"
) -> float:
    """Probability that a two-sided t test at level `alpha` finds a true difference of means.

    sd      of the values; of the differences if design is "paired"
    n       number of values or of pairs; of each of the two sets if design is "two-sample"
    """
    standard_error, df = _design(sd, n, alpha, design)
    return _power(abs(_number(difference, "difference")) / standard_error, df, alpha)


def smallest_detectable_difference(
    sd: float, n: int, alpha: float = 0.05, power: float = 0.8, design: str = "one-sample"
) -> float:
    """The difference of means that a two-sided t test at level `alpha` finds with probability
    `power`.

    Arguments as of the function `power`, which this inverts by the noncentral t distribution.
    """
    standard_error, df = _design(sd, n, alpha, design)
    if not alpha < power < 1:
        raise ValueError(f"power is {power}; give a number between alpha = {alpha} and 1")
    upper = 1.0
    while _power(upper, df, alpha) < power:
        upper *= 2
    noncentrality = brentq(lambda value: _power(value, df, alpha) - power, 0, upper, xtol=1e-10)
    return float(noncentrality * standard_error)


# --------------------------------------------------------------------------------------------------


def _one_sample(test, difference, sd, n, effect_name):
    return _test(test, difference, sd / np.sqrt(n), n - 1, difference / sd, effect_name, n)


def _test(test, difference, standard_error, df, effect, effect_name, n):
    t = difference / standard_error
    less, greater = float(stats.t.cdf(t, df)), float(stats.t.sf(t, df))
    low, high = mean_interval(difference, standard_error, df)
    return TTest(
        test,
        float(t),
        float(df),
        2 * min(less, greater),
        less,
        greater,
        float(difference),
        low,
        high,
        float(effect),
        effect_name,
        n,
    )


def _power(noncentrality, df, alpha):
    critical = stats.t.isf(alpha / 2, df)
    # SciPy gives NaN for some below 1e-17
    wrong_side = np.nan_to_num(stats.nct.cdf(-critical, df, noncentrality))
    return float(stats.nct.sf(critical, df, noncentrality) + wrong_side)


def _design(sd, n, alpha, design):
    """Standard error and degrees of freedom of the mean difference."""
    if design not in DESIGNS:
        raise ValueError(f"design is {design!r}; use {' or '.join(DESIGNS)}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}; give a number between 0 and 1")
    sd = _number(sd, "sd")
    _require_spread(n, sd)
    return (
        (sd * np.sqrt(2 / n), 2 * (n - 1)) if design == "two-sample" else (sd / np.sqrt(n), n - 1)
    )


def _values(values, name):
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1:
        raise ValueError(f"{name} has the shape {list(x.shape)}; give a list of numbers")
    if len(x) < 2:
        raise ValueError(f"{len(x)} numbers in {name}; give at least 2")
    if not np.isfinite(x).all():
        raise ValueError(f"{name} hold NaN or infinite values; give finite numbers")
    return x


def _number(value, name):
    if not np.isfinite(value):
        raise ValueError(f"{name} is {value}; give a finite number")
    return float(value)


def _rounding(scale):
    """Bound on the difference that rounding leaves between equal numbers of this size."""
    return 4 * np.finfo(np.float64).eps * scale


def _sd(x, name, scale):
    if x.std() <= _rounding(max(scale, np.abs(x).max())):
        raise ValueError(f"the {name} are all equal; give values with some variance")
    return x.std(ddof=1)


def _require_spread(n, sd):
    if n < 2:
        raise ValueError(f"n is {n}; give at least 2 values")
    if sd <= 0:
        raise ValueError(f"sd is {sd}; give a number above 0")


@dataclass(frozen=True)
class Bootstrapped:
    """A number of n values from `units` independent units, with the 95% percentile interval
    low .. high of a bootstrap that draws whole units."""

    value: float
    low: float
    high: float
    n: int
    units: int


def rank_correlation(x, y, units=None, draws: int = 2000, seed: int = 0) -> Bootstrapped:
    """Spearman's rank correlation of x [n] and y [n], ties at their mean rank.

    units  [n] what each pair comes from; pairs of one unit need not be independent, and the
           bootstrap draws them together (Davison and Hinkley 1997, section 3.8). None: every pair
           is a unit

    Draws in which one side has a single value have no correlation and are left out of the interval.
    ValueError for fewer than 3 pairs, one value alone, or a single unit.
    """
    x, y = _values(x, "x"), _values(y, "y")
    if len(x) != len(y) or len(x) < 3 or not (np.ptp(x) and np.ptp(y)):
        raise ValueError(
            f"{len(x)} and {len(y)} values, or all of one side the same, have no rank correlation; "
            "give at least 3 pairs"
        )

    def spearman(index):
        ranks = stats.rankdata(x[index]), stats.rankdata(y[index])
        return np.corrcoef(*ranks)[0, 1] if all(map(np.ptp, ranks)) else np.nan

    return _bootstrapped(spearman, np.arange(len(x)) if units is None else units, draws, seed)


def bootstrapped_mean(values, draws: int = 2000, seed: int = 0) -> Bootstrapped:
    """Mean of values [n] that are independent. Equal n and seed give equal draws, so that means of
    several lists are compared on the same ones. ValueError for fewer than 2 values."""
    x = _values(values, "values")
    return _bootstrapped(lambda index: x[index].mean(), np.arange(len(x)), draws, seed)


def _bootstrapped(statistic, units, draws, seed):
    """`statistic` is a function of places in the data; units [n] tell which belong together."""
    places = [np.flatnonzero(np.asarray(units) == unit) for unit in dict.fromkeys(units)]
    if len(places) < 2:
        raise ValueError("all values are of one unit, which has no spread; give at least 2 units")
    rng, n = np.random.default_rng(seed), sum(map(len, places))
    again = [
        statistic(np.concatenate([places[i] for i in rng.integers(len(places), size=len(places))]))
        for _ in range(draws)
    ]
    low, high = np.nanpercentile(again, [2.5, 97.5])
    return Bootstrapped(float(statistic(np.arange(n))), float(low), float(high), n, len(places))
