"""Image files in a folder or a zip: their images as a stream."""

import io
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np

from dg.data.image_folders import arranged, split_folder
from dg.data.image_stream import ImageStream
from dg.data.images import size
from dg.runtime.files import one_line

CHUNK = 8  # images per task


class ImageFiles(ImageStream):
    """The images among Files; all but `crops` want them of one size and colour.

    split  a sub-folder; None: where there are several folders of splits, `train`
    """

    def __init__(self, files, split, notify):
        images = files.images()
        if images and (folder := split_folder(files, images, split, notify)):
            if "dataset.json" in files.names:
                notify(
                    f"{files.path}: the labels in dataset.json are not for {folder} alone; left out"
                )
            files = files.below(folder)
            images = files.images()
        if not images:
            raise ValueError(
                f"{files.path} holds no PNG or JPEG images and no npz shards; give another folder"
            )
        files.tell_skipped(images, notify)
        names, seeds, labels, class_names = arranged(files, images, notify)
        classes = 0 if labels is None else int(labels.max()) + 1
        super().__init__(files.path, len(names), labels, seeds, classes, names, class_names)
        self._source = files

    @cached_property
    def shape(self):
        return self.decode(self.files[0]).shape

    def fetch(self, positions):
        return [self.files[position] for position in positions]

    def decode(self, item):
        return decode(self._source, item)

    def read(self, positions):
        names = self.fetch(positions)
        images = np.empty((len(names), *self.shape), np.uint8)

        def fill(start):
            for i, name in enumerate(names[start : start + CHUNK], start):
                image = self.decode(name)
                if image.shape != self.shape:
                    sizes = (
                        f"{name} is {size(image.shape)} but {self.files[0]} is {size(self.shape)}"
                    )
                    raise ValueError(
                        f"{self.name}: {sizes}; convert all images to one size and colour"
                    )
                images[i] = image

        # Small images are decoded before another thread could take over: threads made these 1.6
        # times slower.
        small = np.prod(self.shape) < 64 * 64
        with ThreadPoolExecutor(1 if small else None) as pool:
            for _ in pool.map(fill, range(0, len(names), CHUNK)):
                pass
        return images


def decode(files, name):
    """One image, uint8 [H, W, C]: grey stays grey, palettes and transparency become RGB."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(files.read(name))) as image:
            mode = image.mode
            array = np.asarray(image.convert("L" if mode in ("1", "L", "LA") else "RGB"))
    # Pillow raises OSError, SyntaxError, struct.error ... depending on where the damage is
    except Exception as error:
        raise ValueError(
            f"{files.path}: {name} cannot be read ({one_line(error)}); replace or delete it"
        ) from error
    if mode[0] in "IF":  # conversion would have clipped it
        raise ValueError(
            f"{files.path}: {name} has more than 8 bits per channel ({mode}); convert it to 8 bits"
        )
    return array if array.ndim == 3 else array[..., None]
