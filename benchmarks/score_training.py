"""How fast a score network learns: images per second of an optimisation step.

    python -m benchmarks.score_training --size cifar10 --batch 8              # three minutes on two CPU cores
    python -m benchmarks.score_training --edm-repo ../edm --batch 128 --device cuda

Noise images, by the recipe and the call that pretrain.py makes. "float32" is without TF32, as the
original code trains; "default" is what torch takes by itself, as pretrain.py does; "original" runs
that code's training loop as it is. Settings take turns; ratios are medians.
"""

import argparse
import statistics
import tempfile
from dataclasses import replace

import numpy as np

from benchmarks.networks import SIZES
from benchmarks.original import original_score_training_steps
from benchmarks.timing import (
    Clock,
    finish,
    measured_in_turns,
    peak_gib,
    reset_peak,
    some_of,
    speed_of_training,
    tf32,
)
from dg.data.crops import picture_of
from dg.data.images import ImageSet
from dg.pretraining.presets import SCORE_PRESETS
from dg.pretraining.score import build_score_network, train_score_network
from dg.runtime.allocator import keep_memory
from dg.runtime.console import pick_device

COLUMNS = ("setting", "images/s", "x reference", "warm-up s", "GiB")
SETTINGS = ("float32", "default", "bfloat16", "float16")
STEPS = 4  # of a pass; the first one does not count


class Row:
    """Training steps in one setting."""

    def __init__(self, size: str, setting: str, images: ImageSet, batch: int, device):
        self.setting, self.images, self.clock = setting, images, Clock(device)
        preset = SCORE_PRESETS[SIZES[size]["score"]]
        network = preset[0] | SIZES[size]["network"]
        self.net = build_score_network(images, network, seed=0).to(device)
        precision = setting if setting in ("bfloat16", "float16") else "float32"
        self.settings = replace(preset[1], batch_size=batch, steps=STEPS, precision=precision)

    def measure(self) -> dict:
        """Median seconds of a step, and peak memory."""
        stamps = []

        def stamped(steps, **_):
            for step in steps:
                stamps.append(self.clock.synchronise())
                yield step
            stamps.append(self.clock.synchronise())

        reset_peak(self.clock.device)
        tf32(matrices=False, convolutions=self.setting != "float32")
        train_score_network(self.net, self.images, self.settings, progress=stamped)
        seconds = np.diff(stamps)[1:]
        return {"total": float(np.median(seconds)), "peak": peak_gib(self.clock.device)}


class OriginalRow:
    """Steps of the original training loop."""

    setting = "original"

    def __init__(self, edm_repo, net, settings, images: ImageSet, device):
        self.folder = tempfile.TemporaryDirectory()
        for index, image in enumerate(images.images):
            picture_of(image).save(f"{self.folder.name}/{index:06d}.png")
        self.arguments = (edm_repo, net, settings, self.folder.name, device)

    def measure(self) -> dict:
        """Median seconds of a few steps, of a process that is started for them."""
        seconds = original_score_training_steps(*self.arguments)
        return {"total": statistics.median(seconds), "peak": None}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="cifar10", choices=list(SIZES))
    parser.add_argument(
        "--settings", type=some_of(SETTINGS), help="[default: all that the device has]"
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device")
    parser.add_argument("--edm-repo", help="checkout of NVlabs/edm, for the row original")
    parser.add_argument("--out", help="also write the rows as JSON")
    options = parser.parse_args()
    keep_memory()
    device = pick_device(options.device)
    resolution, channels = SIZES[options.size]["shape"]
    noise = np.random.default_rng(0).integers(
        0, 256, (2 * options.batch, resolution, resolution, channels), dtype=np.uint8
    )
    images = ImageSet(noise, None, "noise")
    settings = options.settings or SETTINGS[: 4 if device.type == "cuda" else 3]
    rows = [Row(options.size, setting, images, options.batch, device) for setting in settings]
    if options.edm_repo:
        net, recipe = rows[0].net, rows[0].settings
        rows.insert(0, OriginalRow(options.edm_repo, net, recipe, images, device))
    warm_ups, passes = measured_in_turns(rows, options.rounds)
    lines = [
        {"setting": row.setting, "warm-up s": warm_up}
        | speed_of_training(options.batch, mine, passes[0])
        for row, warm_up, mine in zip(rows, warm_ups, passes, strict=True)
    ]
    finish("benchmarks.score_training", lines, COLUMNS, device, options.out)


if __name__ == "__main__":
    main()
