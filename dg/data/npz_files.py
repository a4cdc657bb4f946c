"""Images in npz files: one file, or a folder of shards."""

import zipfile

import numpy as np

from dg.data.images import ImageSet, kind, one_line, size

KEYS = (
    ("samples", ("label", "labels")),
    ("images", ("labels", "label")),
    ("arr_0", ("arr_1",)),
)  # images, labels
FROM_FLOAT = "(127.5 * x + 128).clip(0, 255).astype('uint8') from [-1, 1], (255 * x + 0.5).astype('uint8') from [0, 1]"


def load_npz(path, split=None):
    """Return (ImageSet, seeds int64 [N] or None) of one npz file.

    path   keys `samples` (with `label`, `seeds`), `images` (`labels`), `arr_0` (`arr_1`), or `train_images`,
           `train_labels`, `test_images`, `test_labels`; images uint8 [N, H, W], [N, H, W, C] or [N, C, H, W]
    split  'train' (if not given) or 'test', only where the file has both
    """
    _check_zip(path)
    with np.load(path, allow_pickle=False) as arrays:
        image_key, label_key = _keys(path, arrays.files, split)
        seed_key = "seeds" if image_key == "samples" and "seeds" in arrays.files else None
        images, labels, seeds = [
            _array(path, arrays, key) for key in (image_key, label_key, seed_key)
        ]
    labels, classes = _integer_labels(path, labels)
    images = ImageSet(_channels_last(path, images), labels, str(path), classes)
    if seeds is not None and (seeds.shape != (len(images),) or seeds.dtype.kind not in "iu"):
        raise ValueError(
            f"{path}: seeds are {kind(seeds)} for {len(images)} images; give one integer per image"
        )
    return images, seeds


def holds_images(path):
    """Whether an npz file holds images under one of the known keys."""
    with zipfile.ZipFile(path) as archive:
        return any(f"{key}.npy" in archive.namelist() for key, _ in KEYS)


def read_header(file):
    """(shape, whether by columns, dtype) of a .npy file; leaves the file where its data begin."""
    version = np.lib.format.read_magic(file)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    return read(file)


class NpzImages:
    """The images of one npz file, read in ascending pieces; memory does not grow with the file.

    shape        (H, W, C)
    seeds        int64 [N] or None
    labels       integers [N] or None
    num_classes  where the file tells it, else None

    ValueError as from `load_npz`, for damage too when it is met.
    """

    def __init__(self, path):
        _check_zip(path)
        with np.load(path, allow_pickle=False) as arrays:
            key, label_key = _keys(path, arrays.files, None)
            self.labels, self.num_classes = _integer_labels(path, _array(path, arrays, label_key))
            self.seeds = _array(
                path, arrays, "seeds" if key == "samples" and "seeds" in arrays.files else None
            )
        self.path, self.key, self._file = path, key, None
        try:
            with self._open() as file:
                self._shape, by_columns, dtype = read_header(file)
                self._start = file.tell()
        except (
            Exception
        ) as error:  # zip, zlib, numpy and the operating system each raise their own for damage
            raise self._damaged(error) from error
        head = _channels_last(path, np.empty((0, *self._shape[1:]), dtype))
        if by_columns or head.ndim != 4 or head.shape[3] not in (1, 3) or 0 in self._shape:
            what = f"{dtype} {list(self._shape)}"
            raise ValueError(
                f"{path}: {what} are not images; give uint8 [N, H, W, 1 or 3], at least one"
            )
        self.shape = head.shape[1:]
        if self.seeds is not None and (
            self.seeds.shape != self._shape[:1] or self.seeds.dtype.kind not in "iu"
        ):
            raise ValueError(
                f"{path}: seeds are {kind(self.seeds)} for {len(self)} images; give one integer per image"
            )

    def __len__(self):
        return self._shape[0]

    def read(self, start, stop):
        """uint8 [stop - start, H, W, C]; faster where calls ascend."""
        size = int(np.prod(self._shape[1:]))
        try:
            self._file = self._file or self._open()
            self._file.seek(self._start + start * size)
            data = self._file.read((stop - start) * size)
            images = np.frombuffer(data, np.uint8).reshape(stop - start, *self._shape[1:])
        except Exception as error:
            raise self._damaged(error) from error
        return _channels_last(self.path, images)

    def _open(self):
        return zipfile.ZipFile(self.path).open(f"{self.key}.npy")

    def _damaged(self, error):
        return ValueError(
            f"{self.path}: {self.key} cannot be read ({one_line(error)}); get or make the file again"
        )


def load_shards(folder, paths):
    """Join npz shards to one ImageSet: by seed where every shard has seeds, otherwise in the order of `paths`."""
    shards = [load_npz(path) for path in paths]
    sets = [images for images, _ in shards]
    for path, images in zip(paths, sets, strict=True):
        if images.images.shape[1:] != sets[0].images.shape[1:]:
            sizes = f"{size(images.images[0])} but {paths[0]} has {size(sets[0].images[0])}"
            raise ValueError(f"{path}: images are {sizes}; keep one size and colour in a folder")
        if (images.labels is None) != (sets[0].labels is None):
            raise ValueError(
                f"{path} and {paths[0]}: only one has labels; keep them in separate folders"
            )
    joined = ImageSet(
        images=np.concatenate([images.images for images in sets]),
        labels=None
        if sets[0].labels is None
        else np.concatenate([images.labels for images in sets]),
        name=str(folder),
        num_classes=max(images.num_classes for images in sets),
    )
    if any(seeds is None for _, seeds in shards):
        return joined
    order = _by_seed(paths, [seeds for _, seeds in shards])
    return (
        joined if (np.diff(order) == 1).all() else joined.subset(order)
    )  # no second copy where names sort like seeds


def _check_zip(path):
    if not zipfile.is_zipfile(path):  # numpy would take it for a pickle
        raise ValueError(
            f"{path} cannot be read (not an npz file, or cut short); get or make it again"
        )


def _by_seed(paths, seeds):
    """The order that sorts all seeds; a seed that is there twice is a ValueError."""
    shard = np.repeat(np.arange(len(paths)), [len(part) for part in seeds])
    seeds = np.concatenate(seeds)
    order = np.argsort(seeds, kind="stable")
    if (same := np.flatnonzero(np.diff(seeds[order]) == 0)).size:
        first, second = order[same[0]], order[same[0] + 1]
        names = f"{paths[shard[first]]} and {paths[shard[second]]}"
        raise ValueError(f"{names} both hold seed {seeds[first]}; keep one of them")
    return order


def _keys(path, keys, split):
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
    raise ValueError(f"{path} holds {held}; save the images under the key 'samples' or 'images'")


def _array(path, arrays, key):
    """Read one array, None for no key."""
    try:
        return arrays[key] if key else None
    except (
        Exception
    ) as error:  # zip, zlib, numpy and the operating system each raise their own for damage
        raise ValueError(
            f"{path}: {key} cannot be read ({one_line(error)}); get or make the file again"
        ) from error


def _channels_last(path, images):
    """Return [N, H, W, C] for [N, H, W], [N, H, W, C] or, where nothing else is possible, [N, C, H, W]."""
    if images.dtype != np.uint8:
        how = FROM_FLOAT if images.dtype.kind == "f" else "x.astype('uint8') if in 0..255"
        raise ValueError(f"{path}: images are {images.dtype}, not uint8; convert them first: {how}")
    if images.ndim == 3:
        return images[..., None]
    if images.ndim == 4 and images.shape[3] not in (1, 3) and images.shape[1] in (1, 3):
        return np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    return images


def _integer_labels(path, labels):
    """Return (labels [N], number of classes if known) for integers [N] or [N, 1], or one-hot rows [N, K]."""
    if labels is None or labels.ndim != 2:
        return labels, None
    if labels.shape[1] == 1:
        return labels[:, 0], None
    if not (np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all()):
        raise ValueError(
            f"{path}: labels {kind(labels)} are not one-hot; save one-hot rows or integers"
        )
    return labels.argmax(axis=1), labels.shape[1]
