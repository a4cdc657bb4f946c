"""All metrics of one table row, generated features first."""

import numpy as np
import pytest

from dg.evaluation import feature_sets
from dg.evaluation.feature_sets import FeatureSet
from dg.evaluation.manifolds import ball_radii2, precision_recall
from dg.evaluation.measure import metric_estimates, metric_values
from dg.evaluation.metrics import frechet_distance, kernel_distance, statistics

KEYS = ["fd", "kid", "precision", "recall"]


def gaussian(seed, n=400, scale=1.0, mean=0.0):
    return mean + scale * np.random.default_rng(seed).standard_normal((n, 4))


def test_it_is_the_four_metrics_by_name():
    x, y = gaussian(0, mean=0.3), gaussian(1, n=300)
    precision, recall = precision_recall(x, y)
    assert metric_values(x, y) == {
        "fd": frechet_distance(*statistics(x), *statistics(y)),
        "kid": kernel_distance(x, y),
        "precision": precision,
        "recall": recall,
    }
    assert list(metric_values(x, y)) == KEYS and all(
        isinstance(value, float) for value in metric_values(x, y).values()
    )


def test_a_collapsed_generator_is_precise_and_forgets():
    real, collapsed = gaussian(0), gaussian(1, scale=0.05)
    row, turned = metric_values(collapsed, real), metric_values(real, collapsed)
    assert row["precision"] > 0.95 and row["recall"] < 0.05
    assert (turned["precision"], turned["recall"]) == (row["recall"], row["precision"])
    assert turned["fd"] == pytest.approx(row["fd"]) and turned["kid"] == pytest.approx(row["kid"])


def test_a_set_against_itself():
    x = gaussian(0)
    row = metric_values(x, x[::-1])
    assert abs(row["fd"]) < 1e-10 and (row["precision"], row["recall"]) == (1, 1)
    # unbiased: a point is never compared with itself within a set, but is across the two
    assert -0.5 < row["kid"] <= 0


def test_a_shift_of_the_mean_is_its_square():
    x = gaussian(0)
    row = metric_values(x + np.array([3.0, 0, 0, 4]), x)
    assert row["fd"] == pytest.approx(25, rel=1e-9) and row["kid"] > 1


def test_the_balls_of_a_reference_are_found_once_for_all_sets(monkeypatch):
    found = []
    monkeypatch.setattr(
        feature_sets, "ball_radii2", lambda x: found.append(len(x)) or ball_radii2(x)
    )
    rng = np.random.default_rng(0)
    first, second, real = (
        FeatureSet(str(n), n, None, None, *statistics(x), features=x)
        for n, x in ((n, rng.standard_normal((n, 4))) for n in (40, 41, 60))
    )
    tables = [metric_estimates(one, real, ["precision", "recall"]) for one in (first, second)]
    assert found == [60]
    for one, table in zip((first, second), tables, strict=True):
        expected = precision_recall(one.features, real.features)
        assert (table["precision"]["value"], table["recall"]["value"]) == expected
