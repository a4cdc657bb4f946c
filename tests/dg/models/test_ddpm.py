"""DDPMs: built and kept as described, trained reproducibly, and measured by the same bound however
they are batched."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import edm
from dg.data.datasets import load_images, to_float
from dg.fingerprints import fingerprint
from dg.models.ddpm import DDPM, load_adm, load_ddpm, save_ddpm
from dg.models.discrete_sampling import DDPMSampling
from dg.models.loading import load_model
from dg.pretraining.ddpm import build_ddpm, train_ddpm
from dg.pretraining.presets import DDPM_PRESETS, DDPMTraining
from dg.runtime.training_state import load_state
from dg.sampling import Sampling, as_model
from edm.checkpoint import read_safetensors, write_safetensors
from guided_diffusion import UNetModel, create_classifier, presets, training_losses
from guided_diffusion.loading import MissingSettings
from tests import golden_fill
from tests.dg.pretraining.test_score import equal, image_set, stopping_after

SMALL = dict(
    model_channels=32,
    channel_mult=[1],
    num_res_blocks=1,
    attention_resolutions=[],
    num_head_channels=32,
)
QUICK = DDPMTraining(num_steps=20, steps=50, batch_size=4, ema_halflife=40)


def trained(settings, data=None, conditional=False, state_path=None, **kwargs):
    if state_path is not None:
        state_path.parent.mkdir(exist_ok=True)
    return train_ddpm(
        data or image_set(), SMALL, settings, conditional, state_path=state_path, **kwargs
    )


def built(conditional=False, **changes):
    model = build_ddpm(image_set(), SMALL, replace(QUICK, **changes), conditional)
    return golden_fill.fill(model, gain=0.6).eval().requires_grad_(False)


# The model and its file.


@pytest.mark.parametrize("variance", ["fixed_small", "learned_range"])
@pytest.mark.parametrize("conditional", [False, True])
def test_a_model_survives_its_file(tmp_path, variance, conditional):
    model = built(conditional, variance=variance, schedule="linear")
    save_ddpm(tmp_path / "ddpm.safetensors", model)
    for load in (load_ddpm, load_model):
        loaded = load(tmp_path / "ddpm.safetensors")
        assert loaded.sampling() == DDPMSampling()
        assert (
            equal(loaded, model)
            and loaded.init_kwargs == model.init_kwargs
            and fingerprint(loaded) == fingerprint(model)
        )
        assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
        assert (loaded.img_resolution, loaded.img_channels, loaded.label_dim) == (
            4,
            1,
            3 * conditional,
        )
        assert loaded.num_parameters == sum(p.numel() for p in model.parameters())
        np.testing.assert_array_equal(
            loaded.diffusion.schedule.betas, model.diffusion.schedule.betas
        )
        assert loaded.diffusion.variance == variance


def test_the_process_can_be_respaced():
    model = built()
    assert model.respaced().num_steps == model.diffusion.num_steps == 20
    assert model.respaced("5").schedule.timestep_map.tolist() == [0, 5, 10, 14, 19]
    with pytest.raises(ValueError, match="asks for 21 of 20 steps"):
        model.respaced("21")


def test_the_same_weights_in_another_process_are_another_model():
    model, other = built(), built(schedule="linear")
    assert equal(model, other) and fingerprint(model) != fingerprint(other)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"process": {"schedule": "square"}, "network": {"in_channels": 1}},
            "schedule is 'square'",
        ),
        ({"process": {}, "network": {}}, "'in_channels'"),
        ({"process": {}, "network": {"in_channels": 1, "wings": 2, "image_size": 4}}, "wings"),
        ({"process": {}}, "does not say process and network"),
    ],
)
def test_a_file_that_describes_no_model_is_one_line(tmp_path, config, message):
    write_safetensors(tmp_path / "x.safetensors", {}, "ddpm-network", config)
    with pytest.raises(ValueError, match=message) as caught:
        load_ddpm(tmp_path / "x.safetensors")
    assert (
        str(tmp_path / "x.safetensors") in str(caught.value)
        and len(str(caught.value).splitlines()) == 1
    )


def test_a_file_says_itself_what_it_is(tmp_path):
    net = edm.EDMPrecond(
        4,
        1,
        model_type="SongUNet",
        model_channels=8,
        channel_mult=[1],
        num_blocks=1,
        attn_resolutions=[],
    )
    edm.save_network(tmp_path / "edm.safetensors", net)
    loaded = load_model(tmp_path / "edm.safetensors")
    assert isinstance(loaded, edm.EDMPrecond) and as_model(loaded).sampling() == Sampling()
    two = b"\x02" + bytes(7)
    for name, content in (
        ("empty", b""),
        ("short", two + b"{"),
        ("list", two + b"[]"),
        ("text", b"hello"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            load_model(tmp_path / name)
    with pytest.raises(ValueError, match="no such network file"):
        load_model(tmp_path / "absent")
    save_ddpm(tmp_path / "ddpm.safetensors", built())
    with pytest.raises(ValueError, match="is no edm-network"):
        edm.load_network(tmp_path / "ddpm.safetensors")
    tensors = read_safetensors(tmp_path / "ddpm.safetensors", "ddpm-network")[1]
    write_safetensors(
        tmp_path / "other.safetensors",
        tensors,
        "ddpm-network",
        built(variance="learned").init_kwargs,
    )
    with pytest.raises(ValueError, match=r"tensor net\.out\.2\.weight has shape"):
        load_ddpm(tmp_path / "other.safetensors")


# Models of guided-diffusion.


ADM = dict(
    image_size=16,
    model_channels=32,
    num_res_blocks=1,
    channel_mult=[1, 2],
    attention_resolutions=[8],
)


# What its tensors do not tell.
TOLD = dict(image_size=16, num_head_channels=64, noise_schedule="linear", diffusion_steps=1000)


def adm(**changes):
    return golden_fill.fill(UNetModel(**ADM | changes), gain=0.6).eval()


@pytest.mark.parametrize(
    "changes",
    [dict(num_classes=7), dict(out_channels=3), dict(in_channels=1, out_channels=2)],
    ids=str,
)
def test_a_published_network_becomes_a_model(tmp_path, changes):
    net = adm(**changes)
    torch.save(net.state_dict(), tmp_path / "adm.pt")
    model = load_adm(tmp_path / "adm.pt", **TOLD)
    learned = changes.get("out_channels") != 3
    assert model.init_kwargs["process"] == dict(
        schedule="linear",
        num_steps=1000,
        mean="epsilon",
        variance="learned_range" if learned else "fixed_large",
    )
    assert (model.img_resolution, model.img_channels) == (16, changes.get("in_channels", 3))
    assert (
        model.label_dim == changes.get("num_classes", 0)
        and model.null_class is None
        and model.classifier is None
    )
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    x, t = torch.randn(2, model.img_channels, 16, 16), torch.tensor([3, 900])
    y = torch.tensor([6, 0]) if model.label_dim else None
    assert torch.equal(model.net(x, t, y), net(x, t, y))

    save_ddpm(tmp_path / "adm.safetensors", model)
    again = load_model(tmp_path / "adm.safetensors")
    assert (
        equal(again, model)
        and again.init_kwargs == model.init_kwargs
        and fingerprint(again) == fingerprint(model)
    )
    x = model.respaced("3").p_sample_loop(
        model.net,
        x.double(),
        randn_like=torch.zeros_like,
        model_kwargs={} if y is None else {"y": y},
    )
    assert x.shape == (2, model.img_channels, 16, 16) and x.isfinite().all()


def test_what_no_tensor_shows_is_that_of_the_published_file(monkeypatch):
    hidden = dict(num_heads=2, use_new_attention_order=True)
    monkeypatch.setitem(presets.UNETS, "16x16_diffusion", ADM | hidden)
    monkeypatch.setitem(presets.UNET_SCHEDULES, "16x16_diffusion", "cosine")

    def settings(net, **overrides):
        model = load_adm(net.state_dict(), **overrides)
        network = model.init_kwargs["network"]
        return (
            model.init_kwargs["process"]["schedule"],
            network.get("num_heads"),
            network.get("use_new_attention_order"),
        )

    assert settings(adm()) == ("cosine", 2, True)
    assert settings(adm(num_classes=3), **TOLD) == ("linear", None, None)
    assert settings(adm(), noise_schedule="linear", use_new_attention_order=False) == (
        "linear",
        2,
        False,
    )


def test_what_no_tensor_and_no_published_file_shows_is_asked_for():
    """improved-diffusion's recipe for CIFAR-10, narrower."""
    recipe = dict(
        image_size=32,
        model_channels=32,
        channel_mult=[1, 2, 2, 2],
        num_res_blocks=3,
        attention_resolutions=[16, 8],
        num_heads=4,
        resblock_updown=False,
    )
    net = golden_fill.fill(UNetModel(**recipe), gain=0.6).eval()
    given = dict(image_size=32, num_heads=4, noise_schedule="cosine", diffusion_steps=4000)
    for left_out in (given, ["image_size"], ["num_heads"], ["noise_schedule", "diffusion_steps"]):
        rest = {name: value for name, value in given.items() if name not in left_out}
        with pytest.raises(MissingSettings, match="no published network") as error:
            load_adm(net.state_dict(), **rest)
        assert error.value.names == list(left_out) and "\n" not in str(error.value)
    lines = []
    model = load_adm(net.state_dict(), **given, notify=lines.append)
    assert lines == [
        "the state dict: 32 pixels, 4 heads, cosine schedule of 4000 steps, scaled to 1000 for the "
        "network, as given; predicts the noise with learned variances"
    ]
    assert model.img_resolution == 32 and model.respaced().num_steps == 4000
    x, seen = torch.randn(2, 3, 32, 32), []

    def network(x, t):
        seen.append(t)
        return net(x, t)

    step = model.respaced("4000").p_mean_variance(network, x, torch.tensor([0, 2000]))
    assert seen[0].tolist() == [0, 500], "improved-diffusion trains on timesteps of 0 to 1000"
    assert torch.equal(model.net(x, seen[0]), net(x, seen[0])) and step.mean.isfinite().all()
    raw = load_adm(net.state_dict(), **given, rescale_timesteps=False)
    assert raw.respaced().schedule.time_scale == 1
    shapes = {name: model.init_kwargs["process"].get(name) for name in ("schedule", "num_steps")}
    assert shapes == dict(schedule="cosine", num_steps=4000)
    assert len({fingerprint(one) for one in (model, raw)}) == 2, "what images depend on"
    short = load_adm(net.state_dict(), **given | dict(diffusion_steps=100))
    assert short.sampling().num_steps == 100
    other = load_adm(
        net.state_dict(), **given, predict_xstart=True, use_new_attention_order=True,
        notify=lines.append,
    )  # fmt: skip
    assert "4 heads in the new order" in lines[1] and "predicts the image with learned" in lines[1]
    assert (other.net(x, seen[0]) - net(x, seen[0])).abs().max() > 1e-3
    found = other.respaced("4000").p_mean_variance(lambda x, t: net(x, t), x, torch.tensor([0, 5]))
    torch.testing.assert_close(
        found.pred_xstart, net(x, torch.tensor([0, 1.25]))[:, :3].clamp(-1, 1), check_dtype=False
    )
    with pytest.raises(ValueError, match="its variances are learned; leave sigma_small out"):
        load_adm(net.state_dict(), **given, sigma_small=True)
    plain = golden_fill.fill(UNetModel(**recipe, out_channels=3), gain=0.6)
    for small, variance in ((None, "fixed_large"), (True, "fixed_small")):
        model = load_adm(plain.state_dict(), **given, sigma_small=small)
        assert model.init_kwargs["process"]["variance"] == variance
    with pytest.raises(ValueError, match="64 channels do not divide into 5 attention heads"):
        load_adm(net.state_dict(), **given | dict(num_heads=5))


def test_a_network_of_other_channels_is_no_diffusion_model():
    with pytest.raises(
        ValueError, match="the state dict: 3 channels in and 5 out is not a diffusion model"
    ):
        load_adm(adm(out_channels=5).state_dict(), **TOLD)
    with pytest.raises(ValueError, match="schedule is 'square'"):
        load_adm(adm().state_dict(), **TOLD | dict(noise_schedule="square"))


def test_bfloat16_while_sampling_stays_near():
    model = load_adm(adm().state_dict(), **TOLD)
    noise = torch.randn(
        2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    exact = model.respaced("5").ddim_sample_loop(model.net, noise)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model.respaced("5").ddim_sample_loop(model.net, noise)
    difference = (rounded - exact).abs()
    assert rounded.dtype == torch.float64 and 0 < difference.mean() < 0.02


def test_a_classifier_moves_with_the_model_but_not_into_its_file(tmp_path):
    model = load_adm(adm().state_dict(), **TOLD)
    classifier = create_classifier(image_size=16, classifier_width=64, out_channels=5)
    model = DDPM(**model.init_kwargs, net=model.net, classifier=classifier)
    save_ddpm(tmp_path / "adm.safetensors", model)
    assert equal(load_ddpm(tmp_path / "adm.safetensors"), load_adm(adm().state_dict(), **TOLD))
    assert next(model.to("meta").classifier.parameters()).is_meta
    model = load_adm(adm().state_dict(), **TOLD)
    assert all(name.startswith("net.") for name in model.state_dict())


@pytest.mark.parametrize("preset", DDPM_PRESETS)
def test_presets_can_be_built(preset):
    network, settings = DDPM_PRESETS[preset]
    size = {"digits": 8, "mnist": 28, "cifar10": 32, "imagenet64": 64}[preset.partition("-")[0]]
    with torch.device("meta" if size > 28 else "cpu"):  # those for GPUs have no weights here
        model = build_ddpm(image_set(resolution=size), network, settings)
    channels = 1 + model.diffusion.learns_variance
    assert model.net.out[-1].out_channels == channels
    if size <= 28:
        found = model.net(torch.zeros(1, 1, size, size), torch.zeros(1))
        assert found.shape == (1, channels, size, size)
    json.dumps(model.init_kwargs)
    edm_parameters = 744_225  # of the preset `mnist`
    assert preset != "mnist-ddpm-small" or abs(model.num_parameters / edm_parameters - 1) < 0.2


@pytest.mark.parametrize(
    "wrong", [dict(steps=0), dict(num_steps=0), dict(lr=0.0), dict(precision="int8")]
)
def test_impossible_settings(wrong):
    with pytest.raises(ValueError):
        replace(QUICK, **wrong)


# Training.


@pytest.mark.slow
def test_an_interrupted_run_ends_like_one_that_never_stopped(tmp_path):
    settings = replace(QUICK, steps=60, flip=True)
    whole, whole_log = trained(
        settings, conditional=True, state_path=tmp_path / "whole" / "state.pt"
    )
    with pytest.raises(KeyboardInterrupt):
        trained(
            settings,
            conditional=True,
            state_path=tmp_path / "parts" / "state.pt",
            save_seconds=0,
            progress=stopping_after(52),
        )
    assert load_state(tmp_path / "parts" / "state.pt")["step"] == 52
    torch.manual_seed(99)
    parts, log = trained(settings, conditional=True, state_path=tmp_path / "parts" / "state.pt")
    assert log == whole_log and [entry["step"] for entry in log] == [50, 60] and equal(parts, whole)
    states = [load_state(tmp_path / name / "state.pt") for name in ("parts", "whole")]
    assert equal(states[0]["net"], states[1]["net"]) and not equal(states[0]["net"], whole), (
        "the result is the average"
    )
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
    data = image_set()
    trained(replace(QUICK, steps=2), data, state_path=tmp_path / "state.pt")
    for what, images, conditional, settings in (
        ("settings", data, False, replace(QUICK, steps=3)),
        ("network", data, True, replace(QUICK, steps=2)),
        ("settings", data, False, replace(QUICK, steps=2, schedule="linear")),
        ("images", replace(data, images=255 - data.images), False, replace(QUICK, steps=2)),
    ):
        with pytest.raises(
            ValueError,
            match=f"of a run with other ({what}|settings and network); choose another folder",
        ):
            trained(settings, images, conditional, tmp_path / "state.pt")


def test_a_conditional_model_needs_labels():
    with pytest.raises(ValueError, match="noise: has no labels"):
        trained(QUICK, replace(image_set(), labels=None, num_classes=None), conditional=True)


def test_the_learning_rate_makes_one_cycle(monkeypatch):
    rates = []

    class Spy(torch.optim.AdamW):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            super().step()

    monkeypatch.setattr(torch.optim, "AdamW", Spy)
    trained(replace(QUICK, steps=40, lr=0.01))
    # after a quarter
    assert max(rates) == rates[9] == pytest.approx(0.01) and rates[0] < 1e-3 and rates[-1] < 1e-5


@pytest.mark.parametrize("steps", [1, 4])
def test_very_short_runs(steps):
    seen = []

    def observe(average):
        seen.append(average)
        return {"test_loss": 0.5}

    average, log = trained(replace(QUICK, steps=steps), observe=observe)
    assert seen == [average] and log[0]["step"] == steps and log[0]["test_loss"] == 0.5


def test_the_loss_is_that_of_the_process(monkeypatch):
    """Steps are uniform, noise is normal, images and labels stay together, and the variance is
    learned where asked for."""
    data, seen = image_set(), []

    def spy(diffusion, net, images, t, noise, kwargs):
        seen.append((images, t, noise, kwargs["y"]))
        losses = training_losses(diffusion, net, images, t, noise, kwargs)
        assert (losses.bound is not None) == (diffusion.variance == "learned_range")
        return losses

    monkeypatch.setattr("dg.pretraining.ddpm.training_losses", spy)
    _, log = trained(replace(QUICK, variance="learned_range", num_steps=5), data, conditional=True)
    images, t, noise, labels = (torch.cat(parts) for parts in zip(*seen, strict=True))
    originals = to_float(data.images)
    for image, label in zip(images, labels, strict=True):
        (place,) = (originals == image).all(dim=(1, 2, 3)).nonzero().flatten().tolist()
        assert data.labels[place] == label
    assert t.bincount(minlength=5).min() > 20 and len(t) == 200
    assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.1
    assert set(log[-1]) == {"step", "loss", "mse"} and log[-1]["loss"] > log[-1]["mse"]


@pytest.mark.slow
def test_the_noise_of_digits_is_learned():
    network, settings = DDPM_PRESETS["digits-ddpm"]
    _, log = train_ddpm(
        load_images("digits:train"), network, replace(settings, steps=100, batch_size=16)
    )
    assert log[-1]["mse"] < 0.5, "of a noise of variance 1"
