"""DiT sampled from seeds: every difference from diffusers' own pipeline one by one, and the
pipeline itself without them."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dg.adapters import cond_fn
from dg.data.datasets import load_images, to_uint8
from dg.data.sample_store import SampleStore
from dg.discriminator import Discriminator
from dg.extractors import PixelExtractor
from dg.guidance import DiscriminatorGuidance
from dg.models.discrete_sampling import DDPMSampling, as_cond_fn, ddpm_sampler
from dg.models.dit import DG_TIME_MIN, LatentDiffusion
from dg.sampling import describe, draw_images, generate
from guided_diffusion import create_classifier, create_diffusion
from tests import golden_fill
from tests.tiny_dit import tiny_transformer
from tests.tiny_vae import tiny_vae

diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.diffusers
STEPS = 10  # 0, 100, ..., 900, which diffusers calls "leading"


@pytest.fixture(scope="module")
def model():
    """In float64, so that agreement is not hidden by rounding; 1000 classes, which diffusers'
    pipeline takes for granted."""
    return (
        LatentDiffusion(tiny_transformer(1000).double(), tiny_vae().double())
        .eval()
        .requires_grad_(False)
    )


def discriminator():
    head = create_classifier(
        image_size=8, in_channels=4, out_channels=1, classifier_width=64, condition=True
    )
    return (
        Discriminator(PixelExtractor(), [golden_fill.fill(head, gain=2.0)])
        .eval()
        .requires_grad_(False)
    )


def noises(count=STEPS, batch=2):
    generator = torch.Generator().manual_seed(0)
    return list(torch.randn(count + 1, batch, 4, 8, 8, dtype=torch.float64, generator=generator))


def scheduler(kind, **kwargs):
    """One of diffusers', its coefficients in float64 as ours are."""
    made = kind(beta_start=1e-4, beta_end=0.02, clip_sample=False, **kwargs)
    made.betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    made.alphas = 1 - made.betas
    made.alphas_cumprod = made.alphas.cumprod(0)
    made.one = torch.ones((), dtype=torch.float64)
    return made


def ours(model, sampling, guidance=None, variance="learned_range"):
    """Latents of `ddpm_sampler` on the steps of diffusers and the prepared noise."""
    channels = 8 if variance == "learned_range" else 4
    stand_in = SimpleNamespace(
        net=lambda x, t, y: model.net(x, t, y)[:, :channels],
        label_dim=1000,
        null_class=1000,
        respaced=lambda spec: create_diffusion(respacing=f"ddim{STEPS}", variance=variance),
    )
    start, *rest = noises()
    labels = torch.eye(1000)[[3, 7]]
    return ddpm_sampler(
        stand_in,
        start,
        labels,
        randn_like=lambda x: rest.pop(0),
        guidance=guidance,
        **sampling.kwargs(),
    )


def theirs(model, scheduler, channels=4, scale=lambda t: 1.5, learned=False, gradient=None):
    """The pipeline's loop with the schedulers of diffusers, and what it does not do by argument."""
    x, *rest = noises()
    y = torch.tensor([3, 7])
    scheduler.set_timesteps(STEPS)
    for t, noise in zip(scheduler.timesteps, rest, strict=True):
        times = t.expand(2)
        conditional = model.net(x, times, y)
        unconditional = model.net(x, times, torch.full_like(y, 1000))
        output = conditional.clone()
        output[:, :channels] = (unconditional + scale(t) * (conditional - unconditional))[
            :, :channels
        ]
        shift = 0
        if gradient is not None:
            variance = scheduler._get_variance(
                t, predicted_variance=conditional[:, 4:] if learned else None
            )
            shift = (variance.exp() if learned else variance) * gradient(x, times, y)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "diffusers.schedulers.scheduling_ddpm.randn_tensor",
                lambda *args, noise=noise, **kwargs: noise,
            )
            x = scheduler.step(output if learned else output[:, :4], t, x).prev_sample + shift
    return x


def same(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * expected.abs().max().item())


@pytest.mark.parametrize("method", ["ddim", "ancestral"])
def test_without_the_differences_it_is_the_stock_pipeline(model, monkeypatch, method):
    kind = diffusers.DDIMScheduler if method == "ddim" else diffusers.DDPMScheduler
    pipe = diffusers.DiTPipeline(model.net.transformer, model.vae, scheduler(kind))
    pipe.set_progress_bar_config(disable=True)
    start, *rest = noises()
    monkeypatch.setattr(
        "diffusers.pipelines.dit.pipeline_dit.randn_tensor", lambda *args, **kwargs: start
    )
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddpm.randn_tensor",
        lambda *args, **kwargs: torch.cat([rest[0], rest.pop(0)]),
    )
    stock = pipe([3, 7], guidance_scale=1.5, num_inference_steps=STEPS, output_type="pt").images
    sampling = DDPMSampling(
        method, STEPS, clip_denoised=False, LT_cfg=1.5, ST_cfg=1.5, cfg_channels=4
    )
    latents = ours(model, sampling, variance="fixed_small")
    images = model.to_images(latents)
    assert latents.std() > 0.1 and images.std() > 0.01
    same((images / 2 + 0.5).clamp(0, 1).double(), stock.double())
    same(latents, theirs(model, scheduler(kind)))


@pytest.mark.parametrize(
    ("channels", "learned", "branched", "guided"),
    [
        (3, False, False, False),
        (4, True, False, False),
        (4, False, True, False),
        (4, False, False, True),
        (3, True, True, True),
    ],
)
def test_every_difference_alone_and_all_together(model, channels, learned, branched, guided):
    """Three of four channels guided; the learned variance used; the scale switched at step 200; a
    discriminator's gradient."""
    head = discriminator()
    steer = DiscriminatorGuidance(head, (5.0, 0.0), time_min=DG_TIME_MIN) if guided else None
    above, below = (1.25, 3.0) if branched else (1.5, 1.5)
    sampling = DDPMSampling(
        "ancestral",
        STEPS,
        clip_denoised=False,
        LT_cfg=above,
        ST_cfg=below,
        branch_time=200,
        cfg_channels=channels,
        dg_time="step",
    )
    found = ours(model, sampling, steer, "learned_range" if learned else "fixed_small")
    stock = theirs(model, scheduler(diffusers.DDPMScheduler))
    expected = theirs(
        model,
        scheduler(
            diffusers.DDPMScheduler, variance_type="learned_range" if learned else "fixed_small"
        ),
        channels,
        lambda t: above if t > 200 else below,
        learned,
        cond_fn(head, 5.0, time_min=100 / 999) if guided else None,
    )
    same(found, expected)
    assert (expected - stock).abs().max() > 1e-3 * stock.abs().max(), "each of them is seen"


def test_the_window_of_the_published_samples_in_both_times():
    steer, diffusion = (
        DiscriminatorGuidance(discriminator(), (1.0, 0.0), time_min=DG_TIME_MIN),
        create_diffusion(),
    )
    x, labels = torch.randn(1, 4, 8, 8, dtype=torch.float64), torch.eye(1000)[[3]]
    for time, t in product(("level", "step"), (0, 1, 100, 101, 990)):
        gradient = as_cond_fn(steer, diffusion, labels, time)(x, torch.tensor([t]))
        assert gradient.isfinite().all() and gradient.any() == (t > 100)


def test_the_authors_time_is_that_of_their_cond_fn():
    head, diffusion = discriminator(), create_diffusion()
    steer = DiscriminatorGuidance(head, (2.0, 0.0), time_min=0.0)
    x = torch.randn(4, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t, y = torch.tensor([100, 350, 700, 999]), torch.tensor([0, 1, 2, 3])
    steer_one = cond_fn(head, 2.0)  # one by one, as below: batches of other sizes round differently
    ones = [slice(i, i + 1) for i in range(4)]
    expected = torch.cat([steer_one(x[one], t[one], y[one]) for one in ones])
    for time, close in (("step", True), ("level", False)):
        found = torch.cat(
            [
                as_cond_fn(steer, diffusion, torch.eye(1000)[y[one]], time)(x[one], t[one])
                for one in ones
            ]
        )
        assert ((found - expected).abs().max() < 1e-5 * expected.abs().max()) == close
        assert time == "step" or (not found[3].any() and found[:3].any()), (
            "the last step's level is beyond the window"
        )


def test_half_the_cost_without_guidance(model):
    sizes = []

    def drawn(**scales):
        sizes.clear()
        hook = model.net.register_forward_hook(
            lambda module, inputs, output: sizes.append(len(output))
        )
        images, _ = draw_images(
            model, [1, 2], DDPMSampling("ancestral", 4, clip_denoised=False, **scales)
        )
        hook.remove()
        return images

    plain = drawn()
    assert sizes == [2] * 4
    assert torch.equal(drawn(LT_cfg=1.0), plain) and sizes == [2] * 4
    assert not torch.equal(drawn(LT_cfg=1.0, ST_cfg=2.0), plain) and sizes == [2, 2, 2, 4], (
        "a scale of 1 in its part only"
    )


def test_images_from_seeds_into_a_store(tmp_path):
    model = LatentDiffusion(tiny_transformer(), tiny_vae()).eval().requires_grad_(False)
    sampling = DDPMSampling(**model.sampling_defaults | {"num_steps": 3})
    assert sampling.kwargs() == dict(
        method="ancestral", num_steps=3, eta=0.0, clip_denoised=False, LT_cfg=1.5, ST_cfg=1.5
    )
    settings = describe(model, sampling)
    assert (
        settings["sampling"]["LT_cfg"] == 1.5
        and len(settings["vae"]) == 16
        and "classifier" not in settings
    )
    store = SampleStore(tmp_path / "images", settings, range(3), 2)
    generate(model, store, sampling)
    found = load_images(tmp_path / "images")
    images, classes = draw_images(model, range(3), sampling)
    assert (
        images.shape == (3, 3, 16, 16)
        and found.images.shape == (3, 16, 16, 3)
        and found.labels.tolist() == classes.tolist()
    )
    assert np.abs(found.images.astype(int) - to_uint8(images)).max() <= 1
    with pytest.raises(ValueError, match="vae"):
        other = LatentDiffusion(model.net.transformer, tiny_vae(seed=1))
        SampleStore(tmp_path / "images", describe(other, sampling), range(3), 2)
