"""The folder of a DDPMPipeline as a network."""

import json

import pytest
import torch

from dg.guidance import DiscriminatorGuidance
from dg.models.diffusers_ddpm import PixelDiffusion
from dg.models.discrete_sampling import DDPMSampling, ddpm_sampler
from dg.models.loading import load_model
from dg.sampling import draw_images
from edm.fingerprints import fingerprint
from tests.dg.test_guidance import ExactRatio

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.diffusers


def saved(tmp_path, scheduler=None, **config):
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        **dict(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            block_out_channels=(8, 8),
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=4,
        )
        | config
    )
    scheduler = scheduler or diffusers.DDPMScheduler(variance_type="fixed_large")
    pipe = diffusers.DDPMPipeline(unet.eval(), scheduler)
    pipe.save_pretrained(tmp_path)
    return pipe


def test_it_samples_as_its_scheduler(tmp_path):
    """The same ancestral steps from the same noise, at the timesteps that diffusers calls
    linspace."""
    lines, pipe = [], saved(tmp_path / "pipe")
    model = load_model(tmp_path / "pipe", notify=lines.append)
    assert isinstance(model, PixelDiffusion) and "fixed_large variance" in lines[0]
    assert (model.img_resolution, model.img_channels, model.label_dim) == (8, 1, 0)
    assert model.sampling() == DDPMSampling("ancestral")
    scheduler = diffusers.DDPMScheduler.from_config(
        pipe.scheduler.config, timestep_spacing="linspace"
    )
    scheduler.set_timesteps(10)
    latents = torch.randn(2, 1, 8, 8)
    x, noise = latents, torch.Generator().manual_seed(0)
    for t in scheduler.timesteps:
        with torch.no_grad():
            prediction = pipe.unet(x, t).sample
        x = scheduler.step(prediction, t, x, generator=noise).prev_sample
    noise = torch.Generator().manual_seed(0)
    found = ddpm_sampler(
        model,
        latents,
        randn_like=lambda like: torch.randn(like.shape, generator=noise),
        num_steps=10,
        **model.sampling_defaults,
    )
    torch.testing.assert_close(found.float(), x, rtol=1e-3, atol=1e-3)


def test_it_is_guided_and_known_by_its_weights(tmp_path):
    saved(tmp_path / "pipe")
    model = load_model(tmp_path / "pipe" / "unet")
    assert fingerprint(model) == fingerprint(load_model(tmp_path / "pipe"))
    steer = DiscriminatorGuidance(ExactRatio(), (1, 0))
    sampling = DDPMSampling("ddim", 3)
    unguided, guided = (draw_images(model, [0, 1], sampling, g)[0] for g in (None, steer))
    assert guided.isfinite().all() and (guided - unguided).abs().max() > 1e-3


def test_classes(tmp_path):
    saved(tmp_path / "pipe", num_class_embeds=3)
    model = load_model(tmp_path / "pipe")
    assert model.label_dim == 3
    _, labels = draw_images(model, [0, 1], DDPMSampling("ddim", 2))
    assert labels.shape == (2,) and max(labels) < 3


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (dict(variance_type="learned_range"), "variance of its scheduler does not fit 1 channels"),
        (dict(variance_type="other"), "variance of its scheduler does not fit"),
        (dict(prediction_type="v_prediction"), "prediction_type v_prediction is not supported"),
    ],
)
def test_other_processes_are_refused(tmp_path, changes, match):
    saved(tmp_path / "pipe")
    file = tmp_path / "pipe" / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(ValueError, match=match):
        load_model(tmp_path / "pipe")


def test_the_scheduler_must_be_there(tmp_path):
    saved(tmp_path / "pipe")
    (tmp_path / "pipe" / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(ValueError, match="has no scheduler_config"):
        load_model(tmp_path / "pipe")
    with pytest.raises(ValueError, match="leave that out"):
        load_model(tmp_path / "pipe", diffusion_steps=100)
