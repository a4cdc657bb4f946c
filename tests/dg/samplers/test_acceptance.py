"""Finished images: exact laws by rejection, budgets, and resampling."""

import math

import pytest
import torch

from dg.samplers.acceptance import (
    accepted,
    budget_constant,
    finished_log_ratios,
    most_acceptable,
    resampled,
)


def ratios(x):
    """log N(x; 0, 0.25) - log N(x; 0.3, 0.36), the largest of which is at x = -15 / 22."""
    return -2 * x**2 + (x - 0.3) ** 2 / 0.72 + math.log(1.2)


LARGEST = float(ratios(torch.tensor(-15 / 22, dtype=torch.float64)))


def model(n):
    draw = torch.Generator().manual_seed(0)
    return 0.3 + 0.6 * torch.randn(n, dtype=torch.float64, generator=draw)


def assert_data(x, n):
    assert abs(x.mean()) < 4 * 0.5 / n**0.5
    assert abs(x.var() - 0.25) < 4 * 0.25 * (2 / n) ** 0.5


@pytest.mark.parametrize("n", [10_000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_at_one_over_the_largest_ratio_the_accepted_are_the_data(n):
    x = model(n)
    taken = accepted(ratios(x), -LARGEST, range(len(x)))
    kept = x[taken]
    assert abs(len(kept) / n - math.exp(-LARGEST)) < 0.02
    assert_data(kept, len(kept))


@pytest.mark.parametrize("budget", [0.05, 0.5, 0.9, 1.0])
def test_the_mean_acceptance_is_the_budget(budget):
    found = ratios(model(1000))
    log_c = budget_constant(found, budget)
    assert abs(float((found + log_c).exp().clamp(max=1).mean()) - budget) < 1e-12


def test_a_larger_budget_is_nearer_to_the_model():
    x = model(5_000)
    means = [
        float(x[accepted(ratios(x), budget_constant(ratios(x), budget), range(len(x)))].mean())
        for budget in (0.3, 0.8, 1.0)
    ]
    assert means[0] < means[1] < means[2]
    assert abs(means[2] - x.mean()) < 1e-12


def test_a_number_of_images_is_what_one_constant_accepts():
    found, low, high = ratios(model(400)), -20.0, 20.0
    for _ in range(60):  # the constant that accepts 100
        middle = (low + high) / 2
        enough = int(accepted(found, middle, range(400)).sum()) >= 100
        low, high = (low, middle) if enough else (middle, high)
    expected = accepted(found, high, range(400)).nonzero().flatten()
    assert len(expected) == 100
    assert torch.equal(most_acceptable(found, 100, range(400)), expected)
    with pytest.raises(ValueError, match="401 of 400 images"):
        most_acceptable(found, 401, range(400))


def test_an_acceptance_depends_on_its_seed_alone():
    found = ratios(model(20))
    together = accepted(found, -LARGEST, range(20))
    for place in (3, 11):
        assert accepted(found[[place]], -LARGEST, [place])[0] == together[place]


def test_resampled_images_are_the_data():
    x = model(4_000_000)
    assert_data(x[resampled(ratios(x), 100_000, seed=0)], 100_000)


def test_ratios_of_finished_images_are_asked_at_the_noise_level():
    asked = []

    def ratio(x, sigma, class_labels):
        asked.append((x, float(sigma)))
        return x.mean(dim=(1, 2, 3))

    images = torch.zeros(3, 1, 64, 64)
    found = finished_log_ratios(ratio, images, 0.5, [4, 5, 6])
    assert asked[0][1] == 0.5 and abs(asked[0][0].std() - 0.5) < 0.02 and found.shape == (3,)
    alone = finished_log_ratios(ratio, images[:1], 0.5, [5])
    assert alone[0] == found[1]


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="the budget is 0; give a share"):
        budget_constant(torch.zeros(3), 0)
    with pytest.raises(ValueError, match="infinite ratios"):
        resampled(torch.tensor([math.inf]), 1, 0)
