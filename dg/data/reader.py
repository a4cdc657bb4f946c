"""The one place that finds out what a source holds, and opens or loads its images."""

import os
from pathlib import Path

from dg.data.image_files import Folder, ImageFiles, Zip
from dg.data.image_stream import ImageStream, stream_of
from dg.data.images import ImageSet
from dg.data.named_sets import SPLITS, load_named
from dg.data.npz_files import NpzShards, kinds_in


def open_images(source, split=None) -> ImageStream:
    """The images of `source`, listed in their order with labels, and read only as they are wanted.

    source  `digits`, `cifar10`, `mnist` (./digits for a folder of that name), or the path of an npz
            file, a folder of npz shards, or a folder or zip of images (PNG, JPEG): named by seed,
            in class folders, or with EDM's dataset.json
    split   'train', 'test' or 'heldout', also as a suffix: `digits:heldout`, `cifar10:test`,
            `mnist.npz:test`. A folder has the split that is a sub-folder of that name. Default: all
            of `digits`, 'train' of the others.

    Named sets are held in memory. Sizes may differ as long as only `crops` are asked for. Anything
    missing, damaged or inconsistent is a ValueError of one line that names the file.
    """
    source, split = _split_off(source, split)
    if source in SPLITS:
        return stream_of(load_named(source, split))
    path = Path(source)
    if path.is_dir():
        return _open_folder(path, split)
    if not path.is_file():
        raise ValueError(
            f"{path} does not exist; give an npz, a zip, a folder, or one of {', '.join(SPLITS)}"
        )
    if _is_npz(path):
        return NpzShards(path, [path], split)
    if path.suffix.lower() != ".zip":
        raise ValueError(
            f"{path} is neither an npz file nor a zip nor a folder; give the folder that holds it"
        )
    if split is not None:
        raise ValueError(f"{path} has no split {split!r}; leave the split out")
    return ImageFiles(Zip(path))


def load_images(source, num_images=None, split=None) -> ImageSet:
    """All images of `source`, or its first `num_images`; sources and errors as of `open_images`."""
    return open_images(source, split).load(num_images)


def kinds_of(source) -> set[str]:
    """What `source` holds: some of 'images', 'latents', 'statistics'.

    Nothing where it is not there or of no known kind. Only headers are read, of several npz files
    those of the first. A reference batch of ADM holds both statistics and images. ValueError for an
    npz file that is damaged.
    """
    files = npz_paths(source)
    kinds = kinds_in(files[0]) if files else set()
    name, _ = _split_off(source)
    path = Path(name)
    images = name in SPLITS or path.is_dir() or (path.is_file() and path.suffix.lower() == ".zip")
    return kinds or ({"images"} if images else set())


def npz_paths(source) -> list[Path]:
    """The npz file that `source` is; of a folder its shards, else those of its sub-folders."""
    source, split = _split_off(source)
    path = Path(source)
    if path.is_dir():
        path = path / (split or "")
        return sorted(path.glob("samples_*.npz")) or sorted(path.glob("*/samples_*.npz"))
    return [path] if path.is_file() and _is_npz(path) else []


def _open_folder(path, split):
    if split is not None:
        if not (path / split).is_dir():
            raise ValueError(f"{path} has no sub-folder {split!r}; leave the split out")
        path = path / split
    if shards := sorted(path.glob("samples_*.npz")):  # pictures beside them are previews
        return NpzShards(path, shards)
    files = Folder(path)
    if not files.images and (shards := sorted(path.glob("*.npz"))):
        return NpzShards(path, shards)
    return ImageFiles(files)


def _is_npz(path):
    return path.suffix.lower() == ".npz"


def _split_off(source, split=None):
    """(source, split) where a suffix of the source may give the split."""
    source = os.fspath(source)
    head, _, tail = source.rpartition(":")
    if not head or tail not in ("train", "test", "heldout") or os.path.exists(source):
        return source, split
    if split not in (None, tail):
        raise ValueError(f"{source}: the split {split!r} is asked for too; give one of them")
    return head, tail
