"""Images of a source piece by piece, so that memory does not grow with their number."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dg.data.datasets import SPLITS, load_images
from dg.data.image_files import CHUNK, Folder, Zip, decode_all, image_names, order_and_labels
from dg.data.images import checked_count
from dg.data.npz_files import NpzImages


@dataclass(frozen=True)
class ImageStream:
    """Images in a fixed order, in parts that are read when they are wanted.

    name    where they come from; error messages begin with it
    shape   (H, W, C) of every image
    counts  number of images of every part
    load    part index -> uint8 [counts[i], H, W, C]; called in ascending order
    """

    name: str
    shape: tuple[int, int, int]
    counts: tuple[int, ...]
    load: Callable[[int], np.ndarray]

    def __len__(self):
        return sum(self.counts)

    def positions(
        self, num_images: int | None, seed: int | None = None, first: int = 0
    ) -> np.ndarray:
        """Ascending positions of `num_images` images: those from `first` on, or drawn at random by `seed`."""
        found = len(self) - first
        count = found if num_images is None else checked_count(self.name, num_images, max(found, 0))
        if seed is None:
            return np.arange(first, first + count)
        return np.sort(first + np.random.default_rng(seed).permutation(found)[:count])

    def batches(
        self, positions: np.ndarray, size: int, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (batch index, uint8 [<= size, H, W, C]) of every `world`-th batch of the images at ascending `positions`.

        Parts of which this rank needs nothing are not read.
        """
        starts = np.cumsum([0, *self.counts])
        part, images = -1, None
        for index in range(rank, -(-len(positions) // size), world):
            wanted, rows = positions[index * size : (index + 1) * size], []
            for i in np.unique(np.searchsorted(starts, wanted, "right") - 1):
                if i != part:
                    part, images = i, self.load(i)
                inside = wanted[(wanted >= starts[i]) & (wanted < starts[i + 1])]
                rows.append(images[inside - starts[i]])
            yield index, np.concatenate(rows)


def open_images(source) -> ImageStream:
    """The images of any source that `load_images` takes, in the same order, read only as they are wanted.

    Embedded and downloaded sets, and shards whose seeds interleave, are held in memory. ValueError as for `load_images`.
    """
    source = os.fspath(source)
    path = Path(source)
    if source in SPLITS or not path.exists():
        return _in_memory(source)  # names, splits, and what is to be refused
    if path.is_dir():
        return _shards(path) or _image_files(Folder(path))
    if path.suffix.lower() == ".npz":
        return _npz(path)
    return _image_files(Zip(path)) if path.suffix.lower() == ".zip" else _in_memory(source)


def _in_memory(source):
    return stream_of(load_images(source))


def stream_of(images) -> ImageStream:
    """An ImageSet that is in memory already."""
    return ImageStream(
        images.name, images.images.shape[1:], (len(images),), lambda part: images.images
    )


def _npz(path, piece=1024):
    images = NpzImages(path)
    counts = [min(piece, len(images) - start) for start in range(0, len(images), piece)]
    return ImageStream(
        str(path),
        images.shape,
        tuple(counts),
        lambda part: images.read(part * piece, part * piece + counts[part]),
    )


def _shards(folder):
    """The npz shards of a folder, None where it has none."""
    paths = sorted(folder.glob("samples_*.npz"))  # pictures beside them are previews
    if not paths and not image_names(Folder(folder)):
        paths = sorted(folder.glob("*.npz"))
    if not paths:
        return None
    heads = [(path, NpzImages(path)) for path in paths]
    with_seeds = all(head.seeds is not None and len(head) for _, head in heads)
    if with_seeds:
        heads.sort(key=lambda pair: pair[1].seeds[0])
        if (np.diff(np.concatenate([head.seeds for _, head in heads])) <= 0).any():
            return _in_memory(folder)  # interleaved; or the same seed twice, which is refused there
    shape = heads[0][1].shape
    if any(head.shape != shape for _, head in heads):
        return _in_memory(folder)  # refused there
    return ImageStream(
        str(folder),
        shape,
        tuple(len(head) for _, head in heads),
        lambda part: NpzImages(heads[part][0]).read(0, len(heads[part][1])),
    )


def _image_files(files):
    names = image_names(files)
    if not names:
        raise ValueError(
            f"{files.path} holds no PNG or JPEG images and no npz shards; give another folder"
        )
    names, _ = order_and_labels(files, names)
    first = decode_all(files, names[:1])
    parts = [names[start : start + 8 * CHUNK] for start in range(0, len(names), 8 * CHUNK)]

    return ImageStream(
        str(files.path),
        first.shape[1:],
        tuple(map(len, parts)),
        lambda part: decode_all(files, [names[0], *parts[part]])[1:],
    )  # sizes are checked against the first
