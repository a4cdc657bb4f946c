"""Rejection sampling: the exact-ratio oracle, budgets, and what an image depends on."""

from dataclasses import replace

import pytest
import torch

import edm
from dg.guidance import BOOSTING
from dg.samplers.constants import (
    Constants,
    RejectionSampling,
    _quantiles,
    stored_constants,
    warm_up,
)
from dg.samplers.rejection import _Pool, rejection_sampler
from dg.sampling import Sampling, draw_images
from tests.dg.samplers.gaussians import HOW, MODEL, ExactRatio, assert_law
from tests.dg.test_sampling import Linear, guidance, network

FULL = dict(time_min=0.0, **HOW)
ZEROS = Constants([0] * 7, [0] * 7)


def one(x, sigma, class_labels=None):
    return torch.zeros(len(x))


def drawn(net, seeds, ratio, sampling, **kwargs):
    """Images in the order of their seeds, and what was drawn."""
    found = sorted(rejection_sampler(net, seeds, ratio, sampling, **kwargs))
    assert [image.seed for image in found] == sorted(seeds)
    return torch.stack([image.image for image in found]), found


@pytest.mark.parametrize("n", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_with_the_exact_ratio_and_its_suprema_the_model_becomes_the_data(n):
    """A budget of one pass: every rejection begins anew, which is rejection sampling proper."""
    ratio = ExactRatio()
    constants = ratio.suprema()
    sampling = RejectionSampling(max_iter=11, constants=constants, **FULL)
    images, found = drawn(MODEL, range(n), ratio, sampling, rows=4096)
    assert_law(images, ratio.data)
    # every check of a beginning is passed with probability e^-constant: they multiply
    expected = sum(constants.stepwise) + constants.marginal[0]
    share = n / sum(image.latents for image in found)
    assert abs(share / torch.tensor(-expected).exp() - 1) < 0.05


def test_without_rejection_the_images_are_edms_to_the_bit():
    settings = dict(num_steps=4, S_churn=3, S_min=0.01, S_noise=1.01)
    seeds = [3, 7, 2**31, 11, 5]
    for net in (Linear(10), MODEL):
        expected, classes = draw_images(net, seeds, Sampling(**settings))
        constants = Constants([0] * 5, [0] * 5)
        sampling = RejectionSampling(constants=constants, time_min=0.0, **settings)
        for rows in (1, 2, 64):
            images, found = drawn(net, seeds, one, sampling, rows=rows)
            order = sorted(range(5), key=seeds.__getitem__)
            assert torch.equal(images, expected[order])
            assert [image.evaluations for image in found] == [7] * 5
            assert [image.ratios for image in found] == [5] * 5
            if classes is not None:
                assert [image.class_idx for image in found] == classes[order].tolist()


@pytest.mark.parametrize("guided", [False, True])
def test_a_network_draws_edms_images_to_the_bit_where_rows_are_as_many_as_seeds(guided):
    net, seeds, settings = network(), [3, 5, 7, 11, 2**31], dict(num_steps=4, S_churn=3)
    steering = guidance(net) if guided else None
    expected, _ = draw_images(net, seeds, Sampling(**settings), steering)
    sampling = RejectionSampling(constants=Constants([0] * 5, [0] * 5), time_min=0.0, **settings)
    images, _ = drawn(net, seeds, one, sampling, rows=5, guidance=steering)
    assert torch.equal(images, expected)


@pytest.mark.parametrize("guided", [False, True])
def test_an_image_depends_on_its_seed_and_the_rows_alone(guided):
    net = network()
    knowing = guidance(net, salt="ratio:")

    def ratio(x, sigma, class_labels):
        return 3 * knowing.log_ratio(x, sigma, class_labels) + 2.4

    constants = Constants([0.4] * 4, [0.4] * 4)
    how = dict(num_steps=3, max_iter=9, S_churn=2, time_min=1e-5, constants=constants)
    sampling, how = RejectionSampling(**how), dict(guidance=guidance(net) if guided else None)
    together, found = drawn(net, range(6), ratio, sampling, rows=3, **how)
    assert sum(image.latents for image in found) > 6, "some begin anew"
    assert sum(image.evaluations for image in found) > 6 * 5
    for part in ([5], [4, 2, 0], list(range(5, 0, -1))):
        images, _ = drawn(net, part, ratio, sampling, rows=3, **how)
        assert torch.equal(images, together[sorted(part)])
    others, _ = drawn(net, range(6), ratio, sampling, rows=4, **how)
    assert (others - together).abs().max() < 1e-4 * together.abs().max()


def test_a_ratio_that_is_not_known_at_a_level_is_an_error():
    net = network()
    sampling = RejectionSampling(num_steps=3, time_min=0.0, warmup=2)
    with pytest.raises(ValueError, match="the log ratio is nan at a noise level of 0; narrow the"):
        warm_up(net, guidance(net).log_ratio, sampling)


class Counted:
    """The model, with the rows of its calls counted."""

    img_resolution, img_channels, label_dim = 1, 1, 0
    sigma_min, sigma_max, round_sigma = 0.0, 100.0, staticmethod(torch.as_tensor)
    rows = 0

    def __call__(self, x, sigma, class_labels=None):
        self.rows += len(x)
        return MODEL(x, sigma)


@pytest.mark.parametrize("max_iter", [11, 12, 13, 33])
def test_budgets_are_kept_exactly(max_iter, monkeypatch):
    """Each attempt ends by itself within the budget, or where the rest would not fit into it."""
    ratio, net, attempts, back = ExactRatio(), Counted(), [], _Pool._back

    def watched(pool, places):
        levels, used = pool.level[places].tolist(), pool.used[places].tolist()
        free = back(pool, places)
        for place, level, before in zip(places.tolist(), levels, used, strict=True):
            needed = 2 * (6 - (level - 1)) - 1
            assert (before + needed > max_iter) == (pool.used[place] < before) or level == 0
            if pool.used[place] < before:
                attempts.append(before)
        return free

    monkeypatch.setattr(_Pool, "_back", watched)
    sampling = RejectionSampling(max_iter=max_iter, **FULL)
    sampling = sampling.with_constants(warm_up(MODEL, ratio, sampling))
    several = 0
    for seed in range(16):
        attempts.clear()
        net.rows = ratio.calls = 0
        _, [image] = drawn(net, [seed], ratio, sampling, rows=1)  # calls are never filled up
        assert (image.evaluations, image.ratios) == (net.rows, ratio.calls)
        attempts.append(net.rows - sum(attempts))
        assert max(attempts) <= max_iter and attempts[-1] >= 11
        several += len(attempts) > 1
    assert several or max_iter == 33


def test_few_rows_are_idle():
    """Samples of all levels share the calls; what is filled up is the end of the stream."""
    ratio, net = ExactRatio(), Counted()
    sampling = RejectionSampling(max_iter=33, **FULL)
    sampling = sampling.with_constants(warm_up(MODEL, ratio, sampling))
    ratio.calls = 0
    _, found = drawn(net, range(1000), ratio, sampling, rows=16)
    evaluations, ratios = (sum(image[index] for image in found) for index in (3, 4))
    assert 0.96 < evaluations / net.rows < 1
    assert 0.96 < ratios / ratio.calls < 1


def test_decisions_step_by_step():
    """Every rejected state goes one level up, is held against the marginal constant there, and then
    against the change since the last accepted ratio."""
    visited = []

    class Script:
        """Says what is to be said, and keeps the level at which it was asked."""

        says = iter([0.0, 0.0, -1e9, 0.0, 0.0, -1e9, -1e9, 0.0, 0.0, 0.0, 0.0])

        def __call__(self, x, sigma, class_labels=None):
            visited.append(levels.index(float(sigma)))
            return torch.full([1], next(self.says), dtype=torch.float64)

    sampling = RejectionSampling(num_steps=3, max_iter=50, time_min=0.0)
    levels = edm.sampler.sampling_levels(Linear(), 3, 0.002, 80, 7).tolist()
    sampling = sampling.with_constants(Constants([0] * 4, [0] * 4))
    _, found = drawn(Linear(), [1], Script(), sampling, rows=1)
    assert visited == [0, 1, 2, 1, 2, 3, 2, 1, 2, 3]
    assert found[0].evaluations == 2 + 2 + 2 + 1 + 2 + 1 and found[0].latents == 1


def test_constants_are_floored_quantiles_and_an_unchecked_level_keeps_the_ratio_before_it():
    ratios = torch.tensor([[-1.0, 1], [9, 9], [3, 2], [-5, -6]], dtype=torch.float64)
    checked = torch.tensor([True, False, True, True])
    found = _quantiles(ratios, checked, 1.0)
    assert found == Constants([1, 1, 3, 0], [0, 0, 4, 0])


def test_constants_are_stored_with_what_they_depend_on(tmp_path):
    path, made = tmp_path / "constants.json", []

    def compute():
        made.append(Constants([0.1, 1 / 3], [0, 2]))
        return made[-1]

    assert stored_constants(path, {"a": 1}, compute) == stored_constants(path, {"a": 1}, compute)
    assert len(made) == 1
    with pytest.raises(ValueError, match="is of other settings; use another folder"):
        stored_constants(path, {"a": 2}, compute)
    path.write_text("[]")
    with pytest.raises(ValueError, match="holds no constants"):
        stored_constants(path, {"a": 1}, compute)


def test_a_seed_that_is_never_accepted_is_an_error(monkeypatch):
    monkeypatch.setattr("dg.samplers.rejection.MOST_LATENTS", 5)
    sampling = RejectionSampling(constants=Constants([99] * 7, [99] * 7), **FULL)
    with pytest.raises(ValueError, match="seed 4: no image was accepted from 5 latents; lower"):
        list(rejection_sampler(MODEL, [4], one, sampling, rows=1))


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="max_iter 10, but 6 steps take 11 evaluations"):
        RejectionSampling(max_iter=10, **FULL)
    with pytest.raises(ValueError, match="constants of 6 steps, but 5 are to be made"):
        replace(RejectionSampling(constants=ZEROS, **FULL), num_steps=5)
    with pytest.raises(ValueError, match="needs constants"):
        list(rejection_sampler(MODEL, [4], one, RejectionSampling(**FULL)))
    net = network()
    for steering in (guidance(net, boosting=BOOSTING["authors"]), guidance(net, every=2)):
        with pytest.raises(ValueError, match="leave them out"):
            warm_up(net, one, RejectionSampling(), steering)
