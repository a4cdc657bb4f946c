"""One reader: what a source holds, and the same items, labels and seeds whether they are streamed,
loaded or cropped."""

import gc

import numpy as np
import pytest
from PIL import Image

from dg.data.npz_files import NpzImages
from dg.data.reader import kinds_of, load_images, open_images

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, [12, 6, 6, 3], dtype=np.uint8)
LABELS = RNG.permutation(np.arange(12) % 4)
SEEDS = RNG.permutation(40)[:12]


def shards(folder, **arrays):
    folder.mkdir(parents=True)
    for i, index in enumerate(np.split(np.arange(12), [5, 6])):
        np.savez(
            folder / f"samples_{i}.npz", **{key: array[index] for key, array in arrays.items()}
        )
    return folder


def pngs(folder, names):
    for name, image in zip(names, IMAGES, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
    return folder


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


BY_CLASS, BY_SEED = np.argsort(LABELS, kind="stable"), np.argsort(SEEDS)


@pytest.mark.parametrize(
    ("kind", "order", "labelled", "seeded"),
    [
        ("npz", range(12), True, False),
        ("npz of both splits", range(12), True, False),
        ("npz with seeds", BY_SEED, True, True),
        ("npz by columns", range(12), False, False),
        ("interleaved shards", BY_SEED, True, True),
        ("one-hot shards", range(12), True, False),
        ("class folders", BY_CLASS, True, False),
        ("seed names", BY_SEED, False, True),
        ("seed folders", BY_SEED, False, True),
    ],
)
def test_streamed_loaded_and_cropped_images_are_the_same(tmp_path, kind, order, labelled, seeded):
    if kind == "npz":
        source = save(tmp_path / "a.npz", images=IMAGES, labels=LABELS)
    elif kind == "npz of both splits":
        train = dict(train_images=IMAGES[:3], train_labels=LABELS[:3])
        source = f"{save(tmp_path / 'a.npz', test_images=IMAGES, test_labels=LABELS, **train)}:test"
    elif kind == "npz with seeds":
        source = save(tmp_path / "a.npz", samples=IMAGES, label=LABELS, seeds=SEEDS)
    elif kind == "npz by columns":
        source = save(tmp_path / "a.npz", images=np.asfortranarray(IMAGES))
    elif kind == "interleaved shards":
        source = shards(tmp_path / "a", samples=IMAGES, label=LABELS, seeds=SEEDS)
    elif kind == "one-hot shards":
        source = shards(tmp_path / "a", samples=IMAGES, label=np.eye(4)[LABELS])
    elif kind == "class folders":
        source = pngs(tmp_path, [f"c{label}/{i:02d}.png" for i, label in enumerate(LABELS)])
    else:
        folder = "" if kind == "seed names" else "000000/"
        source = pngs(tmp_path, [f"{folder}{seed:06d}.png" for seed in SEEDS])
    stream, loaded, order = open_images(source), load_images(source), np.asarray(order)
    labels = LABELS[order] if labelled else None
    for found in (stream, loaded):
        np.testing.assert_array_equal(found.labels, labels)
        assert len(found) == 12 and found.num_classes == (4 if labelled else 0)
    np.testing.assert_array_equal(stream.seeds, SEEDS[order] if seeded else None)
    np.testing.assert_array_equal(loaded.images, IMAGES[order])
    some = np.array([7, 2, 2, 11])
    np.testing.assert_array_equal(stream.read(some), IMAGES[order][some])
    np.testing.assert_array_equal(stream.crops(some, 6), IMAGES[order][some])
    first = load_images(source, 2)
    np.testing.assert_array_equal(first.images, IMAGES[order][:2])
    assert first.num_classes == loaded.num_classes and kinds_of(source) == {"images"}


def test_the_first_images_of_a_set_are_read_alone(tmp_path, monkeypatch):
    source, read, really = shards(tmp_path / "a", samples=IMAGES, label=LABELS), [], NpzImages.read
    monkeypatch.setattr(
        NpzImages, "read", lambda self, *rows: read.append(rows) or really(self, *rows)
    )
    assert len(load_images(source, 6)) == 6 and read == [(0, 5), (0, 1)]


def test_what_a_source_holds(tmp_path):
    statistics = {"mu": np.zeros(2), "sigma": np.eye(2)}
    assert kinds_of(save(tmp_path / "mu.npz", **statistics)) == {"statistics"}
    assert kinds_of(save(tmp_path / "adm.npz", arr_0=IMAGES, **statistics)) == {
        "statistics",
        "images",
    }
    latents = np.zeros([12, 4, 3, 3], np.float32)
    assert kinds_of(save(tmp_path / "l.npz", latents=latents)) == {"latents"}
    assert kinds_of(shards(tmp_path / "l" / "train", latents=latents)) == {"latents"}
    assert kinds_of(f"{tmp_path}/l:train") == {"latents"}
    assert kinds_of(pngs(tmp_path / "p", [f"{i}.png" for i in range(12)])) == {"images"}
    assert kinds_of("digits") == kinds_of("cifar10:test") == {"images"}
    save(tmp_path / "other.npz", pixels=IMAGES)
    for source in ("other.npz", "nowhere.npz", "nowhere", "nowhere:test"):
        assert kinds_of(tmp_path / source) == set()
    (tmp_path / "mu.npz").write_bytes((tmp_path / "mu.npz").read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"mu\.npz cannot be read"):
        kinds_of(tmp_path / "mu.npz")


def test_a_seed_that_is_there_twice_is_refused_by_all(tmp_path):
    folder = shards(tmp_path / "a", samples=IMAGES, seeds=np.arange(12) % 11)
    for use in (open_images, load_images):
        with pytest.raises(ValueError, match=r"samples_0.npz and .*samples_2.npz both hold seed 0"):
            use(folder)
        with pytest.raises(ValueError, match=r"a\.npz holds seed 3 twice"):
            use(save(tmp_path / "a.npz", samples=IMAGES[:2], seeds=[3, 3]))


def test_a_folder_of_statistics_is_no_reference(tmp_path):
    save(tmp_path / "x.npz", mu=np.zeros(2), sigma=np.eye(2))
    assert kinds_of(tmp_path) == {"images"}
    with pytest.raises(ValueError, match=r"x\.npz holds reference statistics"):
        open_images(tmp_path)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_is_as_it_was(tmp_path, enabled):
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        open_images("digits")
        assert gc.isenabled() == enabled
        with pytest.raises(ValueError, match="does not exist"):
            open_images(tmp_path / "missing")
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()
