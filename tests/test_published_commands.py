"""Commands as others have published them: which files they find, what they say, what they
refuse."""

import os
import shutil

import click
import numpy as np
import pytest

from dg.models.ddpm import DDPM
from dg.options.guidance import _time_min
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


def test_without_a_number_of_images_there_are_edms_64(here):
    done = succeed(GENERATE.replace("--seeds 0-1", "") + "plain --batch 32", kind="uncond")
    assert done.lines[0].startswith("seeds 0-63, as by EDM's generate.py")
    assert len(pixels("uncond-plain")) == 64


@pytest.mark.parametrize("options", ["--dg_weight_1st_order=2 --cond=0", "--seed 3"])
def test_a_number_of_images_is_not_taken_for_granted_elsewhere(here, options):
    done = run(GENERATE.replace("--seeds 0-1", "") + "no " + options, kind="uncond")
    assert done.code == 2 and "the number of images is missing" in done.lines[0]


def test_folders_of_a_thousand_are_edms_pngs(here):
    succeed(GENERATE + "plain --subdirs", kind="uncond")
    assert sorted(path.name for path in (here / "uncond-plain" / "000000").iterdir()) == [
        "000000.png",
        "000001.png",
    ]
    done = run(GENERATE + "npz --subdirs --save_type npz", kind="uncond")
    assert done.code == 2 and "--subdirs is for PNGs" in done.lines[0]


def test_images_depend_on_seeds_as_dgs_option_says(here):
    succeed(GENERATE + "plain --do_seed=1", kind="uncond")
    done = run(GENERATE + "other --do_seed=0", kind="uncond")
    assert done.code == 2 and "always depend on their seeds" in done.lines[0]


# ---- train.py without options


TRAIN = "train --epoch 1 --batch_size 4 --eval_images 4 --num_data 8 "


@pytest.fixture
def images_in_place(here):
    for place in ("data/true_data.npz", "samples/cifar_uncond_vanilla/samples_0.npz"):
        (here / place).parent.mkdir(parents=True)
        images = np.random.default_rng(len(place)).integers(0, 256, [8, 32, 32, 3], dtype=np.uint8)
        np.savez(here / place, **{"arr_0" if "true" in place else "samples": images})
    return here


@pytest.mark.slow
def test_the_authors_training_finds_their_places(images_in_place):
    done = succeed(TRAIN)
    assert done.lines[0] == (
        "the authors' places are taken: --data data/true_data.npz, --sample_dir "
        "samples/cifar_uncond_vanilla, --save_dir checkpoints/discriminator/cifar_uncond"
    )
    folder = images_in_place / "checkpoints" / "discriminator" / "cifar_uncond"
    assert (folder / "best.safetensors").is_file() and (folder / "discriminator_60.pt").is_file()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--data data/true_data.npz", "Missing option '--save_dir'"),
        ("--save_dir own --data none", "Missing option '--sample_dir'"),
    ],
)
def test_a_place_that_is_not_given_is_not_guessed(images_in_place, options, told):
    if "none" in options:
        shutil.rmtree(images_in_place / "samples")
    done = run(TRAIN + options)
    assert done.code == 2 and told in done.err and not (images_in_place / "own").exists()


# ---- the window in timesteps, as DG_imagenet gives it


@pytest.mark.parametrize(("given", "first"), [(100, 101), (700, 701), (1000, None)])
def test_timesteps_above_the_lowest_are_guided(given, first):
    net = DDPM.__new__(DDPM)
    times, lowest = np.arange(1000) / 999, _time_min(net, given)
    guided = np.flatnonzero(times >= lowest)
    assert (guided[0] if len(guided) else None) == first


def test_vp_times_stay_and_score_networks_take_no_timestep():
    assert (
        _time_min(None, 0.3) == 0.3 and _time_min(None, 1.0) == 1 and _time_min(None, None) == 0.01
    )
    with pytest.raises(click.UsageError, match="no VP time"):
        _time_min(None, 100)
    with pytest.raises(click.UsageError, match="no VP time"):
        _time_min(DDPM.__new__(DDPM), 1.5)
