"""The noise-aware classifier."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dg.data.datasets import ImageSet
from dg.data.latents import LatentSet
from dg.discriminator import build_discriminator
from dg.pretraining.noisy_classifier import (
    CLASSIFIER_PRESETS,
    NoisyClassifierTraining,
    build_noisy_classifier,
    noisy_accuracy,
    train_noisy_classifier,
)
from dg.runtime.training_state import load_state
from guided_diffusion import load_encoder
from guided_diffusion.loading import infer_settings, shapes_of
from tests.golden_fill import layouts

SMALL = dict(channel_mult=(1, 2), attention_resolutions=())
SETTINGS = NoisyClassifierTraining(steps=16, batch_size=16, lr=3e-3, **SMALL)


def bright_or_dark(n=64):
    labels = np.arange(n) % 2
    images = (
        np.ones([n, 8, 8, 1], np.uint8) * (labels * 200 + 20).astype(np.uint8)[:, None, None, None]
    )
    return ImageSet(images, labels, "two")


def test_it_learns_and_depends_on_its_seed_alone():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    model, _ = train_noisy_classifier(bright_or_dark(), SETTINGS)
    assert torch.equal(before, torch.random.get_rng_state())
    again, _ = train_noisy_classifier(bright_or_dark(), SETTINGS)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)
    )
    x = torch.cat([torch.full([4, 1, 8, 8], -0.8), torch.full([4, 1, 8, 8], 0.7)])
    assert model(x, torch.full([8], 0.01)).argmax(1).tolist() == [0] * 4 + [1] * 4
    assert (
        noisy_accuracy(model, bright_or_dark(), 0.01) == 1
        and noisy_accuracy(model, bright_or_dark(300), 1.0) < 0.7
    )
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_it_learns_latents_which_it_does_not_mirror():
    labels = np.arange(64) % 2
    values = (
        np.random.default_rng(0).standard_normal([64, 4, 8, 8])
        + 4 * labels[:, None, None, None]
        - 2
    )
    data = LatentSet(values.astype(np.float16), labels, "two")
    model, _ = train_noisy_classifier(data, SETTINGS)
    assert model.in_channels == 4 and noisy_accuracy(model, data, 0.01) > 0.95
    with pytest.raises(ValueError, match="latents cannot be mirrored"):
        train_noisy_classifier(data, replace(SETTINGS, flip=True))


def test_its_file_serves_as_extractor(tmp_path):
    model, _ = train_noisy_classifier(
        bright_or_dark(), NoisyClassifierTraining(steps=1, batch_size=4, **SMALL)
    )
    torch.save(model.state_dict(), tmp_path / "classifier.pt")
    discriminator = build_discriminator(
        "classifier", bright_or_dark(), classifier_path=tmp_path / "classifier.pt", width=64
    )
    assert discriminator(torch.randn(2, 1, 8, 8), torch.tensor([0.3, 2.0])).shape == (2,)


def test_labels_are_needed():
    with pytest.raises(ValueError, match="no labels"):
        train_noisy_classifier(ImageSet(bright_or_dark().images, None, "two"), SETTINGS)


def equal(a, b):
    a, b = (net if isinstance(net, dict) else net.state_dict() for net in (a, b))
    return a.keys() == b.keys() and all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def stopping_after(steps):
    """A progress bar with which a run stops after so many steps."""

    def progress(iterable, **kwargs):
        for count, item in enumerate(iterable):
            if count == steps:
                raise KeyboardInterrupt
            yield item

    return progress


def test_an_interrupted_run_ends_like_one_that_never_stopped(tmp_path):
    settings = replace(SETTINGS, flip=True)
    whole, log = train_noisy_classifier(bright_or_dark(), settings)
    path = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        train_noisy_classifier(
            bright_or_dark(), settings, "cpu", stopping_after(7), path, save_seconds=0
        )
    assert load_state(path)["step"] == 7
    parts, parts_log = train_noisy_classifier(bright_or_dark(), settings, state_path=path)
    assert equal(parts, whole) and parts_log == log and [entry["step"] for entry in log] == [16]
    assert set(log[0]) == {"step", "loss", "accuracy"} and (tmp_path / "log.jsonl").exists()
    for change in (dict(steps=20), dict(flip=False)):
        with pytest.raises(ValueError, match="of a run with other settings"):
            train_noisy_classifier(bright_or_dark(), replace(settings, **change), state_path=path)


def test_micro_batches_and_bfloat16_change_little():
    short = replace(SETTINGS, steps=4)
    whole, log = train_noisy_classifier(bright_or_dark(), short)
    parts, parts_log = train_noisy_classifier(bright_or_dark(), short, microbatch=4)
    for tensor, other in zip(whole.parameters(), parts.parameters(), strict=True):
        assert (tensor - other).abs().max() < 1e-3
    assert parts_log[0] == pytest.approx(log[0], rel=1e-4)
    _, rough_log = train_noisy_classifier(bright_or_dark(), replace(short, precision="bfloat16"))
    assert rough_log[0]["loss"] == pytest.approx(log[0]["loss"], rel=0.05) and rough_log != log


def test_the_classifier_of_the_paper():
    with torch.device("meta"):
        model = build_noisy_classifier(32, 3, 1000, CLASSIFIER_PRESETS["cifar10"])
    assert sum(p.numel() for p in model.parameters()) == 47_771_112
    expected = layouts()["DG classifier 32 (load_classifier img_resolution=32)"]["entries"]
    assert {name: list(shape) for name, shape in shapes_of(model.state_dict()).items()} == {
        e[0]: list(e[1]) for e in expected
    }


def test_the_latent_classifier_of_the_paper():
    with torch.device("meta"):
        model = build_noisy_classifier(32, 4, 1000, CLASSIFIER_PRESETS["imagenet-latent"])
    assert sum(p.numel() for p in model.parameters()) == 20_832_488
    expected = layouts()["DG_imagenet classifier (32x32 latents, channel_mult (1,2,3))"]["entries"]
    assert {name: list(shape) for name, shape in shapes_of(model.state_dict()).items()} == {
        e[0]: list(e[1]) for e in expected
    }


@pytest.mark.parametrize(
    ("preset", "size", "channels"),
    [("mnist", 28, 1), ("cifar10-small", 32, 3), ("cifar10", 32, 3), ("imagenet-latent", 32, 4)],
)
def test_a_bare_state_dict_tells_what_a_preset_is(preset, size, channels):
    with torch.device("meta"):
        model = build_noisy_classifier(size, channels, 10, CLASSIFIER_PRESETS[preset])
    found, settings = infer_settings(shapes_of(model.state_dict())), CLASSIFIER_PRESETS[preset]
    assert (found["image_size"], found["in_channels"], found["out_channels"]) == (
        size,
        channels,
        10,
    )
    assert (found["model_channels"], found["num_res_blocks"]) == (
        settings.model_channels,
        settings.num_res_blocks,
    )
    assert tuple(found["channel_mult"]) == settings.channel_mult
    assert set(found["attention_resolutions"]) == set(settings.attention_resolutions)


def test_the_file_gives_the_same_logits(tmp_path):
    settings = replace(CLASSIFIER_PRESETS["mnist"], steps=1, batch_size=2)
    images = np.random.default_rng(0).integers(0, 256, [4, 28, 28, 1], dtype=np.uint8)
    model, _ = train_noisy_classifier(ImageSet(images, np.arange(4), "four"), settings)
    torch.save(model.state_dict(), tmp_path / "classifier.pt")
    x, tau = torch.randn(2, 1, 28, 28), torch.tensor([0.1, 0.5])
    torch.testing.assert_close(load_encoder(tmp_path / "classifier.pt")(x, tau), model(x, tau))
