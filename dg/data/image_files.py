"""PNG and JPEG images in a folder or a zip: named by seed, in class folders, or with EDM's dataset.json."""

import io
import json
import os
import re
import zipfile
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np

from dg.data.images import ImageSet, checked_count, one_line, size

SUFFIXES = (".png", ".jpg", ".jpeg")
CHUNK = 64  # images per task
HIDDEN = re.compile(r"(^|/)(\.|__MACOSX/)")


class Folder:
    """The files below a folder: `names` (relative, with forward slashes) and their bytes."""

    def __init__(self, path):
        self.path = path
        self.names = [
            os.path.relpath(os.path.join(base, name), path).replace(os.sep, "/")
            for base, _, names in os.walk(path, followlinks=True)
            for name in names
        ]

    def read(self, name):
        return (self.path / name).read_bytes()


class Zip:
    """The same for a zip archive."""

    def __init__(self, path):
        self.path = path
        try:
            self.zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{path} cannot be read ({one_line(error)}); get or make it again"
            ) from error
        self.names = self.zip.namelist()

    def read(self, name):
        return self.zip.read(name)


def image_names(files):
    """The names in `files` that are images, unsorted; hidden files are not."""
    return [
        name for name in files.names if name.lower().endswith(SUFFIXES) and not HIDDEN.search(name)
    ]


def load_image_files(files, num_images=None):
    """Decode the images of a Folder or Zip, all or the first `num_images`, to an ImageSet."""
    names = image_names(files)
    if not names:
        raise ValueError(
            f"{files.path} holds no PNG or JPEG images and no npz shards; give another folder"
        )
    names, labels = order_and_labels(files, names)
    classes = (
        None if labels is None else int(labels.max()) + 1
    )  # of all images, not only of the first ones
    names = names[
        : checked_count(files.path, len(names) if num_images is None else num_images, len(names))
    ]
    images = decode_all(files, names)
    return ImageSet(
        images, None if labels is None else labels[: len(names)], str(files.path), classes
    )


def order_and_labels(files, names):
    """Return the names sorted, by seed where they are seeds, and labels [N] or None."""
    depths = {name.count("/") for name in names}
    folders = sorted({name.split("/")[0] for name in names}) if depths == {1} else []
    by_thousands = bool(folders) and all(
        re.fullmatch(r"[0-9]{3,}000/[0-9]{6,}\.\w+", name) for name in names
    )
    if by_thousands or (
        depths == {0} and all(re.fullmatch(r"[0-9]+\.\w+", name) for name in names)
    ):
        names = _sorted_by_seed(
            files.path, names
        )  # 000123.png, or 000000/000123.png as EDM's --subdirs makes them
    else:
        names = sorted(names)
    if "dataset.json" in files.names:
        return names, _dataset_json(files, names)
    if len(folders) > 1 and not by_thousands:
        numbers = {folder: number for number, folder in enumerate(folders)}
        return names, np.array([numbers[name.split("/")[0]] for name in names])
    return names, None


def _sorted_by_seed(path, names):
    seeds = {name: int(name.split("/")[-1].split(".")[0]) for name in names}
    names = sorted(names, key=seeds.get)
    for first, second in pairwise(names):
        if seeds[first] == seeds[second]:
            raise ValueError(f"{path}: {first} and {second} are of the same seed; keep one of them")
    return names


def _dataset_json(files, names):
    """Labels [N] in the order of `names` from EDM's {"labels": [[name, label], ...]}, None for {"labels": null}."""
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


def decode_all(files, names):
    """Decode the named images to uint8 [N, H, W, C]; ValueError for one that differs from the first in size or colour."""
    first = decode(files, names[0])
    images = np.empty((len(names), *first.shape), dtype=np.uint8)

    def fill(start):
        for i, name in enumerate(names[start : start + CHUNK], start):
            image = decode(files, name)
            if image.shape != first.shape:
                sizes = f"{name} is {size(image)} but {names[0]} is {size(first)}"
                raise ValueError(
                    f"{files.path}: {sizes}; convert all images to one size and colour"
                )
            images[i] = image

    small = (
        first.size < 64 * 64
    )  # decoded before another thread could take over: threads made these 1.6 times slower
    with ThreadPoolExecutor(1 if small else None) as pool:
        for _ in pool.map(fill, range(0, len(names), CHUNK)):
            pass
    return images


def decode(files, name):
    """Return uint8 [H, W, C] of one image: grey stays grey, palettes and transparency become RGB."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(files.read(name))) as image:
            mode = image.mode
            array = np.asarray(image.convert("L" if mode in ("1", "L", "LA") else "RGB"))
    except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error ... depending on where the damage is
        raise ValueError(
            f"{files.path}: {name} cannot be read ({one_line(error)}); replace or delete it"
        ) from error
    if mode[0] in "IF":  # conversion would have clipped it
        raise ValueError(
            f"{files.path}: {name} has more than 8 bits per channel ({mode}); convert it to 8 bits"
        )
    return array if array.ndim == 3 else array[..., None]
