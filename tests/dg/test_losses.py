"""Losses: by hand where the gradient is known, through networks with attention, and on two
Gaussians against the truth."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from dg.discriminator import Discriminator
from dg.experiments import two_gaussians
from dg.experiments.two_gaussians import DATA, MODEL, PROFILES, best_head, train_small
from dg.extractors import ClassifierExtractor, Extractor, ScoreExtractor
from dg.losses import LOSSES, NoisyBatch, bce, matching, sobolev
from dg.recipes import DiscriminatorTraining
from dg.runtime.progress import silent
from dg.training import Trainer
from dg.training_data import perturb
from guided_diffusion import create_classifier
from tests import golden_fill
from tests.edm.test_networks import build


class ExactRatio:
    """The log ratio of the two Gaussians, times a factor."""

    def __init__(self, factor=1.0):
        self.factor = factor

    def __call__(self, x, sigma, class_labels=None):
        sigma = sigma.reshape(-1, 1, 1, 1)

        def log_density(gaussian):
            variance = gaussian.sd**2 + sigma**2
            return -0.5 * ((x - gaussian.mean) ** 2 / variance + variance.log())

        return self.factor * (log_density(DATA) - log_density(MODEL)).sum(dim=(1, 2, 3))


def gaussian_batch(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    clean = torch.cat([DATA.draw(n, seed), MODEL.draw(n, seed + 1)])
    sigma = (torch.rand(2 * n, generator=generator, dtype=torch.float64) * 3 - 3).exp()
    z = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    return NoisyBatch(
        clean,
        clean + sigma.reshape(-1, 1, 1, 1) * z,
        sigma,
        None,
        torch.cat([torch.ones(n), torch.zeros(n)]),
    )


def test_penalties_of_a_linear_discriminator_by_hand():
    batch, slope = gaussian_batch(20), torch.randn(1, 1, 4, 4, dtype=torch.float64)

    def linear(x, sigma, class_labels):
        return (slope * x).sum(dim=(1, 2, 3))

    plain, logits = bce(linear, batch)
    sigma = batch.sigma.reshape(-1, 1, 1, 1)
    error = (
        ((batch.clean - MODEL(batch.x, batch.sigma)) / sigma - sigma * slope)
        .square()
        .sum(dim=(1, 2, 3))
    )
    found, same = matching(linear, batch, 0.3, MODEL)
    torch.testing.assert_close(found, plain + 0.3 * error[:20].mean())
    assert torch.equal(logits, same)
    found, _ = sobolev(linear, batch, 0.3)
    torch.testing.assert_close(
        found, plain + 0.3 * ((1 + batch.sigma**2) * slope.square().sum()).mean()
    )


def test_the_true_ratio_minimises_cross_entropy_and_matching():
    batch = gaussian_batch(20_000)
    for name in ("bce", "matching"):
        values = {
            factor: LOSSES[name](ExactRatio(factor), batch, 1.0, MODEL)[0].item()
            for factor in (0.8, 1.0, 1.2)
        }
        assert min(values, key=values.get) == 1.0, values


def test_parts_of_a_batch_keep_every_image():
    batch = gaussian_batch(5)
    parts = [batch.part(slice(start, start + 4)) for start in (0, 4, 8)]
    assert [len(part.x) for part in parts] == [4, 4, 2] and all(
        part.labels is None for part in parts
    )
    assert torch.equal(torch.cat([part.x for part in parts]), batch.x)


class Cut(Extractor):
    """An extractor in double precision, which takes the image itself for features."""

    kind = "none"

    def forward(self, x, sigma, class_labels=None):
        return x, sigma / (1 + sigma)


@pytest.mark.parametrize("loss", ["matching", "sobolev"])
def test_second_derivatives_through_attention(loss):
    """The slope of the loss along a random direction of the head's weights, against finite
    differences."""
    head = golden_fill.fill(
        create_classifier(
            image_size=8, in_channels=1, out_channels=1, classifier_width=64, classifier_depth=1
        )
    )
    discriminator = Discriminator(Cut(), [head]).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 1, 8, 8, generator=generator, dtype=torch.float64)
    sigma = torch.tensor([0.1, 0.5, 1.0, 3.0], dtype=torch.float64)
    batch = NoisyBatch(x / 2, x, sigma, None, torch.tensor([1.0, 0.0, 1.0, 0.0]))
    net = type("Net", (), {"label_dim": 0, "__call__": lambda self, x, sigma, labels: 0.7 * x})()

    def value():
        return LOSSES[loss](discriminator, batch, 1.0, net)[0]

    parameters = list(head.parameters())
    directions = [
        torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters
    ]
    slope = sum(
        (g * d).sum()
        for g, d in zip(torch.autograd.grad(value(), parameters), directions, strict=True)
    ).item()
    sides = []
    for step in (1e-6, -1e-6):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(step * direction)
        sides.append(value().item())
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.sub_(step * direction)
    assert (sides[0] - sides[1]) / 2e-6 == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize("loss", ["matching", "sobolev"])
@pytest.mark.parametrize("kind", ["score", "classifier"])
def test_a_step_through_the_frozen_networks(loss, kind):
    arrays, config = golden_fill.load("a_edm_ddpmpp_uncond")
    net = build(config, arrays)
    size = net.img_resolution
    if kind == "score":
        extractor, channels, features = ScoreExtractor(net), None, net
    else:
        classifier = golden_fill.fill(
            create_classifier(
                image_size=size, out_channels=10, classifier_width=64, classifier_depth=1
            )
        )
        extractor, channels, features = (
            ClassifierExtractor(classifier),
            classifier.feature_channels,
            None,
        )
    head = _head(extractor, channels)
    settings = DiscriminatorTraining(loss=loss, batch_size=4, eval_images=4)
    trainer = Trainer(Discriminator(extractor, [head]), settings, net)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, 3, size, size, generator=generator) * 2 - 1
    batch = perturb(
        images,
        None,
        torch.tensor([1.0, 1.0, 0.0, 0.0]),
        torch.rand(4, generator=generator),
        torch.randn(images.shape, generator=generator),
        settings,
    )
    loss_value = trainer.step(batch)["loss"]
    assert math.isfinite(loss_value) and all(p.grad.isfinite().all() for p in head.parameters())
    assert any(p.grad.abs().max() > 0 for p in head.parameters())
    assert all(p.grad is None for p in (features or extractor.encoder).parameters()), (
        "the extractor stays frozen"
    )


def _head(extractor, channels):
    if channels:
        return golden_fill.fill(
            create_classifier(
                image_size=8, in_channels=channels, out_channels=1, classifier_width=64
            )
        )
    from dg.heads import ScoreHead

    return golden_fill.fill(ScoreHead(*extractor.dims(), width=16))


@pytest.fixture(scope="module")
def quick():
    training = replace(PROFILES["full"].training, lr=4e-3, ema_halflife=4000, eval_images=200)
    return replace(PROFILES["full"], steps=500, num_test=500, training=training)


@pytest.mark.slow
@pytest.mark.parametrize(
    "loss, ratio, gradient",
    [("bce", 0.45, 0.60), ("matching", 0.30, 0.38), ("sobolev", 0.50, 0.60)],
)
def test_learned_ratio_and_gradient_against_the_truth(tmp_path, quick, loss, ratio, gradient):
    """Relative errors in the mean over noise levels from 0.05 to 0.8, from 20,000 images of each
    kind."""
    errors = quick.errors(train_small(quick, 20_000, loss, tmp_path))
    assert np.mean(errors["ratio"]) < ratio and np.mean(errors["gradient"]) < gradient


@pytest.mark.slow
def test_matching_betters_the_gradient_of_the_best_checkpoint_on_few_images(tmp_path):
    settings, found = PROFILES["full"], {}
    for loss in ("bce", "matching"):
        discriminator = train_small(settings, 500, loss, tmp_path / loss)
        found[loss] = settings.errors(best_head(discriminator, tmp_path / loss))
    assert np.mean(found["matching"]["gradient"]) < 0.9 * np.mean(found["bce"]["gradient"])


def test_the_experiment_writes_results_pictures_and_report(tmp_path):
    (tmp_path / "results").mkdir()
    outcome = two_gaussians.run(
        PROFILES["smoke"], tmp_path / "runs", tmp_path / "results", "command", "cpu", silent, print
    )
    assert {path.name for path in (tmp_path / "results").iterdir()} == {
        "results.json",
        "errors.png",
        "ratios.png",
        "report.html",
        "report.md",
    }
    assert (
        json.loads((tmp_path / "results" / "results.json").read_text())["metrics"]
        == outcome["metrics"]
    )
    assert "matching" in two_gaussians.text_table(outcome)
