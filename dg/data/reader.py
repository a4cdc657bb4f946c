"""The one place that finds out what a source holds, and opens or loads its images."""

import gc
import os
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from dg.data.array_files import SUFFIXES as ARRAYS
from dg.data.array_files import is_array_file, kinds_in
from dg.data.file_list import files_of_folder, files_of_zip
from dg.data.image_files import ImageFiles
from dg.data.image_folders import SPLIT, SPLIT_OF_FILE, as_text, split_folder, stem, training_split
from dg.data.image_stream import ImageStream, stream_of
from dg.data.images import ImageSet
from dg.data.manifests import check_whole
from dg.data.named_sets import SPLITS, load_named
from dg.data.npz_files import NpzShards
from dg.data.sets import one_set
from dg.runtime.files import read_json
from dg.runtime.progress import unheard

PICKLES = (".pkl", ".pickle", ".pt", ".pth")


@contextmanager
def _collection_paused():
    """Within it, unused objects are not searched for: among the names of a million images that
    takes longer than to list them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_collection_paused()
def open_images(source, split=None, notify: Callable[[str], None] = unheard) -> ImageStream:
    """The images of `source`, listed in their order with labels, and read only as they are wanted.

    source  a name in `SPLITS` (./digits for a folder of that name), or the path of an npz or npy
            file, a folder of such shards, or a folder or zip of images: named by seed, in class
            folders, or with EDM's dataset.json
    split   'train', 'test', 'val' or 'heldout', also as a suffix: `digits:heldout`, `cifar10:test`,
            `mnist.npz:test`. A folder or zip has the split that is a sub-folder of that name.
            Default: all of `digits`, 'train' of others that have splits.
    notify  gets a line for whatever is skipped, reordered, converted or assumed

    Named sets are held in memory. Sizes may differ as long as only `crops` are asked for. Anything
    missing, damaged or inconsistent is a ValueError of one line that names the file.
    """
    source, split = _split_off(source, split)
    path = Path(source)
    if source in SPLITS:
        if path.exists():
            notify(f"{source} is the data set of that name; write ./{source} for the one here")
        if split is None and source != "digits":
            notify(f"{source}: the split train is taken; test left out")
        return stream_of(load_named(source, split))
    if path.is_dir():
        return _open_folder(path, split, notify)
    if is_array_file(path):
        return NpzShards(path, [path], split, notify)
    if path.is_file() and path.suffix.lower() == ".zip":
        return ImageFiles(files_of_zip(path), split, notify)
    raise ValueError(_what_to_do(path))


def _what_to_do(path):
    """The line for a path that is nothing to be read."""
    if path.is_file() and path.suffix.lower() in PICKLES:
        return (
            f"{path} is no npz file, zip or folder; of statistics take mean and covariance out of "
            "it and save them with numpy.savez('stats.npz', mu=mean, sigma=covariance)"
        )
    if path.exists():
        return (
            f"{path} is neither an npz file nor a zip nor a folder; give the folder that holds it"
        )
    if other := with_suffix(path):
        return f"{path} does not exist; give {other}"
    return f"{path} does not exist; give an npz, a zip, a folder, or one of {', '.join(SPLITS)}"


def with_suffix(source) -> Path | None:
    """The file that a path means which lacks its suffix; None where there is no such file."""
    path = Path(source)
    others = (path.with_name(path.name + suffix) for suffix in (*ARRAYS, ".zip"))
    return None if path.exists() else next((other for other in others if other.is_file()), None)


def load_images(source, num_images=None, split=None, notify=unheard) -> ImageSet:
    """All images of `source`, or its first `num_images`; sources and errors as of `open_images`."""
    return open_images(source, split, notify).load(num_images)


def kinds_of(source) -> set[str]:
    """What `source` holds: some of 'images', 'latents', 'statistics'.

    Nothing where it is not there or of no known kind. Only headers are read, of several npz files
    those of the first. A reference batch of ADM holds both statistics and images. ValueError for an
    npz file that is damaged.
    """
    name, _ = _split_off(source)
    if name in SPLITS:
        return {"images"}
    path = Path(name)
    if files := npz_paths(source):
        kinds = kinds_in(files[0])
        return kinds - {"statistics"} or {"images"} if path.is_dir() else kinds
    is_zip = path.is_file() and path.suffix.lower() == ".zip"
    return {"images"} if path.is_dir() or is_zip else set()


def npz_paths(source, notify=unheard) -> list[Path]:
    """The npz or npy file that `source` is, or the shards of a folder, in their order; or nothing.

    Shards are samples_*.npz in the folder or, where it holds no pictures, in its sub-folders, or
    else all npz and npy files in it.
    """
    source, split = _split_off(source)
    path = Path(source)
    if source in SPLITS:
        return []
    if path.is_dir():
        return _shards(path, split, notify)
    return [path] if is_array_file(path) else []


def _open_folder(path, split, notify):
    one_set(path / (split or ""))
    names = _class_names(path)
    if shards := _shards(path, split, notify):
        by_folder = {}
        for shard in shards:
            by_folder.setdefault(shard.parent, []).append(shard.name)
        for folder, files in by_folder.items():
            check_whole(folder, files, notify)
        return NpzShards(path / (split or ""), shards, notify=notify, class_names=names)
    images = ImageFiles(files_of_folder(path), split, notify, names)
    check_whole(path, images.files, notify)
    return images


def _class_names(folder):
    """Names of classes by label, where the manifest of a store of samples tells them, else None."""
    manifest = folder / "manifest.json"
    try:
        names = read_json(manifest)["class names"] if manifest.is_file() else None
    except (ValueError, KeyError, TypeError):
        return None
    return tuple(map(str, names)) if isinstance(names, list) else None


def _shards(path, split, notify):
    if not (path := path / (split or "")).is_dir():
        return []
    files = files_of_folder(path, depth=2)
    arrays = files.arrays()
    named = [name for name in arrays if name.split("/")[-1].startswith("samples_")]
    found = [name for name in named if "/" not in name]  # pictures beside them are previews
    if not found and arrays and not files.images():
        found = named or [name for name in arrays if "/" not in name]
    if found and (folder := split_folder(files, found, None, notify)):
        files, start = files.below(folder), f"{folder}/"
        found = [name.removeprefix(start) for name in found if name.startswith(start)]
    splits = [name for name in found if SPLIT_OF_FILE.fullmatch(stem(name))]
    if len(splits) > 1:
        found = [training_split(path, found, splits, "/", notify)]
    if found:
        files.tell_skipped(found, notify)
    return [files.path / name for name in as_text(files.path, found, notify)]


def _split_off(source, split=None):
    """(source, split) where a suffix of the source may give the split."""
    source = os.fspath(source)
    head, _, tail = source.rpartition(":")
    if not head or not SPLIT.fullmatch(tail) or os.path.exists(source):
        return source, split
    if split not in (None, tail):
        raise ValueError(f"{source}: the split {split!r} is asked for too; give one of them")
    return head, tail
