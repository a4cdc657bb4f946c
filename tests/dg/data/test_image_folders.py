"""What the names of image files say: classes, splits, order; what is skipped or assumed is told."""

import json
import os
import zipfile

import numpy as np
import pytest
from PIL import Image

from dg.data.image_folders import by_number
from dg.data.reader import load_images, open_images
from dg.runtime.progress import unheard

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, [24, 6, 6, 3], dtype=np.uint8)


def put(folder, names):
    """Image i at names[i]."""
    for name, image in zip(names, IMAGES, strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
    return folder


def zipped(folder):
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return path


def checked(source, order, labels, *told, split=None, size=6):
    """In all roles the images are IMAGES[order] with these labels; every `told` is in one line."""
    lines = []
    stream, loaded = open_images(source, split, lines.append), load_images(source, split=split)
    np.testing.assert_array_equal(loaded.images, IMAGES[order])
    np.testing.assert_array_equal(stream.read(np.arange(len(stream))), IMAGES[order])
    np.testing.assert_array_equal(stream.crops(np.arange(len(stream)), size), IMAGES[order])
    for found in (stream, loaded):
        np.testing.assert_array_equal(found.labels, labels)
    assert len(lines) == len(told), lines
    for line, part in zip(lines, told, strict=True):
        assert part in line and "\n" not in line
    return stream


@pytest.fixture(params=[False, True], ids=["folder", "zip"])
def packed(request):
    """Sources as they are, and as zips."""
    return zipped if request.param else lambda folder: folder


def test_class_folders_with_numbers_for_names_are_numbered_by_them(tmp_path, packed):
    names = [f"{label}/{i}.png" for label in range(12) for i in range(2)]
    folder = packed(put(tmp_path / "a", names))
    labels = np.arange(24) // 2
    stream = checked(folder, np.arange(24), labels, "12 classes: 0 0, 1 1, 2 2, 3 3")
    assert stream.class_names == tuple(str(i) for i in range(12))
    assert load_images(folder).class_names == stream.class_names and stream.num_classes == 12
    assert load_images(folder).subset([3]).class_names == stream.class_names


def test_the_names_of_many_classes_are_told_in_part(tmp_path):
    lines = []
    open_images(put(tmp_path, [f"c{i:02d}/0.png" for i in range(24)]), notify=lines.append)
    assert "24 classes: 0 c00, 1 c01" in lines[0] and lines[0].endswith(
        "9 c09, ..., 14 c14, " + (", ".join(f"{i} c{i}" for i in range(15, 24)))
    )


@pytest.mark.parametrize("wrap", ["", "data/", "a/b/"])
def test_labels_are_found_below_wrapping_folders(tmp_path, packed, wrap):
    names = [f"{wrap}{'cat' if i % 2 else 'dog'}/{i:02d}.png" for i in range(4)]
    order = [1, 3, 0, 2]
    checked(packed(put(tmp_path / "a", names)), order, [0, 0, 1, 1], "2 classes: 0 cat, 1 dog")
    names = [f"{wrap}0000{i // 2}/img{i:08d}.png" for i in range(4)]
    table = {"labels": [[name.removeprefix(wrap), 3 - i] for i, name in enumerate(names)]}
    put(tmp_path / "b", names)
    (tmp_path / "b" / wrap / "dataset.json").write_text(json.dumps(table))
    checked(packed(tmp_path / "b"), range(4), [3, 2, 1, 0])
    names = [f"{wrap}{'cat' if i % 2 else 'dog'}/images/{i:02d}.png" for i in range(4)]
    checked(packed(put(tmp_path / "c", names)), order, [0, 0, 1, 1], "2 classes: 0 cat, 1 dog")


def test_labels_are_not_dropped_without_a_word(tmp_path, packed):
    names = ["cat/0.png", "dog/0.png", "dog/1.png", "stray.png"]
    folder = put(tmp_path / "a", names)
    with pytest.raises(ValueError, match=r"stray\.png lies above the class folders cat, dog; move"):
        open_images(packed(folder))
    (folder / "dataset.json").write_text('{"labels": null}')
    checked(packed(folder), range(4), None)
    folder = put(tmp_path / "b", ["a/0.png", "a/c/0.png", "b/d/1.png"])
    checked(packed(folder), range(3), None, "no labels")
    folder = put(tmp_path / "c", ["set/0.png", "stray.png"])
    (folder / "set/dataset.json").write_text('{"labels": [["0.png", 3]]}')
    with pytest.raises(
        ValueError, match=r"set/dataset.json has no label for stray\.png.*move what is not in set"
    ):
        open_images(packed(folder))


def test_folders_of_splits_are_no_classes(tmp_path, packed):
    names = ["train/cat/0.png", "train/dog/0.png", "test/cat/0.png", "test/dog/0.png"]
    folder = packed(put(tmp_path / "a", names))
    told = "the split train is taken; test left out", "0 cat, 1 dog"
    checked(folder, [0, 1], [0, 1], *told)
    checked(folder, [2, 3], [0, 1], told[1], split="test")
    checked(f"{folder}:test", [2, 3], [0, 1], told[1])
    folder = packed(put(tmp_path / "b", ["x/train/0.png", "x/valid/0.png", "x/test/0.png"]))
    checked(folder, [0], None, "the split train is taken; test, valid left out")
    assert open_images(f"{folder}:valid").read([0]).tolist() == IMAGES[1:2].tolist()
    beside = ["train/1.png", "extra/0.png"], ["train/1.png", "stray.png"], []
    for name, more in zip("cde", beside, strict=True):
        folder = put(tmp_path / name, ["test/0.png", "val/0.png", *more])
        with pytest.raises(ValueError, match=r"holds the splits test.*name one, such as"):
            open_images(packed(folder))


def test_folders_of_splits_go_by_several_names(tmp_path, packed):
    for i, (train, test) in enumerate(
        [
            ("Train", "TEST"),
            ("train2017", "val2017"),
            ("training_set", "test_set"),
            ("train", "dev"),
        ]
    ):
        names = [f"{split}/{kind}/0.png" for split in (train, test) for kind in ("cat", "dog")]
        folder = packed(put(tmp_path / str(i), names))
        told = f"the split {train} is taken; {test} left out", "0 cat, 1 dog"
        checked(folder, [0, 1], [0, 1], *told)
        checked(f"{folder}:{test}", [2, 3], [0, 1], told[1])
    folder = packed(put(tmp_path / "two", ["train1/0.png", "train2/0.png"]))
    with pytest.raises(ValueError, match="holds the splits train1, train2; name one, such as"):
        open_images(folder)


def test_a_class_may_be_called_train(tmp_path):
    names = ["car/0.png", "plane/0.png", "train/0.png"]
    checked(put(tmp_path, names), range(3), range(3), "0 car, 1 plane, 2 train")


@pytest.mark.parametrize(
    "form", ["{}.png", "{}.jpg.png", "img_{}.png", "{}_x.png", "v2_{}_64.png", "a ({}).png"]
)
@pytest.mark.parametrize("wrap", ["", "data/"])
def test_numbers_without_leading_zeros_give_the_order(tmp_path, packed, form, wrap):
    names = [f"{wrap}{form.format(i)}" for i in (0, 2, 10)]
    folder = packed(put(tmp_path / "a", names))
    stream = checked(folder, range(3), None, "in the order of the numbers in their names")
    seeds = [0, 2, 10] if form == "{}.png" else None
    np.testing.assert_array_equal(stream.seeds, seeds)
    names = [f"{wrap}{label}/{form.format(i)}" for label in ("cat", "dog") for i in (0, 2, 10)]
    folder = packed(put(tmp_path / "b", names))
    checked(folder, range(6), [0, 0, 0, 1, 1, 1], "in the order of the numbers", "0 cat, 1 dog")


def test_other_names_are_in_the_order_of_text(tmp_path):
    names = ["a0.png", "a10.png", "b2.png", "n01_10.png", "n01_9.jpg.png"]
    checked(put(tmp_path, names), range(5), None)


def test_shards_that_are_not_in_the_order_of_their_numbers_are_told(tmp_path):
    for i in (0, 2, 10):
        np.savez(tmp_path / f"samples_{i}.npz", samples=IMAGES[i : i + 1])
    checked(tmp_path, [0, 10, 2], None, "as text, 10 before 2")


def test_what_is_skipped_is_told(tmp_path, packed):
    put(tmp_path / "a", [f"{i:02d}.png" for i in range(4)])
    for name in ("a.txt", "b.txt", "c.xcf", "._00.png", ".DS_Store", "manifest.json", "x-grid.png"):
        (tmp_path / "a" / name).write_bytes(b"")
    line = "5 of 10 files skipped: 2 .txt, 1"
    checked(packed(tmp_path / "a"), range(4), None, line)


def test_pictures_beside_shards_are_told(tmp_path):
    np.savez(tmp_path / "samples_0.npz", samples=IMAGES[:2])
    put(tmp_path, ["a.png", "b.png"])
    checked(tmp_path, range(2), None, "2 of 3 files skipped: 2 .png")


def test_every_file_counts_once(tmp_path):
    folder = put(tmp_path / "a", ["v1/0.png", "v1/1.png", "v2/2.png"])
    for link in ("latest", "v2/up", "loop"):
        os.symlink({"latest": "v1", "v2/up": "..", "loop": "."}[link], folder / link)
    os.symlink(folder / "v1" / "0.png", folder / "v2" / "3.png")
    line = "4 of its links or entries skipped"
    checked(folder, range(3), [0, 0, 1], line, "0 v1, 1 v2")
    os.symlink(folder / "v1", tmp_path / "b")
    checked(tmp_path / "b", range(2), None)
    (tmp_path / "c").mkdir()
    os.symlink(folder / "v1", tmp_path / "c" / "cat")
    os.symlink(folder / "v2", tmp_path / "c" / "dog")
    checked(tmp_path / "c", range(3), [0, 0, 1], "4 of its links", "0 cat, 1 dog")


def test_shards_count_once(tmp_path):
    (tmp_path / "v1").mkdir()
    np.savez(tmp_path / "v1/samples_0.npz", samples=IMAGES[:2])
    os.symlink("v1", tmp_path / "latest")
    checked(tmp_path, range(2), None, "1 of its links")


def test_a_broken_link_is_named(tmp_path):
    put(tmp_path, ["0.png"])
    os.symlink("nowhere", tmp_path / "1.png")
    with pytest.raises(ValueError, match=r"1\.png cannot be read"):
        load_images(tmp_path)


@pytest.mark.parametrize(
    ("names", "streamed", "loaded"),
    [
        ([f"{i}.png" for i in range(12)], "f057ec4475c37251", "14c70ed652dbb58f"),
        ([f"{i % 10}/{i:03d}.png" for i in range(12)], "26318d45d73cec54", "2b6e7d11d424002a"),
        (
            [f"0000{i // 5}/img{i:08d}.png" for i in range(12)],
            "b473d26dd99833ce",
            "b881f93be0dfd36f",
        ),
        (
            [f"{i // 6 * 1000:06d}/{i // 6 * 1000 + i:06d}.png" for i in range(12)],
            "1edcbd320ef0f83e",
            "14c70ed652dbb58f",
        ),
        (["a.png", "b/c.png", "b/d.png"], "31c544b3ef8544e5", "4ebe519b34f1c7b5"),
    ],
)
def test_fingerprints_stay_what_they_were(tmp_path, names, streamed, loaded):
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    for name, image in zip(names, images, strict=False):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / name)
    assert open_images(tmp_path).fingerprint() == streamed
    assert load_images(tmp_path).fingerprint() == loaded


def test_numbers_of_one_width_are_in_the_order_of_the_others():
    """The short way of many images in class folders gives what the long way gives."""
    rng = np.random.default_rng(0)
    numbers = [f"{n:05d}" for n in rng.permutation(50)]
    names = [f"{c:03d}/a{n}-{n[::-1]}.png" for c in (11, 2, 7) for n in numbers]
    folders = {name: name.split("/")[0] for name in names}
    short = by_number("set", names, pytest.fail, folders)
    wide = "011/a100000-7.png"
    long = by_number("set", [*names, wide], unheard, folders | {wide: "011"})
    assert short == [name for name in long if name in folders]
