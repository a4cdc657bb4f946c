"""Folders of several sets: the same for all readers."""

import os
import zipfile

import numpy as np
import pytest
from PIL import Image

from dg.data.latents import load_set
from dg.data.reader import load_images, open_images
from dg.data.sets import numbers_of_unknown_meaning, sets_in

IMAGES = np.random.default_rng(0).integers(0, 256, [12, 8, 8, 3], dtype=np.uint8)


def put(folder, *names, **more):
    """The same images as each of the files, which are npz, npy or zip; or in a folder."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("0.png", b"")
        elif path.suffix:
            with open(path, "wb") as file:
                np.save(file, IMAGES) if path.suffix == ".npy" else np.savez(file, IMAGES, **more)
        else:
            path.mkdir()
            Image.fromarray(IMAGES[0]).save(path / "0.png")
    return folder


@pytest.mark.parametrize("suffix", [".npz", ".NPZ", ".npy", ".zip", ""])
def test_files_and_folders_that_one_number_tells_apart_are_sets(tmp_path, suffix):
    names = [f"epoch{number}{suffix}" for number in (5, 10, 15)]
    put(tmp_path, *names)
    os.symlink(tmp_path / names[2], tmp_path / f"latest{suffix}")
    assert sets_in(tmp_path) == [str(tmp_path / name) for name in names]
    for use in (open_images, load_images, load_set):
        with pytest.raises(ValueError, match=r"holds 3 sets; give one of them, such as .*/epoch5"):
            use(tmp_path)


def test_one_set_stays_one(tmp_path):
    for folder in (
        put(tmp_path / "a", "samples_0.npz", "samples_1.npz"),
        put(tmp_path / "b", "0", "1", "2"),
        put(tmp_path / "c", "class1", "class5", "class9"),
        put(tmp_path / "d", "n01440764", "n01443537"),
        put(tmp_path / "e", "train.npz", "test.npz"),
        put(tmp_path / "f", "v1", "v2"),
    ):
        assert sets_in(folder) == [str(folder)]
    assert sets_in("digits") == ["digits"]


def test_folders_of_stores(tmp_path):
    for kind, names in {"a": ("x", "y"), "b": ("part-0", "part-1"), "c": ("train", "test")}.items():
        for start, name in enumerate(names):
            put(tmp_path / kind / name, f"samples_{start}.npz")
    assert sets_in(tmp_path / "a") == [str(tmp_path / "a" / name) for name in "xy"]
    assert len(load_images(tmp_path / "b")) == 2 * len(IMAGES)
    lines = []
    assert len(load_images(tmp_path / "c", notify=lines.append)) == len(IMAGES)
    assert "the split train is taken; test left out" in lines[0]


def test_pictures_beside_files_that_do_not_tell_are_meant(tmp_path):
    put(tmp_path, "a.npz", "b.npz")
    with pytest.raises(ValueError, match=r"2 npz files, a.npz, b.npz .* sets or parts of one"):
        load_images(tmp_path)
    Image.fromarray(IMAGES[0]).save(tmp_path / "0.png")
    assert sets_in(tmp_path) == [str(tmp_path)]
    lines = []
    assert len(load_images(tmp_path, notify=lines.append)) == 1
    assert lines == [f"{tmp_path}: 2 of 3 files skipped: 2 .npz"]


def test_folders_of_bare_numbers_may_be_classes_or_sets(tmp_path):
    assert numbers_of_unknown_meaning(put(tmp_path / "a", "5", "10", "15")) == ["5", "10", "15"]
    for i, names in enumerate([("0", "1", "2"), ("1", "2"), ("000000", "001000"), ("7",), ("a",)]):
        assert numbers_of_unknown_meaning(put(tmp_path / str(i), *names)) == []
    (tmp_path / "a" / "dataset.json").write_text("{}")
    assert numbers_of_unknown_meaning(tmp_path / "a") == []
