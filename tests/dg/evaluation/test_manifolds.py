"""Precision, recall, density, coverage: hand cases, definitions, orientation, errors."""

from dataclasses import astuple

import numpy as np
import pytest
import torch

from dg.evaluation import feature_matrices as matrices
from dg.evaluation.manifolds import (
    ball_radii2,
    density_coverage,
    neighbour_indicators,
    precision_recall,
)


def gaussian(seed, n=200, dim=6, mean=0.0, scale=1.0):
    return mean + scale * np.random.default_rng(seed).standard_normal((n, dim))


def line(*points):
    return np.array(points, dtype=np.float64)[:, None]


def test_hand_case_on_a_line():
    # Nearest neighbours: real balls [-1, 1], [0, 2], [-1.5, 3.5] around 0, 1 and 3.5 have radii 1,
    # 1, 2.5.
    real, fake = line(0, 1, 3.5), line(0.5, 3, 9, 9.25)
    found = neighbour_indicators(fake, real, k=1, k_density=1)
    assert found.precision.tolist() == [True, True, False, False]
    assert found.density.tolist() == [2, 1, 0, 0]
    assert found.coverage.tolist() == [True, True, True]
    assert found.recall.tolist() == [True, True, True]  # fake balls: 0.5 and 3 reach 2.5 far
    assert precision_recall(fake, real, k=1) == (0.5, 1) and density_coverage(fake, real, k=1) == (
        0.75,
        1,
    )
    # k = 2: radii 3.5, 2.5, 3.5
    found = neighbour_indicators(line(8.9, 9, 9.25), real, k=1, k_density=2)
    assert found.recall.tolist() == found.coverage.tolist() == [
        False
    ] * 3 and found.density.tolist() == [0, 0, 0]
    found = neighbour_indicators(line(3.75, 2, 20), real, k=1, k_density=2)
    assert found.density.tolist() == [0.5, 1.5, 0] and found.coverage.tolist() == [True] * 3


def definition(x, y, k, k_density):
    def distances(a, b):
        return np.linalg.norm(a[:, None] - b, axis=2)

    radius_x, radius_y, radius_dense = (
        np.sort(distances(z, z))[:, n] for z, n in ((x, k), (y, k), (y, k_density))
    )
    d = distances(x, y)
    return (
        (d <= radius_y).any(1),
        (d <= radius_x[:, None]).any(0),
        (d <= radius_dense).sum(1) / k_density,
        (d <= radius_dense).any(0),
    )


def test_indicators_equal_the_definition_for_any_block_size(monkeypatch):
    x, y = gaussian(0, 40, 3), gaussian(1, 50, 3, mean=0.7)
    expected = definition(x, y, 3, 5)
    for elements in (1, 333, 10**6):
        monkeypatch.setattr(matrices, "BLOCK_ELEMENTS", elements)
        found = neighbour_indicators(x, y)
        again = neighbour_indicators(x, y, radii2_ref=ball_radii2(y))
        assert all(
            np.array_equal(*both) for both in zip(astuple(found), astuple(again), strict=True)
        )
        for got, want in zip(
            (found.precision, found.recall, found.density, found.coverage), expected, strict=True
        ):
            assert got.dtype == want.dtype and np.array_equal(got, want)
    assert precision_recall(x, y) == (expected[0].mean(), expected[1].mean())
    assert density_coverage(x, y) == pytest.approx((expected[2].mean(), expected[3].mean()))


def test_precision_comes_first():
    real = gaussian(0, 500)
    narrow, wide = gaussian(1, 500, scale=0.02), gaussian(2, 500, scale=6)
    precision, recall = precision_recall(narrow, real)
    assert precision > 0.97 and recall < 0.02
    precision, recall = precision_recall(wide, real)
    assert precision < 0.1 and recall > 0.9
    assert precision_recall(narrow, real) == precision_recall(real, narrow)[::-1]
    assert precision_recall(real, real) == (1, 1)


def test_density_comes_first():
    real = gaussian(0, 500)
    # collapsed into the densest place
    density, coverage = density_coverage(gaussian(1, 500, scale=0.02), real)
    assert density > 1.3 and coverage < 0.5
    density, coverage = density_coverage(gaussian(2, 500, scale=6), real)
    assert density < 0.05 and coverage < 0.3


def test_equal_distributions_have_density_one_and_the_expected_coverage():
    """A new point is nearer to a real one than its k-th of M - 1 neighbours with probability k / M
    (Naeem et al. 2020)."""
    densities, coverages = np.transpose(
        [density_coverage(gaussian(2 * i, 100), gaussian(2 * i + 1, 100)) for i in range(100)]
    )
    assert densities.mean() == pytest.approx(1, abs=4 * densities.std() / 10)
    # None of N points nearer than the k-th of M - 1: among N + M - 1 exchangeable distances the k
    # nearest are real ones.
    missed = np.prod([(99 - i) / (199 - i) for i in range(5)])
    assert coverages.mean() == pytest.approx(1 - missed, abs=4 * coverages.std() / 10)


def test_intervals_hold_the_manifolds_fixed():
    real = gaussian(0, 300)
    found = neighbour_indicators(gaussian(1, 400, mean=0.5), real)
    estimates = found.estimates()
    assert set(estimates) == {"precision", "recall", "density", "coverage"}
    for name, estimate in estimates.items():
        indicators = getattr(found, name)
        assert (
            estimate.value == pytest.approx(indicators.mean())
            and estimate.low < estimate.value < estimate.high
        )
        assert estimate.standard_error == pytest.approx(
            indicators.std() / np.sqrt(len(indicators)), rel=2e-3
        )
    # given the reference, precision varies over generated images as its standard error says
    draws = []
    for seed in range(60):
        draws.append(
            neighbour_indicators(gaussian(100 + seed, 400, mean=0.5), real).precision.mean()
        )
    assert estimates["precision"].standard_error == pytest.approx(np.std(draws), rel=0.3)


def test_order_type_and_place_of_the_samples_do_not_matter():
    x, y = gaussian(0).astype(np.float32), gaussian(1, 150, mean=0.3).astype(np.float32)
    kept, expected = x.copy(), (precision_recall(x, y), density_coverage(x, y))
    p, q = x[::-1], y[np.random.default_rng(0).permutation(len(y))]
    x.flags.writeable = False
    # rounding does not count here, because distances are centred
    far = (
        np.float64(x) + 1e5,
        np.float64(y) + 1e5,
    )
    for a, b in (
        (p, q),
        (x.astype(np.float64), y),
        (torch.tensor(kept, requires_grad=True), torch.from_numpy(y)),
        far,
    ):
        assert (precision_recall(a, b), density_coverage(a, b)) == expected
    assert np.array_equal(x, kept)


NAN = np.where(np.eye(6) > 0, np.nan, 0.0)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x: precision_recall(x, x[:, :5]), "reference features 5"),
        (
            lambda x: precision_recall(x, x[:3]),
            "200 generated and 3 reference features; give at least 4 of each",
        ),
        (lambda x: precision_recall(x, NAN), "reference features hold NaN"),
        (lambda x: precision_recall(x, x, k=0), "k is 0; give at least 1"),
        (
            lambda x: density_coverage(x[:5], x),
            "5 generated and 200 reference features; give at least 6 of each",
        ),
        (lambda x: neighbour_indicators(x, x, k_density=0), "k_density is 0; give at least 1"),
        (lambda x: ball_radii2(x[:5]), "5 reference features; give at least 6"),
    ],
)
def test_errors_are_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call(gaussian(0))
    assert "\n" not in str(error.value)
