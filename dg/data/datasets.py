"""Image sets by name or path: embedded data, torchvision's downloads, npz files and shards, image folders, EDM zips."""

import contextlib
import io
import os
from pathlib import Path

import numpy as np

from dg.data.image_files import Folder, Zip, image_names, load_image_files
from dg.data.images import ImageSet, one_line, to_float, to_uint8
from dg.data.npz_files import load_npz, load_shards
from dg.runtime.files import cache_folder

__all__ = ["ImageSet", "load_images", "to_float", "to_uint8"]

SPLITS = {"digits": ("train", "heldout"), "cifar10": ("train", "test"), "mnist": ("train", "test")}
TORCHVISION = {  # class, its files, where they belong in the cache folder
    "cifar10": ("CIFAR10", "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "."),
    "mnist": (
        "MNIST",
        "https://ossci-datasets.s3.amazonaws.com/mnist/{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz",
        "MNIST/raw",
    ),
}


def load_images(source, num_images=None, split=None):
    """Load all images of `source`, or its first `num_images`, as an ImageSet.

    source  `digits`, `cifar10`, `mnist` (./digits for a folder of that name), or the path of an npz file, a folder of
            npz shards, or a folder or zip of images (PNG, JPEG): named by seed, in class folders, or with EDM's
            dataset.json
    split   'train', 'test' or 'heldout', also as a suffix: `digits:heldout`, `cifar10:test`, `mnist.npz:test`. A folder
            has the split that is a sub-folder of that name. Default: all of `digits`, 'train' of the others.

    Anything missing, damaged or inconsistent is a ValueError of one line that names the file.
    """
    source = os.fspath(source)
    head, _, tail = source.rpartition(":")
    if head and tail in ("train", "test", "heldout") and not os.path.exists(source):
        if split not in (None, tail):
            raise ValueError(f"{source}: the split {split!r} is asked for too; give one of them")
        source, split = head, tail
    if source not in SPLITS:
        images = _load_path(Path(source), num_images, split)
    elif split not in (None, *SPLITS[source]):
        raise ValueError(f"{source} has no split {split!r}; it has {' and '.join(SPLITS[source])}")
    else:
        images = (
            _load_digits(split)
            if source == "digits"
            else _load_torchvision(source, split or "train")
        )
    return images if num_images is None else images.take(num_images)


def is_named(source):
    """Whether `source` is a known set, or asks for a split: something that `load_images` takes and no file has."""
    head, _, tail = os.fspath(source).rpartition(":")
    return source in SPLITS or (bool(head) and tail in ("train", "test", "heldout"))


def _load_path(path, num_images, split):
    if path.is_dir():
        return _load_folder(path, num_images, split)
    if not path.is_file():
        raise ValueError(
            f"{path} does not exist; give an npz, a zip, a folder, or one of {', '.join(SPLITS)}"
        )
    if path.suffix.lower() == ".npz":
        return load_npz(path, split)[0]
    if path.suffix.lower() != ".zip":
        raise ValueError(
            f"{path} is neither an npz file nor a zip nor a folder; give the folder that holds it"
        )
    if split is not None:
        raise ValueError(f"{path} has no split {split!r}; leave the split out")
    archive = Zip(path)
    with archive.zip:
        return load_image_files(archive, num_images)


def _load_folder(path, num_images, split):
    if split is not None:
        if not (path / split).is_dir():
            raise ValueError(f"{path} has no sub-folder {split!r}; leave the split out")
        path = path / split
    if shards := sorted(path.glob("samples_*.npz")):  # pictures beside them are previews
        return load_shards(path, shards)
    files = Folder(path)
    if not image_names(files) and (shards := sorted(path.glob("*.npz"))):
        return load_shards(path, shards)
    return load_image_files(files, num_images)


def _load_digits(split):
    """The 1,797 digits of scikit-learn, 8x8; `digits` alone is all of them in the package's order.

    The split is fixed: shuffle with RandomState(0) (whose stream never changes), sort by class keeping that order, hold
    out every fifth. So 1,437 train, 360 are held out, every class 80 : 20 to within one image, in the package's order.
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
    return ImageSet(
        images if images.ndim == 4 else images[..., None],
        np.asarray(data.targets),
        f"{name}:{split}",
    )
