"""Training of score networks: exactly resumable, reproducible from the seed alone, with the average
that is promised."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import edm
from dg.data.datasets import ImageSet, load_images, to_float
from dg.pretraining.score import (
    SCORE_PRESETS,
    ScoreTraining,
    build_score_network,
    train_score_network,
)
from dg.runtime.training_state import load_state

SMALL = dict(
    model_type="SongUNet",
    model_channels=8,
    channel_mult=[1],
    num_blocks=1,
    attn_resolutions=[],
    dropout=0.0,
)
QUICK = ScoreTraining(steps=50, batch_size=4, warmup=20, ema_halflife=40)


def image_set(n=24, resolution=4, num_classes=3):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, [n, resolution, resolution, 1], dtype=np.uint8)
    return ImageSet(images, np.arange(n) % num_classes, "noise", num_classes)


def trained(settings, state_path=None, conditional=False, data=None, network=(), **kwargs):
    data = data or image_set()
    if state_path is not None:
        state_path.parent.mkdir(exist_ok=True)
    net = build_score_network(data, SMALL | dict(network), settings.seed, conditional)
    return train_score_network(net, data, settings, state_path, **kwargs)


def equal(a, b):
    a, b = (net if isinstance(net, dict) else net.state_dict() for net in (a, b))
    return all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def stopping_after(steps):
    """A progress bar with which a run stops after so many steps."""

    def progress(iterable, **kwargs):
        for count, item in enumerate(iterable):
            if count == steps:
                raise KeyboardInterrupt
            yield item

    return progress


@pytest.mark.slow
@pytest.mark.parametrize("network", [{}, {"dropout": 0.3, "augment_dim": 9}])
def test_an_interrupted_run_ends_like_one_that_never_stopped(tmp_path, network):
    settings = replace(QUICK, steps=60, augment=0.5 if network else 0.0)
    whole, whole_log = trained(
        settings, tmp_path / "whole" / "state.pt", conditional=True, network=network
    )
    with pytest.raises(KeyboardInterrupt):
        trained(
            settings,
            tmp_path / "parts" / "state.pt",
            conditional=True,
            network=network,
            save_seconds=0,
            progress=stopping_after(55),
        )
    assert load_state(tmp_path / "parts" / "state.pt")["step"] == 55
    torch.manual_seed(99)
    ranges = []

    def spy(iterable, **kwargs):
        ranges.append((list(iterable), kwargs["initial"], kwargs["total"]))
        return iterable

    parts, log = trained(
        settings, tmp_path / "parts" / "state.pt", conditional=True, network=network, progress=spy
    )
    assert ranges == [(list(range(55, 60)), 55, 60)], (
        "only what is missing is trained, and the bar says so"
    )
    assert log == whole_log and [entry["step"] for entry in log] == [50, 60]
    assert equal(parts, whole)
    states = [load_state(tmp_path / name / "state.pt") for name in ("parts", "whole")]
    assert equal(states[0]["net"], states[1]["net"]) and not equal(states[0]["net"], whole)
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("parts", "whole")]
    assert logs[0] == logs[1] and [json.loads(line) for line in logs[0].splitlines()] == log


@pytest.mark.slow
def test_more_steps_continue_an_ended_run_and_fewer_do_not_rewind_it(tmp_path):
    whole, log = trained(replace(QUICK, steps=100))
    first, _ = trained(replace(QUICK, steps=50), tmp_path / "state.pt")
    stopped = dict(progress=stopping_after(0))
    again, _ = trained(replace(QUICK, steps=50), tmp_path / "state.pt", **stopped)
    assert equal(again, first), "an ended run trains nothing more"
    with pytest.raises(ValueError, match="50 steps are done, and 20 are asked for"):
        trained(replace(QUICK, steps=20), tmp_path / "state.pt", **stopped)
    longer, longer_log = trained(replace(QUICK, steps=100), tmp_path / "state.pt")
    assert equal(longer, whole) and longer_log == log and not equal(first, whole)


def test_dropout_is_drawn_from_the_seed_too():
    dropping = SMALL | {"dropout": 0.5, "label_dropout": 0.5}
    results = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        net = build_score_network(image_set(), dropping, 0, conditional=True)
        results.append(train_score_network(net, image_set(), replace(QUICK, steps=3))[0])
        assert torch.equal(torch.get_rng_state(), before)
    assert equal(*results)
    plain, _ = trained(replace(QUICK, steps=3), conditional=True)
    assert not equal(plain, results[0])


def test_a_conditional_network_needs_labels():
    with pytest.raises(ValueError, match="noise: has no labels"):
        build_score_network(
            replace(image_set(), labels=None, num_classes=None), SMALL, 0, conditional=True
        )


def test_a_state_of_another_run_is_refused(tmp_path):
    path, data = tmp_path / "state.pt", image_set()
    trained(replace(QUICK, steps=1), path)
    other = replace(data, images=255 - data.images)
    for what, network, settings, images in (
        ("settings", SMALL, replace(QUICK, lr=1e-3), data),
        ("settings", SMALL, replace(QUICK, seed=1), data),
        ("images", SMALL, QUICK, other),
        ("network", SMALL | {"model_channels": 16}, QUICK, data),
    ):
        with pytest.raises(
            ValueError, match=f"of a run with other {what}; choose another folder"
        ) as caught:
            train_score_network(build_score_network(images, network, 0), images, settings, path)
        assert len(str(caught.value).splitlines()) == 1
    assert load_state(path)["step"] == 1


def test_the_seed_decides_and_the_global_random_numbers_are_left_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, log = trained(replace(QUICK, steps=10))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, again_log = trained(replace(QUICK, steps=10))
    other, _ = trained(replace(QUICK, steps=10, seed=1))
    assert equal(first, again) and log == again_log and not equal(first, other)


def test_initial_weights_depend_on_their_seed_alone():
    torch.manual_seed(1)
    first = build_score_network(image_set(), SMALL, 5)
    torch.manual_seed(2)
    assert equal(build_score_network(image_set(), SMALL, 5), first)
    assert not equal(build_score_network(image_set(), SMALL, 6), first)


def test_a_network_takes_its_shape_from_the_data():
    net = build_score_network(
        image_set(resolution=8), SMALL | {"sigma_data": 0.75}, 0, conditional=True
    )
    assert (net.img_resolution, net.img_channels, net.label_dim, net.sigma_data) == (8, 1, 3, 0.75)
    assert build_score_network(image_set(), SMALL, 0).label_dim == 0
    network, settings = SCORE_PRESETS["digits"]
    digits = build_score_network(load_images("digits:train"), network, settings.seed)
    assert (digits.img_resolution, digits.img_channels) == (8, 1)


def test_the_result_is_the_frozen_average_and_the_network_goes_on_living():
    net = build_score_network(image_set(), SMALL, 0)
    average, _ = train_score_network(net, image_set(), replace(QUICK, steps=5))
    assert not average.training and not any(p.requires_grad for p in average.parameters())
    assert not equal(average, net) and all(p.requires_grad for p in net.parameters())
    assert average.init_kwargs == net.init_kwargs, "it can be saved"


def weights_after_each_step(settings):
    """(the trained network's first weight before training and after each step, the average's at the
    end)."""
    net, seen = build_score_network(image_set(), SMALL, 0), []

    def spy(iterable, **kwargs):
        for item in iterable:
            seen.append(next(net.parameters()).detach().clone())
            yield item
        seen.append(next(net.parameters()).detach().clone())

    average, _ = train_score_network(net, image_set(), settings, progress=spy)
    return seen, next(average.parameters())


def test_the_average_forgets_half_in_a_halflife():
    """Half-life 8 images at 4 per step: a step keeps 1/sqrt(2) of the old average."""
    seen, average = weights_after_each_step(
        replace(QUICK, steps=6, ema_halflife=8, ema_rampup=1e9, lr=0.1)
    )
    keep, expected = 0.5**0.5, seen[0]
    for weight in seen[1:]:
        expected = keep * expected + (1 - keep) * weight
    torch.testing.assert_close(average, expected, rtol=1e-5, atol=1e-6)
    assert (average - seen[-1]).abs().max() > 1e-3


def test_early_on_the_average_is_as_young_as_the_run():
    """The half-life is at most `ema_rampup` of the images seen: 2, 4, 6 of 4, 8, 12 and so on,
    until it is 10."""
    seen, average = weights_after_each_step(
        replace(QUICK, steps=8, ema_halflife=10, ema_rampup=0.5, lr=0.1)
    )
    expected = seen[0]
    for step, weight in enumerate(seen[1:], start=1):
        keep = 0.5 ** (4 / min(10, 0.5 * 4 * step))
        expected = keep * expected + (1 - keep) * weight
    torch.testing.assert_close(average, expected, rtol=1e-5, atol=1e-6)


def test_the_learning_rate_rises_linearly(monkeypatch):
    rates = []

    class Spy(torch.optim.Adam):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            super().step()

    monkeypatch.setattr(torch.optim, "Adam", Spy)
    trained(replace(QUICK, steps=6, warmup=16, lr=0.4))
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


@pytest.fixture
def batches(monkeypatch):
    """The batches (images, one-hot labels) whose loss is computed."""
    seen = []

    class Spy(edm.EDMLoss):
        def error(self, net, images, sigma, noise, labels=None, augment_labels=None):
            seen.append((images, labels))
            return super().error(net, images, sigma, noise, labels, augment_labels)

    monkeypatch.setattr(edm, "EDMLoss", Spy)
    return seen


@pytest.mark.parametrize("flip", [False, True])
def test_flips_mirror_half_of_the_images_and_labels_stay_with_their_image(batches, flip):
    data = image_set()
    trained(replace(QUICK, flip=flip), conditional=True)
    originals = to_float(data.images)
    mirrored = 0
    for images, labels in batches:
        for image, label in zip(images, labels, strict=True):
            plain = (originals == image).all(dim=(1, 2, 3))
            mirror = (originals.flip(3) == image).all(dim=(1, 2, 3))
            assert plain.sum() + mirror.sum() == 1, (
                "an image of the set or its mirror image, and nothing else"
            )
            mirrored += int(mirror.any())
            assert (
                label.argmax() == data.labels[(plain | mirror).nonzero().item()]
                and label.sum() == 1
            )
    assert 70 < mirrored < 130 if flip else mirrored == 0  # of 200


def test_all_images_are_drawn(batches):
    trained(QUICK)
    seen = torch.cat([images for images, _ in batches])
    assert len(seen.unique(dim=0)) == len(image_set()) and batches[0][1] is None


def test_the_loss_falls():
    rng = np.random.default_rng(0)
    bright = np.clip(rng.normal(200, 5, [32, 1, 1, 1]), 0, 255) * np.ones([1, 4, 4, 1])
    data = ImageSet(bright.astype(np.uint8), None, "bright")
    _, log = trained(ScoreTraining(steps=100, batch_size=16, warmup=160, lr=5e-3), data=data)
    assert [entry["step"] for entry in log] == [50, 100]
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]


def test_the_log_averages_over_the_steps_between_its_entries(monkeypatch):
    losses = []

    class Spy(edm.EDMLoss):
        def error(self, *args):
            loss = super().error(*args)
            losses.append(loss.mean().item())
            return loss

    monkeypatch.setattr(edm, "EDMLoss", Spy)
    _, log = trained(replace(QUICK, steps=60))
    assert [entry["step"] for entry in log] == [50, 60]
    assert [entry["loss"] for entry in log] == pytest.approx(
        [np.mean(losses[:50]), np.mean(losses[50:])]
    )


def test_a_loss_that_is_not_finite_is_one_line_and_is_not_saved(tmp_path):
    for save_seconds in (0, 60):
        with pytest.raises(
            ValueError, match="the loss is not finite at step 2; lower the learning rate"
        ) as caught:
            trained(
                replace(QUICK, lr=1e30, warmup=0), tmp_path / "state.pt", save_seconds=save_seconds
            )
        assert len(str(caught.value).splitlines()) == 1
        assert (
            not (tmp_path / "state.pt").exists() or load_state(tmp_path / "state.pt")["step"] == 1
        )
        (tmp_path / "state.pt").unlink(missing_ok=True)


# ---- what is learned


@pytest.mark.slow
@pytest.mark.parametrize("network", [{}, {"precond": "vp"}, {"precond": "ve"}])
def test_the_denoiser_of_a_gaussian_is_learned(network):
    """Pixels N(0.2, 0.2^2), independent: the posterior mean is (sd^2 x + sigma^2 m) / (sd^2 +
    sigma^2)."""
    mean, sd = 0.2, 0.2
    rng = np.random.default_rng(0)
    pixels = np.clip(np.round((rng.normal(mean, sd, [4000, 4, 4, 1]) + 1) * 127.5), 0, 255).astype(
        np.uint8
    )
    data = ImageSet(pixels, None, "gaussian")
    settings = ScoreTraining(steps=150, batch_size=64, lr=1e-2, warmup=1000, ema_halflife=1000)
    average, _ = trained(settings, data=data, network=network)
    generator = torch.Generator().manual_seed(1)
    for sigma in (0.1, 0.3, 1.0):
        x = mean + sd * torch.randn(256, 1, 4, 4, generator=generator)
        x = x + sigma * torch.randn(x.shape, generator=generator)
        exact = (sd**2 * x + sigma**2 * mean) / (sd**2 + sigma**2)
        with torch.no_grad():
            error = (average(x, torch.tensor(sigma)) - exact).square().mean().sqrt()
        assert error < 0.25 * (x - exact).square().mean().sqrt(), (
            "a quarter of what denoising removes"
        )


# ---- how it is computed


@pytest.mark.parametrize("network", [{}, {"augment_dim": 9}])
def test_micro_batches_add_up_to_the_batch(network):
    settings = replace(QUICK, steps=5, batch_size=8, flip=True, augment=0.5 if network else 0.0)
    whole, log = trained(settings, conditional=True, network=network)
    for microbatch in (1, 4):
        parts, parts_log = trained(
            settings, conditional=True, network=network, microbatch=microbatch
        )
        assert close(parts, whole, 1e-5) and parts_log[-1]["loss"] == pytest.approx(
            log[-1]["loss"], rel=1e-5
        )
    untrained = build_score_network(image_set(), SMALL | network, 0, conditional=True)
    assert not close(untrained, whole, 1e-3)


def close(a, b, tolerance):
    b = b.state_dict()
    return all(
        (tensor - b[name]).abs().max() < tolerance for name, tensor in a.state_dict().items()
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "model", [{}, {"model_type": "DhariwalUNet", "model_channels": 64, "attn_resolutions": [4]}]
)
def test_bfloat16_stays_near_float32(model):
    if model:  # takes no embedding_type and the like, which SMALL has none of
        model = SMALL | model
    settings = replace(QUICK, steps=20, batch_size=8, lr=1e-3)
    exact, log = trained(settings, network=model)
    rough, rough_log = trained(replace(settings, precision="bfloat16"), network=model)
    assert rough_log[-1]["loss"] == pytest.approx(log[-1]["loss"], rel=0.02) and rough_log != log
    assert all(tensor.dtype == torch.float32 for tensor in rough.state_dict().values())
    x, sigma = (
        torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0)),
        torch.full([8], 0.5),
    )
    assert 0 < (rough(x, sigma) - exact(x, sigma)).abs().max() < 0.05


def test_snapshots_are_the_average_at_that_time(tmp_path):
    settings = replace(QUICK, steps=7, batch_size=500)
    final, _ = trained(settings, tmp_path / "state.pt", snap=1)
    names = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert names == [f"network-snapshot-{kimg:06d}.safetensors" for kimg in (1, 2, 3)]
    snapshots = [edm.load_network(tmp_path / name) for name in names]
    for steps, snapshot in zip((2, 4, 6), snapshots, strict=True):
        assert equal(trained(replace(settings, steps=steps))[0], snapshot)
    assert not equal(snapshots[2], final)
    trained(settings, tmp_path / "none" / "state.pt")
    assert not list((tmp_path / "none").glob("*.safetensors"))


@pytest.fixture
def augment_labels(monkeypatch):
    """The augmentation labels that the loss is given."""
    seen = []

    class Spy(edm.EDMLoss):
        def error(self, net, images, sigma, noise, labels=None, augment_labels=None):
            seen.append(augment_labels)
            return super().error(net, images, sigma, noise, labels, augment_labels)

    monkeypatch.setattr(edm, "EDMLoss", Spy)
    return seen


def test_the_network_is_told_of_the_augmentation_in_training_alone(augment_labels):
    average, _ = trained(replace(QUICK, steps=6, augment=0.2), network={"augment_dim": 9})
    augment_labels = torch.cat(augment_labels)
    assert (
        augment_labels.shape == (24, 9) and 0.3 < (augment_labels[:, 0] == 1).float().mean() < 0.8
    ), "mirrored half of the time"
    assert (augment_labels[:, 5:] != 0).any() and (augment_labels == 0).all(1).any()
    assert average.model.map_augment.weight.shape == (8, 9)
    assert average(torch.zeros(2, 1, 4, 4), torch.ones(2)).shape == (2, 1, 4, 4)
    plain, _ = trained(replace(QUICK, steps=2), network={"augment_dim": 9})
    assert equal(
        plain.model.map_augment,
        build_score_network(image_set(), SMALL | {"augment_dim": 9}, 0).model.map_augment,
    )


@pytest.mark.parametrize(
    ("change", "network", "kwargs", "message"),
    [
        ({"augment": 0.1}, {}, {}, "the network has augment_dim 0, but augmentation takes 9"),
        (
            {"precision": "float16"},
            {},
            {},
            "float16 trains on GPUs only, not on cpu; use bfloat16",
        ),
        ({}, {}, {"snap": 1}, "snapshots are written beside the state"),
        (
            {},
            {"channel_mult": [1, 1, 1, 1]},
            {},
            "images of 4 pixels cannot be halved 3 times, as 4 levels need",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(change, network, kwargs, message):
    with pytest.raises(ValueError, match=message) as caught:
        trained(replace(QUICK, **change), network=network, progress=stopping_after(0), **kwargs)
    assert len(str(caught.value).splitlines()) == 1


def test_data_of_another_shape_are_refused():
    net = build_score_network(image_set(), SMALL, 0, conditional=True)
    for other, message in (
        (image_set(resolution=8), "noise: 8 pixels and 1 channels, but the network takes 4 and 1"),
        (image_set(num_classes=4), "noise: 4 classes, but the network has 3"),
        (
            replace(image_set(), labels=None, num_classes=None),
            "noise: 0 classes, but the network has",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            train_score_network(net, other, QUICK)
    discrete = edm.iDDPMPrecond(4, 1, **SMALL)
    with pytest.raises(
        ValueError,
        match="iDDPMPrecond cannot be trained here; take one of EDMPrecond, VPPrecond, VEPrecond",
    ):
        train_score_network(discrete, image_set(), QUICK)


@pytest.mark.slow
def test_what_is_observed_joins_the_log(tmp_path, monkeypatch):
    monkeypatch.setattr("dg.pretraining.engine.OBSERVE_STEPS", 100)
    seen = []
    settings = replace(QUICK, steps=250)
    average, log = trained(
        settings, observe=lambda net: seen.append(net) or {"test_loss": float(len(seen))}
    )
    assert [(entry["step"], entry["test_loss"]) for entry in log if "test_loss" in entry] == [
        (100, 1),
        (200, 2),
        (250, 3),
    ]
    assert all(net is average for net in seen)
    assert equal(average, trained(settings)[0]), "looking changes nothing"
