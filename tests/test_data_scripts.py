"""The same data mean the same in every script, and what the reader says reaches the terminal."""

import json

import numpy as np
import pytest
from PIL import Image

import dataset_tool
from dg.data.crops import TRANSFORMS
from dg.data.datasets import load_images
from edm.checkpoint import read_safetensors
from tests.scripts import TRAIN, run, succeed

RNG = np.random.default_rng(0)
CLASSES = "12 classes: 0 0, 1 1, 2 2, 3 3"


def folders(path, count=24):
    """Class folders 0 .. 11 of 8 x 8 pictures, and a file that is none."""
    for i in range(count):
        (path / str(i % 12)).mkdir(parents=True, exist_ok=True)
        picture = RNG.integers(0, 256, [8, 8], dtype=np.uint8)
        Image.fromarray(picture).save(path / str(i % 12) / f"{i:02d}.png")
    (path / "notes.txt").touch()
    return path


def test_class_folders_in_every_script(at):
    real, fake = folders(at["tmp"] / "real"), folders(at["tmp"] / "fake")
    places = {**at, "real": real, "fakes": fake}
    done = succeed(
        TRAIN + "--extractor none --cond 1 --data {real} --sample_dir {fakes} --save_dir {out}",
        **places,
    )
    for folder in (real, fake):
        assert f"{folder}: {CLASSES}" in done.err
        assert f"{folder}: 1 of 25 files skipped: 1 .txt" in done.err
    config, _ = read_safetensors(at["out"] / "last.safetensors", "discriminator-head")
    assert config["training"]["class_names"] == [str(i) for i in range(12)]
    done = succeed("fid --images {fakes} --ref {real} --features {features} --metrics fd", **places)
    assert f"{real}: {CLASSES}" in done.err and f"{fake}: {CLASSES}" in done.err
    pretrain = "pretrain score --steps 1 --batch_size 8 --cond --data {real} --outdir {tmp}/score"
    assert CLASSES in succeed(pretrain, **places).err
    succeed(
        "generate --network {tmp}/score/network.safetensors --outdir {tmp}/made --seeds 0-3 "
        "--steps 2",
        **places,
    )
    manifest = json.loads((at["tmp"] / "made" / "manifest.json").read_text())
    assert manifest["class names"] == [str(i) for i in range(12)]


@pytest.mark.slow
def test_equal_or_swapped_sets_are_told(at):
    command = TRAIN + "--extractor none --data {fake} --sample_dir {fake} --save_dir {out}"
    done = succeed(command, **at)
    assert "manifest.json says" in done.err and "12 of 12 generated images are also" in done.err


@pytest.mark.parametrize(
    ("labels", "message"),
    [(np.arange(5), "5 labels for 12 images"), (np.arange(12) - 1, "label -1 is negative")],
)
def test_bad_labels_are_one_line_in_every_script(at, labels, message):
    images = RNG.integers(0, 256, [12, 8, 8], dtype=np.uint8)
    np.savez(at["tmp"] / "bad.npz", images=images, labels=labels)
    for command in (
        TRAIN + "--extractor none --data {tmp}/bad.npz --sample_dir {fake} --save_dir {out}",
        "fid --images {tmp}/bad.npz --ref digits --features {features}",
        "fid --images {fake} --ref {tmp}/bad.npz --features {features}",
        "pretrain score --steps 1 --data {tmp}/bad.npz --outdir {out}",
    ):
        done = run(command, **at)
        assert done.code == 2 and f"bad.npz: {message}" in done.err and "Traceback" not in done.err


# ---- dataset_tool.py


def test_the_choices_are_the_transforms():
    (option,) = [param for param in dataset_tool.main.params if param.name == "transform"]
    assert tuple(option.type.choices) == TRANSFORMS


def test_a_data_set_by_edms_command(tmp_path):
    for i in range(3):
        (tmp_path / "raw" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        picture = RNG.integers(0, 256, [20 + i, 30, 3], dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / "raw" / "ab"[i % 2] / f"{i}.png")
    done = succeed(
        "dataset_tool --source={raw} --dest={dest} --resolution=16x16 --transform=center-crop "
        "--max-images=2",
        raw=tmp_path / "raw",
        dest=tmp_path / "raw-16.zip",
    )
    assert done.lines == [
        f"{tmp_path / 'raw'}: 2 classes: 0 a, 1 b",
        f"{tmp_path / 'raw-16.zip'}: 2 images",
    ]
    found = load_images(tmp_path / "raw-16.zip")
    assert found.images.shape == (2, 16, 16, 3) and found.labels.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--transform center-crop", "--transform: center-crop needs a size"),
        ("--resolution 8x4", "--resolution: 8x4 gives no squares"),
        ("--resolution 8:4", "'8:4' is no size"),
    ],
)
def test_what_makes_no_data_set_is_refused(at, options, told):
    done = run("dataset_tool --source digits --dest {tmp}/a.zip " + options, **at)
    assert done.code == 2 and told in done.err and not (at["tmp"] / "a.zip").exists()
