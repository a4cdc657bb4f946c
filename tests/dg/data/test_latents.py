"""Sets of latents: what is read from shards and from the authors' single files, and what is
refused."""

import numpy as np
import pytest
import torch

from dg.data.images import ImageSet
from dg.data.latents import LatentSet, LatentStore, load_latents, load_set
from dg.data.reader import load_images, open_images

LATENTS = np.random.default_rng(0).standard_normal([7, 4, 3, 3]).astype(np.float32)
LABELS = np.array([0, 0, 1, 1, 1, 2, 2])
SETTINGS = {"vae": "abc", "resolution": 6, "sample": True, "seed": 3}


def stored(folder, latents=LATENTS, labels=LABELS, settings=SETTINGS, batches=(0, 1, 2)):
    store = LatentStore(folder, settings, range(7), 3)
    for index in batches:
        seeds = store.batches()[index]
        store.write(index, latents[seeds], None if labels is None else labels[seeds])
    return store


def singles(folder, latents=LATENTS, labels=LABELS):
    """The authors' layout: class folders with one latent per file."""
    for i, latent in enumerate(latents):
        (folder / f"n{labels[i]:04d}").mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            folder / f"n{labels[i]:04d}" / f"samples_{i}.npz",
            samples=latent,
            label=np.int64(labels[i]),
        )
    return folder


def test_a_set():
    data = LatentSet(LATENTS, LABELS, "set")
    assert (len(data), data.resolution, data.channels, data.num_classes, data.what) == (
        7,
        3,
        4,
        3,
        "latents",
    )
    part = data.subset([5, 2])
    assert (
        np.array_equal(part.latents, LATENTS[[5, 2]])
        and part.labels.tolist() == [2, 1]
        and part.num_classes == 3
    )
    assert data.take(2).latents.base is not None, "the first ones are no copy"
    floats = LatentSet(LATENTS.astype(np.float16), None, "set").floats(np.array([1, 3]))
    assert floats.dtype == torch.float32 and np.abs(floats.numpy() - LATENTS[[1, 3]]).max() < 2e-3
    assert data.fingerprint() != LatentSet(LATENTS, None, "set").fingerprint()
    assert data.fingerprint() != LatentSet(LATENTS + 1, LABELS, "set").fingerprint()
    with pytest.raises(ValueError, match="set: 8 latents asked for, 7 found"):
        data.take(8)


@pytest.mark.parametrize(
    ("latents", "labels", "match"),
    [
        (LATENTS.astype(np.float64), None, "are not latents; give float16 or float32"),
        (LATENTS[0], None, "are not latents"),
        (LATENTS, LABELS[:3], "3 labels for 7 latents; give one per latent"),
        (LATENTS, LABELS - 1, "label -1 is negative"),
    ],
)
def test_what_is_no_set_is_refused(latents, labels, match):
    with pytest.raises(ValueError, match=match):
        LatentSet(latents, labels, "set")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_store_gives_its_latents_back(tmp_path, dtype):
    latents = LATENTS.astype(dtype)
    back = stored(tmp_path, latents).load()
    assert [path.name for path in sorted(tmp_path.glob("*.npz"))][::2] == [
        "samples_00000000-00000002.npz",
        "samples_00000006-00000006.npz",
    ]
    assert (
        back.latents.dtype == dtype
        and np.array_equal(back.latents, latents)
        and np.array_equal(back.labels, LABELS)
    )
    assert back.encoding == {"vae": "abc", "resolution": 6, "sample": True}
    shard = np.load(tmp_path / "samples_00000003-00000005.npz")
    assert shard["seeds"].tolist() == [3, 4, 5] and shard["labels"].tolist() == [1, 1, 2]
    one = load_latents(tmp_path / "samples_00000003-00000005.npz")
    assert np.array_equal(one.latents, latents[3:6]) and one.encoding is None


def test_a_store_knows_its_settings_and_what_it_lacks(tmp_path):
    stored(tmp_path, batches=[0, 2])
    with pytest.raises(ValueError, match="holds 4 of 7 latents; give the same pretrain"):
        load_latents(tmp_path)
    with pytest.raises(ValueError, match="made with other settings \\(seed 3 there, 4 here\\)"):
        stored(tmp_path, settings=SETTINGS | {"seed": 4})
    store = stored(tmp_path, batches=[])
    assert store.pending() == [1]
    shard = tmp_path / "samples_00000006-00000006.npz"
    shard.write_bytes(shard.read_bytes()[:-9])
    assert store.pending() == [1, 2] and store.damaged == [shard.name]
    with pytest.raises(ValueError, match="2 has 1 seeds, not 7 latents"):
        store.write(2, LATENTS)


def test_the_authors_files(tmp_path):
    back = load_set(singles(tmp_path))
    assert (
        isinstance(back, LatentSet)
        and np.array_equal(back.latents, LATENTS)
        and np.array_equal(back.labels, LABELS)
    )
    assert back.latents.dtype == np.float32 and back.encoding is None


def test_images_stay_images(tmp_path):
    images = np.zeros([3, 4, 4, 3], np.uint8)
    np.savez(tmp_path / "samples_0.npz", samples=images)
    for source in (tmp_path, tmp_path / "samples_0.npz", "digits:train"):
        assert isinstance(load_set(source), ImageSet)
    with pytest.raises(ValueError, match=r"holds no latents; write some with pretrain\.py latents"):
        load_latents(tmp_path)
    # images, of the wrong kind
    with pytest.raises(ValueError, match="float32, not uint8; convert them first"):
        np.savez(tmp_path / "samples_0.npz", samples=images.astype(np.float32))
        load_set(tmp_path)


def test_latents_are_not_taken_for_images(tmp_path):
    stored(tmp_path)
    for load in (load_images, open_images):
        with pytest.raises(
            ValueError,
            match=r"holds latents, not images; train\.py and pretrain\.py classifier take",
        ):
            load(tmp_path)


def spoil(path, **changes):
    np.savez(path, **dict(np.load(path)) | changes)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (dict(latents=np.full([3, 4, 3, 3], np.nan, np.float32)), "not finite"),
        (
            dict(latents=np.zeros([3, 4, 5, 5], np.float32)),
            r"latents are float32 \[3, 4, 5, 5\] but",
        ),
        (
            dict(latents=np.zeros([3, 4, 3, 3], np.float16)),
            r"latents are float16 \[3, 4, 3, 3\] but",
        ),
        (dict(labels=np.zeros([2], np.int64)), "2 labels for 3 latents; give one per latent"),
        (dict(labels=np.zeros([3])), "are not labels; give one integer per latent"),
    ],
)
def test_shards_that_do_not_fit_are_named(tmp_path, change, match):
    stored(tmp_path)
    spoil(tmp_path / "samples_00000003-00000005.npz", **change)
    with pytest.raises(ValueError, match=match) as error:
        load_latents(tmp_path)
    assert "samples_00000003" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["samples_00000000-00000002.npz", "samples_00000003-00000005.npz"])
def test_damage_is_one_line(tmp_path, name):
    stored(tmp_path)
    content = (tmp_path / name).read_bytes()
    for damaged in (content[:-40], content[:200] + b"?" * 40 + content[240:]):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{name}(: latents)? cannot be read") as error:
            load_set(tmp_path)
        assert "\n" not in str(error.value)


def test_a_manifest_that_is_none_is_refused(tmp_path):
    stored(tmp_path, labels=None)
    assert load_latents(tmp_path).labels is None
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(ValueError, match="is not a store's"):
        load_latents(tmp_path)


def test_names_of_classes_come_from_the_manifest(tmp_path):
    store = LatentStore(tmp_path, SETTINGS, range(7), 7, class_names=("cat", "dog", "owl"))
    store.write(0, LATENTS, LABELS)
    assert load_latents(tmp_path).class_names == ("cat", "dog", "owl")
