"""Autoguidance: its formula alone and added to a discriminator's, in samplers and generate.py."""

import re

import numpy as np
import pytest
import torch

import dg
import edm
from dg.adapters import GuidedDenoiser
from dg.data.datasets import load_images, to_uint8
from dg.evaluation.likelihood import bits_per_dim
from dg.guidance import Autoguidance
from dg.models.discrete_sampling import DDPMSampling, as_cond_fn
from dg.precision import MixedPrecisionGuidance
from dg.sampling import Sampling, describe, draw_images
from tests.dg.models.test_discrete_sampling import ExactDDPM, small
from tests.dg.test_guidance import DATA, MODEL, guidance
from tests.dg.test_guidance import latents as noise
from tests.dg.test_sampling import guidance as score_guidance
from tests.dg.test_sampling import network
from tests.edm.test_guidance import TowardsGrey
from tests.scripts import run, succeed

LEVELS = (torch.tensor(2.0, dtype=torch.float64), torch.tensor([0.5, 2.0, 3.0]).double())


def images(n=3, channels=1, size=4):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, channels, size, size, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("sigma", LEVELS, ids=["one level", "a level each"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_the_formula_alone_and_added(scale, sigma):
    net, guide, x, labels = network(), network(salt="guide:"), images(), torch.eye(3)
    place = (x, sigma, labels, 0, 1)
    main, weak = (one(x, sigma, labels).double() for one in (net, guide))
    auto, steer = Autoguidance(guide, scale), score_guidance(net, weights=(3.0, 0.0), time_min=0.0)
    expected = scale * main + (1 - scale) * weak
    torch.testing.assert_close(auto.denoise(net, *place), expected, rtol=1e-12, atol=1e-12)
    correction = steer.correction(*place)
    assert correction.abs().max() > 1e-4
    for both in (auto + steer, steer + auto, MixedPrecisionGuidance(auto) + steer):
        torch.testing.assert_close(
            both.denoise(net, *place), expected + correction, rtol=1e-6, atol=1e-6
        )


def test_one_shared_pass_of_each_network():
    net, guide = network(), network(salt="guide:")
    steer = score_guidance(net, weights=(2.0, 1.0), time_min=0.0)
    calls = []
    for name, one in (("net", net), ("guide", guide)):
        for half in ("enc", "dec"):
            blocks = one.model.get_submodule(half)
            first = next(iter(blocks.values()))
            first.register_forward_hook(
                lambda *_, call=(name, half): calls.append(call), always_call=True
            )
    for both in (Autoguidance(guide, 2.0) + steer, steer + Autoguidance(guide, 2.0)):
        calls.clear()
        draw_images(net, [1, 2], Sampling(num_steps=3), both)
        evaluations = 2 * 3 - 1
        assert {call: calls.count(call) for call in calls} == {
            (name, half): evaluations for name in ("net", "guide") for half in ("enc", "dec")
        }


def test_it_describes_itself():
    net, guide = network(), network(salt="guide:")
    auto, sampling = Autoguidance(guide, 2.0), Sampling(num_steps=3)
    assert auto.networks() == [guide]
    different = [
        auto,
        Autoguidance(guide, 1.5),
        Autoguidance(network(salt="other:"), 2.0),
        auto + score_guidance(net),
        score_guidance(net) + auto,
        TowardsGrey(),
        None,
    ]
    described = [describe(net, sampling, one) for one in different]
    assert all(one not in described[:index] for index, one in enumerate(described))
    assert describe(net, sampling, Autoguidance(network(salt="guide:"), 2.0)) == described[0]
    with pytest.raises(ValueError, match="scale of autoguidance is inf; give a finite number"):
        Autoguidance(guide, float("inf"))


@pytest.mark.parametrize("build", [lambda: TowardsGrey(), lambda: Autoguidance(DATA, 2.0)])
def test_any_guidance_in_a_foreign_sampler_and_under_bfloat16(build):
    x, sigmas = noise(4), torch.tensor([0.5, 2.0, 3.0, 1.0]).double()
    for sigma in (sigmas, sigmas[1]):
        expected = build().denoise(MODEL, x, sigma, None, 1, 1)
        assert torch.equal(GuidedDenoiser(MODEL, build())(x, sigma), expected)
        assert torch.equal(
            MixedPrecisionGuidance(build()).denoise(MODEL, x, sigma, None, 1, 1), expected
        )


def test_as_a_cond_fn_it_is_the_difference_of_scores():
    """On Gaussians: the score of D = w D_main + (1 - w) D_guide is the same mixture of scores."""
    model = ExactDDPM(MODEL)
    diffusion = model.respaced("13")
    t = torch.from_numpy(diffusion.schedule.timestep_map[:-1])
    x = torch.randn(len(t), 1, 2, 2, dtype=torch.float64)
    auto = Autoguidance(DATA, 3.0)
    found = as_cond_fn(auto, diffusion, network=model.net)(x, t)
    bar = torch.from_numpy(diffusion.schedule.alphas_cumprod[:-1]).reshape(-1, 1, 1, 1)
    main, weak = (
        -(x - bar.sqrt() * net.mean) / (bar * net.sd**2 + 1 - bar) for net in (MODEL, DATA)
    )
    torch.testing.assert_close(found, 2.0 * (main - weak), rtol=1e-6, atol=1e-6)
    both = as_cond_fn(auto + guidance((1, 0)), diffusion, network=model.net)(x, t)
    ratio = as_cond_fn(guidance((1, 0)), diffusion)(x, t)
    torch.testing.assert_close(both, found + ratio, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="depends on the network's denoised image"):
        as_cond_fn(auto, diffusion)


def test_any_guidance_of_a_ddpm_and_of_a_likelihood():
    ddpm, sampling = small(), DDPMSampling("ancestral", 3)
    plain, _ = draw_images(ddpm, [1, 2], sampling)
    grey, _ = draw_images(ddpm, [1, 2], sampling, TowardsGrey() + TowardsGrey())
    assert (grey - plain).abs().max() > 1e-4
    net, pixels = network(0), np.zeros([2, 4, 4, 1], np.uint8)
    kinds = None, TowardsGrey(), Autoguidance(network(0, salt="guide:"), 1.5)
    bits = [bits_per_dim(net, pixels, guidance=one, num_steps=3).bits_per_dim for one in kinds]
    assert len({tuple(one) for one in bits}) == 3 and np.isfinite(bits).all()


def test_it_is_exported():
    assert dg.Autoguidance is Autoguidance and "Autoguidance" in dg.__all__
    assert dg.discrete_sampling.as_cond_fn is as_cond_fn


# generate.py

AUTO = "generate --network {net} --outdir {out} --seeds 0-5 --batch 2 --steps 3 --grid 0 "


@pytest.fixture(scope="module")
def guide(made, tmp_path_factory):
    """A network of the same images, trained for fewer steps."""
    folder = tmp_path_factory.mktemp("guide")
    succeed(
        "pretrain score --data digits:train --outdir {folder} --steps 1 --batch_size 8",
        folder=folder,
    )
    return folder / "network.safetensors"


@pytest.mark.slow
def test_through_the_script_alone_with_a_discriminator_and_resumed(at, guide):
    places = {**at, "guide": guide}
    auto = AUTO + "--guide_network {guide} --guide_scale 3 --precise "
    succeed(auto, **places)
    found = load_images(at["out"]).images
    loaded = [edm.load_network(path) for path in (at["net"], guide)]
    expected, _ = draw_images(
        loaded[0], range(6), Sampling(num_steps=3), Autoguidance(loaded[1], 3.0)
    )
    difference = found.astype(int) - to_uint8(expected)
    assert np.abs(difference).max() <= 1
    next(iter(sorted(at["out"].glob("*.npz")))).unlink()
    succeed(auto, **places)
    np.testing.assert_array_equal(load_images(at["out"]).images, found)
    refused = run(auto.replace("scale 3", "scale 2"), **places)
    assert refused.code == 2 and "other settings" in refused.err
    both = at["tmp"] / "both"
    succeed(auto + "--discriminator_ckpt {head} --w_dg_1 4 --time_min 0", **{**places, "out": both})
    assert (load_images(both).images != found).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--guide_scale 2", "--guide_scale means nothing for a run without --guide_network"),
        ("--guide_network {cond_net}", "--guide_network: .* 10 classes, but the network has"),
        ("--guide_network {net} --guide_scale nan", "--guide_scale.*nan is no number"),
        ("--guide_network {head}", "best.safetensors"),
    ],
)
def test_what_the_script_refuses(at, options, message):
    done = run(AUTO + options, **at)
    assert done.code == 2 and len(done.lines) == 1 and re.search(message, done.err), done.err
