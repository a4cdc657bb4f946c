"""Arrays of all layouts mean the same in all roles; what cannot be known is asked for in one
line."""

import pickle

import numpy as np
import pytest

from dg.data.latents import load_latents, load_set
from dg.data.reader import kinds_of, load_images, open_images

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, [12, 8, 8, 3], dtype=np.uint8)
GREY = IMAGES[..., 0]
LABELS = np.arange(12) % 3
LATENTS = RNG.standard_normal([6, 4, 5, 5]).astype(np.float32)


def checked(source, images, labels, *told):
    """In all roles these images and labels; every `told` in one line."""
    lines, stream = [], open_images(source)
    loaded = load_set(source, lines.append)
    np.testing.assert_array_equal(loaded.images, images)
    np.testing.assert_array_equal(load_images(source).images, images)
    np.testing.assert_array_equal(stream.read(np.arange(len(stream))), images)
    rgb = np.broadcast_to(images, (*images.shape[:3], 3))
    np.testing.assert_array_equal(stream.crops(np.arange(len(stream)), 8), rgb)
    for found in (stream, loaded):
        np.testing.assert_array_equal(found.labels, labels)
    assert len(lines) == len(told) and all(a in b for a, b in zip(told, lines, strict=True)), lines
    assert kinds_of(source) == {"images"}


def refused(source, match):
    """The same line in all roles."""
    lines = set()
    for use in (open_images, load_images, load_set):
        with pytest.raises(ValueError, match=match) as error:
            use(source)
        lines.add(str(error.value))
    assert len(lines) == 1 and "\n" not in lines.pop()


# ---- one image per file


@pytest.mark.parametrize("layout", ["rows last", "channels first", "grey"])
@pytest.mark.parametrize("labels", ["number", "row", "one-hot", None])
def test_files_of_one_image(tmp_path, layout, labels):
    if layout == "channels first" and labels in ("one-hot", None):
        pytest.skip("cannot be known")
    expected = GREY[..., None] if layout == "grey" else IMAGES
    for i, image in enumerate(expected):
        image = image.transpose(2, 0, 1) if layout == "channels first" else image
        label = {"number": LABELS[i], "row": LABELS[i : i + 1], "one-hot": np.eye(3)[LABELS[i]]}
        more = {} if labels is None else {"label": label[labels]}
        np.savez(tmp_path / f"samples_{i:02d}.npz", samples=image, **more)
    told = "12 of 12 files are one image each"
    checked(tmp_path, expected, None if labels is None else LABELS, told)
    one = tmp_path / "samples_03.npz"
    checked(one, expected[3:4], None if labels is None else LABELS[3:4], "1 of 1 files")


def test_one_image_with_its_seed(tmp_path):
    for i in range(4):
        np.savez(tmp_path / f"samples_{i}.npz", samples=IMAGES[i].T, seeds=np.int64(9 - i))
    expected = IMAGES[3::-1].transpose(0, 2, 1, 3)
    checked(tmp_path, expected, None, "4 of 4 files are one image each")
    assert open_images(tmp_path).seeds.tolist() == [6, 7, 8, 9]


@pytest.mark.parametrize("shape", [(9, 8, 3), (3, 8, 8), (9, 8, 1)])
def test_what_cannot_be_known_is_asked_for(tmp_path, shape):
    for name in "ab":
        np.savez(tmp_path / f"samples_{name}.npz", samples=np.zeros(shape, np.uint8))
    line = rf"a\.npz: uint8 \[{shape[0]}, .* may be one image or {shape[0]} grey ones; save one as"
    refused(tmp_path, line)
    refused(tmp_path / "samples_a.npz", line)


def test_several_grey_images_stay_several(tmp_path):
    np.savez(tmp_path / "samples_a.npz", samples=GREY[:5])
    np.savez(tmp_path / "samples_b.npz", samples=GREY[5:8])  # [3, 8, 8], as the others tell
    checked(tmp_path, GREY[:8, ..., None], None)
    np.savez(tmp_path / "c.npz", images=GREY[:3], labels=LABELS[:3])
    checked(tmp_path / "c.npz", GREY[:3, ..., None], LABELS[:3])
    np.savez(tmp_path / "d.npz", images=GREY[:8])  # [8, 8, 8]
    checked(tmp_path / "d.npz", GREY[:8, ..., None], None)


# ---- layouts


def test_arrays_by_columns(tmp_path):
    for array in (IMAGES, IMAGES.transpose(0, 3, 1, 2), GREY):
        np.savez(tmp_path / "a.npz", images=np.asfortranarray(array), labels=LABELS)
        checked(tmp_path / "a.npz", GREY[..., None] if array.ndim == 3 else IMAGES, LABELS)
    np.savez(tmp_path / "b.npz", images=np.asfortranarray(IMAGES[0]))
    checked(tmp_path / "b.npz", IMAGES[:1], None, "1 of 1 files")
    np.savez(tmp_path / "c.npz", latents=np.asfortranarray(LATENTS))
    np.testing.assert_array_equal(load_latents(tmp_path / "c.npz").latents, LATENTS)


@pytest.mark.parametrize("key", ["samples", "images", "arr_0"])
@pytest.mark.parametrize("shape", [(12, 8, 8), (100, 8, 8), (12, 8, 8, 3), (12, 3, 8, 8)])
def test_floats_are_no_images(tmp_path, key, shape):
    np.savez(tmp_path / "a.npz", **{key: np.zeros(shape, np.float32)})
    refused(tmp_path / "a.npz", r"a\.npz: images are float32, not uint8; convert them first")
    four = {"samples": np.zeros([4, 8, 8], np.float32), "label": np.arange(4)}
    np.savez(tmp_path / "b.npz", **four)  # with four labels no latent
    refused(tmp_path / "b.npz", "float32, not uint8")


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (LABELS[:5], "5 labels for 12 images; give one per image"),
        (np.arange(15), "15 labels for 12 images"),
        (LABELS - 1, "label -1 is negative; number the classes from 0"),
        (LABELS.astype(str), "<U21 .* are not labels; give one integer per image"),
        (LABELS.astype(str)[:, None], "are not labels; give one integer per image"),
        (LABELS.astype(str).astype(object), "labels cannot be read .*; save it as numbers"),
        (LABELS / 2, "are not labels; give one integer per image"),
        (np.int64(3), "are not labels; give one integer per image"),
        (LABELS + 10**9, "label 1000000... is larger than any number of classes"),
        (LABELS.astype(np.uint64) + 2**63, "label 92233.* is larger than any number of classes"),
    ],
)
def test_labels_that_are_none(tmp_path, labels, match):
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=labels)
    refused(tmp_path / "a.npz", match)


def test_the_split_that_is_assumed_is_told(tmp_path):
    parts = {"train_images": IMAGES, "train_labels": LABELS, "test_images": IMAGES[:2]}
    np.savez(tmp_path / "a.npz", **parts)
    checked(tmp_path / "a.npz", IMAGES, LABELS, "the split train is taken; test left out")
    assert len(open_images(f"{tmp_path}/a.npz:test")) == 2


# ---- names of files


def test_arrays_that_are_not_read_are_told(tmp_path):
    np.savez(tmp_path / "a.npz", images=IMAGES, y=LABELS, samples_of_test=IMAGES[:2])
    checked(tmp_path / "a.npz", IMAGES, None, "left out of its files: samples_of_test, y")
    np.savez(tmp_path / "b.npz", train_images=IMAGES, val_images=IMAGES[:2])
    checked(tmp_path / "b.npz", IMAGES, None, "left out of its files: val_images")
    np.savez(tmp_path / "c.npz", arr_0=IMAGES, mu=np.zeros(2), sigma=np.eye(2))
    lines = []
    load_images(tmp_path / "c.npz", notify=lines.append)
    assert lines == []  # statistics of these images


@pytest.mark.parametrize("form", ["{}.npz", "cifar10_{}.npz", "samples_{}.npz"])
def test_files_of_splits_are_no_shards(tmp_path, form):
    np.savez(tmp_path / form.format("train"), samples=IMAGES[:8])
    np.savez(tmp_path / form.format("test"), samples=IMAGES[8:])
    names = [form.format(split) for split in ("train", "test")]
    skipped = "1 of 2 files skipped: 1 .npz"
    checked(tmp_path, IMAGES[:8], None, f"split {names[0]} is taken; {names[1]} left", skipped)
    np.savez(tmp_path / form.format("more"), samples=IMAGES[8:])
    refused(tmp_path, rf"holds the splits .* and .*more.*; name one, such as .*/{names[0]}")


def test_npy_files(tmp_path):
    np.save(tmp_path / "a.npy", IMAGES)
    checked(tmp_path / "a.npy", IMAGES, None)
    np.save(tmp_path / "by_columns.npy", np.asfortranarray(IMAGES))
    checked(tmp_path / "by_columns.npy", IMAGES, None)
    (tmp_path / "b").mkdir()
    for i in range(3):
        np.save(tmp_path / "b" / f"samples_{i}.npy", IMAGES[4 * i : 4 * i + 4])
    checked(tmp_path / "b", IMAGES, None)
    np.save(tmp_path / "c.npy", LATENTS)
    assert kinds_of(tmp_path / "c.npy") == {"latents"}
    np.testing.assert_array_equal(load_set(tmp_path / "c.npy").latents, LATENTS)
    np.save(tmp_path / "d.npy", IMAGES / 255)
    refused(tmp_path / "d.npy", "float64, not uint8")
    (tmp_path / "d.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-1])
    refused(tmp_path / "d.npy", "cannot be read .fewer bytes than its header tells")


def test_upper_case_and_hidden_files(tmp_path):
    for i, name in enumerate(["samples_0.NPZ", "samples_1.npz"]):
        with open(tmp_path / name, "wb") as file:
            np.savez(file, samples=IMAGES[6 * i : 6 * i + 6])
    (tmp_path / "._samples_0.npz").write_bytes(b"\0\5\x16\7")
    checked(tmp_path, IMAGES, None, "1 of 3 files skipped: 1 hidden")
    (tmp_path / "a").mkdir()
    np.savez(tmp_path / "a" / "x.npz", images=IMAGES)
    (tmp_path / "a" / "._x.npz").write_bytes(b"\0\5\x16\7")
    checked(tmp_path / "a", IMAGES, None, "1 of 2 files skipped: 1 hidden")


def test_files_with_other_suffixes(tmp_path):
    statistics = {"mu": np.zeros(2), "sigma": np.eye(2)}
    np.savez(tmp_path / "stats.npz", **statistics)
    refused(tmp_path / "stats", r"stats does not exist; give .*stats\.npz")
    (tmp_path / "stats.npz").rename(tmp_path / "stats")
    assert kinds_of(tmp_path / "stats") == {"statistics"}
    refused(tmp_path / "stats", r"holds reference statistics")
    for name in ("stats.pkl", "stats.pt"):
        (tmp_path / name).write_bytes(pickle.dumps(statistics))
        assert kinds_of(tmp_path / name) == set()
        refused(tmp_path / name, r"save them with numpy.savez\('stats.npz', mu=mean, sigma=cov")


def test_a_name_means_the_data_set_and_not_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    np.savez(tmp_path / "digits" / "samples_0.npz", latents=LATENTS)
    assert kinds_of("digits") == kinds_of("digits:train") == {"images"}
    assert kinds_of("./digits") == {"latents"} and len(load_set("./digits")) == 6
    lines = []
    assert len(load_set("digits", lines.append)) == 1797
    assert len(open_images("digits", notify=lines.append)) == 1797
    assert lines == ["digits is the data set of that name; write ./digits for the one here"] * 2
