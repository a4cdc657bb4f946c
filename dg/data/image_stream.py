"""Images in a fixed order, read only as they are wanted: memory does not grow with their number."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dg.data.crops import center_crop
from dg.data.images import ImageSet, checked_count

SAMPLED = 16  # images whose pixels a fingerprint depends on


class ImageStream(ABC):
    """Images of one source, known by their positions 0 .. N - 1.

    name         where they come from; error messages begin with it
    labels       int64 [N], None for an unlabelled set
    seeds        int64 [N], None where the source does not tell them
    num_classes  0 for an unlabelled set
    files        names of the files they are in, for the fingerprint
    class_names  by label, of class folders or of the manifest of samples, else None

    A subclass says how images are read: `shape` and `fetch`, and where that is not all of the work,
    `decode` and `read`. Images that cannot be read are a ValueError of one line.
    """

    def __init__(
        self, name, length, labels=None, seeds=None, num_classes=0, files=(), class_names=None
    ):
        self.name, self.files, self._length = str(name), list(files), length
        self.labels, self.seeds, self.num_classes = labels, seeds, num_classes
        self.class_names = class_names

    def __len__(self):
        return self._length

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of every image; ValueError where they are known to differ."""

    @abstractmethod
    def fetch(self, positions: np.ndarray) -> Sequence:
        """One item for each of `positions` [n]; called by one thread."""

    def decode(self, item) -> np.ndarray:
        """An item as an image, uint8 [H, W, 1 or 3] of any size; called by many threads."""
        return item

    def read(self, positions: np.ndarray) -> np.ndarray:
        """The images at `positions` [n], uint8 [n, H, W, C]; ValueError where shapes differ."""
        return np.asarray(self.fetch(positions))

    def tell(self) -> None:  # noqa: B027
        """Say what was converted in the images read so far, unless it has been said."""

    def positions(
        self, num_images: int | None, seed: int | None = None, first: int = 0
    ) -> np.ndarray:
        """Ascending positions of `num_images` images (None: all) from `first` on.

        seed  draws them at random, as EDM's fid.py does; without it they are consecutive
        """
        found = len(self) - first
        count = found if num_images is None else checked_count(self.name, num_images, max(found, 0))
        if seed is None:
            return np.arange(first, first + count)
        drawn = np.random.RandomState(seed % 2**31).permutation(found)[:count]
        return np.sort(first + drawn)

    def batches(
        self, positions: np.ndarray, size: int, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (batch index, uint8 [<= size, H, W, C]) of every `world`-th batch."""
        for index in range(rank, -(-len(positions) // size), world):
            yield index, self.read(positions[index * size : (index + 1) * size])
        self.tell()

    def load(self, num_images: int | None = None) -> ImageSet:
        """All images, or the first `num_images`, in memory."""
        positions = self.positions(num_images)
        labels = None if self.labels is None else self.labels[positions]
        images = self.read(positions)
        self.tell()
        return ImageSet(images, labels, self.name, self.num_classes, self.class_names)

    def crops(self, positions: np.ndarray, size: int) -> np.ndarray:
        """Middle squares, uint8 [n, size, size, 3], of the images at `positions`, of any size."""
        with ThreadPoolExecutor() as pool:
            crops = pool.map(
                lambda item: center_crop(self.decode(item), size), self.fetch(positions)
            )
            return np.stack(list(crops))

    def fingerprint(self) -> str:
        """16 hex digits that depend on file names, labels, and the pixels of 16 images."""
        digest = hashlib.sha256(repr((len(self), self.files)).encode())
        digest.update(b"" if self.labels is None else self.labels)
        for item in self.fetch(np.unique(np.linspace(0, len(self) - 1, SAMPLED).astype(int))):
            image = self.decode(item)
            digest.update(repr(image.shape).encode())
            digest.update(np.ascontiguousarray(image))
        return digest.hexdigest()[:16]


class _InMemory(ImageStream):
    def __init__(self, images):
        super().__init__(
            images.name,
            len(images),
            images.labels,
            num_classes=images.num_classes,
            files=[images.name],
            class_names=images.class_names,
        )
        self._images = images

    @property
    def shape(self):
        return self._images.images.shape[1:]

    def fetch(self, positions):
        return self._images.images[positions]

    def load(self, num_images=None):
        return self._images if num_images is None else self._images.take(num_images)


def stream_of(images: ImageSet) -> ImageStream:
    """The stream of an ImageSet that is in memory already."""
    return _InMemory(images)
