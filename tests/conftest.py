"""What many tests share: tiny networks and sets made by the scripts, and one thread per test
process.

The suite runs several processes side by side, and with one thread rounding stays the same
everywhere.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # also for the scripts that tests start

import pytest

from tests.scripts import TRAIN, TWELVE, succeed


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
    succeed(TRAIN + TWELVE + "--network {net} --save_dir {made}/head", **places)
    return places


@pytest.fixture
def at(made, tmp_path):
    """The same places, and `out` for a folder that is not there yet."""
    return {**made, "out": tmp_path / "out", "tmp": tmp_path}
