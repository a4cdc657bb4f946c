"""The VAE: a likelihood that adds up to one, bounds that are bounds, and training that can be gone
on with."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from dg.data.datasets import load_images, to_float, to_uint8
from dg.data.sample_store import SampleStore
from dg.models.loading import load_model
from dg.models.logistic import discretized_logistic, draw_logistic
from dg.models.vae import VAE, elbo, importance_bound, load_vae, save_vae
from dg.models.vae_sampling import VAESampling, interpolate, slerp
from dg.pretraining.presets import VAE_PRESETS, VAETraining
from dg.pretraining.vae import build_vae, train_vae
from dg.runtime.training_state import load_state
from dg.sampling import describe, draw_images, generate
from edm.checkpoint import write_safetensors
from tests import golden_fill
from tests.dg.pretraining.test_score import equal, image_set, stopping_after

LEVELS = torch.arange(256, dtype=torch.float64) / 127.5 - 1
SMALL = dict(width=8, channel_mult=[1, 2], latent_dim=3)
QUICK = VAETraining(steps=50, batch_size=4)


def built(**changes):
    return golden_fill.fill(build_vae(image_set(), SMALL | changes, 0)).eval().requires_grad_(False)


# The pixels.


@pytest.mark.parametrize("log_scale", [-7.0, -4.0, -1.0, 0.0, 3.0, 8.0])
@pytest.mark.parametrize("mean", [-1.7, -1.0, -0.2, 0.4999, 1.0, 30.0])
def test_the_256_levels_add_up_to_one(mean, log_scale):
    wanted = [torch.tensor(value, dtype=torch.float64) for value in (mean, log_scale)]
    log_p = discretized_logistic(LEVELS, *wanted)
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-12) and (log_p <= 0).all()
    single = discretized_logistic(LEVELS.float(), *(value.float() for value in wanted))
    assert single.exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_levels_have_the_mass_of_their_bins_and_the_outermost_the_tails():
    mean, scale = torch.tensor(0.3, dtype=torch.float64), 0.1
    edges = (LEVELS[:-1] + 1 / 255 - mean) / scale
    distribution = torch.cat([torch.zeros(1), edges.sigmoid(), torch.ones(1)])
    log_p = discretized_logistic(LEVELS, mean, torch.tensor(math.log(scale)))
    torch.testing.assert_close(log_p.exp(), distribution.diff(), rtol=1e-6, atol=1e-12)


def test_far_values_keep_probability_and_gradient():
    """e^-1096 is below what floats hold, its logarithm is not."""
    mean = torch.tensor([-1.0, 1.0], requires_grad=True)
    log_p = discretized_logistic(
        torch.tensor([0.0, 0.0]) + 1 / 255, mean, torch.tensor([-7.0, -7.0])
    )
    assert log_p.isfinite().all() and (log_p < -1000).all()
    assert torch.autograd.grad(log_p.sum(), mean)[0].abs().min() > 1000


def test_drawn_pixels_have_the_probabilities():
    mean, log_scale, n = 0.9, math.log(0.08), 200_000
    normal = torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn = draw_logistic(torch.full([n], mean).double(), torch.tensor(log_scale).double(), normal)
    counts = np.bincount(to_uint8(drawn.reshape(-1, 1, 1, 1)).flatten(), minlength=256) / n
    expected = (
        discretized_logistic(LEVELS, torch.tensor(mean).double(), torch.tensor(log_scale).double())
        .exp()
        .numpy()
    )
    assert np.abs(counts - expected).max() < 5 * math.sqrt(0.25 / n) and expected[255] > 0.1


# The bounds.


class LinearGaussian:
    """x = w z + sd e in one dimension, with a posterior that is too wide by `excess`."""

    w, sd = 1.5, 0.5

    def __init__(self, excess):
        self.excess = excess

    def encode(self, x):
        precision = 1 + (self.w / self.sd) ** 2
        mean = self.w * x.flatten(1) / self.sd**2 / precision
        return mean, torch.full_like(mean, math.log(self.excess / precision))

    def reconstruction(self, x, z):
        return (
            0.5 * ((x.flatten(1) - self.w * z) / self.sd) ** 2
            + math.log(self.sd * math.sqrt(2 * math.pi))
        ).sum(dim=1)

    def exact(self, x):
        variance = self.w**2 + self.sd**2
        return (0.5 * x.flatten(1) ** 2 / variance + 0.5 * math.log(2 * math.pi * variance)).sum(
            dim=1
        )


def toy(n=4000, draws=64):
    generator = torch.Generator().manual_seed(0)
    return (
        torch.linspace(-3, 3, n).double().reshape(-1, 1, 1, 1),
        torch.randn(n, draws, 1, dtype=torch.float64, generator=generator),
    )


def test_with_the_true_posterior_every_bound_is_the_likelihood():
    model, (x, noise) = LinearGaussian(1.0), toy(1001)
    for draws in (1, 8):
        torch.testing.assert_close(importance_bound(model, x, noise[:, :draws]), model.exact(x))
    reconstruction, divergence = elbo(model, x, noise[:, 0])
    assert (reconstruction + divergence).mean().item() == pytest.approx(
        model.exact(x).mean().item(), abs=0.05
    )


def test_the_gap_of_the_elbo_is_the_divergence_of_the_posteriors():
    """KL(N(m, c v) | N(m, v)) = (c - 1 - log c) / 2, and more draws close it from above, towards
    the likelihood."""
    model, (x, noise) = LinearGaussian(3.0), toy()
    exact = model.exact(x).mean().item()
    reconstruction, divergence = elbo(model, x, noise[:, 0])
    gap = (3 - 1 - math.log(3)) / 2
    assert (reconstruction + divergence).mean().item() - exact == pytest.approx(gap, abs=0.05)
    gaps = [
        importance_bound(model, x, noise[:, :k]).mean().item() - exact for k in (1, 2, 4, 16, 64)
    ]
    assert gaps[0] == pytest.approx(gap, abs=0.05)
    assert all(later < 0.75 * earlier for earlier, later in pairwise(gaps)), gaps
    assert 0 < gaps[-1] < 0.01


def test_bounds_of_a_network_are_in_order():
    model = built()
    x = to_float(image_set(n=8).images)
    noise = torch.randn(8, 256, 3, generator=torch.Generator().manual_seed(0))
    reconstruction, divergence = (
        sum(part) / 256 for part in zip(*(elbo(model, x, e) for e in noise.unbind(1)), strict=True)
    )
    once = torch.stack([importance_bound(model, x, e[:, None]) for e in noise.unbind(1)]).mean(
        dim=0
    )
    assert (divergence >= 0).all() and once.mean() == pytest.approx(
        (reconstruction + divergence).mean().item(), rel=0.01
    )
    sixteen = torch.stack([importance_bound(model, x, e) for e in noise.split(16, dim=1)]).mean(
        dim=0
    )
    assert (sixteen < once).all() and (importance_bound(model, x, noise) < sixteen).all()


# The model and its file.


def test_a_model_survives_its_file(tmp_path):
    model = built()
    save_vae(tmp_path / "vae.safetensors", model)
    for load in (load_vae, load_model):
        loaded = load(tmp_path / "vae.safetensors")
        assert (
            equal(loaded, model) and loaded.init_kwargs == model.init_kwargs and not loaded.training
        )
        assert loaded.num_parameters == model.num_parameters and not any(
            p.requires_grad for p in loaded.parameters()
        )
    write_safetensors(
        tmp_path / "x.safetensors", {}, "vae", {"img_resolution": 4, "img_channels": 1, "wings": 2}
    )
    with pytest.raises(ValueError, match=r"x\.safetensors: describes no VAE.*wings"):
        load_vae(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(width=12), "multiple of 8"),
        (dict(channel_mult=[]), "multiple of 8"),
        (dict(channel_mult=[1, 1, 1, 1]), "halved"),
        (dict(latent_dim=17), "give 1 to 16"),
        (dict(latent_dim=0), "give 1 to 16"),
    ],
)
def test_impossible_networks(wrong, message):
    with pytest.raises(ValueError, match=message):
        VAE(4, 1, **SMALL | wrong)


@pytest.mark.parametrize("preset", VAE_PRESETS)
def test_presets_can_be_built(preset):
    network, settings = VAE_PRESETS[preset]
    size = {"digits": 8, "mnist": 28, "cifar10": 32, "imagenet64": 64}[preset.partition("-")[0]]
    with torch.device("meta"):
        model = build_vae(image_set(resolution=size), network, settings.seed)
        means, _ = model.decode(model.encode(torch.zeros(2, 1, size, size))[0])
    assert means.shape == (2, 1, size, size)
    json.dumps(model.init_kwargs)
    edm_parameters = 744_225  # of the preset `mnist`
    assert preset != "mnist-vae" or abs(model.num_parameters / edm_parameters - 1) < 0.2


# Training.


def trained(settings, data=None, state_path=None, network=SMALL, **kwargs):
    if state_path is not None:
        state_path.parent.mkdir(exist_ok=True)
    return train_vae(data or image_set(), network, settings, state_path=state_path, **kwargs)


def test_an_interrupted_run_ends_like_one_that_never_stopped(tmp_path):
    settings = replace(QUICK, steps=60, flip=True)
    whole, whole_log = trained(settings, state_path=tmp_path / "whole" / "state.pt")
    with pytest.raises(KeyboardInterrupt):
        trained(
            settings,
            state_path=tmp_path / "parts" / "state.pt",
            save_seconds=0,
            progress=stopping_after(52),
        )
    assert load_state(tmp_path / "parts" / "state.pt")["step"] == 52
    torch.manual_seed(99)
    parts, log = trained(settings, state_path=tmp_path / "parts" / "state.pt")
    assert log == whole_log and [entry["step"] for entry in log] == [50, 60] and equal(parts, whole)
    assert not parts.training and not any(p.requires_grad for p in parts.parameters())


def test_the_seed_decides_and_the_global_random_numbers_are_left_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, log = trained(replace(QUICK, steps=5))
    assert torch.equal(torch.get_rng_state(), before)
    again, again_log = trained(replace(QUICK, steps=5))
    other, _ = trained(replace(QUICK, steps=5, seed=1))
    assert equal(first, again) and log == again_log and not equal(first, other)


def test_microbatches_change_results_by_rounding_only():
    (whole, log), (parts, parts_log) = (
        trained(replace(QUICK, steps=4, lr=1e-4), microbatch=size) for size in (4, 2)
    )
    assert parts_log[0]["loss"] == pytest.approx(log[0]["loss"], rel=1e-4)
    found, expected = parts.state_dict(), whole.state_dict()
    differences = torch.cat([(expected[name] - found[name]).abs().flatten() for name in found])
    assert differences.median() < 1e-7


def test_a_state_of_another_run_is_refused(tmp_path):
    trained(replace(QUICK, steps=2), state_path=tmp_path / "state.pt")
    for what, settings, network in (
        ("settings", replace(QUICK, steps=3), SMALL),
        ("network", replace(QUICK, steps=2), SMALL | {"latent_dim": 2}),
    ):
        with pytest.raises(ValueError, match=f"of a run with other {what}; choose another folder"):
            trained(settings, state_path=tmp_path / "state.pt", network=network)
    for wrong in (dict(steps=0), dict(lr=0.0), dict(precision="int8")):
        with pytest.raises(ValueError):
            replace(QUICK, **wrong)


@pytest.mark.parametrize("steps", [1, 4])
def test_very_short_runs(steps):
    model, log = trained(
        replace(QUICK, steps=steps), observe=lambda model: {"test_loss": model.latent_dim}
    )
    assert log[0]["step"] == steps and log[0]["test_loss"] == model.latent_dim == 3


@pytest.mark.slow
def test_training_lowers_the_bound_on_digits():
    network, settings = VAE_PRESETS["digits-vae"]
    _, log = trained(
        replace(settings, steps=150, batch_size=32), load_images("digits:train"), network=network
    )
    losses = [entry["loss"] for entry in log]
    assert losses[2] < losses[1] < losses[0] and losses[2] < 6.5, (
        "bits/dim; a uniform distribution has 8"
    )
    assert 0 < log[-1]["kl"] < losses[2]


# Sampling.


@pytest.mark.parametrize("sample", ["mean", "draw"])
def test_images_depend_on_their_seed_alone(tmp_path, sample):
    model, seeds, sampling = built(), [3, 7, 11], VAESampling(sample)
    together, classes = draw_images(model, seeds, sampling)
    assert together.shape == (3, 1, 4, 4) and together.dtype == torch.float64 and classes is None
    for index, seed in enumerate(seeds):
        alone, _ = draw_images(model, [seed], sampling)
        assert (alone[0] - together[index]).abs().max() < 1e-5 * together.abs().max()
    store = SampleStore(tmp_path, describe(model, sampling), seeds, 2)
    generate(model, store, sampling)
    np.testing.assert_array_equal(load_images(tmp_path).images, to_uint8(together))


def test_means_are_those_of_the_drawn_pixels():
    model = built()
    mean, _ = draw_images(model, [3], VAESampling())
    log_scale = model.decode(
        torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(3)).flatten(1)[:, :3]
    )[1].double()
    drawn, _ = draw_images(model, [3], VAESampling("draw"))
    assert ((drawn - mean).abs() / log_scale.exp()).max() < 12 and (drawn - mean).abs().min() > 0


def test_what_cannot_be_asked_of_a_vae():
    with pytest.raises(ValueError, match="use mean or draw"):
        VAESampling("mode")
    with pytest.raises(ValueError, match="cannot be guided"):
        draw_images(built(), [0], VAESampling(), guidance=object())


def test_interpolation_ends_at_the_reconstructions():
    model, images = built(), image_set().images[:2]
    way = interpolate(model, *images, num_images=5)
    assert way.shape == (5, 4, 4, 1) and way.dtype == np.uint8
    reconstructions = to_uint8(model.decode(model.encode(to_float(images))[0])[0])
    np.testing.assert_array_equal(way[[0, 4]], reconstructions)
    assert len(np.unique(way, axis=0)) > 2


def test_the_way_is_an_arc():
    a, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    share = torch.linspace(0, 1, 5)
    angles = share * math.pi / 2
    torch.testing.assert_close(
        slerp(a, b, share), 2 * torch.stack([angles.cos(), angles.sin()], dim=1)
    )
    torch.testing.assert_close(slerp(a, 3 * a, share), (1 + 2 * share)[:, None] * a)
