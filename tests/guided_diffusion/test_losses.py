"""The variational bound in closed form on Gaussian data, the decoder, and what the hybrid loss
trains."""

import math

import numpy as np
import pytest
import torch

import edm
from guided_diffusion import create_diffusion, training_losses, vlb
from guided_diffusion.losses import discretized_log_likelihood
from tests.guided_diffusion.test_gaussian_diffusion import ExactNetwork

SD, SIZE = 0.2, 200
LEVELS = torch.arange(256, dtype=torch.float64) / 127.5 - 1


def images():
    """One 8-bit image of 40000 pixels N(0, SD^2)."""
    noise = torch.randn(
        1, 1, SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    return ((SD * noise + 1) * 127.5).round().clip(0, 255) / 127.5 - 1


def bound(diffusion, network):
    return vlb(
        diffusion,
        network,
        images(),
        randn_like=edm.StackedRandomGenerator("cpu", [1]).randn_like,
        clip_denoised=False,
    )


def entropy():
    """Negative log likelihood in bits/dim of the images under the true distribution."""
    return -discretized_log_likelihood(
        images(), torch.zeros_like(images()), torch.tensor(math.log(SD))
    ).mean() / math.log(2)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_terms_in_closed_form(variance):
    diffusion = create_diffusion("cosine", 20, variance=variance)
    s = diffusion.schedule
    network = ExactNetwork(0.0, SD, "cosine", 20)
    found = bound(diffusion, network)
    assert found.terms.shape == (1, 20) and found.total.shape == found.prior.shape == (1,)
    assert found.total.item() == pytest.approx(found.prior.item() + found.terms.sum().item())
    used = s.posterior_variance if variance == "fixed_small" else s.betas
    squared_error = s.posterior_mean_coef1**2 * network.spread()  # of the mean, whatever x_t
    ratio = s.posterior_variance[1:] / used[1:]
    expected = 0.5 * (ratio - 1 - np.log(ratio) + squared_error[1:] / used[1:]) / math.log(2)
    np.testing.assert_allclose(found.terms[0, 1:], expected, rtol=0.03)
    alpha_bar = s.alphas_cumprod[-1]
    prior = (
        0.5
        * (alpha_bar * (images() ** 2).mean().item() - alpha_bar - math.log(1 - alpha_bar))
        / math.log(2)
    )
    assert found.prior.item() == pytest.approx(prior, rel=1e-6)


@pytest.mark.parametrize("num_steps", [10, 50])
def test_the_true_reverse_process_has_the_likelihood_of_the_data(num_steps):
    """With mean and variance of p(x_{t-1} | x_t) known there is no gap, however few the steps."""
    diffusion = create_diffusion("cosine", num_steps, variance="learned")
    network = ExactNetwork(0.0, SD, "cosine", num_steps, learned=True)
    assert abs(bound(diffusion, network).total.item() - entropy().item()) < 0.02


@pytest.mark.slow
def test_the_bound_closes_with_the_number_of_steps():
    """With the forward step's variance, the upper end of the learned range; "fixed_*" keep a gap at
    the first steps."""
    gaps = []
    for num_steps in (25, 100, 300):
        diffusion, network = (
            create_diffusion("linear", num_steps),
            ExactNetwork(0.0, SD, "linear", num_steps),
        )
        found = bound(
            diffusion,
            lambda x, t, network=network: torch.cat([network(x, t), torch.ones_like(x)], dim=1),
        )
        gaps.append((found.total - entropy()).item())
    assert gaps[0] > 3 * gaps[1] and gaps[1] > 3 * gaps[2] - 0.02 and abs(gaps[2]) < 0.04


def test_bound_is_per_image():
    x = images().reshape(4, 1, 100, 100)
    diffusion, network = (
        create_diffusion("cosine", 5, variance="fixed_small"),
        ExactNetwork(0.0, SD, "cosine", 5),
    )

    def run(order):
        return vlb(
            diffusion,
            network,
            x[order],
            randn_like=edm.StackedRandomGenerator("cpu", order).randn_like,
        )

    for together, back in zip(run([0, 1, 2, 3]), run([3, 2, 1, 0]), strict=True):
        torch.testing.assert_close(back.flip(0), together)


# The decoder.


@pytest.mark.parametrize(
    "mean, std", [(0.0, 0.3), (-1.0, 0.01), (0.99, 1e-4), (3.0, 0.1), (0.004, 50.0), (-0.2, 1e-9)]
)
def test_levels_have_probability_one(mean, std):
    log_p = discretized_log_likelihood(
        LEVELS, torch.full_like(LEVELS, mean), torch.full_like(LEVELS, math.log(std))
    )
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-12)
    edges = torch.cat(
        [torch.tensor([-math.inf]), LEVELS[:-1] + 1 / 255, torch.tensor([math.inf])]
    ).double()
    cdf = torch.special.ndtr((edges - mean) / std)
    np.testing.assert_allclose(log_p.exp(), cdf.diff(), rtol=0, atol=1e-12)


def test_levels_far_from_the_mean_keep_a_gradient():
    mean = torch.tensor([1.0, -1.0, 0.5], requires_grad=True)
    log_std = torch.full([3], -5.0, requires_grad=True)
    log_p = discretized_log_likelihood(torch.tensor([-1.0, 1.0, 0.5]), mean, log_std)
    assert log_p.dtype == torch.float32 and log_p[0] == log_p[1]
    # The leading order of the tail: -(distance to the nearest edge)^2 / (2 std^2).
    assert log_p[0].item() == pytest.approx(-0.5 * ((2 - 1 / 255) * math.exp(5)) ** 2, rel=1e-3)
    gradients = torch.autograd.grad(log_p.sum(), (mean, log_std))
    assert (
        all(g.isfinite().all() for g in gradients)
        and (gradients[0][:2].abs() > 1e4).all()
        and gradients[0][2].abs() < 1e-4
    )


# Training.


def test_the_loss_is_the_error_of_the_prediction():
    x, noise = (
        images()[:, :, :4, :4].repeat(3, 1, 1, 1),
        torch.randn(3, 1, 4, 4, dtype=torch.float64),
    )
    t = torch.tensor([0, 10, 19])
    for mean, target in (("epsilon", noise), ("x_start", x)):
        diffusion = create_diffusion("cosine", 20, mean=mean, variance="fixed_small")
        losses = training_losses(diffusion, lambda x, t: 0.5 * x, x, t, noise)
        expected = ((0.5 * diffusion.q_sample(x, t, noise) - target) ** 2).mean(dim=(1, 2, 3))
        torch.testing.assert_close(losses.loss, expected)
        assert losses.bound is None and losses.mse is losses.loss


def test_the_hybrid_loss_trains_the_variance_by_the_bound_alone():
    diffusion = create_diffusion("cosine", 20, respacing="10")
    x = (images()[:, :, :2, :2]).repeat(10, 1, 1, 1)
    noise = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noise = noise[:1].repeat(10, 1, 1, 1)
    prediction, values = (
        torch.zeros_like(x).requires_grad_(),
        torch.full_like(x, 0.3).requires_grad_(),
    )
    losses = training_losses(
        diffusion, lambda x, t: torch.cat([prediction, values], dim=1), x, torch.arange(10), noise
    )
    torch.testing.assert_close(losses.loss, losses.mse + losses.bound)
    of_loss, of_bound = (
        torch.autograd.grad(part.sum(), (prediction, values), retain_graph=True)
        for part in (losses.loss, losses.bound)
    )
    assert (of_bound[0] == 0).all() and (of_bound[1] != 0).all()
    torch.testing.assert_close(of_loss[1], of_bound[1])
    torch.testing.assert_close(of_loss[0], torch.autograd.grad(losses.mse.sum(), prediction)[0])
    # Ten drawn terms with weight 1e-3 each stand for one whole bound with weight 1e-3.
    one = slice(0, 1)
    whole = vlb(
        diffusion,
        lambda x, t: torch.cat([prediction[one], values[one]], dim=1),
        x[one],
        lambda like: noise[one],
        clip_denoised=False,
    )
    torch.testing.assert_close(losses.bound.detach(), 1e-3 * 10 * whole.terms[0])
