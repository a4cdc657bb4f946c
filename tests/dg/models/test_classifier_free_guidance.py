"""Classifier-free guidance against reference vectors of the authors' DiT forward passes."""

import numpy as np
import pytest
import torch

from dg.models.classifier_free_guidance import ClassifierFreeGuidance, branched_scale
from guided_diffusion import create_diffusion
from tests import golden_fill


def network(x, t, y):
    """The formula of the reference case, eight channels from four."""
    c = torch.arange(8).reshape(1, -1, 1, 1)
    t, y = (v.float().reshape(-1, 1, 1, 1) for v in (t, y))
    return torch.sin(torch.cat([x, 0.5 * x], dim=1) * (1 + c / 4) + 0.01 * t + 0.001 * y * (1 + c))


@pytest.mark.parametrize("time", [150, 200, 201, 700])
def test_reference_forward_passes(time):
    """The reference holds both halves of a doubled batch; the second one, which it discards, is
    only half guided."""
    arrays, config = golden_fill.load("h_dit_forward_with_dg")
    x, y = torch.from_numpy(arrays["x"])[:3], torch.from_numpy(arrays["y"])[:3]
    t = torch.full([3], time)
    branched = branched_scale(config["LT_cfg"], config["ST_cfg"], config["branch_time"])
    for name, scale in (("forward_with_dg", branched), ("forward_with_cfg_1.5", 1.5)):
        expected = arrays[f"t{time}:{name}"]
        found = ClassifierFreeGuidance(network, scale)(x, t, y).numpy()
        np.testing.assert_allclose(found, expected[:3], rtol=0, atol=2e-6)
        np.testing.assert_allclose(found[:, :3], expected[3:, :3], rtol=0, atol=2e-6)
        rest = network(x, t, torch.full_like(y, 1000))[:, 3:]
        np.testing.assert_allclose(rest, expected[3:, 3:], rtol=0, atol=2e-6)


def test_the_scale_branches_per_sample():
    x = torch.randn(4, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    t, y = torch.tensor([0, 200, 201, 999]), torch.arange(4)
    mixed = ClassifierFreeGuidance(network, branched_scale(1.25, 3.0, 200))(x, t, y)
    low, high = (ClassifierFreeGuidance(network, scale)(x, t, y) for scale in (3.0, 1.25))
    torch.testing.assert_close(mixed, torch.cat([low[:2], high[2:]]))
    torch.testing.assert_close(ClassifierFreeGuidance(network, 1.0)(x, t, y), network(x, t, y))


def test_samples_through_a_diffusion_with_learned_variance():
    diffusion = create_diffusion(respacing="5")
    seen = []

    def steer(x, t, y):
        seen.append(t[0].item())
        return torch.zeros_like(x)

    model = ClassifierFreeGuidance(network, branched_scale(1.25, 3.0, 200), channels=4)
    noise, y = (
        torch.randn(2, 4, 2, 2, generator=torch.Generator().manual_seed(0)),
        torch.tensor([1, 2]),
    )
    x = diffusion.p_sample_loop(
        model,
        noise,
        randn_like=torch.zeros_like,
        cond_fn=steer,
        clip_denoised=False,
        model_kwargs={"y": y},
    )
    assert x.shape == noise.shape and x.isfinite().all() and seen == [999, 749, 500, 250, 0]
