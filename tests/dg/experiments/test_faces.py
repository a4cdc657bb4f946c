"""Discriminators of others for 64 pixels, in the published format; FFHQ by one of them, CelebA by
a network of one's own: with tiny networks."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import edm
from dg import vp
from dg.checkpoints import load_discriminator
from dg.data.datasets import load_images
from dg.discriminator import log_ratio
from dg.evaluation.published import first_matching
from dg.experiments import runner
from dg.experiments.context import Experiment
from dg.experiments.settings import SETTINGS
from dg.experiments.studies import build
from dg.runtime.catalogue import CATALOGUE
from dg.runtime.downloads import resolve
from dg.sampling import Sampling
from edm.checkpoint import save_network
from guided_diffusion import create_classifier
from tests.golden_fill import fill, layouts
from tests.scripts import run, succeed

SMALL = dict(features="random-vgg", reference=None, batch_size=8, num_reference=8)
SMALL |= dict(num_images=8, num_sets=2, num_data=80, epoch_scale=0.0, eval_images=8, head_width=64)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """A folder with images, a network and a classifier, whose features are of the published
    size."""
    folder = tmp_path_factory.mktemp("faces")
    images = np.random.RandomState(0).randint(0, 256, [80, 64, 64, 3], np.uint8)
    for split in ("train", "test"):
        (folder / "data" / split).mkdir(parents=True)
        np.savez(folder / "data" / split / "images.npz", samples=images)
    unet = dict(model_type="SongUNet", model_channels=8, num_blocks=1, channel_mult=[1, 1])
    save_network(
        folder / "net.safetensors", fill(edm.EDMPrecond(64, 3, attn_resolutions=[], **unet))
    )
    narrow = dict(classifier_width=64, classifier_depth=1, channel_mult=(1, 1, 1, 8))
    features = fill(create_classifier(64, out_channels=2, **narrow))
    torch.save(features.state_dict(), folder / "classifier.pt")
    return folder


def small(faces, name):
    """A setting with those files, of a few images."""
    setting = SETTINGS[name]
    if setting.missing:
        setting = setting.with_network(str(faces / "net.safetensors"))
    score = replace(setting.models["score"], published=str(faces / "net.safetensors"))
    models = {"score": replace(score, sampling=Sampling(3))}
    return replace(setting, models=models, classifier=str(faces / "classifier.pt"), **SMALL)


def given(faces, name, tmp_path):
    """The results of the study of the discriminator that is given, and a set of images of each
    system."""
    setting = small(faces, name)
    experiment = Experiment(name, setting, build("given", setting), str(faces / "data"))
    outcome = runner.run(experiment, tmp_path / "runs", tmp_path / "results")
    folders = sorted((tmp_path / "runs").glob("sample-*/set0"))
    return outcome, [load_images(folder).images for folder in folders]


@pytest.mark.parametrize(
    ("name", "conditional"),
    [("resampling-ffhq-64-discriminator", False), ("resampling-imagenet-64-discriminator", True)],
)
def test_files_in_the_published_format_are_read_by_name(
    faces, tmp_path, monkeypatch, name, conditional
):
    monkeypatch.setenv("DG_CACHE_DIR", str(tmp_path))
    kind = "discriminator cond (condition=True)" if conditional else "discriminator uncond"
    (layout,) = (entry for title, entry in layouts().items() if title.startswith(f"DG {kind}"))
    head = fill(create_classifier(8, in_channels=512, out_channels=1, condition=conditional))
    state = head.state_dict()
    assert [[key, list(one.shape)] for key, one in state.items()] == [
        entry[:2] for entry in layout["entries"]
    ]
    torch.save(state, tmp_path / CATALOGUE[name].name)
    discriminator = load_discriminator(faces / "classifier.pt", resolve(name))
    assert discriminator.conditional == conditional
    x, sigma = torch.randn(2, 3, 64, 64), torch.tensor(0.5)
    tau, scale = vp.from_sigma(sigma)
    time = vp.cosine_time(tau)
    features = discriminator.extractor.encoder(scale * x, time, feature=True)
    classes = torch.eye(1000)[[3, 7]] if conditional else None
    wanted = head.eval()(features, time, condition=classes).flatten()
    assert torch.equal(log_ratio(discriminator, x, sigma, classes), wanted) and wanted.any()


@pytest.mark.slow
def test_ffhq_is_guided_by_a_file_in_the_published_format(faces, tmp_path, monkeypatch):
    monkeypatch.setenv("DG_CACHE_DIR", str(tmp_path / "cache"))
    source = CATALOGUE[SETTINGS["ffhq-64"].released]
    head = fill(create_classifier(image_size=8, in_channels=512, out_channels=1))
    assert sum(one.numel() for one in head.parameters()) == 2_883_841, "as published"
    (tmp_path / "cache").mkdir()
    torch.save(head.state_dict(), tmp_path / "cache" / source.name)
    outcome, (first, second) = given(faces, "ffhq-64", tmp_path)
    assert set(outcome["metrics"]) == {"unguided", "guided", "floor"}
    assert first.shape == (8, 64, 64, 3) and (first != second).any()
    assert not list((tmp_path / "runs").glob("train-*")), "nothing is trained"
    record = json.loads((tmp_path / "cache" / f"{source.name}.json").read_text())
    assert record["url"] == source.url and len(record["sha256"]) == 64


@pytest.mark.slow
def test_celeba_runs_with_a_network_of_ones_own(faces, tmp_path):
    outcome, (first, second) = given(faces, "celeba-64", tmp_path)
    assert set(outcome["metrics"]) == {"unguided", "guided", "floor"}
    assert first.shape == (8, 64, 64, 3) and (first != second).any()
    assert len(list((tmp_path / "runs").glob("train-default-*"))) == 1
    assert outcome["setting"].endswith("but the score network is net")
    assert outcome["settings"]["published"] == {}, "those are of another network"


def test_celeba_says_what_it_costs_and_what_is_missing(tmp_path):
    places = "--runs {tmp}/runs --results {tmp}/results"
    done = succeed(f"reproduce celeba-64 --dry-run {places}", tmp=tmp_path)
    assert "FID 1.9 (Soft Truncation, 131 evaluations, paper)" in done.out
    assert "FID 1.34 (ST-G++, 131 evaluations, paper)" in done.out
    assert "19,650,000" in done.out, "131 evaluations for each of 150,000 images"
    assert (
        "missing: --network: the checkpoint of Soft" in done.out and "missing: --data" in done.out
    )
    assert done.following == ["the same command without --dry-run, and with what is missing"]
    done = run(f"reproduce celeba-64 --data {{tmp}} {places}", tmp=tmp_path)
    (line,) = done.err.splitlines()
    assert (
        done.code != 0
        and "ddpmpp_fid_st.py" in line
        and "--network: the checkpoint of Soft Truncation" in line
    )
    assert not list(tmp_path.iterdir())
    own = succeed(f"reproduce celeba-64 --dry-run --network mine {places}", tmp=tmp_path).out
    assert "Soft Truncation" not in own and "19,650,000" in own


def test_the_deviations_of_celeba_tell_the_published_numbers():
    setting = SETTINGS["celeba-64"]
    for (row,) in map(first_matching, setting.published.values()):
        assert f"{row['value']:.2f}" in setting.deviations[0]
        assert row["nfe"] == setting.models["score"].num_evaluations()
