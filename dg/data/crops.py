"""Labelled images of any size and kind, read only as they are wanted and cropped to squares of one size."""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dg.data.datasets import load_images
from dg.data.image_files import Folder, Zip, decode, image_names, order_and_labels
from dg.data.npz_files import NpzImages

SAMPLED = 16  # images whose pixels a fingerprint depends on


@dataclass(frozen=True)
class Pictures:
    """Images in a fixed order.

    name    where they come from; error messages begin with it
    labels  int64 [N], None for an unlabelled set
    names   of the files they are in; a fingerprint depends on them
    length  number of images
    fetch   positions [n] -> n things; called by one thread
    decode  such a thing -> uint8 [H, W, 1 or 3]; called by many
    """

    name: str
    labels: np.ndarray | None
    names: list[str]
    length: int
    fetch: Callable
    decode: Callable = lambda image: image

    def __len__(self):
        return self.length

    def crops(self, positions: np.ndarray, size: int) -> np.ndarray:
        """uint8 [n, size, size, 3]: the middle squares of the images at `positions` [n], as of `center_crop`."""
        with ThreadPoolExecutor() as pool:
            return np.stack(
                [
                    *pool.map(
                        lambda item: center_crop(self.decode(item), size), self.fetch(positions)
                    )
                ]
            )

    def fingerprint(self) -> str:
        """16 hex digits that depend on all names and labels, and on the pixels of a few images spread over the set."""
        digest = hashlib.sha256(repr((self.length, self.names)).encode())
        digest.update(b"" if self.labels is None else np.asarray(self.labels, np.int64))
        for item in self.fetch(np.unique(np.linspace(0, len(self) - 1, SAMPLED).astype(int))):
            image = self.decode(item)
            digest.update(repr(image.shape).encode())
            digest.update(np.ascontiguousarray(image))
        return digest.hexdigest()[:16]


def center_crop(image: np.ndarray, size: int) -> np.ndarray:
    """The middle square of an image, uint8 [H, W, 1 or 3] -> [size, size, 3], as ADM crops ImageNet (Dhariwal & Nichol 2021).

    Sides are halved by averaging while the shorter one is at least 2 * size, then scaled by cubic interpolation until the
    shorter one is `size`; what sticks out of the longer one is cut off, of an odd number one more at the end.
    """
    from PIL import Image

    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).convert("RGB")
    while min(picture.size) >= 2 * size:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    shorter = min(picture.size)
    width, height = (round(side * (size / shorter)) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(picture)[top : top + size, left : left + size]


def open_pictures(source) -> Pictures:
    """The images of any source that `load_images` takes, and of folders and zips with images of different sizes.

    Labels are those of `load_images`: class folders are numbered in the order of their sorted names. Embedded and downloaded
    sets are held in memory. ValueError of one line for what cannot be read.
    """
    path = Path(os.fspath(source))
    if path.is_dir():
        files, shards = (
            Folder(path),
            sorted(path.glob("samples_*.npz")),
        )  # pictures beside shards are previews
        if not shards and not image_names(files):
            shards = sorted(path.glob("*.npz"))
        return _of_shards(path, shards) if shards else _of_files(files)
    if path.is_file() and path.suffix.lower() == ".npz":
        return _of_shards(path, [path])
    if path.is_file() and path.suffix.lower() == ".zip":
        return _of_files(Zip(path))
    images = load_images(source)  # names, splits, and what is to be refused
    return Pictures(
        images.name,
        images.labels,
        [images.name],
        len(images),
        lambda positions: images.images[positions],
    )


def _of_files(files):
    names = image_names(files)
    if not names:
        raise ValueError(
            f"{files.path} holds no PNG or JPEG images and no npz shards; give another folder"
        )
    names, labels = order_and_labels(files, names)
    return Pictures(
        str(files.path),
        labels,
        names,
        len(names),
        lambda positions: [names[i] for i in positions],
        lambda name: decode(files, name),
    )


def _of_shards(source, paths):
    """Images of npz files, by seed where all have seeds, else in the order of the files."""
    heads = [NpzImages(path) for path in paths]
    labels = [head.labels for head in heads]
    if any(part is None for part in labels) and any(part is not None for part in labels):
        raise ValueError(
            f"{source}: only some of the npz files have labels; keep them in separate folders"
        )
    shard = np.repeat(np.arange(len(heads)), [len(head) for head in heads])
    row = np.concatenate([np.arange(len(head)) for head in heads])
    order = np.arange(len(row))
    if all(head.seeds is not None for head in heads):
        order = np.argsort(np.concatenate([head.seeds for head in heads]), kind="stable")
    latest = [0, heads[0]]  # stays open: reads of a large file mostly go forward

    def fetch(positions):
        images = []
        for i in order[positions]:
            if latest[0] != shard[i]:
                latest[:] = [shard[i], NpzImages(paths[shard[i]])]
            images.append(latest[1].read(row[i], row[i] + 1)[0])
        return images

    return Pictures(
        str(source),
        None if labels[0] is None else np.concatenate(labels)[order],
        [path.name for path in paths],
        len(row),
        fetch,
    )
