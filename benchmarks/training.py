"""How fast a discriminator learns: images per second of an optimisation step, real and generated
counted alike.

    python -m benchmarks.training --size cifar10 --batch 8                    # two minutes on two CPU cores
    python -m benchmarks.training --dg-repo ../DG --batch 8                   # beside the original train.py, from its checkout

Random weights and noise images. "as published" computes attention in the head twice, as the
original code does (benchmarks/as_published.py); "original" runs that code's train.py as it is.
Settings take turns; ratios are medians.
"""

import argparse
import statistics
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import torch

from benchmarks.as_published import as_published
from benchmarks.networks import SIZES, build_discriminator, build_score_network
from benchmarks.original import original_training_steps
from benchmarks.timing import (
    Clock,
    finish,
    measured_in_turns,
    peak_gib,
    reset_peak,
    speed_of_training,
)
from dg.data.images import ImageSet
from dg.recipes import PRESETS
from dg.runtime.allocator import keep_memory
from dg.runtime.console import pick_device
from dg.training import Trainer
from dg.training_data import noisy_batch, split_sets

COLUMNS = ("extractor", "setting", "images/s", "x reference", "warm-up s", "GiB")
SETTINGS = ("as published", "float32", "bfloat16")


class Row:
    """Training steps of one extractor's head in one setting."""

    def __init__(self, size: str, extractor: str, setting: str, net, batch: int, device):
        self.extractor, self.setting, self.device, self.clock = (
            extractor,
            setting,
            device,
            Clock(device),
        )
        resolution, channels = SIZES[size]["shape"]
        images = np.random.default_rng(0).integers(
            0, 256, (batch, resolution, resolution, channels), dtype=np.uint8
        )
        noise = ImageSet(images, None, "noise")
        self.settings = replace(
            PRESETS["default"],
            batch_size=batch,
            split=(1, 0, 0),
            precision="bfloat16" if setting == "bfloat16" else "float32",
        )
        self.trainer = Trainer(build_discriminator(size, extractor, net).to(device), self.settings)
        self.data = split_sets(noise, noise, self.settings, device)[0]
        self.index, self.step = torch.arange(batch, device=device) * 2, 0  # half of them real

    def measure(self) -> dict:
        """Seconds of one step, the drawing of its noise included, and peak memory."""
        reset_peak(self.device)
        self.clock.seconds.clear()
        with (
            as_published() if self.setting == "as published" else nullcontext(),
            self.clock("step"),
        ):
            generator = torch.Generator(self.device).manual_seed(self.step)
            self.trainer.step(
                noisy_batch(self.data, self.index, self.settings, generator), self.step, 1000
            )
        self.step += 1
        return {"total": self.clock.seconds["step"], "peak": peak_gib(self.device)}


class OriginalRow:
    """Steps of the original train.py."""

    extractor, setting = "classifier", "original"

    def __init__(self, dg_repo, batch: int, classifier, device):
        self.arguments = (dg_repo, batch, classifier, device)

    def measure(self) -> dict:
        """Median seconds of a few steps, of a process that is started for them."""
        return {"total": statistics.median(original_training_steps(*self.arguments)), "peak": None}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="cifar10", choices=list(SIZES))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device")
    parser.add_argument(
        "--dg-repo", help="checkout of alsdudrla10/DG, for the row original; size cifar10 only"
    )
    parser.add_argument("--out", help="also write the rows as JSON")
    options = parser.parse_args()
    keep_memory()
    device = pick_device(options.device)
    net = build_score_network(options.size).to(device)
    rows = [
        Row(options.size, extractor, setting, net, options.batch, device)
        for extractor in ("classifier", "score")
        for setting in SETTINGS
        if (extractor, setting) != ("score", "as published")
    ]
    if options.dg_repo:
        encoder = rows[0].trainer.discriminator.extractor.encoder
        rows.insert(0, OriginalRow(options.dg_repo, options.batch, encoder, device))
    warm_ups, passes = measured_in_turns(rows, options.rounds)
    lines, references = [], {}
    for row, warm_up, mine in zip(rows, warm_ups, passes, strict=True):
        reference = references.setdefault(row.extractor, mine)  # the first row of its extractor
        told = {"extractor": row.extractor, "setting": row.setting, "warm-up s": warm_up}
        lines.append(told | speed_of_training(options.batch, mine, reference))
    finish("benchmarks.training", lines, COLUMNS, device, options.out)


if __name__ == "__main__":
    main()
