"""What a job of many images costs around its networks: saving, opening, reading, training of a
discriminator, guidance, statistics.

    python -m benchmarks.whole_job --images 50000 --entries 1000000

A tiny network draws images of 8 x 8 pixels in two steps, so that everything else shows: *networks*
is the share of the time within its calls, and those of the discriminator. *open* is the time until
the first 64 images are there; memory is the peak of the process during a step. The archives of
`--entries` images hold one PNG so many times, and one npz shard for each 10,000 images.
"""

import argparse
import io
import tempfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np

import edm
from benchmarks.timing import Clock, finish, peak_gib, reset_peak
from dg.data.conversion import convert
from dg.data.crops import picture_of, transform_of
from dg.data.datasets import load_images, open_images
from dg.data.sample_store import SampleStore
from dg.discriminator import build_discriminator
from dg.evaluation.feature_sets import collect
from dg.evaluation.features import load_extractor
from dg.guidance import DiscriminatorGuidance
from dg.options.numbers import SeedRange
from dg.recipes import PRESETS
from dg.sampling import Sampling, describe, generate
from dg.training import train_discriminator

COLUMNS = ("step", "images", "seconds", "images/s", "GiB", "networks")
SHAPE, STEPS, BATCH, SHARD = (8, 8, 3), 2, 250, 10_000


class Table:
    """Rows of timed steps."""

    def __init__(self):
        self.rows, self.clock = [], Clock("cpu")

    def timed(self, name: str, images: int, work, *watched):
        """Run and time `work`; time in the watched calls is that of the networks."""
        reset_peak("cpu")
        self.clock.seconds.clear()
        start = time.perf_counter()
        with self.clock.watching(*watched):
            result = work()
        seconds = time.perf_counter() - start
        row = dict(
            zip(COLUMNS, (name, images, seconds, images / seconds, peak_gib()), strict=False)
        )
        if watched:
            row["networks"] = f"{100 * self.clock.seconds['networks'] / seconds:.0f}%"
        self.rows.append(row)
        print(f"{name}: {seconds:.2f} s", flush=True)
        return result


def drawn(path: Path, net, count: int, save_type: str, guidance=None) -> None:
    """Images of the first seeds, as generate.py saves them."""
    sampling = Sampling(num_steps=STEPS)
    kinds = dict(save_type=save_type, subdirs=save_type == "png")
    store = SampleStore(path, describe(net, sampling, guidance), range(count), BATCH, **kinds)
    generate(net, store, sampling, guidance)


def trained(images: Path, net) -> DiscriminatorGuidance:
    """Guidance by a head that one epoch taught to tell the images from themselves."""
    data = load_images(str(images))
    discriminator = build_discriminator("score", data, net, width=32)
    train_discriminator(discriminator, data, data, replace(PRESETS["score"], epochs=1), net=net)
    return DiscriminatorGuidance(discriminator)


def opened(path: Path) -> int:
    """Open a source and read its first images; returns the number of all."""
    images = open_images(path)
    images.read(np.arange(64))
    return len(images)


def zip_of(path: Path, entries: int) -> None:
    """A zip that holds one PNG so many times."""
    png = io.BytesIO()
    picture_of(np.zeros(SHAPE, np.uint8)).save(png, "png")
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(entries):
            archive.writestr(f"{number // 1000:05d}/img{number:08d}.png", png.getvalue())


def shards_of(folder: Path, entries: int) -> None:
    """A folder of npz shards."""
    folder.mkdir()
    for first in range(0, entries, SHARD):
        images = np.zeros((min(SHARD, entries - first), *SHAPE), np.uint8)
        np.savez(folder / f"samples_{first}.npz", samples=images)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--entries", type=int, default=100_000, help="of the large archives")
    parser.add_argument("--out", help="also write the rows as JSON")
    options = parser.parse_args()
    count, many, table = options.images, options.entries, Table()
    kwargs = dict(model_channels=8, channel_mult=[1], num_blocks=1, attn_resolutions=[])
    net = edm.EDMPrecond(img_resolution=SHAPE[0], img_channels=SHAPE[2], **kwargs)
    seeds = f"0-{many - 1}"
    table.timed("seeds from a range", many, lambda: SeedRange().convert(seeds, None, None))
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        calls = (edm.EDMPrecond, "forward", "networks")
        for kind in ("npz", "png"):
            work = lambda kind=kind: drawn(place / kind, net, count, kind)  # noqa: E731
            table.timed(f"generate, {kind}", count, work, calls)
        learn = lambda: trained(place / "npz", net)  # noqa: E731
        guidance = table.timed("open, train for an epoch", 2 * count, learn)
        work = lambda: drawn(place / "guided", net, count, "npz", guidance)  # noqa: E731
        both = (calls, (DiscriminatorGuidance, "parts", "networks"))
        table.timed("generate, guided, npz", count, work, *both)
        folder = open_images(place / "png")
        pack = lambda: convert(folder, place / "set.zip", transform_of(None, None))  # noqa: E731
        table.timed("PNG folder to zip", count, pack)
        for name in ("npz", "png", "set.zip"):
            table.timed(f"open, {name}", count, lambda name=name: opened(place / name))
        extractor = load_extractor("pixels")
        for name in ("npz", "png", "set.zip"):
            stream = open_images(place / name)
            measure = lambda stream=stream: collect(  # noqa: E731
                extractor, stream, stream.positions(None), BATCH, keep=False
            )
            table.timed(f"read, statistics of pixels, {name}", count, measure)
        zip_of(place / "many.zip", many)
        shards_of(place / "many", many)
        for name in ("many.zip", "many"):
            table.timed(f"open, {name}", many, lambda name=name: opened(place / name))
    finish("benchmarks.whole_job", table.rows, COLUMNS, "cpu", options.out)


if __name__ == "__main__":
    main()
