"""Which sets of images a folder holds: one, or several that are to be taken one by one."""

import os
import re
from pathlib import Path

import numpy as np

from dg.data.array_files import SUFFIXES as ARRAYS
from dg.data.array_files import array_names, kinds_in, read_arrays
from dg.data.image_decoding import SUFFIXES as IMAGES
from dg.data.image_folders import SPLIT, SPLIT_OF_FILE
from dg.data.npz_files import NpzImages

DIGITS = re.compile(r"(\d+)")
PARTS = re.compile(r"part|shard|chunk|batch|rank|worker|piece", re.IGNORECASE)
# What is counted or varied from one set of samples to the next.
SERIES = re.compile(
    r"(^|[\W_])(epoch|ep|step|iter|iteration|kimg|tick|ckpt|checkpoint|snapshot|run|seed|nfe|cfg|"
    r"scale|weight|w|churn)s?[\W_]*\d",
    re.IGNORECASE,
)


def sets_in(source) -> list[str]:
    """The sets of a source: itself, or the files or sub-folders of a folder that are a set each.

    Files are sets where a number in their names tells them apart (epoch5.npz, epoch10.npz), or
    where they share seeds. They come in the order of that number. Shards samples_*.npz, and files
    whose seeds differ, are parts of one set, and so are files and folders of splits and folders
    that are called parts. Other sub-folders are sets where they are stores of samples, or are
    called after what is counted: epoch5, epoch10. ValueError where files do not tell.
    """
    folder = Path(source)
    if not folder.is_dir():
        return [os.fspath(source)]
    found = _entries(folder)
    arrays, zips, pictures = (
        [path for path in found if path.suffix.lower() in suffixes and path.is_file()]
        for suffixes in (ARRAYS, (".zip",), IMAGES)
    )
    if any(path.name.startswith("samples_") for path in arrays):
        several = None
    elif arrays:
        several = _arrays_are_sets(folder, arrays, bool(pictures))
    elif any(path.name != "grid.png" for path in pictures):
        several = None
    else:
        several = zips if len(zips) > 1 and _are_numbered(zips) else _folders_are_sets(found)
    return [str(path) for path in several] if several else [os.fspath(source)]


def one_set(source) -> None:
    """ValueError where a source holds several sets, or does not tell whether it does."""
    if len(sets := sets_in(source)) > 1:
        raise ValueError(
            f"{source} holds {len(sets)} sets; give one of them, such as {sets[0]}, or name parts "
            "of one samples_*"
        )


def numbers_of_unknown_meaning(source) -> list[str]:
    """Names of sub-folders that may be classes or sets: bare numbers, which are neither all from 0
    or 1 on, as classes are, nor thousands of seeds, and of which no dataset.json tells."""
    folder = Path(source)
    if not folder.is_dir() or (folder / "dataset.json").is_file():
        return []
    names = [path.name for path in _entries(folder) if path.is_dir()]
    if len(names) < 2 or not all(map(str.isdecimal, names)):
        return []
    numbers = sorted(map(int, names))
    counted = numbers[0] in (0, 1) and numbers == list(range(numbers[0], numbers[-1] + 1))
    return [] if counted or all(number % 1000 == 0 for number in numbers) else names


def _entries(folder):
    """What is in a folder, each file and folder once though links may name it again; by names, with
    the numbers in these as numbers: epoch5 before epoch10."""

    def key(path):
        return [int(part) if part.isdecimal() else part for part in DIGITS.split(path.name)]

    with os.scandir(folder) as entries:
        seen = [(entry.is_symlink(), folder / entry.name) for entry in entries]
    seen = sorted(pair for pair in seen if pair[1].name[0] != ".")  # links come last
    real = {os.path.realpath(folder): None}
    for is_link, path in seen:
        real.setdefault(os.path.realpath(path) if is_link else os.path.abspath(path), path)
    return sorted(filter(None, real.values()), key=key)


def _arrays_are_sets(folder, files, beside_pictures):
    """The files, if they are a set each; None if they are parts of one, or beside what is meant."""
    splits = [path for path in files if SPLIT_OF_FILE.fullmatch(path.stem)]
    if len(files) == 1 or len(splits) > 1 or _is_one_image(files[0]):
        return None
    shared = _share_seeds(files)
    if shared is False:
        return None
    if shared or _are_numbered(files):
        return files
    if beside_pictures:
        return None
    raise ValueError(
        f"{folder} holds {len(files)} npz files, {files[0].name}, {files[1].name} and so on, which "
        "do not tell whether they are sets or parts of one; give every set by itself, or name "
        "parts samples_*.npz"
    )


def _folders_are_sets(entries):
    """The folders that are a set each, where there are several; else None."""
    folders = [path for path in entries if path.is_dir()]
    stores = [path for path in folders if _is_store(path)]
    if len(stores) > 1:
        one = all(PARTS.search(path.name) or SPLIT.fullmatch(path.name) for path in stores)
        return None if one else stores
    series = [path for path in folders if SERIES.search(path.name)]
    return series if len(series) > 1 and _are_numbered(series) else None


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
