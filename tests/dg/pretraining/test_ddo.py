"""DDO: its loss and gradient in closed form, and trainings by it, resumable like all others."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import edm
from dg.data.datasets import ImageSet
from dg.pretraining.ddo import DDO, ddo_loss, log_ratios
from dg.pretraining.score import build_score_network, train_score_network
from dg.runtime.training_state import load_state
from tests.dg.pretraining.test_score import (
    QUICK,
    SMALL,
    close,
    equal,
    image_set,
    stopping_after,
)

LOSS = edm.EDMLoss()
DROPPING = SMALL | {"dropout": 0.5, "augment_dim": 9}


class Linear(torch.nn.Module):
    """The denoiser k y of noisy images y."""

    def __init__(self, k):
        super().__init__()
        self.k = torch.nn.Parameter(torch.tensor(k, dtype=torch.float64))

    def forward(self, y, sigma, class_labels=None, augment_labels=None):
        return self.k * y


def drawn(sd, seed, count=64):
    """Images N(0, sd^2), noise levels and noise, float64."""
    generator = torch.Generator().manual_seed(seed)
    how = dict(generator=generator, dtype=torch.float64)
    x, noise = (torch.randn(count, 1, 2, 2, **how) for _ in range(2))
    return sd * x, torch.rand(count, 1, 1, 1, **how) + 0.5, noise


REAL, GENERATED = drawn(0.5, 1), drawn(1.0, 2)


def loss_and_gradient(k, reference, real, generated, alpha, beta):
    net, frozen = Linear(k), Linear(reference)
    ratios = [log_ratios(LOSS, net, frozen, *images) for images in (real, generated)]
    loss = ddo_loss(*ratios, alpha, beta)
    loss.backward()
    assert frozen.k.grad is None
    return loss.item(), net.k.grad.item()


def by_hand(k, reference, x, sigma, noise):
    """Log ratios of the linear denoisers k and reference, and their derivative in k."""
    y, weight = x + sigma * noise, (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    ratio = weight * ((reference * y - x) ** 2 - (k * y - x) ** 2)
    return ratio.sum((1, 2, 3)), (-2 * weight * (k * y - x) * y).sum((1, 2, 3))


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 2.0), (3.0, 0.1), (0.0, 1.0)])
@pytest.mark.parametrize("k", [0.4, 0.43])
def test_value_and_gradient_of_a_linear_denoiser(k, alpha, beta):
    found = loss_and_gradient(k, 0.4, REAL, GENERATED, alpha, beta)
    (real, real_slope), (fake, fake_slope) = (by_hand(k, 0.4, *x) for x in (REAL, GENERATED))
    loss = -(beta * real).sigmoid().log().mean()
    loss = loss - alpha * (1 - (beta * fake).sigmoid()).log().mean()
    slope = -beta * ((1 - (beta * real).sigmoid()) * real_slope).mean()
    slope = slope + alpha * beta * ((beta * fake).sigmoid() * fake_slope).mean()
    assert found == pytest.approx((loss.item(), slope.item()), rel=1e-9)


def test_the_reference_itself_knows_no_difference():
    """There the loss is (1 + alpha) log 2, and the gradient half of beta times that of the
    denoising loss on real images less alpha times that on generated ones."""
    loss, slope = loss_and_gradient(0.4, 0.4, REAL, GENERATED, 0.7, 3.0)
    real, fake = (by_hand(0.4, 0.4, *x)[1].mean().item() for x in (REAL, GENERATED))
    assert loss == pytest.approx(1.7 * math.log(2), rel=1e-12)
    assert slope == pytest.approx(1.5 * (0.7 * fake - real), rel=1e-9)
    _, swapped = loss_and_gradient(0.4, 0.4, GENERATED, REAL, 1.0, 3.0)
    assert swapped == pytest.approx(1.5 * (real - fake), rel=1e-9)


def test_where_nothing_is_to_be_told_apart_the_reference_is_best():
    best, slope = loss_and_gradient(0.4, 0.4, REAL, REAL, 1.0, 2.0)
    assert best == pytest.approx(2 * math.log(2)) and slope == pytest.approx(0, abs=1e-12)
    for k in (0.3, 0.39, 0.41, 0.5):
        assert loss_and_gradient(k, 0.4, REAL, REAL, 1.0, 2.0)[0] > best + 1e-6


def test_a_small_beta_leads_to_real_less_alpha_times_generated():
    """Of Gaussians: the loss becomes the denoising loss on real images less alpha times that on
    generated ones. Its minimum is at the quotient of such moments, beyond the denoiser of the data
    as seen from the reference, which is that of the generated images."""
    alpha, moments, levels = 0.3, [], torch.ones(1, 1, 1, 1, dtype=torch.float64)
    for x, _, noise in (REAL, GENERATED):
        y = x + noise
        moments.append(torch.stack([(x * y).mean(), (y * y).mean()]))
    top, bottom = moments[0] - alpha * moments[1]
    real, reference = (float(xy / yy) for xy, yy in moments)
    net = Linear(reference)
    ratios = [
        log_ratios(LOSS, net, Linear(reference), x, levels, noise)
        for x, _, noise in (REAL, GENERATED)
    ]
    loss = ddo_loss(*ratios, alpha, beta=1e-6)
    (slope,) = torch.autograd.grad(loss, net.k, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, net.k)
    found = (net.k - slope / curvature).item()  # of a parabola, the minimum
    assert found == pytest.approx(float(top / bottom), rel=1e-4)
    assert found < real < reference


# ---- trainings


def brightness(level, n=24):
    rng = np.random.default_rng(level)
    pixels = np.clip(rng.normal(level, 20, [n, 4, 4, 1]), 0, 255).astype(np.uint8)
    return ImageSet(pixels, np.arange(n) % 3, f"brightness {level}", 3)


BRIGHT, DARK = brightness(180), brightness(80)


def trained(settings, state_path=None, data=BRIGHT, ddo=None, network=SMALL, **kwargs):
    if state_path is not None:
        state_path.parent.mkdir(exist_ok=True)
    net = build_score_network(data, network, 0, conditional=True)
    return train_score_network(net, data, settings, state_path, ddo=ddo, **kwargs)


def test_it_begins_at_the_reference_without_dropout():
    settings = replace(QUICK, steps=1, augment=0.5, flip=True)
    _, log = trained(settings, ddo=DDO(DARK, alpha=2.0), network=DROPPING)
    assert log[0]["real_log_ratio"] == log[0]["generated_log_ratio"] == 0.0
    assert log[0]["loss"] == pytest.approx(3 * math.log(2))


@pytest.mark.parametrize(
    ("precond", "real", "generated"),
    [("edm", BRIGHT, DARK), ("edm", DARK, BRIGHT), ("ve", BRIGHT, DARK)],
)
def test_the_network_learns_to_tell_real_from_generated(precond, real, generated):
    settings, network = replace(QUICK, steps=30, lr=1e-2), SMALL | {"precond": precond}
    ddo = DDO(generated, beta=0.1)
    _, log = trained(settings, data=real, ddo=ddo, network=network)
    assert log[0]["real_log_ratio"] > 0 > log[0]["generated_log_ratio"]
    assert log[0]["loss"] < 2 * math.log(2), "where it began"


def test_an_interrupted_run_ends_like_one_that_never_stopped(tmp_path):
    settings = replace(QUICK, steps=8, augment=0.5, flip=True)
    how = dict(ddo=DDO(DARK, 0.5, 0.2), network=DROPPING)
    whole, log = trained(settings, tmp_path / "whole" / "state.pt", **how)
    path = tmp_path / "parts" / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        trained(settings, path, save_seconds=0, progress=stopping_after(5), **how)
    assert load_state(path)["step"] == 5
    parts, parts_log = trained(settings, path, **how)
    assert equal(parts, whole) and parts_log == log
    states = [load_state(tmp_path / name / "state.pt") for name in ("parts", "whole")]
    assert equal(states[0]["net"], states[1]["net"])


def test_micro_batches_add_up_to_the_batch():
    settings = replace(QUICK, steps=3, batch_size=8, flip=True, augment=0.5)
    how = dict(ddo=DDO(DARK, 0.5, 0.2), network=DROPPING)
    whole, log = trained(settings, **how)
    parts, parts_log = trained(settings, microbatch=2, **how)
    assert close(parts, whole, 1e-5)
    assert parts_log[-1]["loss"] == pytest.approx(log[-1]["loss"], rel=1e-5)


def test_a_state_of_another_training_is_refused(tmp_path):
    settings, ddo = replace(QUICK, steps=1), DDO(DARK)
    trained(settings, tmp_path / "ddo" / "state.pt", ddo=ddo)
    trained(settings, tmp_path / "plain" / "state.pt")
    for folder, other, what in (
        ("ddo", None, "settings and images"),
        ("plain", ddo, "settings and images"),
        ("ddo", replace(ddo, alpha=2.0), "settings"),
        ("ddo", replace(ddo, beta=2.0), "settings"),
        ("ddo", DDO(image_set()), "images"),
    ):
        with pytest.raises(ValueError, match=f"of a run with other {what}; choose another folder"):
            trained(settings, tmp_path / folder / "state.pt", ddo=other)


@pytest.mark.parametrize(
    ("generated", "message"),
    [
        (image_set(resolution=8), "8 pixels and 1 channels, but the network takes 4 and 1"),
        (
            replace(DARK, labels=None, num_classes=None),
            "but the network has 3; give a set of these",
        ),
    ],
)
def test_generated_images_must_fit_the_network(generated, message):
    with pytest.raises(ValueError, match=message):
        trained(QUICK, ddo=DDO(generated))


@pytest.mark.parametrize("numbers", [(-1.0, 1.0), (1.0, 0.0), (math.nan, 1.0), (1.0, math.inf)])
def test_impossible_coefficients_are_refused(numbers):
    with pytest.raises(ValueError, match="give an alpha of at least 0 and a beta above 0"):
        DDO(DARK, *numbers)
