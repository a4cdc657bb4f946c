"""Files of arrays, npz or npy: which arrays they hold, told by their headers, and their content.

No size that a file claims is believed before it is compared with the size of the file.
"""

import math
import os
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dg.data.archives import open_archive
from tensor_files.reading import FileError, open_file, parsing, shown

SUFFIXES = (".npz", ".npy")
NPY = "arr_0"  # how numpy calls an array without a name
IMAGE_KEYS = ("samples", "images", "arr_0", "train_images", "test_images")
FEATURES = ("reps", "feats")  # without mu and sigma: of dgm-eval, and of clean-fid for KID
LATENT_CHANNELS = (4, 8, 16, 32)  # of the known autoencoders


class Header(NamedTuple):
    """What is known of an array before it is read; `start` is the offset of its first byte."""

    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype
    start: int


def is_array_file(path) -> bool:
    """Whether a file is npz or npy, by its suffix or, where that is another, by its first bytes."""
    path = Path(path)
    if path.suffix.lower() in SUFFIXES:
        return path.exists() and not path.is_dir()
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        head = file.read(30)
        name = file.read(int.from_bytes(head[26:28], "little")) if head[:4] == b"PK\3\4" else b""
    return head.startswith(b"\x93NUMPY") or name.endswith(b".npy")


def array_names(path) -> list[str]:
    """The names of the arrays in a file."""
    try:
        if _is_npy(path):
            return [NPY]
        with open_archive(path) as archive:
            for info in archive.infolist():
                archive.open(info).close()  # its own name is that in the directory
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except FileError as error:
        raise FileError(f"{path}: {error}") from error
    except Exception as error:  # zipfile raises many kinds
        raise FileError(
            f"{path} cannot be read (not an npz file, or cut short: {shown(error)}); get or "
            "make the file again"
        ) from error


def open_array(path, name):
    """The bytes of an array as a file."""
    return open_file(path) if _is_npy(path) else open_archive(path).open(f"{name}.npy")


def read_header(path, name) -> Header:
    """The Header of an array; ValueError where the file ends before the array does."""
    with one_line_for_damage(path, name), ExitStack() as opened:
        if _is_npy(path):
            file = opened.enter_context(open_file(path))
            size = os.fstat(file.fileno()).st_size
        else:
            archive = opened.enter_context(open_archive(path))
            entry = archive.getinfo(f"{name}.npy")
            file, size = opened.enter_context(archive.open(entry)), entry.file_size
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, by_columns, dtype = np.lib.format.read_array_header_2_0(file)
        if dtype.hasobject:
            raise ValueError("Object arrays are not loaded")
        # items without bytes cost time all the same
        if (
            size < file.tell() + math.prod(shape) * max(1, dtype.itemsize)
            or min(shape, default=0) < 0
        ):
            raise ValueError("fewer bytes than its header tells")
        return Header(shape, by_columns, dtype, file.tell())


def read_arrays(path, *names):
    """The arrays with these names; None for None, and for a tuple of names of which none is there.

    Of a tuple the first that is there.
    """
    what = " and ".join(name for name in names if isinstance(name, str)) or "it"
    if not any(names):
        return [None for _ in names]
    held = array_names(path)
    there = [
        next((n for n in name if n in held), None) if type(name) is tuple else name
        for name in names
    ]
    for name in filter(None, there):
        read_header(path, name)  # refuses claims beyond the file
    with one_line_for_damage(path, what):
        if _is_npy(path):
            array = np.load(path, allow_pickle=False)
            return [array if name == NPY else None for name in there]
        with np.load(path, allow_pickle=False) as arrays:
            return [name and arrays[name] for name in there]


def kinds_in(path) -> set[str]:
    """Which of 'images', 'latents', 'statistics' a file holds; reads its headers alone."""
    names = array_names(path)
    measured = {"mu", "sigma"} <= set(names) or set(FEATURES) & set(names)
    kinds = {"statistics"} if measured else set()
    if latents_header(path):
        return kinds | {"latents"}
    return kinds | {"images"} if {*IMAGE_KEYS} & set(names) else kinds


def is_statistics(path) -> bool:
    """Whether a file holds mean and covariance, and neither images nor latents."""
    try:
        known = is_array_file(path) and kinds_in(path) == {"statistics"}
        return known and "mu" in array_names(path)
    except ValueError:
        return False


def latents_header(path):
    """(name, Header) of the latents in a file, None if it holds none.

    They are floats: `latents` [N, C, h, w], in the authors' files `samples` [C, h, w] with one
    `label`, in an npy file [N, C, h, h] or [C, h, h] with as many channels as an autoencoder has.
    """
    names = array_names(path)
    name = next((name for name in ("latents", "samples") if name in names), None)
    if name is None and _is_npy(path):
        name = NPY
    if name is None:
        return None
    header = read_header(path, name)
    shape, dtype = header.shape, header.dtype
    if name == "latents":
        return (name, header) if len(shape) == 4 else None
    if dtype.kind != "f" or len(shape) not in ((3,) if name == "samples" else (3, 4)):
        return None
    square = shape[-3] in LATENT_CHANNELS and shape[-2] == shape[-1]
    if name == "samples" and (label := next((n for n in ("label", "labels") if n in names), None)):
        square = math.prod(read_header(path, label).shape) == 1  # not one of several images
    return (name, header) if square else None


@contextmanager
def one_line_for_damage(path, what):
    """Errors within, of reading `what` of the file `path`, become a ValueError of one line."""
    try:
        with parsing(path, "get or make the file again", f"{what} cannot be read"):
            yield
    except FileError as error:
        if "Object arrays" not in str(error):
            raise
        reason = "(Object arrays are not loaded); save it as numbers"
        raise FileError(f"{path}: {what} cannot be read {reason}") from error


def _is_npy(path):
    with open_file(path) as file:
        return file.read(6) == b"\x93NUMPY"
