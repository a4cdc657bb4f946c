"""Authenticity and memorised: hand cases, definitions, copies, independent draws, errors."""

import numpy as np
import pytest

from dg.evaluation import feature_matrices as matrices
from dg.evaluation import mann_whitney_estimate, memorisation_estimates
from dg.evaluation.memorisation import count_known, nearest_training


def gaussian(seed, n=200, dim=6, mean=0.0, scale=1.0):
    return mean + scale * np.random.default_rng(seed).standard_normal((n, dim))


def line(*points):
    return np.array(points, dtype=np.float64)[:, None]


def values(*sets):
    return {name: estimate.value for name, estimate in memorisation_estimates(*sets).items()}


def test_hand_case_on_a_line():
    # Training images 0, 1, 4 lie 1, 1, 3 from their nearest others; generated 0.25, 2.25, 6, -2 lie
    # 0.25, 1.25, 2, 2 from the training images 0, 1, 4, 0; reference ones 0.5, 1, 2 from theirs.
    train, fake, unseen = line(0, 1, 4), line(0.25, 2.25, 6, -2), line(0.5, 5, -2)
    found = memorisation_estimates(fake, unseen, train)
    assert found["authenticity"].value == 0.5
    # nearer than 3, 1, 0 and 0 of the three; two ties with the last
    assert found["memorised"].value == pytest.approx((3 + 1 + 0.5 + 0.5) / 12)
    # as near to its training image as this is to its own neighbour: not authentic
    assert values(line(-1, 7, 8), unseen, train)["authenticity"] == pytest.approx(1 / 3)


def definition(fake, unseen, train):
    def distances(a, b):
        return np.linalg.norm(a[:, None] - b, axis=2)

    to_train, spacing = distances(fake, train), distances(train, train)
    np.fill_diagonal(spacing, np.inf)
    authentic = to_train.min(1) > spacing.min(1)[to_train.argmin(1)]
    near, near_unseen = to_train.min(1), distances(unseen, train).min(1)
    pairs = (near[:, None] < near_unseen) + 0.5 * (near[:, None] == near_unseen)
    return authentic.mean(), pairs.mean()


def test_the_metrics_equal_the_definition_for_any_block_size(monkeypatch):
    fake, unseen, train = gaussian(0, 40, 3, 0.2), gaussian(1, 30, 3), gaussian(2, 50, 3)
    expected = definition(fake, unseen, train)
    for elements in (1, 333, 10**6):
        monkeypatch.setattr(matrices, "BLOCK_ELEMENTS", elements)
        found = values(fake.astype(np.float32), unseen, train + 0.0)
        assert (found["authenticity"], found["memorised"]) == pytest.approx(expected)


def test_copies_are_memorised_and_not_authentic():
    train, unseen = gaussian(0, 300).astype(np.float32) + 100, gaussian(1, 100) + 100
    train = np.concatenate([train, train[:50]])  # the training set holds some images twice
    for copies in (train[::2], train[:50]):
        found = memorisation_estimates(copies, unseen, train)
        assert found["authenticity"].value == 0 and found["authenticity"].high < 0.1
        assert found["memorised"].value == 1 and 0.9 < found["memorised"].low < 1
    half = np.concatenate([train[:100], gaussian(2, 100) + 100])
    assert values(half, unseen, train)["memorised"] == pytest.approx(0.75, abs=0.05)


def test_unseen_draws_are_neither_and_intervals_hold():
    train = gaussian(0, 400)
    found = [
        memorisation_estimates(gaussian(2 * i + 1, 150), gaussian(2 * i + 2, 100), train)
        for i in range(150)
    ]
    memorised = [row["memorised"] for row in found]
    measured = np.array([estimate.value for estimate in memorised])
    errors = [estimate.standard_error for estimate in memorised]
    assert measured.mean() == pytest.approx(0.5, abs=4 * measured.std() / np.sqrt(150))
    assert np.mean(errors) == pytest.approx(measured.std(), rel=0.2)
    assert np.mean([estimate.low < 0.5 < estimate.high for estimate in memorised]) > 0.9
    # numbers of images do not matter, but for the errors
    few = values(gaussian(3, 2000), gaussian(4, 2000), train)
    assert few["memorised"] == pytest.approx(0.5, abs=0.05)
    assert few["authenticity"] == pytest.approx(
        np.mean([row["authenticity"].value for row in found]), abs=0.05
    )
    assert values(gaussian(5, mean=2), gaussian(6), train)["memorised"] < 0.1


def test_the_nearest_training_images_come_in_order(monkeypatch):
    distances, index = nearest_training(line(0.9, 5), line(4, 0, 1, 1), 3)
    assert index.tolist() == [[2, 3, 1], [0, 2, 3]]  # of equal ones the first
    assert distances == pytest.approx(np.array([[0.1, 0.1, 0.9], [1, 4, 4]]))
    fake, train = gaussian(0, 40, 3, 0.2), gaussian(2, 50, 3)
    truth = np.linalg.norm(fake[:, None] - train, axis=2)
    for elements in (1, 333, 10**6):
        monkeypatch.setattr(matrices, "BLOCK_ELEMENTS", elements)
        distances, index = nearest_training(fake, train, 4)
        assert (index == np.argsort(truth, axis=1)[:, :4]).all()
        assert distances == pytest.approx(np.sort(truth, axis=1)[:, :4])
    assert nearest_training(train[[7]], train)[1].tolist() == [[7]]


def test_the_mann_whitney_statistic():
    x, y = np.random.default_rng(0).integers(0, 6, (2, 40)).astype(float)
    found = mann_whitney_estimate(x, y[:30])
    assert found.value == pytest.approx(
        ((x[:, None] < y[:30]) + 0.5 * (x[:, None] == y[:30])).mean()
    )
    assert 0 < found.low < found.value < found.high < 1
    turned = mann_whitney_estimate(y[:30], x)
    assert turned.value == pytest.approx(1 - found.value)
    assert turned.standard_error == pytest.approx(found.standard_error)
    equal = mann_whitney_estimate(np.zeros(3), np.zeros(4))
    assert (equal.value, equal.standard_error, equal.low, equal.high) == (0.5, 0, 0.5, 0.5)
    # at the ends the interval is Wilson's of the smaller set
    apart = mann_whitney_estimate(np.zeros(50), np.ones(20))
    assert apart.value == apart.high == 1 and apart.low == pytest.approx(1 - 0.1611, abs=1e-4)


def test_reference_images_among_the_training_images_are_counted():
    train = gaussian(0, 100).astype(np.float32) + 10
    rounded = train[:7] * (1 + 1e-7)
    assert count_known(np.concatenate([rounded, gaussian(1, 20) + 10]), train) == 7
    assert count_known(gaussian(1, 20) + 10, train) == 0


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x: memorisation_estimates(x, x, x[:, :5]), "generated .* 6 .* training features 5"),
        (lambda x: memorisation_estimates(x, x[:, :5], x), "reference .* 5 .* training features 6"),
        (lambda x: nearest_training(x, x, len(x) + 1), "ask for 1 to"),
        (
            lambda x: memorisation_estimates(x, x, x[:1]),
            "generated and 1 training features; give at least 2",
        ),
        (
            lambda x: memorisation_estimates(x, x[:1], x),
            "1 reference and .* training features; give at least 2",
        ),
        (lambda x: mann_whitney_estimate(x[0], x), "give two lists of at least 2"),
        (lambda x: mann_whitney_estimate(x[0], x[0, :1]), "give two lists of at least 2"),
    ],
)
def test_errors_are_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call(gaussian(0))
    assert "\n" not in str(error.value)
