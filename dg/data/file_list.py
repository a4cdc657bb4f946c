"""The files in a folder or zip archive, each once, and what is said of those that are not taken."""

import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from dg.data.archives import open_archive
from dg.data.array_files import SUFFIXES as ARRAYS
from dg.data.image_decoding import SUFFIXES as IMAGES
from dg.runtime.files import one_line
from tensor_files.reading import FileError, open_file, shown

MOST_BYTES = 2**29  # of an image file or dataset.json, which is read at once
HIDDEN = re.compile(r"(^|/)(\.|__MACOSX/)")
# What sampling and dataset_tool.py write beside images.
COMPANIONS = re.compile(r"(^|/)(dataset\.json|manifest\.json|grid\.png|shards/[^/]+\.json)$")
GRID = re.compile(r"(^|[/_-])grid\.png$")  # a picture of many samples is no sample


class Files(NamedTuple):
    """The files in a folder or a zip archive.

    path      of the folder or archive; messages begin with it
    names     of all files, relative, with forward slashes
    read      the content of a file by its name
    repeated  how many symbolic links or entries are left out, as their files are there already
    """

    path: Path
    names: list[str]
    read: Callable[[str], bytes]
    repeated: int = 0

    def below(self, folder: str) -> "Files":
        """The files of a sub-folder."""
        start = f"{folder}/"
        names = [name.removeprefix(start) for name in self.names if name.startswith(start)]
        return Files(self.path / folder, names, lambda name: self.read(start + name), self.repeated)

    def images(self) -> list[str]:
        """Names of images, unsorted; hidden files and grids of samples are none."""
        return [
            name
            for name in self.names
            if name.lower().endswith(IMAGES) and not HIDDEN.search(name) and not GRID.search(name)
        ]

    def arrays(self) -> list[str]:
        """Names of files of arrays, unsorted; hidden files are none."""
        return [n for n in self.names if n.lower().endswith(ARRAYS) and not HIDDEN.search(n)]

    def tell_skipped(self, taken: list[str], notify: Callable[[str], None]) -> None:
        """Say how many of the files are not among those `taken`, by their kinds."""
        taken = set(taken)
        counted = [name for name in self.names if not COMPANIONS.search(name)]
        kinds = Counter(filter(None, (_kind(name) for name in counted if name not in taken)))
        if kinds:
            many = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
            notify(f"{self.path}: {kinds.total()} of {len(counted)} files skipped: {many}")
        if self.repeated:
            notify(
                f"{self.path}: {self.repeated} of its links or entries skipped: their files are "
                "here already"
            )


def _kind(name):
    """How messages call a file; None for hidden files that nobody takes for data."""
    suffix = os.path.splitext(name)[1]
    if HIDDEN.search(name):
        return "hidden" if suffix.lower() in IMAGES + ARRAYS else None
    return "grid of samples" if GRID.search(name) else suffix or "without suffix"


def files_of_folder(path: Path, depth: int | None = None) -> Files:
    """The files below a folder; symbolic links are followed, but every file is there once.

    depth  how many folders deep to look, 1 for the folder alone; None: everywhere
    """
    names, taken, visited, repeated = [], set(), set(), 0
    links = [("", os.path.realpath(path))]
    for name, target in links:  # it grows
        found, more, again = [(name, target)], [], 0
        if os.path.isdir(target):
            found, more, again = _walk(target, name, depth, visited)
        new = [(name, real) for name, real in found if real not in taken]
        names += [name for name, _ in new]
        taken.update(real for _, real in new)
        links += more
        repeated += bool(again or len(new) < len(found))
    return Files(path, names, lambda name: _content_of(path / name), repeated)


def _content_of(path):
    with open_file(path) as file:
        if os.fstat(file.fileno()).st_size > MOST_BYTES:
            raise FileError(f"more than {MOST_BYTES:,} bytes")
        return file.read()


def _walk(folder, name, depth, visited):
    """(files, links, folders left out) below a real folder that is called `name`.

    files, links  (name, real path) of each; links are not followed
    visited       real folders that are left out, as they have been walked; grows
    """
    files, links, again, folders = [], [], 0, [(folder, name)]
    while folders:
        folder, name = folders.pop()
        if depth is not None and name and name.count("/") + 1 >= depth:
            continue
        if folder in visited:
            again += 1
            continue
        visited.add(folder)
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            raise ValueError(f"{folder} cannot be read ({one_line(error)})") from error
        for entry in entries:
            below = f"{name}/{entry.name}" if name else entry.name
            if entry.is_symlink():
                links.append((below, os.path.realpath(entry.path)))
            elif entry.is_dir():
                folders.append((entry.path, below))
            else:  # also what is no regular file, which opening refuses
                files.append((below, entry.path))
    return files, sorted(links), again


def files_of_zip(path: Path) -> Files:
    """The files in a zip archive."""
    try:
        archive = open_archive(path)
    except FileError as error:
        raise FileError(f"{path}: {error}") from error
    except Exception as error:  # zipfile raises many kinds
        raise FileError(f"{path} cannot be read ({shown(error)}); get or make it again") from error
    if large := [info for info in archive.infolist() if info.file_size > MOST_BYTES]:
        raise FileError(f"{path}: {large[0].filename!a} has more than {MOST_BYTES:,} bytes")
    entries = [name for name in archive.namelist() if not name.endswith("/")]
    names = list(dict.fromkeys(entries))
    return Files(path, names, archive.read, len(entries) - len(names))
