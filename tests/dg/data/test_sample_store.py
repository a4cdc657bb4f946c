import itertools
import json
import multiprocessing
import os
import signal
import time
import zipfile

import numpy as np
import pytest

from dg.data import sample_store as store_module
from dg.data.datasets import load_images
from dg.data.sample_store import SampleStore, checked_seeds
from dg.runtime.files import sha256_of

FORK = multiprocessing.get_context("fork")
SETTINGS = {"steps": 18, "S_max": float("inf")}


def images_of(seeds, channels=3):
    """An image that tells its seed."""
    return np.stack(
        [
            np.random.RandomState(seed).randint(0, 256, (4, 4, channels), dtype=np.uint8)
            for seed in seeds
        ]
    )


def labels_of(seeds):
    return np.array([seed % 10 for seed in seeds])


def fill(store, batches=None, conditional=True):
    for index in store.pending() if batches is None else batches:
        seeds = store.batches()[index]
        store.write(index, images_of(seeds), labels_of(seeds) if conditional else None)
    return store


def contents(folder):
    return {str(p.relative_to(folder)): sha256_of(p) for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("how", "name"),
    [
        ({}, "samples_000000-000003.npz"),
        ({"save_type": "png"}, "000003.png"),
        ({"save_type": "png", "subdirs": True}, "000000/000003.png"),
    ],
)
def test_round_trip(tmp_path, how, name):
    seeds = [*range(7), 1000, 1000000, 1000001]
    store = fill(SampleStore(tmp_path, SETTINGS, seeds, 4, **how))
    assert (tmp_path / name).is_file() and store.pending() == []
    for back in (store.load(), load_images(tmp_path)):
        assert np.array_equal(back.images, images_of(seeds))
        assert np.array_equal(back.labels, labels_of(seeds))


def test_grey_and_unconditional(tmp_path):
    for save_type in ("npz", "png"):
        store = SampleStore(tmp_path / save_type, SETTINGS, range(3), 2, save_type)
        for index, seeds in enumerate(store.batches()):
            store.write(index, images_of(seeds, channels=1))
        back = store.load()
        assert back.labels is None and np.array_equal(back.images, images_of(range(3), channels=1))


def test_order_of_a_scattered_seed_list_is_ascending_and_names_are_unique(tmp_path):
    seeds = [9, 5, 7, 1, 3, 0, 4, 2]
    store = fill(SampleStore(tmp_path, SETTINGS, seeds, 3))
    assert np.array_equal(store.load().images, images_of(sorted(seeds)))
    first = {p.name for p in tmp_path.glob("*.npz")}
    other = fill(SampleStore(tmp_path / "b", SETTINGS, [9, 6, 7], 3))
    assert not {p.name for p in other.outdir.glob("*.npz")} & first  # same ends, another list


def test_shards_are_the_same_bytes_whenever_they_are_made(tmp_path):
    fill(SampleStore(tmp_path, SETTINGS, range(4), 4))
    with zipfile.ZipFile(tmp_path / "samples_000000-000003.npz") as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.namelist() == ["samples.npy", "seeds.npy", "label.npy"]
    with np.load(tmp_path / "samples_000000-000003.npz") as arrays:
        assert [arrays[key].dtype for key in arrays.files] == [np.uint8, np.int64, np.int64]


@pytest.mark.parametrize("how", [{}, {"save_type": "png", "subdirs": True}])
def test_a_store_filled_by_parts_equals_one_filled_at_once(tmp_path, how):
    fill(SampleStore(tmp_path / "once", SETTINGS, range(10), 3, **how)).finish()
    fill(SampleStore(tmp_path / "parts", SETTINGS, range(10), 3, **how), batches=[2, 0])
    store = SampleStore(tmp_path / "parts", SETTINGS, range(10), 3, **how)
    assert store.pending() == [1, 3] and store.damaged == []
    with pytest.raises(ValueError, match=r"lacks seeds 3-5"):
        store.load()
    fill(store).finish()
    assert contents(tmp_path / "once") == contents(tmp_path / "parts")


@pytest.mark.parametrize("how", [{}, {"save_type": "png"}])
def test_killed_while_writing(tmp_path, how):
    fill(SampleStore(tmp_path / "whole", SETTINGS, range(40), 8, **how)).finish()

    def run(folder, moment):
        renames, replace = itertools.count(1), os.replace

        def kill_at_rename(old, new):
            if next(renames) == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(old, new)

        os.replace = kill_at_rename
        fill(SampleStore(folder, SETTINGS, range(40), 8, **how))

    # the manifest, then image files and records take their names in turn
    for moment in (
        1,
        2,
        3,
        4,
        10,
    ):
        folder = tmp_path / str(moment)
        child = FORK.Process(target=run, args=(folder, moment))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        for path in folder.glob("*.npz"):
            np.load(path)["samples"]
        fill(SampleStore(folder, SETTINGS, range(40), 8, **how)).finish()
        assert contents(folder) == contents(tmp_path / "whole")


@pytest.mark.parametrize("how", [{}, {"save_type": "png"}])
def test_damage_is_named_and_made_again(tmp_path, how):
    store = fill(SampleStore(tmp_path, SETTINGS, range(6), 2, **how))
    before = contents(tmp_path)
    first, *_, second = sorted(
        path for path in tmp_path.iterdir() if path.suffix in (".npz", ".png")
    )
    content = bytearray(first.read_bytes())
    content[len(content) // 2] ^= 1  # same length
    first.write_bytes(content)
    second.unlink()
    (tmp_path / "shards" / "000002-000003.json").write_text('{"seeds"')
    store = SampleStore(tmp_path, SETTINGS, range(6), 2, **how)
    assert store.pending() == [0, 1, 2]
    assert store.damaged == [first.name, "shards/000002-000003.json", second.name]
    fill(store)
    assert contents(tmp_path) == before and store.pending() == [] and store.damaged == []


@pytest.mark.parametrize("how", [{}, {"save_type": "png"}])
def test_a_longer_list_extends_the_store(tmp_path, monkeypatch, how):
    def interrupt(*args):
        raise KeyboardInterrupt

    fill(SampleStore(tmp_path, SETTINGS, range(10), 4, **how)).finish()
    kept = sha256_of(tmp_path / "shards" / "000000-000003.json")
    monkeypatch.setattr(SampleStore, "_retire_tail", interrupt)
    with pytest.raises(KeyboardInterrupt):
        SampleStore(tmp_path, SETTINGS, range(18), 4, **how)
    monkeypatch.undo()
    store = SampleStore(tmp_path, SETTINGS, range(18), 4, **how)
    assert store.pending() == [2, 3, 4]  # 8-9 were a short batch, 8-11 takes its place
    assert not (tmp_path / "dataset.json").exists()  # it would not know the new images
    assert len(fill(store).load()) == 18
    assert sha256_of(tmp_path / "shards" / "000000-000003.json") == kept
    fill(SampleStore(tmp_path / "new", SETTINGS, range(18), 4, **how)).finish()
    store.finish()
    new = contents(tmp_path / "new")
    assert {k: v for k, v in contents(tmp_path).items() if not k.startswith("new")} == new


@pytest.mark.parametrize(
    ("before", "after", "pending"),
    [
        (8, 12, [2]),
        (8, 9, [2]),  # a full batch stays
        (10, 11, [2]),
        (10, 12, [2]),
        (3, 4, [0]),
        (1, 9, [0, 1, 2]),  # a short one goes
    ],
)
def test_only_a_short_last_batch_is_made_again(tmp_path, before, after, pending):
    fill(SampleStore(tmp_path / "grown", SETTINGS, range(before), 4))
    assert (
        fill(store := SampleStore(tmp_path / "grown", SETTINGS, range(after), 4)).pending() == []
        and store.damaged == []
    )
    fill(SampleStore(tmp_path / "new", SETTINGS, range(after), 4))
    assert contents(tmp_path / "grown") == contents(tmp_path / "new")
    fill(SampleStore(tmp_path / "again", SETTINGS, range(before), 4))
    assert SampleStore(tmp_path / "again", SETTINGS, range(after), 4).pending() == pending


def test_a_store_of_many_batches_is_extended_without_looking_through_them(tmp_path, monkeypatch):
    class Batches(list):
        def __contains__(self, batch):
            raise AssertionError("looks for a batch among all")

    monkeypatch.setattr(
        "dg.data.sample_store.partition",
        lambda *args, cut=store_module.partition: Batches(cut(*args)),
    )
    fill(SampleStore(tmp_path, SETTINGS, range(10), 4))
    assert SampleStore(tmp_path, SETTINGS, range(18), 4).pending() == [2, 3, 4]


def test_other_settings_seeds_and_files_are_refused(tmp_path):
    fill(SampleStore(tmp_path / "a", SETTINGS, range(4), 2))
    before = contents(tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "cat.png").touch()
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "manifest.json").write_text('[{"name": "something else"}]')
    cases = [
        (
            "a",
            {**SETTINGS, "steps": 35},
            range(4),
            2,
            {},
            r"steps 18 there, 35 here.*another folder",
        ),
        ("a", SETTINGS, range(4), 4, {}, "batch size 2 there, 4 here"),
        ("a", SETTINGS, range(4), 2, {"save_type": "png"}, 'save type "npz" there, "png" here'),
        ("a", SETTINGS, range(3), 2, {}, "holds seeds 0-3, and seeds 0-2"),
        ("a", SETTINGS, range(4, 8), 2, {}, "holds seeds 0-3, and seeds 4-7"),
        ("b", SETTINGS, range(4), 2, {}, "cat.png is not an image of this run"),
        ("c", SETTINGS, range(4), 2, {}, "not a sample store"),
        ("b/cat.png", SETTINGS, range(4), 2, {}, "another folder"),
        ("d", SETTINGS, [], 2, {}, "no seeds"),
        ("d", SETTINGS, [1, 2, 1], 2, {}, "seed 1 is given twice"),
        ("d", SETTINGS, [-1], 2, {}, "negative"),
        ("d", SETTINGS, [0, 2**32], 2, {}, "seed 4294967296 is too large"),
        ("d", SETTINGS, [1], 0, {}, "batch size 0"),
        ("d", SETTINGS, [1], 1, {"save_type": "gif"}, "choose npz or png"),
    ]
    for folder, settings, seeds, batch_size, how, match in cases:
        with pytest.raises(ValueError, match=match) as caught:
            SampleStore(tmp_path / folder, settings, seeds, batch_size, **how)
        assert "\n" not in str(caught.value)
    after = contents(tmp_path)
    assert {key: after[key] for key in before} == before and not (tmp_path / "d").exists()
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["cat.png"]


def test_a_seed_that_is_given_twice_is_found_at_once():
    seeds, start = [*range(200_000), 199_999], time.perf_counter()
    with pytest.raises(ValueError, match="seed 199999 is given twice"):
        checked_seeds(seeds)
    assert time.perf_counter() - start < 5  # comparing every seed with every other takes minutes


def test_a_foreign_shard_in_a_store_is_refused_and_a_preview_is_not(tmp_path):
    fill(SampleStore(tmp_path, SETTINGS, range(4), 2))
    (tmp_path / "grid.png").touch()
    assert SampleStore(tmp_path, SETTINGS, range(4), 2).pending() == []
    assert len(load_images(tmp_path)) == 4
    (tmp_path / "samples_000002-000003.npz").rename(tmp_path / "samples_7.npz")
    with pytest.raises(ValueError, match=r"samples_7.npz is not an image of this run"):
        SampleStore(tmp_path, SETTINGS, range(4), 2)


def test_a_store_without_images_may_change_its_settings(tmp_path):
    SampleStore(tmp_path, SETTINGS, range(4), 64)  # say, out of memory in the first batch
    store = fill(SampleStore(tmp_path, SETTINGS, range(4), 2))
    assert (
        json.loads((tmp_path / "manifest.json").read_text())["batch size"] == 2
        and len(store.load()) == 4
    )


def test_wrong_batches_are_refused(tmp_path):
    store = SampleStore(tmp_path, SETTINGS, range(4), 2)
    for images, labels, match in [
        (images_of([0]), None, "2 seeds, not 1 images"),
        (images_of([0, 1]).astype(np.float32), None, "uint8"),
        (images_of([0, 1]), np.array([1]), "1 labels for 2 images"),
        (images_of([0, 1]), np.array([0, -1]), "negative"),
    ]:
        with pytest.raises(ValueError, match=match):
            store.write(0, images, labels)
    assert store.pending() == [0, 1] and list(tmp_path.glob("*.npz")) == []


def test_two_processes_fill_one_store(tmp_path):
    store = SampleStore(tmp_path / "two", SETTINGS, range(64), 4)

    def run(rank):
        fill(store, [index for index in store.pending() if index % 2 == rank])

    ranks = [FORK.Process(target=run, args=(rank,)) for rank in (0, 1)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert [rank.exitcode for rank in ranks] == [0, 0]
    fill(SampleStore(tmp_path / "one", SETTINGS, range(64), 4))
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_names_of_classes_are_kept_and_hinder_no_older_store(tmp_path):
    images, labels = np.zeros([2, 4, 4, 3], np.uint8), np.arange(2)
    SampleStore(tmp_path, {"network": "abc"}, range(2), 2).write(0, images, labels)
    named = SampleStore(tmp_path, {"network": "abc"}, range(2), 2, class_names=("cat", "dog"))
    assert named.pending() == []
    for _ in range(2):
        assert json.loads((tmp_path / "manifest.json").read_text())["class names"] == ["cat", "dog"]
        SampleStore(tmp_path, {"network": "abc"}, range(2), 2)


@pytest.mark.parametrize("save_type", ["npz", "png"])
def test_readers_know_the_classes_of_a_store(tmp_path, save_type):
    names = ("cat", "dog", "owl")
    for where, known in (("a", names), ("b", None)):
        store = SampleStore(tmp_path / where, {}, range(6), 3, save_type, class_names=known)
        fill(store)
        assert store.load().class_names == known and store.load().labels is not None
    fill(SampleStore(tmp_path / "c", {}, range(6), 3, save_type, class_names=names), None, False)
    assert load_images(tmp_path / "c").class_names is None


@pytest.mark.parametrize("size", [2.5, True, "2", 0])
def test_a_manifest_whose_batch_size_is_none_is_refused(tmp_path, size):
    fill(SampleStore(tmp_path, SETTINGS, range(4), 2)).finish()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"batch size": size}))
    with pytest.raises(ValueError, match=r"manifest\.json is damaged; restore it or delete it$"):
        load_images(tmp_path)
