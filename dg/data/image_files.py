"""Image files in a folder or a zip: their images as a stream."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np

from dg.data.image_decoding import MOST_PIXELS, decode
from dg.data.image_folders import arranged, split_folder
from dg.data.image_stream import ImageStream
from dg.data.images import size
from tensor_files.reading import shown

CHUNK = 8  # images per task


class ImageFiles(ImageStream):
    """The images among Files; all but `crops` want them of one size and colour.

    split        a sub-folder; None: where there are several folders of splits, `train`
    class_names  of labels that no class folders give
    """

    def __init__(self, files, split, notify, class_names=None):
        images = files.images()
        if images and (folder := split_folder(files, images, split, notify)):
            if "dataset.json" in files.names:
                notify(f"{files.path}: dataset.json is not of {folder} alone; its labels left out")
            files = files.below(folder)
            images = files.images()
        if not images:
            raise ValueError(
                f"{files.path} holds no PNG or JPEG images (nor WebP, BMP, TIFF, GIF, PPM) and no "
                "npz shards; give another folder"
            )
        files.tell_skipped(images, notify)
        names, seeds, labels, of_folders = arranged(files, images, notify)
        class_names = of_folders or (None if labels is None else class_names)
        classes = 0 if labels is None else int(labels.max()) + 1
        super().__init__(files.path, len(names), labels, seeds, classes, names, class_names)
        self._source, self._notify = files, notify
        self._converted, self._told = {}, {}  # names of images, and their number, by what was done

    @cached_property
    def shape(self):
        return self.decode(self.files[0]).shape

    def fetch(self, positions):
        return [self.files[position] for position in positions]

    def decode(self, item):
        try:
            image, notes = decode(self._source.read(item))
        except Exception as error:  # Pillow, zipfile and the system each raise their own
            raise ValueError(
                f"{self.name}: {item} cannot be read ({shown(error)}); replace or delete it"
            ) from error
        for note in notes:
            self._converted.setdefault(note, set()).add(item)
        return image

    def tell(self):
        for note, names in self._converted.items():
            if len(names) != self._told.get(note):
                self._told[note] = len(names)
                self._notify(f"{self.name}: {len(names)} of {len(self)} images {note}")

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
        # times slower. Of the largest only one is decoded at once, to save memory.
        values = np.prod(self.shape)
        at_once = 1 if values < 64 * 64 else min(os.cpu_count() or 1, 1 + MOST_PIXELS // values)
        with ThreadPoolExecutor(at_once) as pool:
            for _ in pool.map(fill, range(0, len(names), CHUNK)):
                pass
        return images
