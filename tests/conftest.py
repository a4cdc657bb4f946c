"""What many tests share: tiny networks and sets made by the scripts, and one thread per test
process.

The suite runs several processes side by side, and with one thread rounding stays the same
everywhere.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # also for the scripts that tests start

import pytest
import torch

import edm
from guided_diffusion import create_classifier
from tests.golden_fill import fill
from tests.scripts import TRAIN, TWELVE, succeed


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """The user's folder of downloads and of the self-benchmark is neither read nor written."""
    os.environ["DG_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Paths of everything that the scripts need, by name; most of it made by the scripts
    themselves."""
    folder = tmp_path_factory.mktemp("made")
    places = {
        "made": folder,
        "net": folder / "score" / "network.safetensors",
        "fake": folder / "fake",
        "cond_net": folder / "cond_score" / "network.safetensors",
        "cond_fake": folder / "cond_fake",
        "head": folder / "head" / "best.safetensors",
        "features": folder / "features" / "classifier.safetensors",
    }
    succeed(
        "pretrain score --data digits:train --outdir {made}/score --steps 3 --batch_size 8",
        **places,
    )
    succeed(
        "pretrain score --data digits:train --outdir {made}/cond_score --steps 1 --batch_size 8 "
        "--cond",
        **places,
    )
    succeed("pretrain features --data digits:train --outdir {made}/features --epochs 1", **places)
    succeed("generate --network {net} --outdir {fake} --seeds 0-11 --batch 4 --steps 3", **places)
    succeed(
        "generate --network {cond_net} --outdir {cond_fake} --seeds 0-11 --batch 4 --steps 2",
        **places,
    )
    succeed(TRAIN + TWELVE + "--network {net} --extractor score --save_dir {made}/head", **places)
    return places


@pytest.fixture
def at(made, tmp_path):
    """The same places, and `out` for a folder that is not there yet."""
    return {**made, "out": tmp_path / "out", "tmp": tmp_path}


# Where the authors' files are looked for, below checkpoints/.
PLACES = {
    "classifier": "ADM_classifier/32x32_classifier.pt",
    "uncond": "discriminator/cifar_uncond/discriminator_60.pt",
    "cond": "discriminator/cifar_cond/discriminator_250.pt",
}


@pytest.fixture(scope="session")
def authors(tmp_path_factory):
    """Tiny networks in the form of the authors' files for CIFAR-10, in their places."""
    folder = tmp_path_factory.mktemp("authors")
    small = dict(model_type="DhariwalUNet", model_channels=32, num_blocks=1, channel_mult=[1])
    for name, label_dim in (("uncond", 0), ("cond", 10)):
        net = edm.EDMPrecond(32, 3, label_dim=label_dim, attn_resolutions=[], **small)
        edm.save_network(folder / f"{name}.safetensors", fill(net))
    classifier = create_classifier(
        image_size=32, in_channels=3, classifier_width=64, classifier_depth=1, out_channels=10
    )
    heads = {
        name: create_classifier(
            image_size=8,
            in_channels=256,
            classifier_width=64,
            classifier_depth=1,
            out_channels=1,
            classifier_attention_resolutions="8,4,2",
            condition=name == "cond",
        )
        for name in ("uncond", "cond")
    }
    for name, network in {"classifier": classifier, **heads}.items():
        path = folder / "checkpoints" / PLACES[name]
        path.parent.mkdir(parents=True)
        torch.save(fill(network).state_dict(), path)
    return folder
