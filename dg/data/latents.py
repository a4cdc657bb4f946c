"""Sets of latents, read from shards or from the authors' single files, and the store of the shards.

A set lies in the computer's memory once, in the precision of its files, in every process of a run:
all of ImageNet at 4 x 32 x 32 is 21 GB of float32 or 10.5 GB of float16. Batches go to the device
one by one.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from dg.data.array_files import latents_header, read_arrays
from dg.data.images import ImageSet, LabelledSet, checked_labels, describe
from dg.data.manifests import check_whole, manifest_of
from dg.data.reader import kinds_of, load_images, npz_paths
from dg.data.sample_store import SampleStore
from dg.runtime.progress import unheard

# Settings of a store that sets must share to be told apart fairly.
ENCODING = ("vae", "resolution", "sample")


@dataclass(frozen=True)
class LatentSet(LabelledSet):
    """Latents with their labels.

    latents      float16 or float32 [N, C, h, w]  scaled to a standard deviation of about 1
    labels       int64 [N]                        None for an unlabelled set
    name         str                              where they came from; error messages begin with it
    num_classes  int                              largest label + 1 unless given; 0 if unlabelled
    encoding     dict                             how they were made, as far as that is known
    class_names  tuple of str                     by label, where class folders gave the labels
    """

    latents: np.ndarray
    labels: np.ndarray | None
    name: str
    num_classes: int | None = None
    encoding: dict | None = None
    class_names: tuple[str, ...] | None = None
    what: ClassVar[str] = "latents"

    def _check_items(self):
        latents = self.latents
        if latents.dtype not in (np.float16, np.float32) or latents.ndim != 4 or 0 in latents.shape:
            raise ValueError(
                f"{self.name}: {describe(latents)} are not latents; give float16 or float32 "
                "[N, C, h, w], at least one"
            )

    @property
    def items(self):
        """The latents, by the name that all sets share."""
        return self.latents

    @property
    def resolution(self):
        """Side length of a latent; ValueError when they are not square."""
        height, width = self.latents.shape[2:]
        if height != width:
            raise ValueError(f"{self.name}: latents are {height}x{width}; encode square images")
        return height

    @property
    def channels(self):
        return self.latents.shape[1]

    def floats(self, index):
        """The latents at `index` as networks see them: a float32 tensor [N, C, h, w]."""
        import torch

        return torch.from_numpy(self.latents[index].astype(np.float32))


class Rows:
    """Latents of one set or two, where these have them, in the computer's memory; those that are
    asked for go to `device`.

    len(), and rows[index] for index [N] -> [N, C, h, w] in the precision of the sets.
    """

    def __init__(self, sets: list[LatentSet], indices: list[np.ndarray], device):
        import torch

        self.device = torch.device(device)
        self.latents = [torch.from_numpy(data.latents) for data in sets]
        self.places = [torch.from_numpy(index) for index in indices]

    def __len__(self) -> int:
        return sum(map(len, self.places))

    def __getitem__(self, index):
        import torch

        index, first = index.cpu(), len(self.places[0])
        rows = torch.empty(len(index), *self.latents[0].shape[1:], dtype=self.latents[0].dtype)
        for latents, places, chosen, start in zip(
            self.latents, self.places, (index < first, index >= first), (0, first), strict=False
        ):
            rows[chosen] = latents[places[index[chosen] - start]]
        return rows.to(self.device)


AnySet = ImageSet | LatentSet


class LatentStore(SampleStore):
    """A `SampleStore` of latents: shards with `latents`, `labels` (if any) and `seeds`.

    The seeds are places in the set of images; those from the number of images on are of the
    mirrored copies.
    """

    kind = LatentSet
    keys = ("latents", "labels")

    def _names(self, seeds):
        return [f"samples_{seeds[0]:08d}-{seeds[-1]:08d}.npz"]

    def load(self):
        """All latents as a LatentSet; ValueError if any is missing."""
        return load_latents(self.outdir)


def load_set(source, notify=unheard) -> AnySet:
    """Latents where `source` holds some, else images as of `load_images`."""
    if "latents" in kinds_of(source):
        return load_latents(source, notify)
    return load_images(source, notify=notify)


def load_latents(source, notify=unheard) -> LatentSet:
    """The latents of a folder of shards, of one npz file, or of class folders with one latent per
    npz file.

    Shards have `latents` [N, C, h, w] and `labels`; the authors' single files `samples` [C, h, w]
    and `label`. ValueError of one line for files that are missing, damaged or do not belong
    together.
    """
    if "latents" not in kinds_of(source):
        raise ValueError(f"{source} holds no latents; write some with pretrain.py latents")
    files = npz_paths(source, notify)
    key, (shape, _, dtype, _) = latents_header(files[0])
    counts = [1 if len(shape) == 3 else _count(path) for path in files]
    latents, labels, start = np.empty((sum(counts), *shape[-3:]), dtype), [], 0
    for path, count in zip(files, counts, strict=True):
        part, some = _read(path, key)
        if part.shape != (count, *shape[-3:]) or part.dtype != dtype:
            raise ValueError(
                f"{path}: latents are {describe(part)} but {files[0]} has {dtype} {list(shape)}; "
                "keep one size and "
                "precision in a folder"
            )
        if not np.isfinite(part).all():
            raise ValueError(f"{path}: latents are not finite; encode the images again")
        latents[start : start + count] = part
        labels.append(some)
        start += count
    if any((some is None) != (labels[0] is None) for some in labels):
        raise ValueError(
            f"{source}: only some of the files have labels; keep them in separate folders"
        )
    joined = None if labels[0] is None else np.concatenate(labels)
    store = None if Path(source).is_file() else _manifest(files, notify)
    encoding = store and {name: store["settings"].get(name) for name in ENCODING}
    names = store and joined is not None and store.get("class names")
    class_names = tuple(map(str, names)) if isinstance(names, list) and names else None
    return LatentSet(latents, joined, str(source), encoding=encoding, class_names=class_names)


def _count(path):
    if not (found := latents_header(path)):
        raise ValueError(f"{path} holds no latents; keep it in a separate folder")
    shape = found[1].shape
    return 1 if len(shape) == 3 else shape[0]


def _read(path, key):
    """(latents [n, C, h, w], labels [n] or None) of one file."""
    latents, labels = read_arrays(path, key, ("labels", "label"))
    latents = latents[None] if latents.ndim == 3 else latents
    labels = None if labels is None else np.atleast_1d(labels)
    return latents, checked_labels(path, labels, len(latents), what="latents")[0]


def _manifest(files, notify):
    """The manifest of a store, None for other folders; ValueError unless all its latents are there
    as they were made."""
    folder = files[0].parent
    if (folder / "manifest.json").is_file() and manifest_of(folder) is None:
        raise ValueError(f"{folder / 'manifest.json'} is not a store's; restore it or delete it")
    again = "give the same pretrain.py latents again"
    check_whole(folder, [path.name for path in files], notify, "latents", again)
    return manifest_of(folder)
