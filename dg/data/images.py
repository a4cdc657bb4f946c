"""A set of images with labels, and the way between bytes and the floats that networks see."""

import hashlib
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

MOST_CLASSES = 10**6  # memory grows with their number: labels become one-hot


class LabelledSet:
    """What sets of images and sets of latents share.

    A subclass is a dataclass with labels, name and num_classes after its first field, an array with
    one item per row. `what` is the name of that field, and what messages call the items.
    """

    what: ClassVar[str]

    def __post_init__(self):
        self._check_items()
        labels, classes = checked_labels(
            self.name, self.labels, len(self), self.num_classes, self.what
        )
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "num_classes", classes)

    def __len__(self):
        return len(self.items)

    def fingerprint(self):
        """16 hex digits that depend on every item and label."""
        digest = hashlib.sha256(repr(self.items.shape).encode())
        for array in (self.items, self.labels):
            if array is not None:
                digest.update(np.ascontiguousarray(array))
        return digest.hexdigest()[:16]

    def subset(self, index):
        """The items at `index` (integers, booleans or a slice, as numpy takes them), in that
        order."""
        labels = None if self.labels is None else self.labels[index]
        return replace(self, **{self.what: self.items[index]}, labels=labels)

    def take(self, n):
        """The first `n` items; ValueError when there are fewer."""
        return self.subset(slice(checked_count(self.name, n, len(self), self.what)))


@dataclass(frozen=True)
class ImageSet(LabelledSet):
    """Images with their labels.

    images       uint8 [N, H, W, C]  C is 1 or 3, values 0..255
    labels       int64 [N]           None for an unlabelled set
    name         str                 where they came from; error messages begin with it
    num_classes  int                 largest label + 1 unless given (a subset keeps it); 0 for an
                                     unlabelled set
    class_names  tuple of str        by label, of class folders or of the manifest of samples, or
                                     None
    """

    images: np.ndarray
    labels: np.ndarray | None = None
    name: str = "images"
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None
    what: ClassVar[str] = "images"

    def _check_items(self):
        checked_images(self.name, self.images.dtype, self.images.shape)

    @property
    def items(self):
        """The images, by the name that all sets share."""
        return self.images

    @property
    def resolution(self):
        """Side length in pixels; ValueError when the images are not square."""
        height, width = self.images.shape[1:3]
        if height != width:
            raise ValueError(
                f"{self.name}: images are {height}x{width}; crop or resize them to squares"
            )
        return height

    @property
    def channels(self):
        """1 (grey) or 3 (RGB)."""
        return self.images.shape[3]

    def floats(self, index):
        """The images at `index` as networks see them: a float32 tensor [N, C, H, W] in [-1, 1]."""
        return to_float(self.images[index])


def pooled(data: ImageSet, size: int) -> ImageSet:
    """Images averaged over squares of `size` pixels."""
    n, height, width, channels = data.images.shape
    squares = data.images.reshape(n, height // size, size, width // size, size, channels)
    images = squares.mean(axis=(2, 4)).round().astype(np.uint8)
    return replace(data, images=images, name=f"{data.name} / {size}")


def checked_images(name, dtype, shape):
    """Return `shape`; ValueError unless an array of it can be images."""
    if dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3) or 0 in shape:
        found = f"{dtype} {list(shape)}"
        raise ValueError(
            f"{name}: {found} are not images; give uint8 [N, H, W, 1 or 3], at least one"
        )
    return shape


def checked_labels(name, labels, count, num_classes=None, what="images"):
    """Return (labels int64 [N], number of classes), (None, 0) for None; ValueError for others.

    labels       integers [N], one for each of the `count` items
    num_classes  largest label + 1 unless given
    """
    if labels is None:
        return None, 0
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{name}: {describe(labels)} are not labels; give one integer per {what[:-1]}"
        )
    if len(labels) != count:
        raise ValueError(
            f"{name}: {len(labels)} labels for {count} {what}; give one per {what[:-1]}"
        )
    if labels.max() >= MOST_CLASSES:
        raise ValueError(
            f"{name}: label {labels.max()} is larger than any number of classes; number them from 0"
        )
    if labels.min() < 0:
        raise ValueError(f"{name}: label {labels.min()} is negative; number the classes from 0")
    if num_classes and labels.max() >= num_classes:
        raise ValueError(
            f"{name}: label {labels.max()} is out of range; {num_classes} classes are "
            f"0..{num_classes - 1}"
        )
    return labels.astype(np.int64), num_classes or int(labels.max()) + 1


def checked_count(name, wanted, found, what="images"):
    """Return `wanted`; ValueError unless it is between 1 and `found`."""
    if not 0 < wanted <= found:
        raise ValueError(f"{name}: {wanted} {what} asked for, {found} found; ask for 1 to {found}")
    return wanted


def to_float(images):
    """Map uint8 [N, H, W, C] to a float32 tensor [N, C, H, W] in [-1, 1]."""
    import torch

    return torch.as_tensor(images).permute(0, 3, 1, 2).contiguous().to(torch.float32) / 127.5 - 1


def to_uint8(x):
    """Map a float tensor [N, C, H, W], data in [-1, 1], to a uint8 array [N, H, W, C]; out of range
    is clipped.

    Truncation of 127.5 x + 128 is EDM's rounding; it undoes `to_float` exactly. NaN is a
    ValueError, not a black image.
    """
    import torch

    # half precision cannot tell 255 levels apart
    x = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    if x.isnan().any():
        raise ValueError(
            "the images contain NaN; check the network's weights, or use a higher precision"
        )
    return (
        (x * 127.5 + 128)
        .clip(0, 255)
        .to(torch.uint8)
        .permute(0, 2, 3, 1)
        .contiguous()
        .cpu()
        .numpy()
    )


def describe(array):
    """Say what an array is, for messages."""
    return f"{array.dtype} {list(array.shape)}"


def size(shape):
    """Say what an image of a shape (H, W, C) is, for messages."""
    return f"{shape[0]}x{shape[1]} {'grey' if shape[2] == 1 else 'RGB'}"
