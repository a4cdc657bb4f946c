"""Bounds in bits/dim on one scale: terms add up, batches do not matter, and on Gaussians the closed
form lies below."""

import math

import numpy as np
import pytest
import torch

import edm
from dg.data.datasets import to_float
from dg.evaluation.bounds import Bound, ddpm_bound, drawn_steps, joined, vae_bound
from dg.evaluation.likelihood import Likelihood, bits_per_dim
from dg.guidance import DiscriminatorGuidance
from dg.models.vae import elbo, importance_bound
from guided_diffusion import vlb
from guided_diffusion.losses import discretized_log_likelihood
from tests.dg.models.test_discrete_sampling import ExactDDPM, small
from tests.dg.models.test_vae import built as built_vae
from tests.dg.pretraining.test_score import image_set
from tests.dg.test_guidance import ExactRatio
from tests.edm.test_samplers import GaussianDenoiser

SIZE = 32


class Denoiser(GaussianDenoiser):
    img_resolution = SIZE


# nearly all of it in [-1, 1], where predictions are clipped to
TRUE, OFF = (
    Denoiser(0.1, 0.2),
    Denoiser(0.2, 0.25),
)


class Ratio(ExactRatio):
    """The logarithm of the density of TRUE over that of OFF."""

    def __call__(self, x, sigma, class_labels=None):
        def log_density(net):
            variance = (net.sd**2 + sigma**2).reshape(-1, 1, 1, 1)
            return -0.5 * ((x - net.mean) ** 2 / variance + variance.log())

        return (log_density(TRUE) - log_density(OFF)).sum(dim=(1, 2, 3))


class OnDevice(ExactDDPM):
    """An exact model that can be asked where it is."""

    img_resolution = SIZE

    def parameters(self):
        yield torch.zeros(())


def gaussian_images():
    """Four 8-bit images of pixels from TRUE."""
    pixels = (
        torch.randn(4, SIZE, SIZE, 1, generator=torch.Generator().manual_seed(0)) * TRUE.sd
        + TRUE.mean
    )
    return ((pixels + 1) * 127.5).round().clip(0, 255).to(torch.uint8)


def exact_bits():
    x = to_float(gaussian_images()).double()
    log_sd = torch.full_like(x, math.log(TRUE.sd))
    return -discretized_log_likelihood(
        x, torch.full_like(x, TRUE.mean), log_sd
    ).mean().item() / math.log(2)


def test_the_three_terms_are_those_of_the_bound():
    model, images = small(), image_set(n=3).images
    found = ddpm_bound(model, images, num_steps=5, seeds=[4, 5, 6])
    rnd = edm.StackedRandomGenerator("cpu", [4, 5, 6])
    expected = vlb(model.respaced("5"), model.net, to_float(images), randn_like=rnd.randn_like)
    assert isinstance(found, Bound) and list(found.terms) == ["prior", "steps", "decoder"]
    np.testing.assert_allclose(found.bits_per_dim, expected.total, rtol=1e-6)
    np.testing.assert_allclose(found.terms["decoder"], expected.terms[:, 0], rtol=1e-6)
    np.testing.assert_allclose(sum(found.terms.values()), found.bits_per_dim)
    assert found.num_evaluations.tolist() == [5, 5, 5] and found.mean == found.bits_per_dim.mean()


def test_every_term_counts_once_on_average_however_many_are_drawn():
    diffusion = small().respaced()  # 20 steps
    offsets = (torch.arange(20_000, dtype=torch.float64)[:, None] + 0.5) / 20_000
    for number in (1, 3, 40):
        steps, weights = drawn_steps(diffusion, offsets, number)
        assert steps.shape == weights.shape == (20_000, number)
        seen = torch.zeros(20, dtype=torch.float64).index_add(0, steps.flatten(), weights.flatten())
        assert seen[0] == 0
        np.testing.assert_allclose(seen[1:] / 20_000, 1, rtol=0.02)


def test_a_bound_of_some_terms_estimates_that_of_all():
    model, images = OnDevice(TRUE, variance="fixed_large"), gaussian_images()
    whole = ddpm_bound(model, images, num_steps=250)
    some = ddpm_bound(
        model, np.tile(images, (30, 1, 1, 1)), num_steps=250, num_terms=10, batch_size=120
    )
    assert some.num_evaluations.tolist() == [11] * 120
    np.testing.assert_allclose(some.terms["prior"], np.tile(whole.terms["prior"], 30), rtol=1e-5)
    steps = some.terms["steps"]
    error = steps.std(ddof=1) / np.sqrt(len(steps))
    assert error < 0.05 * steps.mean(), error
    assert abs(steps.mean() - whole.terms["steps"].mean()) < 4 * error
    assert abs(some.mean - whole.mean) < 4 * some.standard_error
    parts = ddpm_bound(model, images, num_steps=250, num_terms=10, batch_size=3)
    again = ddpm_bound(model, images, num_steps=250, num_terms=10)
    np.testing.assert_allclose(parts.bits_per_dim, again.bits_per_dim, rtol=1e-6)


def test_batches_do_not_matter_and_classes_do():
    model, images = small(num_classes=3), image_set(n=5).images
    labels = torch.eye(3)[torch.arange(5) % 3]
    whole = ddpm_bound(model, images, labels, num_steps=4)
    parts = ddpm_bound(model, images, labels, num_steps=4, batch_size=2)
    np.testing.assert_allclose(whole.bits_per_dim, parts.bits_per_dim, rtol=1e-5)
    assert (
        np.abs(
            ddpm_bound(model, images, labels.flip(1), num_steps=4).bits_per_dim - whole.bits_per_dim
        ).max()
        > 1e-4
    )
    vae = built_vae()
    for draws in (None, 3):
        np.testing.assert_allclose(
            vae_bound(vae, images, num_samples=draws).bits_per_dim,
            vae_bound(vae, images, num_samples=draws, batch_size=2).bits_per_dim,
            rtol=1e-5,
        )


def test_parts_are_joined_in_their_order():
    model, images = built_vae(), image_set(n=5).images
    whole = vae_bound(model, images)
    again = joined(
        [
            vae_bound(model, images[part], seeds=range(5)[part])
            for part in (slice(0, 2), slice(2, 5))
        ]
    )
    np.testing.assert_allclose(again.terms["kl"], whole.terms["kl"], rtol=1e-5)
    np.testing.assert_allclose(again.bits_per_dim, whole.bits_per_dim, rtol=1e-5)
    flow = Likelihood(np.array([1.0]), np.array([7]))
    assert (
        joined([flow, flow]).num_evaluations.tolist() == [7, 7]
        and type(joined([flow])) is Likelihood
    )


def test_the_vaes_bounds():
    model, images = built_vae(), image_set(n=3).images
    noise = edm.StackedRandomGenerator("cpu", [7, 8, 9]).randn([3, 4, 3])
    expected = importance_bound(model, to_float(images), noise) / (16 * math.log(2))
    np.testing.assert_allclose(
        vae_bound(model, images, seeds=[7, 8, 9], num_samples=4).bits_per_dim, expected, rtol=1e-5
    )
    found = vae_bound(model, images, seeds=[7, 8, 9])
    noise = edm.StackedRandomGenerator("cpu", [7, 8, 9]).randn([3, 1, 3])[:, 0]
    for value, expected in zip(
        found.terms.values(), elbo(model, to_float(images), noise), strict=True
    ):
        np.testing.assert_allclose(value, expected / (16 * math.log(2)), rtol=1e-5)
    assert list(found.terms) == ["reconstruction", "kl"]


def test_on_gaussians_the_bound_is_above_the_likelihood_and_the_flow_is_near_it():
    exact = exact_bits()
    bound = ddpm_bound(
        OnDevice(TRUE, variance="fixed_large"), gaussian_images(), num_steps=1000
    ).mean
    flow = bits_per_dim(TRUE, gaussian_images(), num_steps=64).mean
    assert exact < bound < exact + 0.2, (exact, bound)
    assert abs(flow - exact) < 0.02, (exact, flow)


def test_the_exact_ratio_gives_the_models_chain_the_bound_of_the_true_model():
    """The mean of a step is moved, so to the order of 1 / steps."""
    steer = DiscriminatorGuidance(Ratio(), (1.0, 0.0), time_min=0.0)
    found = {
        name: ddpm_bound(
            OnDevice(net, variance="fixed_large"),
            gaussian_images(),
            guidance=with_ratio,
            num_steps=250,
        ).mean
        for name, net, with_ratio in (
            ("true", TRUE, None),
            ("model", OFF, None),
            ("guided", OFF, steer),
        )
    }
    assert found["model"] - found["true"] > 0.1 and abs(found["guided"] - found["true"]) < 0.01, (
        found
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ddpm_bound(small(), image_set(resolution=8).images),
            "does not fit the network",
        ),
        (
            lambda: ddpm_bound(small(), image_set().images.astype(float)),
            "does not fit the network",
        ),
        (lambda: ddpm_bound(small(num_classes=3), image_set().images), "give one-hot class_labels"),
        (lambda: ddpm_bound(small(), image_set().images, num_steps=21), "asks for 21 of 20 steps"),
        (lambda: ddpm_bound(small(), image_set().images, seeds=[1]), "1 seeds for 24 images"),
        (lambda: ddpm_bound(small(), image_set().images, num_terms=0), "0 terms of the bound"),
        (
            lambda: ddpm_bound(small(), image_set().images, num_steps=1, num_terms=2),
            "one step has a decoder alone",
        ),
        (lambda: vae_bound(built_vae(), image_set().images, num_samples=0), "at least 1"),
    ],
)
def test_what_does_not_fit_is_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1
