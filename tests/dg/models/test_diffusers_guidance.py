"""Guidance in the schedulers and pipelines of diffusers: a network that knows one Gaussian, guided
by the exact ratio to another, samples as a network that knows the other one."""

import math
from inspect import signature
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import dg
import edm
from dg.models.diffusers_guidance import GuidedScheduler
from tests.edm.test_samplers import GaussianDenoiser

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.diffusers

DATA, MODEL = GaussianDenoiser(0.0, 0.5), GaussianDenoiser(0.3, 0.6)


class Exact(edm.Guidance):
    """The exact correction; with labels it is that of the class, whose mean lies higher."""

    def correction(self, x, sigma, class_labels, step, order):
        shift = 0 if class_labels is None else class_labels.argmax(dim=1).reshape(-1, 1, 1, 1)
        return DATA(x - shift, sigma) - MODEL(x - shift, sigma)


class OwnImage(edm.Guidance):
    """The same by way of the network's own image."""

    def denoise(self, net, x, sigma, class_labels, step, order):
        return net(x, sigma, class_labels) + DATA(x, sigma) - MODEL(x, sigma)


def timestep_of(name, t):
    """(scale, std) of the network's input at a timestep, by the convention that networks are
    trained with."""
    t = float(t)
    if name.startswith("EDM"):  # c_noise
        return 1.0, math.exp(4 * t)
    if name.startswith("Flow") or name == "flow":
        return 1 - t / 1000, t / 1000
    bars = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    sigma = np.interp(t, np.arange(1000), ((1 - bars) / bars) ** 0.5)
    return 1 / math.sqrt(1 + sigma**2), sigma / math.sqrt(1 + sigma**2)


class Known(nn.Module):
    """A network of diffusers that knows its Gaussian."""

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, gaussian, name, kind, **config):
        super().__init__()
        self.gaussian, self.name, self.kind = gaussian, name, kind
        self.config = diffusers.configuration_utils.FrozenDict(
            dict(sample_size=2, in_channels=1, out_channels=1) | config
        )

    def forward(self, sample, timestep, class_labels=None):
        x, t = sample.double(), torch.as_tensor(timestep).flatten()[0]
        scale, std = timestep_of(self.name, t)
        sigma = torch.tensor(std / scale if scale else 1e30, dtype=torch.float64)
        if self.name.startswith("EDM"):
            x = x * (sigma**2 + 0.25).sqrt()  # c_in is in the input
        shift = 0
        if class_labels is not None:
            shift = (class_labels % 1000).reshape(-1, 1, 1, 1)
        image = self.gaussian(x / max(scale, 1e-30) - shift, sigma) + shift
        noise = (x - scale * image) / std
        raw = (image - 0.25 / (sigma**2 + 0.25) * x) / (sigma * 0.5 / (sigma**2 + 0.25).sqrt())
        if self.name.startswith("EDM"):
            found = {"epsilon": raw, "v_prediction": -raw}[self.kind]
        else:
            found = {
                "epsilon": noise,
                "v_prediction": scale * noise - std * image,
                "flow_prediction": noise - image,
                "sample": image,
            }[self.kind]
        return SimpleNamespace(sample=found.float())


def made(name, kind, **kwargs):
    kwargs |= {} if name.startswith("Flow") else dict(prediction_type=kind)
    if name.startswith(("DDPM", "DDIM")):
        kwargs |= dict(clip_sample=False)
    if name.startswith("Heun"):  # whose defaults are Stable Diffusion's
        kwargs |= dict(beta_start=1e-4, beta_end=0.02)
    if name == "flow":
        return diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True, flow_shift=1, **kwargs)
    return getattr(diffusers, name)(**kwargs)


def scaled(scheduler, x, t):
    """The network's input; schedulers of flows have no method for it."""
    return x if scheduler.config.get("shift") else scheduler.scale_model_input(x, t)


def sampled(scheduler, net, steps=8):
    generator = torch.Generator().manual_seed(0)
    scheduler.set_timesteps(steps)
    x = torch.randn(4, 1, 2, 2, generator=generator)
    x = x * getattr(scheduler, "init_noise_sigma", 1.0)
    takes = "generator" in signature(scheduler.step).parameters
    kwargs = dict(generator=generator) if takes else {}
    for t in scheduler.timesteps:
        prediction = net(scaled(scheduler, x, t), t).sample
        x = scheduler.step(prediction, t, x, **kwargs).prev_sample
    return x


CASES = [
    (name, kind)
    for name in (
        "DDPMScheduler",
        "DDIMScheduler",
        "DPMSolverMultistepScheduler",
        "UniPCMultistepScheduler",
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "HeunDiscreteScheduler",
        "EDMEulerScheduler",
        "EDMDPMSolverMultistepScheduler",
    )
    for kind in ("epsilon", "v_prediction")
] + [
    ("DDIMScheduler", "sample"),
    ("FlowMatchEulerDiscreteScheduler", "flow_prediction"),
    ("FlowMatchHeunDiscreteScheduler", "flow_prediction"),
    ("flow", "flow_prediction"),
]


@pytest.mark.parametrize("steer", [Exact, OwnImage])
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_exact_ratio_in_every_scheduler_is_the_true_model(name, kind, steer):
    model, data = (Known(gaussian, name, kind) for gaussian in (MODEL, DATA))
    expected = sampled(made(name, kind), data)
    unguided = sampled(made(name, kind), model)
    found = sampled(GuidedScheduler(made(name, kind), steer()), model)
    tolerance = 2e-3 * expected.abs().max()
    assert (found - expected).abs().max() < tolerance < 0.1 * (unguided - expected).abs().max()


class Orders(edm.Guidance):
    needs_order = True

    def __init__(self):
        self._asked, self._begun = [], 0

    def begin(self, x):
        self._begun += 1

    def correction(self, x, sigma, class_labels, step, order):
        self._asked.append(order)


@pytest.mark.parametrize("name", ["HeunDiscreteScheduler", "EulerDiscreteScheduler"])
def test_the_stages_of_heun_are_known(name):
    orders = Orders()
    sampled(GuidedScheduler(made(name, "epsilon"), orders), Known(MODEL, name, "epsilon"), steps=3)
    assert orders._asked == ([1, 2, 1, 2, 1] if name.startswith("Heun") else [1] * 3)
    assert orders._begun == 1


class Decoder(nn.Module):
    dtype, device = torch.float32, torch.device("cpu")
    config = diffusers.configuration_utils.FrozenDict(scaling_factor=1.0)

    def decode(self, latents):
        return SimpleNamespace(sample=latents)


def pipeline(kind, gaussian):
    scheduler = made("DDIMScheduler" if kind != "DDPMPipeline" else "DDPMScheduler", "epsilon")
    if kind == "DiTPipeline":
        net = Known(gaussian, "DDIMScheduler", "epsilon", num_embeds_ada_norm=1000)
        pipe = diffusers.DiTPipeline(net, Decoder(), scheduler)
    else:
        pipe = getattr(diffusers, kind)(Known(gaussian, "DDIMScheduler", "epsilon"), scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


CALLS = {
    "DDPMPipeline": dict(batch_size=3),
    "DDIMPipeline": dict(batch_size=3),
    "DiTPipeline": dict(class_labels=[0, 1, 0], guidance_scale=1.0),
    # a class's network and that of no class are one here, so its guidance changes nothing
    "DiTPipeline, scale 4": dict(class_labels=[0, 0, 0], guidance_scale=4.0),
}


@pytest.mark.parametrize("call", CALLS)
def test_stock_pipelines_are_guided_until_the_end_of_the_block(call):
    kind = call.split(",")[0]

    def images(pipe):
        generator = torch.Generator().manual_seed(0)
        kwargs = dict(generator=generator, num_inference_steps=6, output_type="pt")
        return pipe(**CALLS[call], **kwargs).images

    pipe = pipeline(kind, MODEL)
    before, own, config = images(pipe), pipe.scheduler, dict(pipe.config)
    with dg.guide_pipeline(pipe, Exact()) as guided:
        assert guided is pipe
        found = images(pipe)
        with pytest.raises(ValueError, match="guided already"):
            dg.guide_pipeline(pipe, Exact())
    expected = images(pipeline(kind, DATA))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    assert (found - before).abs().max() > 0.02
    assert torch.equal(images(pipe), before) and pipe.scheduler is own
    assert dict(pipe.config) == config
    net = pipe.components.get("unet") or pipe.components["transformer"]
    assert not net._forward_pre_hooks
    steered = dg.guide_pipeline(pipe, Exact())
    assert torch.equal(images(pipe), found), "without a block, until undo"
    steered.undo()
    assert torch.equal(images(pipe), before)


def test_labels_may_be_given():
    pipe, labels = pipeline("DDPMPipeline", MODEL), torch.eye(2)[torch.tensor([1, 0])]
    seen = []

    class Listener(edm.Guidance):
        def correction(self, x, sigma, class_labels, step, order):
            seen.append(class_labels)

    kwargs = dict(num_inference_steps=1, output_type="pt")
    with dg.guide_pipeline(pipe, Listener(), labels):
        pipe(batch_size=2, **kwargs)
        with pytest.raises(ValueError, match="2 class labels for 3 samples"):
            pipe(batch_size=3, **kwargs)
    assert all(torch.equal(given, labels) for given in seen) and len(seen) == 1


def test_learned_variances_stay():
    scheduler = GuidedScheduler(
        diffusers.DDPMScheduler(variance_type="learned_range", clip_sample=False), Exact()
    )
    scheduler.set_timesteps(10)
    t, x = scheduler.timesteps[3], torch.ones(2, 1, 2, 2)
    outputs = torch.cat([Known(MODEL, "DDPMScheduler", "epsilon")(x, t).sample, 0.5 * x], dim=1)
    expected = torch.cat([Known(DATA, "DDPMScheduler", "epsilon")(x, t).sample, 0.5 * x], dim=1)
    steps = [
        one.step(output, t, x, generator=torch.Generator().manual_seed(0)).prev_sample
        for one, output in ((scheduler, outputs), (scheduler.scheduler, expected))
    ]
    torch.testing.assert_close(*steps, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_guided_is_refused():
    pipe = pipeline("DDPMPipeline", MODEL)
    boosted = Orders()
    boosted.needs_step = True
    with pytest.raises(ValueError, match="boosting"):
        dg.guide_pipeline(pipe, boosted)
    pipe.scheduler = diffusers.KDPM2DiscreteScheduler()
    with pytest.raises(ValueError, match="KDPM2DiscreteScheduler is not supported; use one of"):
        dg.guide_pipeline(pipe, Exact())
    assert type(pipe.scheduler).__name__ == "KDPM2DiscreteScheduler"
    assert not pipe.unet._forward_pre_hooks
    with pytest.raises(ValueError, match="invert_sigmas"):
        GuidedScheduler(diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True), Exact())


def by_guider(scheduler, net, guider, steps=8):
    """The loop of a modular pipeline around its guider."""
    generator = torch.Generator().manual_seed(0)
    scheduler.set_timesteps(steps)
    x = torch.randn(4, 1, 2, 2, generator=generator) * getattr(scheduler, "init_noise_sigma", 1.0)
    for i, t in enumerate(scheduler.timesteps):
        inputs = scaled(scheduler, x, t)
        guider.set_state(step=i, num_inference_steps=steps, timestep=t)
        state = guider.prepare_inputs({"prompt_embeds": (inputs, None)})
        for batch in state:
            guider.prepare_models(net)
            batch.noise_pred = net(inputs, t).sample
            guider.cleanup_models(net)
        x = scheduler.step(guider(state)[0], t, x).prev_sample
    return x


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("DDIMScheduler", "epsilon"),
        ("EulerDiscreteScheduler", "v_prediction"),
        ("EDMEulerScheduler", "epsilon"),
        ("FlowMatchEulerDiscreteScheduler", "flow_prediction"),
    ],
)
def test_a_guider_of_modular_pipelines(name, kind):
    model, data = (Known(gaussian, name, kind) for gaussian in (MODEL, DATA))

    def drawn(net, guide, **kwargs):
        scheduler = made(name, kind)
        return by_guider(scheduler, net, dg.pipeline_guider(guide, scheduler, **kwargs))

    expected, nothing = drawn(data, edm.Guidance()), drawn(model, edm.Guidance())
    torch.testing.assert_close(drawn(model, Exact()), expected, rtol=1e-3, atol=1e-3)
    assert torch.equal(drawn(model, Exact(), enabled=False), nothing)
    assert torch.equal(drawn(model, Exact(), stop=0.0), nothing)
    guider = dg.pipeline_guider(Exact(), made(name, kind), stop=0.5)
    assert guider.config["stop"] == 0.5 and "stop" in repr(guider)
    with pytest.raises(ValueError, match="not supported"):
        dg.pipeline_guider(Exact(), diffusers.KDPM2DiscreteScheduler())
