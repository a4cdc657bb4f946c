"""Standard errors and intervals against simulations with known answers; why FID has no
bootstrap."""

import json

import numpy as np
import pytest
from scipy import stats

from dg.evaluation import feature_matrices as matrices
from dg.evaluation.metrics import frechet_distance, kernel_distance, statistics
from dg.evaluation.uncertainty import (
    fid_infinity,
    kernel_distance_estimate,
    mean_estimate,
    proportion_estimate,
    summarise_repeats,
)


def gaussian(seed, n=100, dim=8, mean=0.0):
    return mean + np.random.default_rng(seed).standard_normal((n, dim))


def to_standard_normal(features):
    return frechet_distance(
        *statistics(features), np.zeros(features.shape[1]), np.eye(features.shape[1])
    )


def test_summary_of_repeats():
    summary = summarise_repeats(np.array([2.0, 1.5, 2.5]))
    assert summary == {"mean": 2, "sd": 0.5, "n": 3, "min": 1.5, "values": [2, 1.5, 2.5]}
    assert summarise_repeats([3]) == {"mean": 3, "sd": 0, "n": 1, "min": 3, "values": [3]}
    json.dumps(summary)


def test_mean_and_proportion_equal_scipy():
    x = gaussian(0, 7, 1)[:, 0]
    estimate = mean_estimate(x)
    assert estimate.standard_error == pytest.approx(stats.sem(x))
    assert (estimate.low, estimate.high) == pytest.approx(
        stats.t.interval(0.95, 6, x.mean(), stats.sem(x))
    )
    for ones in (0, 1, 13, 40):
        indicators = np.arange(40) < ones
        wilson = stats.binomtest(ones, 40).proportion_ci(method="wilson")
        estimate = proportion_estimate(indicators)
        assert (estimate.value, estimate.low, estimate.high) == pytest.approx(
            (ones / 40, wilson.low, wilson.high), abs=1e-12
        )
        assert estimate.standard_error == pytest.approx(np.sqrt(ones * (40 - ones) / 40**3))


# Kernel distance ----------------------------------------------------------------------------------


def test_jackknife_equals_leaving_out_one_image_at_a_time(monkeypatch):
    x, y = gaussian(0, 9, 3), gaussian(1, 7, 3, mean=0.5)

    def jackknife(n, without):
        values = np.array([without(i) for i in range(n)])
        return np.sqrt((n - 1) / n * ((values - values.mean()) ** 2).sum())

    generated = jackknife(9, lambda i: kernel_distance(np.delete(x, i, 0), y))
    reference = jackknife(7, lambda i: kernel_distance(x, np.delete(y, i, 0)))
    for elements in (1, 20, 10**6):
        monkeypatch.setattr(matrices, "BLOCK_ELEMENTS", elements)
        got = kernel_distance_estimate(x, y)
        assert got.value == pytest.approx(kernel_distance(x, y), rel=1e-12)
        assert (got.generated, got.reference) == pytest.approx((generated, reference), rel=1e-10)
        assert got.standard_error == pytest.approx(np.hypot(generated, reference))
        assert (got.low + got.high) / 2 == pytest.approx(got.value)
        assert got.high - got.low == pytest.approx(2 * 1.959964 * got.standard_error)


# Without a difference the linear part of the error vanishes, and the jackknife counts the quadratic
# part twice.
@pytest.mark.parametrize(
    "shift, part_size, ratio", [(0.3, 100, 1), (0.3, 50, 1), (1, 100, 1), (0, 100, np.sqrt(2))]
)
def test_standard_error_is_the_sd_over_fresh_draws(shift, part_size, ratio):
    draws = [
        kernel_distance_estimate(gaussian(2 * i, mean=shift), gaussian(2 * i + 1), part_size)
        for i in range(200)
    ]
    sd = np.std([draw.value for draw in draws], ddof=1)
    assert np.mean([draw.standard_error for draw in draws]) == pytest.approx(ratio * sd, rel=0.25)
    if not shift:
        assert abs(np.mean([draw.value for draw in draws])) < 3 * sd / np.sqrt(200)
        assert np.mean([draw.low < 0 < draw.high for draw in draws]) > 0.95


def test_shares_of_the_standard_error():
    few, many = gaussian(0, 60, mean=0.5), gaussian(1, 600)
    assert (
        kernel_distance_estimate(few, many).generated
        > 2 * kernel_distance_estimate(few, many).reference
    )
    turned = kernel_distance_estimate(many, few)
    assert turned.reference == pytest.approx(
        kernel_distance_estimate(few, many).generated, rel=1e-9
    )


def test_large_sets_are_cut_into_disjoint_parts():
    x, y = gaussian(0, 90, mean=0.5), gaussian(1, 200)
    whole, cut = (
        kernel_distance_estimate(x, y),
        kernel_distance_estimate(x, y, part_size=50, seed=3),
    )
    assert (
        cut
        == kernel_distance_estimate(x, y, part_size=50, seed=3)
        != kernel_distance_estimate(x, y, part_size=50, seed=4)
    )
    assert cut.value == pytest.approx(whole.value, abs=3 * whole.standard_error)
    assert cut.standard_error == pytest.approx(whole.standard_error, rel=0.3)


# Frechet distance ---------------------------------------------------------------------------------


def test_a_bootstrap_of_the_frechet_distance_would_lie_beside_the_value():
    """The numbers in the docstring of the module."""
    measured, resampled = [], []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((1000, 16))
        measured.append(to_standard_normal(x))
        resampled.append([to_standard_normal(x[rng.integers(1000, size=1000)]) for _ in range(50)])
        assert min(resampled[-1]) > measured[-1]
    assert np.mean(measured) == pytest.approx(0.087, abs=0.01)
    assert np.mean(resampled) == pytest.approx(0.171, abs=0.015)


def test_fid_infinity_is_nearer_to_the_truth_than_the_distance_itself():
    shift, dim = 0.1, 8
    lines = [
        fid_infinity(gaussian(seed, 500, dim, shift), np.zeros(dim), np.eye(dim), seed=seed)
        for seed in range(40)
    ]
    raw, truth = np.array([line.values[-1] for line in lines]), dim * shift**2
    intercepts = np.array([line.intercept for line in lines])
    assert raw.mean() > truth + 0.04
    assert intercepts.mean() == pytest.approx(truth, abs=3 * intercepts.std() / np.sqrt(40))
    assert raw[0] == pytest.approx(to_standard_normal(gaussian(0, 500, dim, shift)), rel=1e-9)


def test_fid_infinity_is_a_line_in_one_over_n():
    x, reference = gaussian(0, 400), (np.zeros(8), np.eye(8))
    line = fid_infinity(x, *reference, num_points=5)
    assert line.sizes.tolist() == [40, 130, 220, 310, 400] and line.values.shape == (5,)
    expected = stats.linregress(1 / line.sizes, line.values)
    assert (line.slope, line.intercept) == pytest.approx((expected.slope, expected.intercept))
    assert line.standard_error == pytest.approx(expected.intercept_stderr)
    estimate = line.estimate
    low, high = stats.t.interval(0.95, 3, expected.intercept, expected.intercept_stderr)
    assert (estimate.low, estimate.value, estimate.high) == pytest.approx(
        (low, line.intercept, high)
    )
    assert np.array_equal(line.values, fid_infinity(x, *reference, num_points=5).values)
    assert not np.array_equal(
        line.values[:-1], fid_infinity(x, *reference, num_points=5, seed=1).values[:-1]
    )
    assert fid_infinity(x[:100], *reference, num_points=3).sizes.tolist() == [16, 58, 100]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x: summarise_repeats([]), "no values"),
        (lambda x: mean_estimate([1.0]), "give a list of at least 2"),
        (lambda x: proportion_estimate([]), "indicators have the shape"),
        (lambda x: kernel_distance_estimate(x[:2], x), "give at least 3 of each"),
        (lambda x: kernel_distance_estimate(x, x, part_size=2), "at least 3"),
        (
            lambda x: kernel_distance_estimate(x[:5], x, part_size=10),
            "do not make 10 parts of at least 3; raise part_size",
        ),
        (
            lambda x: fid_infinity(x[:31], np.zeros(8), np.eye(8)),
            "31 images; FID-infinity of 8-dimensional features needs at least 32",
        ),
        (lambda x: fid_infinity(x, np.zeros(8), np.eye(8), num_points=2), "at least 3"),
        (lambda x: fid_infinity(x, np.zeros(7), np.eye(7)), "8 dimensions, reference statistics 7"),
    ],
)
def test_errors_are_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call(gaussian(0))
    assert "\n" not in str(error.value)
