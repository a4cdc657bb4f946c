"""Commands as others have published them: which files they find, what they say, what they
refuse."""

import os
import shutil

import numpy as np
import pytest

from tests.conftest import PLACES
from tests.scripts import pixels, run, succeed


@pytest.fixture
def here(authors, tmp_path, monkeypatch):
    """A folder of one's own with those files, as the current folder."""
    shutil.copytree(authors, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


GENERATE = "generate --seeds 0-1 --steps 2 --grid 0 --network {kind}.safetensors --outdir {kind}-"
UNGUIDED = "unguided, as by EDM's generate.py"


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("uncond", "--dg_weight_1st_order=2 --cond=0"),
        ("uncond", "--cond=0"),
        ("cond", "--dg_weight_1st_order=1 --cond=1 --boosting=1"),
        ("cond", "--cond=1 --discriminator_ckpt=/checkpoints/" + PLACES["cond"]),
    ],
)
def test_the_authors_commands_guide_by_the_files_in_their_places(here, kind, options):
    told = succeed(GENERATE + "guided " + options, kind=kind).lines
    assert any(PLACES["classifier"] in line for line in told)
    assert any(PLACES[kind] in line for line in told)
    assert not any(UNGUIDED in line for line in told)
    head, classifier = (f"checkpoints/{PLACES[name]}" for name in (kind, "classifier"))
    files = f" --discriminator_ckpt {head} --pretrained_classifier_ckpt {classifier}"
    options = options.split(" --discriminator_ckpt")[0]
    succeed(GENERATE + "named " + options + files, kind=kind)
    succeed(GENERATE + "plain", kind=kind)
    guided, named, plain = (pixels(f"{kind}-{name}") for name in ("guided", "named", "plain"))
    assert np.array_equal(guided, named) and not np.array_equal(guided, plain)


def test_without_an_option_of_guidance_the_files_are_not_looked_for(here):
    done = succeed(GENERATE + "plain", kind="uncond")
    assert UNGUIDED in done.lines[0] and len(done.lines) == 2
    done = succeed(GENERATE + "zero --dg_weight_1st_order=0 --cond=0", kind="uncond")
    assert not any("authors" in line or UNGUIDED in line for line in done.lines)
    assert np.array_equal(pixels("uncond-plain"), pixels("uncond-zero"))


@pytest.mark.parametrize("missing", [("classifier",), ("uncond",), ("classifier", "uncond")])
def test_published_files_that_are_missing_are_named(here, missing):
    for name in missing:
        os.remove(here / "checkpoints" / PLACES[name])
    done = run(GENERATE + "guided --dg_weight_1st_order=2 --cond=0", kind="uncond")
    assert done.code == 2 and len(done.lines) == 1 and not (here / "uncond-guided").exists()
    for name, place in PLACES.items():
        assert (place in done.lines[0]) == (name in missing)
    assert "dg-cifar10-uncond-discriminator" in done.lines[0]


def test_published_files_do_not_guide_networks_of_other_images(here, made):
    done = run("generate --network {net} --outdir out --seeds 0-1 --w_dg_1 2", **made)
    assert done.code == 2 and "give --discriminator_ckpt" in done.lines[0]
