"""Which sets of images a folder holds: one, or several that are to be measured one by one."""

import os
import re
from pathlib import Path

import numpy as np

from dg.data.array_files import array_names, kinds_in, read_arrays
from dg.data.npz_files import NpzImages

DIGITS = re.compile(r"(\d+)")
PARTS = re.compile(r"part|shard|chunk|batch|rank|worker|piece", re.IGNORECASE)


def sets_in(source) -> list[str]:
    """The sets of a source: itself, or the files or sub-folders of a folder that are a set each.

    Files are sets where a number in their names tells them apart (epoch5.npz, epoch10.npz), or
    where they share seeds. They come in the order of that number. Shards samples_*.npz, and files
    whose seeds differ, are parts of one set. ValueError where files do not tell.
    """
    folder = Path(source)
    if not folder.is_dir() or any(folder.glob("samples_*.npz")):
        return [os.fspath(source)]
    files = [path for path in _in_order(folder.glob("*.npz")) if path.name[0] != "."]
    if not files:
        stores = [path for path in _in_order(folder.iterdir()) if _is_store(path)]
        return [str(path) for path in stores] if len(stores) > 1 else [os.fspath(source)]
    if len(files) == 1 or _is_one_image(files[0]):
        return [os.fspath(source)]
    shared = _share_seeds(files)
    if shared is False:
        return [os.fspath(source)]
    if shared or _are_numbered(files):
        return [str(path) for path in files]
    raise ValueError(
        f"{folder} holds {len(files)} npz files, {files[0].name}, {files[1].name} and so on, which "
        "do not tell whether they are sets or parts of one; give every set by itself, or name "
        "parts samples_*.npz"
    )


def _in_order(paths):
    """Paths by their names, with the numbers in these as numbers: epoch5 before epoch10."""

    def key(path):
        return [int(part) if part.isdigit() else part for part in DIGITS.split(path.name)]

    return sorted(paths, key=key)


def _is_store(folder):
    return (folder / "manifest.json").is_file() or any(folder.glob("samples_*.npz"))


def _is_one_image(path):
    """Whether a file holds a single image, so that it is no set by itself."""
    return "images" in kinds_in(path) and len(NpzImages(path)) == 1


def _share_seeds(files):
    """Whether a seed stands in more than one file; None where some file holds no seeds."""
    if not all("seeds" in array_names(path) for path in files):
        return None
    seeds = [np.unique(read_arrays(path, "seeds")[0]) for path in files]
    return len(np.unique(np.concatenate(seeds))) < sum(map(len, seeds))


def _are_numbered(files):
    """Whether one number alone tells the names apart, and the rest does not speak of parts."""
    names = [DIGITS.split(path.stem) for path in files]
    if len({len(name) for name in names}) > 1 or any(PARTS.search(path.stem) for path in files):
        return False
    columns = list(zip(*names, strict=True))
    different = [place for place, column in enumerate(columns) if len(set(column)) > 1]
    return (
        len(different) == 1
        and different[0] % 2 == 1
        and len(set(columns[different[0]])) == len(files)
    )
