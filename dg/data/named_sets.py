"""Image sets that are known by a name: embedded in a package, or downloaded by torchvision."""

import contextlib
import hashlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np

from dg.data.images import ImageSet, pooled
from dg.runtime.files import cache_folder, one_line

SPLITS = {"digits": ("train", "heldout")} | dict.fromkeys(
    ("cifar10", "mnist", "mnist-14", "mnist-small", "mnist-small-14"), ("train", "test")
)
HALVED = "-14"  # of a name: the images averaged over squares of 2 x 2 pixels
EMBEDDED = Path(__file__).with_name("mnist_small")
TORCHVISION = {  # class, its files, where they belong in the cache folder
    "cifar10": ("CIFAR10", "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "."),
    "mnist": (
        "MNIST",
        "https://ossci-datasets.s3.amazonaws.com/mnist/{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz",
        "MNIST/raw",
    ),
}
# Of downloaded sets whose cached files torchvision reads unchecked: 16 digits that depend on every
# image with its label, but not on the order.
CONTENT = {"mnist:train": "54e1ab866c948494", "mnist:test": "97b756d55950f184"}


def load_named(name, split=None):
    """The set of a name in SPLITS. Default: all of `digits`, 'train' of the others. ValueError for
    an unknown split."""
    if split not in (None, *SPLITS[name]):
        raise ValueError(f"{name} has no split {split!r}; it has {' and '.join(SPLITS[name])}")
    if name == "digits":
        return _load_digits(split)
    split = split or "train"
    if name.endswith(HALVED):
        halved = pooled(load_named(name.removesuffix(HALVED), split), 2)
        return replace(halved, name=f"{name}:{split}")
    return _load_embedded(split) if name == "mnist-small" else _load_torchvision(name, split)


def _load_digits(split):
    """The 1,797 digits of scikit-learn, 8x8; `digits` alone is all of them in the package's order.

    The split is fixed: shuffle with RandomState(0) (whose stream never changes), sort by class
    keeping that order, hold out every fifth. So 1,437 train, 360 are held out, every class 80 : 20
    to within one image, in the package's order.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    images = np.round(data.images * (255 / 16)).astype(np.uint8)[..., None]  # values 0..16
    digits = ImageSet(images, data.target, f"digits:{split}" if split else "digits")
    if split is None:
        return digits
    shuffled = np.random.RandomState(0).permutation(len(digits))
    by_class = shuffled[np.argsort(digits.labels[shuffled], kind="stable")]
    heldout = np.zeros(len(digits), dtype=bool)
    heldout[by_class[::5]] = True
    return digits.subset(heldout if split == "heldout" else ~heldout)


def _load_embedded(split):
    """10,000 images of MNIST in random order: of its training images, or all test images."""
    with np.load(EMBEDDED / f"{split}.npz") as file:
        return ImageSet(file["images"], file["labels"], f"mnist-small:{split}")


def _load_torchvision(name, split):
    class_name, url, place = TORCHVISION[name]
    root = cache_folder()
    import torchvision.datasets

    try:
        with contextlib.redirect_stdout(io.StringIO()):  # torchvision prints while it downloads
            data = getattr(torchvision.datasets, class_name)(
                root=str(root), train=split == "train", download=True
            )
    except Exception as error:  # of urllib, http, tarfile or torchvision
        raise ValueError(
            f"cannot load {name} ({one_line(error)}); get {url} and put it in {root / place}"
        ) from error
    images = np.asarray(data.data)
    images = images if images.ndim == 4 else images[..., None]
    found = ImageSet(images, np.asarray(data.targets), f"{name}:{split}")
    if CONTENT.get(found.name) not in (None, content_of_set(found)):
        raise ValueError(
            f"the {len(found)} images in {root / place} are not those of {found.name}; delete that "
            f"folder to fetch them again, or get {url} and put it there"
        )
    return found


def content_of_set(data: ImageSet) -> str:
    """16 hex digits that depend on every image with its label, but not on their order."""
    pairs = zip(data.images, data.labels, strict=True)
    rows = [hashlib.sha256(image.tobytes() + bytes([label])).digest() for image, label in pairs]
    return hashlib.sha256(b"".join(sorted(rows))).hexdigest()[:16]
