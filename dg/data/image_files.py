"""Image files in a folder or a zip: which they are, their order, their labels, their pixels."""

import io
import json
import os
import re
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import pairwise

import numpy as np

from dg.data.image_stream import ImageStream
from dg.data.images import one_line, size

SUFFIXES = (".png", ".jpg", ".jpeg")
CHUNK = 8  # images per task
HIDDEN = re.compile(r"(^|/)(\.|__MACOSX/)")


class Folder:
    """The files below a folder.

    names   of all of them, relative, with forward slashes
    images  those of the names that are of images
    """

    def __init__(self, path):
        self.path = path
        self.names = [
            os.path.relpath(os.path.join(base, name), path).replace(os.sep, "/")
            for base, _, names in os.walk(path, followlinks=True)
            for name in names
        ]
        self.images = image_names(self.names)

    def read(self, name):
        return (self.path / name).read_bytes()


class Zip:
    """The same for a zip archive."""

    def __init__(self, path):
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{path} cannot be read ({one_line(error)}); get or make it again"
            ) from error
        self.names = self._zip.namelist()
        self.images = image_names(self.names)

    def read(self, name):
        return self._zip.read(name)


class ImageFiles(ImageStream):
    """The images of a Folder or Zip; all but `crops` want them of one size and colour."""

    def __init__(self, files):
        if not files.images:
            raise ValueError(
                f"{files.path} holds no PNG or JPEG images and no npz shards; give another folder"
            )
        names, seeds = in_order(files.path, files.images)
        labels = labels_of(files, names, seeds is not None)
        classes = 0 if labels is None else int(labels.max()) + 1
        super().__init__(files.path, len(names), labels, seeds, classes, names)
        self._source = files

    @cached_property
    def shape(self):
        return self.decode(self.files[0]).shape

    def fetch(self, positions):
        return [self.files[position] for position in positions]

    def decode(self, item):
        return decode(self._source, item)

    def read(self, positions):
        names = self.fetch(positions)
        images = np.empty((len(names), *self.shape), np.uint8)

        def fill(start):
            for i, name in enumerate(names[start : start + CHUNK], start):
                image = self.decode(name)
                if image.shape != self.shape:
                    sizes = (
                        f"{name} is {size(image.shape)} but {self.files[0]} is {size(self.shape)}"
                    )
                    raise ValueError(
                        f"{self.name}: {sizes}; convert all images to one size and colour"
                    )
                images[i] = image

        # Small images are decoded before another thread could take over: threads made these 1.6
        # times slower.
        small = np.prod(self.shape) < 64 * 64
        with ThreadPoolExecutor(1 if small else None) as pool:
            for _ in pool.map(fill, range(0, len(names), CHUNK)):
                pass
        return images


def image_names(names):
    """Which of the names are of images, unsorted; hidden files and grids of samples are not."""
    names = [name for name in names if name.split("/")[-1] != "grid.png"]
    return [name for name in names if name.lower().endswith(SUFFIXES) and not HIDDEN.search(name)]


def in_order(path, names):
    """(names sorted, seeds int64 [N]), seeds None where the images are not named by seed.

    Names by seed are 000123.png, or in folders by the thousand, as EDM makes them,
    000000/000123.png.
    """
    flat = all(re.fullmatch(r"[0-9]+\.\w+", name) for name in names)
    by_thousands = all(re.fullmatch(r"[0-9]{3,}000/[0-9]{6,}\.\w+", name) for name in names)
    if not flat and not by_thousands:
        return sorted(names), None
    seeds = {name: int(name.split("/")[-1].split(".")[0]) for name in names}
    names = sorted(names, key=seeds.get)
    for first, second in pairwise(names):
        if seeds[first] == seeds[second]:
            raise ValueError(f"{path}: {first} and {second} are of the same seed; keep one of them")
    return names, np.array([seeds[name] for name in names])


def labels_of(files, names, by_seed):
    """Labels int64 [N] of the images `names`, by dataset.json or class folders; None without them.

    by_seed  the names are seeds, so that their folders are no classes
    """
    if "dataset.json" in files.names:
        return _dataset_json(files, names)
    folders = sorted({name.split("/")[0] for name in names})
    if by_seed or len(folders) < 2 or any(name.count("/") != 1 for name in names):
        return None
    numbers = {folder: number for number, folder in enumerate(folders)}
    return np.array([numbers[name.split("/")[0]] for name in names])


def _dataset_json(files, names):
    """Labels [N] of EDM's {"labels": [[name, label], ...]}, None for {"labels": null}."""
    where = f"{files.path}: dataset.json"
    try:
        entries = json.loads(files.read("dataset.json")).get("labels")
        table = (
            None if entries is None else {name.replace("\\", "/"): label for name, label in entries}
        )
    except Exception as error:  # not readable, not JSON, or JSON of another shape
        raise ValueError(
            f"{where} is not as EDM writes it ({one_line(error)}); restore or delete it"
        ) from error
    if table is None:
        return None
    if missing := next((name for name in names if name not in table), None):
        raise ValueError(f'{where} has no label for {missing}; add it, or set "labels" to null')
    if len(table) != len(names):
        raise ValueError(
            f"{where} has {len(table)} labels for {len(names)} images; restore the missing images"
        )
    for name, label in table.items():
        if type(label) is not int or label < 0:
            raise ValueError(f"{where} has label {label!r} for {name}; number the classes from 0")
    return np.array([table[name] for name in names])


def decode(files, name):
    """One image, uint8 [H, W, C]: grey stays grey, palettes and transparency become RGB."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(files.read(name))) as image:
            mode = image.mode
            array = np.asarray(image.convert("L" if mode in ("1", "L", "LA") else "RGB"))
    # Pillow raises OSError, SyntaxError, struct.error ... depending on where the damage is
    except Exception as error:
        raise ValueError(
            f"{files.path}: {name} cannot be read ({one_line(error)}); replace or delete it"
        ) from error
    if mode[0] in "IF":  # conversion would have clipped it
        raise ValueError(
            f"{files.path}: {name} has more than 8 bits per channel ({mode}); convert it to 8 bits"
        )
    return array if array.ndim == 3 else array[..., None]
