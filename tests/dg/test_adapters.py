"""Guidance in foreign samplers."""

from itertools import pairwise

import numpy as np
import pytest
import torch

import edm
from dg.adapters import GuidedDenoiser, cond_fn
from dg.discriminator import Discriminator
from dg.extractors import ClassifierExtractor
from dg.guidance import BOOSTING
from guided_diffusion import create_classifier
from tests import golden_fill
from tests.dg.test_guidance import DATA, MODEL, guidance, latents


def heun_of_another_library(model, x, sigmas):
    """A sampler that knows only model(x, sigma[N])."""
    ones = x.new_ones(len(x))
    for sigma, sigma_next in pairwise(sigmas):
        slope = (x - model(x, sigma * ones)) / sigma
        ahead = x + (sigma_next - sigma) * slope
        if sigma_next > 0:
            slope = (slope + (ahead - model(ahead, sigma_next * ones)) / sigma_next) / 2
        x = x + (sigma_next - sigma) * slope
    return x


def test_exact_ratio_in_a_foreign_sampler_is_the_true_model():
    sigmas = torch.cat(
        [torch.logspace(1.9, -2.7, 18, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)]
    )
    guided = heun_of_another_library(
        GuidedDenoiser(MODEL, guidance((1, 0))), latents() * sigmas[0], sigmas
    )
    true = heun_of_another_library(DATA, latents() * sigmas[0], sigmas)
    assert (guided - true).abs().max() < 1e-9


def test_boosting_is_refused_where_the_step_is_unknown():
    with pytest.raises(ValueError, match="boosting"):
        GuidedDenoiser(MODEL, guidance((1, 0), boosting=BOOSTING["authors"]))


def test_cond_fn_on_latents():
    """Against reference vectors of the authors' latent classifier and discriminator."""
    arrays, config = golden_fill.load("b_imagenet_latent_stack")
    kwargs = dict(config["classifier_kwargs"])
    classifier = golden_fill.fill(
        create_classifier(**kwargs, channel_mult=(1, 2, 3)), config["classifier_salt"]
    )
    head = golden_fill.fill(
        create_classifier(**config["discriminator_kwargs"]), config["discriminator_salt"]
    )
    with torch.no_grad():
        head.out[2].c_proj.weight.mul_(config.get("out_scale", 1.0))
        if config.get("out_bias") is not None:
            head.out[2].c_proj.bias.fill_(config["out_bias"])
    discriminator = (
        Discriminator(ClassifierExtractor(classifier), [head]).eval().requires_grad_(False)
    )
    x, t = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["t"])
    labels = (
        torch.from_numpy(arrays["y"]) if "y" in arrays.files else torch.from_numpy(arrays["labels"])
    )
    gradient = cond_fn(discriminator, clip=1e-5)(x, t, labels).numpy()
    assert np.abs(gradient - arrays["grad"]).max() / np.abs(arrays["grad"]).max() < 1e-4
    late = cond_fn(discriminator, scale=2.0, time_min=0.5, clip=1e-5)(x, t, labels).numpy()
    np.testing.assert_allclose(late[t > 500], 2 * gradient[t > 500], rtol=1e-5)
    assert (late[t < 500] == 0).all()


def test_cond_fn_in_a_discrete_sampler_reaches_the_true_mean():
    """Ancestral sampling of N(0.3, 0.6^2) with the exact ratio to N(0, 0.5^2); the error falls with the step size."""

    class ExactAtVP:
        def at_vp(self, x, time, y):
            bar = self.alpha_bar[(time * 999).round().long()].reshape(-1, 1, 1, 1).to(x.dtype)
            total = 0.0
            for net, sign in ((DATA, 1), (MODEL, -1)):
                total = total - sign * 0.5 * (x - bar.sqrt() * net.mean) ** 2 / (
                    bar * net.sd**2 + 1 - bar
                )
            return total.sum(dim=(1, 2, 3))

    def mean_error(num_steps):
        betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
        ratio = ExactAtVP()
        ratio.alpha_bar = (1 - betas).cumprod(0)
        used = torch.linspace(0, 999, num_steps).round().long()
        x = torch.zeros(
            1, 1, 1, 1, dtype=torch.float64
        )  # the mean follows the mean: no noise needed for it
        for position in range(num_steps - 1, -1, -1):
            t = used[position]
            bar = ratio.alpha_bar[t]
            bar_before = (
                ratio.alpha_bar[used[position - 1]]
                if position
                else torch.ones((), dtype=torch.float64)
            )
            alpha = bar / bar_before
            sigma = ((1 - bar) / bar).sqrt()
            x_0 = MODEL(x / bar.sqrt(), sigma)
            mean = (bar_before.sqrt() * (1 - alpha) * x_0 + alpha.sqrt() * (1 - bar_before) * x) / (
                1 - bar
            )
            variance = (1 - bar_before) / (1 - bar) * (1 - alpha)
            x = mean + variance * cond_fn(ratio)(x, t[None])
        return abs(float(x) - DATA.mean)

    errors = [mean_error(n) for n in (25, 100, 400)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.02


def test_edm_networks_are_k_diffusion_denoisers():
    net = golden_fill.fill(
        edm.EDMPrecond(
            8,
            1,
            model_type="SongUNet",
            model_channels=8,
            channel_mult=[1],
            num_blocks=1,
            attn_resolutions=[],
            dropout=0,
        )
    ).eval()
    x = torch.randn(2, 1, 8, 8)
    guided = GuidedDenoiser(net, edm.Guidance())
    assert torch.equal(guided(x, torch.ones(2)), net(x, torch.ones(2)))
