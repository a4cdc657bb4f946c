"""Images of any source as one file of squares: EDM's zip, or ADM's npz."""

import io
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np

from dg.data.crops import picture_of
from dg.data.image_stream import ImageStream
from dg.data.images import size
from dg.runtime.files import atomic_write, writable_file
from dg.runtime.progress import Progress, silent, unheard

AT_ONCE = 16  # images that are decoded and cropped together
READABLE = 0o644 << 16  # the attribute of a zip's entry that lets its owner read it unpacked


class ZipOfImages:
    """EDM's form: uncompressed PNGs, and their labels in dataset.json."""

    def __init__(self, archive, scratch):
        self.archive, self.names = archive, []

    def add(self, image: np.ndarray) -> None:
        number, buffer = f"{len(self.names):08d}", io.BytesIO()
        picture_of(image).save(buffer, "png", compress_level=0)
        self.names.append(f"{number[:5]}/img{number}.png")
        self.archive.writestr(_entry(self.names[-1]), buffer.getvalue())

    def finish(self, labels: list[int] | None) -> None:
        pairs = labels and [list(pair) for pair in zip(self.names, labels, strict=True)]
        self.archive.writestr(_entry("dataset.json"), json.dumps({"labels": pairs}))


class NpzOfImages:
    """ADM's form, which its evaluator reads: images `arr_0`, uint8 [N, H, W, C], labels `arr_1`."""

    def __init__(self, archive, scratch):
        self.archive, self.shape, self.count = archive, None, 0
        self.pixels = scratch  # until their number is known

    def add(self, image: np.ndarray) -> None:
        self.shape, self.count = image.shape, self.count + 1
        self.pixels.write(np.ascontiguousarray(image))

    def finish(self, labels: list[int] | None) -> None:
        shape = (self.count, *self.shape)
        with self.archive.open(_entry("arr_0.npy"), "w", force_zip64=True) as entry:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(entry, header)
            self.pixels.seek(0)
            shutil.copyfileobj(self.pixels, entry, 1 << 20)
        if labels:
            with self.archive.open(_entry("arr_1.npy"), "w") as entry:
                np.lib.format.write_array(entry, np.array(labels, np.int64))


FORMS = {".zip": ZipOfImages, ".npz": NpzOfImages}


def _entry(name: str) -> zipfile.ZipInfo:
    """An entry without the time, so that equal images give equal bytes."""
    entry = zipfile.ZipInfo(name)
    entry.external_attr = READABLE
    return entry


def convert(
    stream: ImageStream,
    dest,
    transform: Callable[[np.ndarray], np.ndarray | None],
    most: int | None = None,
    progress: Progress = silent,
    notify: Callable[[str], None] = unheard,
) -> int:
    """Write the images of a stream to a zip or npz file, as its suffix says; returns their number.

    transform  see `dg.data.crops.transform_of`
    most       the first so many images are taken; None: all
    notify     is told of images that are left out or get colours

    Memory does not grow with their number. ValueError, and no file, where it is there already,
    where images are no squares of one size and colour, and where none is left.
    """
    dest = Path(dest)
    if dest.suffix.lower() not in FORMS:
        raise ValueError(f"{dest} is neither a .zip nor an .npz file; give one of them")
    if dest.exists():
        raise ValueError(f"{dest} is there already; delete it or give another name")
    positions = np.arange(len(stream) if most is None else min(most, len(stream)))
    taken, coloured, first = [], 0, None
    with (
        atomic_write(writable_file(dest)) as file,
        zipfile.ZipFile(file, "w") as archive,
        TemporaryFile(dir=dest.parent) as scratch,
    ):
        form = FORMS[dest.suffix.lower()](archive, scratch)
        for position, channels, image in _made(stream, positions, transform, progress):
            if image is None:
                continue
            first = image.shape if first is None else first
            _check(stream.name, position, image.shape, first)
            coloured += channels < image.shape[2]
            taken.append(position)
            form.add(image)
        if not taken:
            raise ValueError(f"{stream.name}: all images are too small; give a smaller size")
        form.finish(None if stream.labels is None else stream.labels[taken].tolist())
    if small := len(positions) - len(taken):
        notify(f"{stream.name}: {small} of {len(positions)} images are too small and left out")
    if coloured:
        notify(f"{stream.name}: {coloured} of {len(positions)} images are grey, converted to RGB")
    return len(taken)


def _made(stream, positions, transform, progress) -> Iterator[tuple[int, int, np.ndarray | None]]:
    """(position, channels before, image or None) of each."""

    def make(item):
        image = stream.decode(item)
        return image.shape[2], transform(image)

    parts = [positions[i : i + AT_ONCE] for i in range(0, len(positions), AT_ONCE)]
    with ThreadPoolExecutor() as pool:
        for part in progress(parts, desc=Path(stream.name).name, unit="batch"):
            found = pool.map(make, stream.fetch(part))
            yield from ((i, *made) for i, made in zip(part.tolist(), found, strict=True))
    stream.tell()


def _check(name, position, shape, first) -> None:
    """ValueError unless an image is a square of the first one's size and colour."""
    if shape[0] != shape[1]:
        raise ValueError(
            f"{name}: image {position} is {size(shape)}, no square; crop it, or scale it to a "
            "square"
        )
    if shape != first:
        raise ValueError(
            f"{name}: image {position} is {size(shape)}, but the first is {size(first)}; crop or "
            "scale them to one size, and convert them to one colour"
        )
