"""The method in twenty lines of Python, by names of `dg`, `edm` and `dg.evaluation` alone, without
a folder."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import dg
import edm
from dg.evaluation import features_of, load_extractor, metric_estimates
from dg.runtime.pretrained import HASHES
from tests import golden_fill
from tests.scripts import ROOT


@pytest.fixture(scope="module")
def net():
    return edm.load_network(dg.resolve("mnist-14"))


def test_load_sample_train_guide_measure(net):
    real, test = (dg.load_images(f"mnist-small-14:{split}") for split in ("train", "test"))
    fast = dg.Sampling(num_steps=4)

    def draw(seeds, guidance=None):
        images, _ = dg.draw_images(net, seeds, fast, guidance)
        return dg.ImageSet(dg.to_uint8(images))

    discriminator = dg.build_discriminator("score", net=net)
    settings = dg.DiscriminatorTraining(epochs=2, batch_size=16, lr=2e-3, eval_images=20)
    log = dg.train_discriminator(discriminator, real.take(64), draw(range(1000, 1064)), settings)
    assert [entry["epoch"] for entry in log] == [1, 2] and not discriminator.training
    assert log[-1]["train_loss"] < log[0]["train_loss"]
    guidance = dg.DiscriminatorGuidance(discriminator, weights=(2.0, 0.0))
    extractor = load_extractor("mnist-14-features")
    reference = features_of(test.take(100), extractor)
    unguided, guided = (features_of(draw(range(16), g), extractor) for g in (None, guidance))
    assert len(guided.features) == 16 and (guided.features != unguided.features).any()
    found = metric_estimates(guided, reference, ["fd", "kid"])
    assert found["fd"]["value"] == pytest.approx(guided.distance(reference))


def test_the_default_sampling_is_the_models_own(net):
    first, _ = dg.draw_images(net, [3])
    assert torch.equal(first, dg.draw_images(net, [3], dg.Sampling())[0])


def test_a_discriminator_of_its_networks_size(net):
    data = dg.ImageSet(np.zeros([4, 14, 14, 1], np.uint8), np.arange(4))
    assert (data.name, data.num_classes) == ("images", 4)
    own, by_data = (dg.build_discriminator("score", given, net) for given in (None, data))
    pairs = zip(own.state_dict().values(), by_data.state_dict().values(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    classifier = dg.resolve("mnist-14-noisy-classifier")
    width = dict(classifier_path=classifier, width=64)
    own, by_data = (dg.build_discriminator("classifier", given, **width) for given in (None, data))
    assert [p.shape for p in own.parameters()] == [p.shape for p in by_data.parameters()]
    with pytest.raises(ValueError, match="give data"):
        dg.build_discriminator("none")
    if not net.label_dim:
        with pytest.raises(ValueError, match="knows no classes; give data with labels"):
            dg.build_discriminator("score", net=net, conditional=True)


def test_classes_of_the_network():
    labelled = edm.EDMPrecond(8, 1, label_dim=3, model_channels=8, channel_mult=[1], num_blocks=1)
    net = golden_fill.fill(labelled).eval()
    discriminator = dg.build_discriminator("score", net=net, conditional=True)
    assert discriminator.heads[0].num_classes == 3


def test_every_public_name_is_there():
    import dg.evaluation

    for package in (dg, edm, dg.evaluation):
        assert all(getattr(package, name) is not None for name in package.__all__)


def test_every_package_is_installed_and_the_networks_with_them():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11")
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    tops = ("dg", "edm", "guided_diffusion", "tensor_files")
    found = {path.parent for top in tops for path in (ROOT / top).rglob("__init__.py")}
    names = {".".join(folder.relative_to(ROOT).parts) for folder in found}
    assert set(listed["packages"]) == names | {"dg.pretrained"}
    assert (ROOT / listed["package-dir"]["dg.pretrained"] / HASHES).is_file()


@pytest.mark.slow
def test_an_installed_package_finds_the_networks(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("dg", "edm", "guided_diffusion", "tensor_files", "pretrained"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", tmp_path / "site"]
    subprocess.run([*pip, source], check=True)
    told = subprocess.run(
        [sys.executable, "-c", "import dg; print(dg.resolve('mnist-14'))"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        check=True,
        capture_output=True,
        text=True,
    )
    assert told.stdout.strip() == str(tmp_path / "site/dg/pretrained/mnist-14.safetensors")
