"""The images of files of arrays, npz or npy: of one file, or of a folder of shards."""

from functools import cached_property

import numpy as np

from dg.data.array_files import (
    array_names,
    one_line_for_damage,
    open_array,
    read_arrays,
    read_header,
)
from dg.data.image_stream import ImageStream
from dg.data.images import checked_images, checked_labels, describe, size
from dg.runtime.progress import unheard

# images, labels
KEYS = (
    ("samples", ("label", "labels")),
    ("images", ("labels", "label")),
    ("arr_0", ("arr_1",)),
)
FROM_FLOAT = (
    "(127.5 * x + 128).clip(0, 255).astype('uint8') from [-1, 1], "
    "(255 * x + 0.5).astype('uint8') from [0, 1]"
)
STATISTICS = {"mu", "sigma", "mu_s", "sigma_s"}  # of a reference, of which its images are no part
PIECE = 1024  # images that are read from a file at once


class NpzImages:
    """The images of one file, read in pieces; memory does not grow with the file.

    path   an npy file, or npz with keys `samples` (with `label`, `seeds`), `images` (`labels`),
           `arr_0` (`arr_1`), or `train_images`, `train_labels`, `test_images`, `test_labels`;
           images uint8 [N, H, W], [N, H, W, C] or [N, C, H, W], or one image [H, H, 1 or 3]
    split  'train' (if not given) or 'test', only where the file has both

    shape        (H, W, C)
    labels       int64 [N] or None
    num_classes  one-hot labels tell it, else the largest label + 1; 0 without labels
    seeds        int64 [N] or None
    left_out     the split that the file holds too, though none was asked for; '' for none
    unread       names of arrays that are not read, though they may belong to the images
    array_shape  of the array in the file
    single       whether the array is one image, without an axis for several; None where that
                 cannot be known: [3, H, W] may be three grey images too

    ValueError of one line for what is not images, and for damage when it is met.
    """

    def __init__(self, path, split=None):
        keys = array_names(path)
        key, label_key = _image_keys(path, keys, split)
        both = {"train_images", "test_images"} <= {*keys}
        self.left_out = "test" if both and split is None else ""
        seed_key = "seeds" if key == "samples" and "seeds" in keys else None
        splits = [name for name in keys if name.startswith(("train_", "test_"))] if both else []
        self.unread = sorted({*keys} - {key, label_key, seed_key, *STATISTICS, *splits})
        labels, seeds = read_arrays(path, label_key, seed_key)
        header = read_header(path, key)
        self.path, self.key, self._start, self._file = path, key, header.start, None
        self.single = _is_one_image(header.shape, labels, seeds)
        self.array_shape, self._shape, self._whole = header.shape, header.shape, None
        if self.single:
            self._shape, labels, seeds = (1, *header.shape), _one_row(labels), _one_row(seeds)
        head = _channels_last(path, np.empty((0, *self._shape[1:]), header.dtype))
        self.shape = checked_images(path, header.dtype, (*self._shape[:1], *head.shape[1:]))[1:]
        if header.by_columns:
            self._whole = read_arrays(path, key)[0].reshape(self._shape)
        labels, classes = _integer_labels(path, labels)
        self.labels, self.num_classes = checked_labels(path, labels, len(self), classes)
        if seeds is not None and (seeds.shape != (len(self),) or seeds.dtype.kind not in "iu"):
            raise ValueError(
                f"{path}: seeds are {describe(seeds)} for {len(self)} images; give one integer per "
                "image"
            )
        self.seeds = None if seeds is None else seeds.astype(np.int64)

    def __len__(self):
        return self._shape[0]

    def read(self, start, stop):
        """uint8 [stop - start, H, W, C]; faster where calls ascend. The file stays open."""
        if self._whole is not None:
            return _channels_last(self.path, self._whole[start:stop])
        image_size = int(np.prod(self._shape[1:]))
        with one_line_for_damage(self.path, self.key):
            if self._file is None:
                self._file = open_array(self.path, self.key)
                self._file.read(self._start)
            place = self._start + start * image_size
            if self._file.tell() != place:  # after a seek zipfile may check no sum
                self._file.seek(place)
            data = self._file.read((stop - start) * image_size)
            images = np.frombuffer(data, np.uint8).reshape(stop - start, *self._shape[1:])
        return _channels_last(self.path, images)

    def close(self):
        """Close the file until the next `read`."""
        if self._file is not None:
            self._file.close()
            self._file = None


class NpzShards(ImageStream):
    """The images of npz files: by seed where all files have seeds, else in the order of `paths`."""

    def __init__(self, name, paths, split=None, notify=unheard, class_names=None):
        self._shards = [NpzImages(path, split) for path in paths]
        self._check_singles(name, notify)
        if left_out := next((part.left_out for part in self._shards if part.left_out), None):
            notify(f"{name}: the split train is taken; {left_out} left out")
        if unread := sorted({name for part in self._shards for name in part.unread}):
            notify(f"{name}: left out of its files: {', '.join(unread)}")
        self._starts = np.cumsum([0, *map(len, self._shards)])
        self._open_shard = self._shards[0]
        labels, seeds = [
            [part.labels for part in self._shards],
            [part.seeds for part in self._shards],
        ]
        for path, part in zip(paths, labels, strict=True):
            if (part is None) != (labels[0] is None):
                raise ValueError(
                    f"{path} and {paths[0]}: only one has labels; keep them in separate folders"
                )
        by_seed = all(part is not None for part in seeds)
        self._order = (
            self._by_seed(np.concatenate(seeds)) if by_seed else np.arange(self._starts[-1])
        )
        super().__init__(
            name,
            len(self._order),
            None if labels[0] is None else np.concatenate(labels)[self._order],
            np.concatenate(seeds)[self._order] if by_seed else None,
            max(part.num_classes for part in self._shards),
            [path.name for path in paths],
            None if labels[0] is None else class_names,
        )

    @cached_property
    def shape(self):
        first = self._shards[0]
        for shard in self._shards:
            if shard.shape != first.shape:
                sizes = f"{size(shard.shape)} but {first.path} has {size(first.shape)}"
                raise ValueError(
                    f"{shard.path}: images are {sizes}; keep one size and colour in a folder"
                )
        return first.shape

    def fetch(self, positions):
        images = [None] * len(positions)
        for places, piece in self._pieces(positions):
            for place, image in zip(places, piece, strict=True):
                images[place] = image
        return images

    def read(self, positions):
        images = np.empty((len(positions), *self.shape), np.uint8)
        for places, piece in self._pieces(positions):
            images[places] = piece
        return images

    def _pieces(self, positions):
        """Yield (places in `positions`, their images), file by file, consecutive rows together."""
        rows = self._order[positions]
        ascending = np.argsort(rows, kind="stable")
        rows = rows[ascending]
        shard = np.searchsorted(self._starts, rows, "right") - 1
        breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(shard) != 0)) + 1
        for start, stop in zip([0, *breaks], [*breaks, len(rows)], strict=True):
            source, offset = self._shards[shard[start]], self._starts[shard[start]]
            if source is not self._open_shard:  # of many files one is open
                self._open_shard.close()
                self._open_shard = source
            for first in range(start, stop, PIECE):
                last = min(first + PIECE, stop)
                piece = source.read(int(rows[first] - offset), int(rows[last - 1] + 1 - offset))
                yield ascending[first:last], piece

    def _check_singles(self, name, notify):
        """Tell how many files are one image; ValueError where that cannot be known of any."""
        if all(shard.single is None for shard in self._shards):
            first = self._shards[0]
            array = f"uint8 [{', '.join(map(str, first.array_shape))}]"
            raise ValueError(
                f"{first.path}: {array} may be one image or {first.array_shape[0]} grey ones; save "
                "one as [1, H, W, C], several as [N, H, W, 1]"
            )
        if count := sum(bool(shard.single) for shard in self._shards):
            notify(f"{name}: {count} of {len(self._shards)} files are one image each")

    def _by_seed(self, seeds):
        """The order that sorts all seeds; a seed that is there twice is a ValueError."""
        order = np.argsort(seeds, kind="stable")
        if (same := np.flatnonzero(np.diff(seeds[order]) == 0)).size:
            rows = order[same[0] : same[0] + 2]
            shards = np.searchsorted(self._starts, rows, "right") - 1
            first, second = (self._shards[shard].path for shard in shards)
            seed = seeds[rows[0]]
            if first == second:
                raise ValueError(f"{first} holds seed {seed} twice; give every image its own seed")
            raise ValueError(f"{first} and {second} both hold seed {seed}; keep one of them")
        return order


def _is_one_image(shape, labels, seeds):
    """Whether an array [a, b, c] is one image, not [N, H, W]; None where that cannot be known."""
    if len(shape) != 3:
        return False
    a, b, c = shape
    counts = {len(array) if array.ndim else 1 for array in (labels, seeds) if array is not None}
    if a in counts or (b == c and a != 3) or (a != 3 and c not in (1, 3)):
        return False
    if 1 in counts or (a == b and a > c):
        return True
    return None


def _one_row(array):
    """Labels or seeds of one image: a number [] or one-hot [K] becomes a row."""
    if array is None or array.ndim == 2:
        return array
    return array.reshape(1) if array.size == 1 else array[None]


def _image_keys(path, keys, split):
    """Return the keys of the images and of their labels (None if there are none)."""
    wanted = split or "train"
    if f"{wanted}_images" in keys:
        return f"{wanted}_images", f"{wanted}_labels" if f"{wanted}_labels" in keys else None
    held = ", ".join(keys) or "nothing"
    if split is not None:
        raise ValueError(f"{path} has no split {split!r}, it holds {held}; leave the split out")
    for image_key, label_keys in KEYS:
        if image_key in keys:
            return image_key, next((key for key in label_keys if key in keys), None)
    if "latents" in keys:
        raise ValueError(
            f"{path} holds latents, not images; train.py and pretrain.py classifier take them"
        )
    if "mu" in keys and "sigma" in keys:
        raise ValueError(
            f"{path} holds reference statistics (mu, sigma), not images; give the images themselves"
        )
    raise ValueError(
        f"{path} holds {held}; save images under the key 'samples' or 'images', statistics under "
        "'mu' and 'sigma'"
    )


def _channels_last(path, images):
    """Return [N, H, W, C] for [N, H, W], [N, H, W, C] or, where that is no shape, [N, C, H, W]."""
    if images.dtype != np.uint8:
        how = FROM_FLOAT if images.dtype.kind == "f" else "x.astype('uint8') if in 0..255"
        raise ValueError(f"{path}: images are {images.dtype}, not uint8; convert them first: {how}")
    if images.ndim == 3:
        return images[..., None]
    if images.ndim == 4 and images.shape[3] not in (1, 3) and images.shape[1] in (1, 3):
        return np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    return images


def _integer_labels(path, labels):
    """Return (labels [N], number of classes if known) for [N], [N, 1], or one-hot rows [N, K]."""
    if labels is None or labels.ndim != 2 or labels.dtype.kind not in "biuf":
        return labels, None
    if labels.shape[1] == 1:
        return labels[:, 0], None
    if not (np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all()):
        raise ValueError(
            f"{path}: labels {describe(labels)} are not one-hot; save one-hot rows or integers"
        )
    return labels.argmax(axis=1), labels.shape[1]
