"""How fast images become features and features become metrics, and in how much memory.

    python -m benchmarks.evaluation --images 2000                         # random weights where none are given
    python -m benchmarks.evaluation --images 50000 --weights weights-inception-2015-12-05-6726825d.pth --device cuda

Random images of 32 x 32 pixels; with random weights the distances mean nothing, but the time and
the memory are the same. Memory is the peak of the whole process.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.random_weights import write_random_weights
from benchmarks.timing import finish, peak_gib
from dg.data.image_stream import ImageStream
from dg.evaluation.feature_sets import collect
from dg.evaluation.features import load_extractor
from dg.evaluation.measure import metric_estimates
from dg.runtime.console import pick_device

COLUMNS = ("step", "seconds", "images/s", "GiB")


class RandomImages(ImageStream):
    """Noise images, made when they are read."""

    shape = (32, 32, 3)

    def __init__(self, count, seed):
        super().__init__(f"noise {seed}", count)
        self.seed = seed

    def fetch(self, positions):
        generator = np.random.default_rng([self.seed, positions[0]])
        return generator.integers(0, 256, (len(positions), *self.shape), dtype=np.uint8)


def timed(rows, name, count, device, work):
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    rows.append(dict(zip(COLUMNS, (name, seconds, count / seconds, peak_gib(device)), strict=True)))
    print(f"{name}: {seconds:.1f} s", flush=True)
    return result


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--features", default="inception", choices=["inception", "vgg16"])
    parser.add_argument("--weights")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device")
    parser.add_argument("--metrics", default="fd,sfid,kid,precision,recall,density,coverage,is")
    parser.add_argument("--out", help="also write the rows as JSON")
    options = parser.parse_args()
    device, rows = pick_device(options.device), []
    with tempfile.TemporaryDirectory() as folder:
        weights = options.weights or Path(folder) / "random.pth"
        if not options.weights:
            write_random_weights(weights, options.features)
        extractor = load_extractor(options.features, weights, device, unpublished_weights=True)
    metrics = options.metrics.split(",")
    if options.features != "inception":
        metrics = [name for name in metrics if name not in ("sfid", "is")]
    sets = []
    for name, seed in (("generated", 1), ("reference", 2)):
        stream = RandomImages(options.images, seed)
        sets.append(
            timed(
                rows,
                f"{options.features} features, {name}",
                options.images,
                device,
                lambda stream=stream: collect(
                    extractor, stream, stream.positions(None), options.batch
                ),
            )
        )
    for group in (
        ["fd"],
        ["sfid"],
        ["kid"],
        ["precision", "recall", "density", "coverage"],
        ["is"],
    ):
        if wanted := [name for name in group if name in metrics]:
            timed(
                rows,
                f"{', '.join(wanted)} of {options.images:,} x {sets[0].features.shape[1]}",
                options.images,
                device,
                lambda wanted=wanted: metric_estimates(*sets, wanted),
            )
    finish(
        "benchmarks.evaluation",
        rows,
        COLUMNS,
        device,
        options.out,
        random_weights=not options.weights,
    )


if __name__ == "__main__":
    main()
