"""Likelihood: Gaussians in closed form first, then the guided flow, real networks, and what is
refused."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard

import edm
from dg.discriminator import Discriminator
from dg.evaluation import likelihood
from dg.evaluation.likelihood import bits_per_dim, dequantize, log_density, to_bits_per_dim
from dg.extractors import PixelExtractor, ScoreExtractor
from dg.guidance import BOOSTING, DiscriminatorGuidance
from dg.heads import ScoreHead
from guided_diffusion import create_classifier
from tests import golden_fill
from tests.dg.test_guidance import guidance
from tests.edm.test_samplers import GaussianDenoiser

SIZE = 4


class Gaussian(GaussianDenoiser):
    """Images N(mean, sd^2), elementwise; both may be tensors [1, C, 1, 1] or larger."""

    img_resolution = SIZE

    def log_density(self, x, sigma=0.002):
        variance = torch.as_tensor(self.sd, dtype=torch.float64) ** 2 + sigma**2
        return (-0.5 * ((x - self.mean) ** 2 / variance + (2 * math.pi * variance).log())).sum(
            dim=(1, 2, 3)
        )

    def draw(self, n):
        noise = torch.randn(
            n, 1, SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
        )
        return self.mean + self.sd * noise


PIXELS = torch.arange(SIZE**2, dtype=torch.float64).reshape(1, 1, SIZE, SIZE) / SIZE**2
GAUSSIANS = [
    Gaussian(0.0, 0.5),
    Gaussian(0.0, 0.05),
    Gaussian(0.02 * (PIXELS - 0.5), 0.05 + PIXELS),
]
DATA, MODEL = Gaussian(0.0, 0.5), Gaussian(0.3, 0.6)


def ones(x):
    return torch.ones(1, *x.shape, dtype=torch.float64)


def error(net, x, **kwargs):
    """Bits per dimension too much, [N]; a probe of +-1 is exact where the Jacobian is diagonal."""
    found, _ = log_density(net, x, ones(x), **kwargs)
    return (
        to_bits_per_dim(found, x[0].numel()) - to_bits_per_dim(net.log_density(x), x[0].numel())
    ).abs()


@pytest.mark.parametrize("net", GAUSSIANS)
def test_gaussians_have_their_own_density(net):
    x = net.draw(5)
    assert error(net, x, solver="rk45").max() < 1e-3
    errors = [error(net, x, num_steps=n).max().item() for n in (64, 128, 256, 512)]
    assert errors[-1] < 1e-3
    order = -np.polyfit(np.log([64, 128, 256, 512]), np.log(errors), 1)[0]
    # the Gaussian at sigma_max in place of the true density leaves about 1e-4
    assert abs(order - 2) < 0.4


def test_a_uniform_density_has_8_bits():
    u = torch.arange(256, dtype=torch.uint8).reshape(2, 8, 8, 2)
    x = dequantize(u, edm.StackedRandomGenerator("cpu", [0, 1]))
    assert x.shape == (2, 2, 8, 8) and x.dtype == torch.float64
    offset = (x + 1) * 127.5 - u.permute(0, 3, 1, 2)
    assert offset.min() >= -0.5 and offset.max() < 0.5 and abs(offset.mean()) < 0.06
    per_dim = -math.log(2 * 128 / 127.5)  # the 256 bins reach half a bin beyond -1 and 1
    assert to_bits_per_dim(
        torch.tensor([12 * per_dim], dtype=torch.float64), 12
    ).item() == pytest.approx(8, abs=1e-12)


def test_bits_per_dim_of_bytes():
    """Bytes drawn from a Gaussian: the mean is its entropy, and a model of one bit more spread says
    so."""
    net = Gaussian(0.0, 0.2)
    images = (
        ((net.draw(64) + 1) * 127.5)
        .round()
        .clip(0, 255)
        .to(torch.uint8)
        .permute(0, 2, 3, 1)
        .numpy()
    )
    found = bits_per_dim(net, images, solver="heun", num_steps=256)
    entropy = 0.5 * math.log2(2 * math.pi * math.e * 0.2**2) + math.log2(127.5)
    assert found.bits_per_dim.shape == (64,) and found.bits_per_dim.dtype == np.float64
    assert (found.num_evaluations == 512).all()
    assert abs(found.mean - entropy) < 3 * found.standard_error < 0.1
    assert math.isnan(bits_per_dim(net, images[:1], num_steps=2).standard_error)


@pytest.mark.slow
@pytest.mark.parametrize(
    "guided, settings",
    [
        (True, dict(num_steps=3)),
        (False, dict(solver="rk45", tolerance=1e-2, sigma_min=1, sigma_max=9)),
    ],
)
def test_results_do_not_depend_on_the_batch(guided, settings):
    net = small_network(label_dim=3)
    images = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 1), dtype=np.uint8)
    labels, seeds = torch.eye(3), [7, 8, 9]
    kwargs = dict(num_probes=2, guidance=small_guidance(net) if guided else None, **settings)
    together = bits_per_dim(net, images, labels, seeds=seeds, **kwargs).bits_per_dim
    back = bits_per_dim(
        net, images[::-1].copy(), labels.flip(0), seeds=seeds[::-1], batch_size=2, **kwargs
    )
    np.testing.assert_allclose(back.bits_per_dim[::-1], together, rtol=0, atol=1e-4)
    assert (
        np.abs(bits_per_dim(net, images, labels, **kwargs).bits_per_dim - together) > 1e-3
    ).all(), "other seeds"


def test_gaussian_probes_are_unbiased():
    net = Gaussian(0.0, 0.5)
    images = np.full((1, SIZE, SIZE, 1), 100, dtype=np.uint8).repeat(200, axis=0)
    exact, noisy = (
        bits_per_dim(net, images, probe=probe, num_steps=16) for probe in likelihood.PROBES
    )
    difference = noisy.bits_per_dim - exact.bits_per_dim  # the same dequantisation
    assert 0 < abs(difference.mean()) < 3 * difference.std() / math.sqrt(200)


# Guidance -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kwargs", [dict(num_steps=32), dict(solver="rk45")])
def test_exact_ratio_has_the_likelihood_of_the_data(kwargs):
    x = DATA.draw(4)
    (guided, _), (true, _) = (
        log_density(MODEL, x, ones(x), guidance=guidance((1, 1)), **kwargs),
        log_density(DATA, x, ones(x), **kwargs),
    )
    torch.testing.assert_close(guided, true, rtol=0, atol=1e-9)
    model, _ = log_density(MODEL, x, ones(x), **kwargs)
    assert (guided - model).mean() > 1


def test_doubled_first_order_comes_near_both_orders():
    x = DATA.draw(4)

    def gap(num_steps):
        both, doubled = (
            log_density(MODEL, x, ones(x), guidance=guidance(w), num_steps=num_steps)[0]
            for w in ((1, 1), (2, 0))
        )
        return (both - doubled).abs().max().item()

    assert abs(math.log2(gap(64) / gap(256)) / 2 - 1) < 0.2


def test_window_decides_by_step():
    x = DATA.draw(2)
    closed = guidance((1, 1), time_min=0.999)
    plain, _ = log_density(MODEL, x, ones(x), num_steps=8)
    assert torch.equal(log_density(MODEL, x, ones(x), guidance=closed, num_steps=8)[0], plain)
    partly, _ = log_density(MODEL, x, ones(x), guidance=guidance((1, 1), time_min=0.3), num_steps=8)
    full, _ = log_density(MODEL, x, ones(x), guidance=guidance((1, 1)), num_steps=8)
    assert not torch.equal(partly, plain) and not torch.equal(partly, full)


def small_network(label_dim=0):
    net = edm.EDMPrecond(
        SIZE,
        1,
        label_dim,
        model_type="SongUNet",
        model_channels=32,
        channel_mult=[1, 2],
        num_blocks=1,
        attn_resolutions=[2],
    )
    return golden_fill.fill(net, gain=0.6).eval().requires_grad_(False)


def small_guidance(net, kind="score", clip=None):
    extractor = ScoreExtractor(net)
    if kind == "score":
        head = ScoreHead(*extractor.dims(), num_classes=net.label_dim, width=16)
    else:
        extractor = PixelExtractor()
        head = create_classifier(
            image_size=SIZE,
            in_channels=1,
            out_channels=1,
            classifier_width=64,
            channel_mult=(1, 2),
            classifier_depth=1,
            classifier_attention_resolutions="2",
        )
    golden_fill.fill(head, gain=2.0)
    discriminator = Discriminator(extractor, [head]).eval().requires_grad_(False)
    return DiscriminatorGuidance(discriminator, (1.0, 1.0), time_min=0.0, clip=clip)


@pytest.mark.parametrize("kind, clip", [("score", None), ("none", None), ("none", 1e-5)])
def test_trace_of_real_networks(kind, clip):
    """Over an orthogonal basis Hutchinson's estimate is the trace; the brute force differentiates
    numerically."""
    net = small_network()
    x, sigma = DATA.draw(1), torch.tensor(0.6, dtype=torch.float64)
    basis = torch.tensor(hadamard(SIZE**2), dtype=torch.float64).reshape(-1, 1, 1, SIZE, SIZE)
    for how in (edm.Guidance(), small_guidance(net, kind, clip)):

        def denoise(x, how=how):
            return how.denoise(net, x, sigma, None, 0, 1).detach()

        drift, divergence = likelihood._flow(net, x, basis, None, how, sigma)
        torch.testing.assert_close(drift, x - denoise(x), rtol=0, atol=1e-5)
        steps = 1e-2 * torch.eye(SIZE**2, dtype=torch.float64).reshape(-1, 1, SIZE, SIZE)
        slopes = (denoise(x + steps) - denoise(x - steps)).flatten(1).diagonal() / 2e-2
        assert divergence.item() == pytest.approx(SIZE**2 - slopes.sum().item(), abs=5e-3)


@pytest.mark.parametrize("kind", ["score", "none"])
def test_guidance_of_real_networks_counts(kind):
    net = small_network()
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 1), dtype=np.uint8)
    plain, guided = (
        bits_per_dim(net, torch.from_numpy(images), guidance=how, num_steps=6)
        for how in (None, small_guidance(net, kind))
    )
    assert (
        np.isfinite(guided.bits_per_dim).all() and (plain.bits_per_dim != guided.bits_per_dim).all()
    )


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda im, x: bits_per_dim(DATA, im[:, :2]),
            r"\[2, 2, 4, 1\] does not fit the network; give uint8 \[N, 4, 4, 1\]",
        ),
        (lambda im, x: bits_per_dim(DATA, im.repeat(3, axis=3)), "does not fit the network"),
        (lambda im, x: bits_per_dim(DATA, im / 255), "float64"),
        (lambda im, x: bits_per_dim(DATA, im[:0]), "at least one"),
        (lambda im, x: bits_per_dim(DATA, im, seeds=[1]), "1 seeds for 2 images"),
        (lambda im, x: bits_per_dim(DATA, im, num_probes=0), "at least one probe"),
        (lambda im, x: bits_per_dim(DATA, im, probe="cauchy"), "rademacher or gaussian"),
        (
            lambda im, x: bits_per_dim(DATA, im, solver="euler"),
            "solver is 'euler'; use one of heun, rk45",
        ),
        (lambda im, x: bits_per_dim(DATA, im, num_steps=0), "give positive numbers"),
        (lambda im, x: bits_per_dim(DATA, im, sigma_min=0), "give positive numbers"),
        (lambda im, x: bits_per_dim(DATA, im, sigma_min=90), "larger sigma_max"),
        (lambda im, x: bits_per_dim(small_network(3), im), r"one-hot class_labels \[2, 3\]"),
        (
            lambda im, x: bits_per_dim(small_network(3), im, torch.eye(2)),
            r"one-hot class_labels \[2, 3\]",
        ),
        (
            lambda im, x: bits_per_dim(Gaussian(math.nan, 1.0), im, num_steps=4),
            "flow of 2 of 2 images is NaN",
        ),
        (
            lambda im, x: bits_per_dim(Gaussian(math.nan, 1.0), im, solver="rk45"),
            "flow of 1 of 1 images is NaN",
        ),
        (
            lambda im, x: bits_per_dim(
                MODEL, im, guidance=guidance((1, 1), boosting=BOOSTING["paper"])
            ),
            "boosting",
        ),
        (
            lambda im, x: bits_per_dim(MODEL, im, guidance=guidance((2, 0)), solver="rk45"),
            "give equal weights",
        ),
        (lambda im, x: log_density(DATA, x[..., :2], ones(x)), r"finite values \[N, 1, 4, 4\]"),
        (lambda im, x: log_density(DATA, x * math.nan, ones(x)), "hold NaN"),
        (lambda im, x: log_density(DATA, x, ones(x)[:, :1]), r"give \[P, 2, 1, 4, 4\]"),
        (lambda im, x: log_density(DATA, x, ones(x)[0]), "probes"),
    ],
)
def test_errors_are_one_line(call, message):
    images = np.zeros((2, SIZE, SIZE, 1), dtype=np.uint8)
    with pytest.raises(ValueError, match=message) as caught:
        call(images, DATA.draw(2))
    assert "\n" not in str(caught.value)
