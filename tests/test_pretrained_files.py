"""The files in pretrained/: what they are, that they fit together, and that they work by name."""

import re

import numpy as np
import pytest

from dg.checkpoints import load_discriminator
from dg.data.datasets import load_images, to_uint8
from dg.evaluation.classifier import accuracy, load_classifier
from dg.evaluation.log_ratios import log_ratios
from dg.models.loading import load_model
from dg.pretraining.noisy_classifier import noisy_accuracy
from dg.runtime.files import read_json
from dg.runtime.pretrained import (
    CURVES,
    FOLDER,
    GUIDANCE,
    HASHES,
    pretrained_file,
    pretrained_names,
    recommended_guidance,
)
from dg.sampling import Sampling, draw_images
from dg.training_metrics import binary_metrics
from guided_diffusion import load_encoder
from tests.scripts import run, succeed

NAMES = pretrained_names()
EMBEDDED = {"mnist-14": "mnist-small-14", "mnist-28": "mnist-small"}
NETWORKS = [name for name in NAMES if re.fullmatch(r"[a-z]+\d*-\d+", name)]


def test_every_file_has_its_hash():
    others = {HASHES, CURVES, GUIDANCE, "README.md", "convergence.png"}
    grids = {f"{name}.png" for name in NETWORKS}
    found = {path.name for path in FOLDER.iterdir()} - others - grids
    assert found == set(NAMES.values()) and NETWORKS
    assert all(pretrained_file(name) for name in NAMES)  # which compares the hashes


@pytest.mark.parametrize("name", NETWORKS)
def test_images_have_the_brightness_of_real_ones(name):
    net = load_model(pretrained_file(name))
    images, _ = draw_images(net, range(32), Sampling(num_steps=8))
    assert tuple(images.shape[1:]) == (net.img_channels, net.img_resolution, net.img_resolution)
    if name in EMBEDDED:
        real = load_images(EMBEDDED[name], 2000).images / 127.5 - 1
        assert abs(float(images.mean()) - real.mean()) < 0.1
        assert abs(float(images.std()) - real.std()) < 0.1


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("-features")])
def test_the_features_name_digits(name):
    if small := EMBEDDED.get(name.removesuffix("-features")):
        test = load_images(small, 1000, split="test")
        assert accuracy(load_classifier(pretrained_file(name)), test) > 0.97


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("-noisy-classifier")])
def test_the_noisy_classifiers_name_digits(name):
    if small := EMBEDDED.get(name.removesuffix("-noisy-classifier")):
        test = load_images(small, 500, split="test")
        assert noisy_accuracy(load_encoder(pretrained_file(name)), test, time=0.1) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if "-disc" in name])
def test_heads_tell_real_from_generated_images(name):
    data = name.split("-disc")[0]
    net, classifier = load_model(pretrained_file(data)), f"{data}-noisy-classifier"
    on_classifier = name.endswith("-disc")
    path = pretrained_file(classifier) if on_classifier else None
    discriminator = load_discriminator(path, pretrained_file(name), net)
    if data not in EMBEDDED:
        return
    count = 300 if net.img_resolution < 28 else 150
    real = load_images(EMBEDDED[data], count, split="test").images
    fake = to_uint8(draw_images(net, range(count), Sampling())[0])
    ratios = [log_ratios(discriminator, part, (0.05, 0.1, 0.2), "test") for part in (real, fake)]
    logits, targets = np.concatenate(ratios, axis=None), np.repeat([1.0, 0.0], 3 * count)
    assert binary_metrics(logits, targets)["auc"] > 0.54  # by chance 0.5 with an sd of 0.02


GUIDED = "generate --network mnist-14 --outdir {out} --seeds 0-3 --steps 4 --batch 4 "


def images_of(place, options):
    done = succeed(GUIDED + options, out=place)
    return load_images(str(place)).images, " ".join(done.lines)


def test_a_head_that_ships_guides_as_did_best_unless_told_otherwise(tmp_path):
    head, best = "--discriminator_ckpt mnist-14-disc ", "--w_dg_1 4 --time_max 0.3 --guide_every 1"
    images, told = images_of(tmp_path / "default", head)
    assert images.shape == (4, 14, 14, 1)
    assert f"guided as did best with mnist-14-disc: {best}; --guidance published" in told
    same, told = images_of(tmp_path / "named", head + best)
    assert np.array_equal(images, same) and "did best" not in told
    published, told = images_of(tmp_path / "published", head + "--guidance published")
    asked, _ = images_of(tmp_path / "asked", head + "--w_dg_1 2 --time_max 1")
    assert np.array_equal(published, asked) and "did best" not in told
    assert not np.array_equal(images, published)
    _, told = images_of(tmp_path / "weight", head + "--w_dg_1 1")
    assert "mnist-14-disc: --time_max 0.3 --guide_every 1; " in told


def test_a_recommendation_is_for_heads_that_ship(tmp_path):
    assert set(recommended_guidance(["mnist-14-disc"])) == {"w_dg_1", "time_max", "guide_every"}
    for heads in ([], ["mnist-14-disc"] * 2, [str(pretrained_file("mnist-14-disc"))], ["x.pt"]):
        assert recommended_guidance(heads) == {}
    assert all(name in NAMES for name in read_json(FOLDER / GUIDANCE))
    command = GUIDED + "--discriminator_ckpt mnist-14-disc-score --guidance recommended"
    assert "is for one discriminator of pretrained/" in run(command, out=tmp_path / "out").err
