"""How fast images are drawn, unguided and guided, at which precision, where the time goes, and what
it changes.

    python -m benchmarks.sampling --size cifar10 --out sampling.json          # six minutes on two CPU cores
    python -m benchmarks.sampling --size digits --batch 64 --steps 18 --settings float32,bfloat16,channels-last,compile
    python -m benchmarks.sampling --edm-repo ../edm --dg-repo ../DG           # beside the original code, from its checkouts
    python -m benchmarks.sampling --network edm-cifar10-32x32-uncond-vp --pretrained_classifier_ckpt 32x32_classifier.pt \\
        --discriminator_ckpt discriminator_60.pt --batch 64 --steps 18 --device cuda

One run draws the same seeds in every setting, by turns; ratios are medians over the rounds. Weights
are random where none are given: they cost the same, but what rounding does to images is to be
measured on a trained network. "as published" computes as the original code does, with this
project's layers (benchmarks/as_published.py); "original" is that code itself. On GPUs "float32" is
without TF32, "as published" with torch's own choice, and all others allow TF32, as generate.py does.
"""

import argparse
import copy
import statistics
import tempfile
from contextlib import nullcontext
from unittest import mock

import numpy as np
import torch

import edm
from benchmarks.as_published import as_published
from benchmarks.networks import SIZES, build_discriminator, build_score_network
from benchmarks.original import Original
from benchmarks.timing import Clock, finish, in_turns, peak_gib, reset_peak, some_of, tf32
from dg.checkpoints import load_discriminator
from dg.data.datasets import to_uint8
from dg.data.sample_store import SampleStore
from dg.guidance import DiscriminatorGuidance
from dg.precision import candidates, compile_networks
from dg.runtime.allocator import keep_memory
from dg.runtime.console import notify, pick_device, progress
from dg.runtime.downloads import resolve
from dg.runtime.self_benchmark import chosen
from dg.sampling import Sampling, draw_images

SETTINGS = (
    "as published",
    "float32",
    "TF32",
    "default",
    "bfloat16",
    "bfloat16 throughout",
    "float16",
    "channels-last",
    "compile",
)
SHARES = ("score network", "discriminator", "gradient", "saving", "sampler")
COLUMNS = (
    "system",
    "setting",
    "images/s",
    "x reference",
    "x unguided",
    "warm-up s",
    "GiB",
    *SHARES,
    "off by > 2",
)


class Row:
    """One way to draw a batch: a system (unguided, or a discriminator by its extractor) in a
    setting."""

    def __init__(
        self, system: str, setting: str, net, discriminator, batch: int, device, num_steps: int = 18
    ):
        if setting in ("as published", "channels-last", "compile"):
            # together, so that a shared encoder stays shared
            net, discriminator = copy.deepcopy((net, discriminator))
        if setting == "as published":
            discriminator.requires_grad_()
        if setting == "channels-last":
            for module in filter(None, (net, discriminator)):
                module.to(memory_format=torch.channels_last)
        if setting == "compile":
            guided = discriminator and DiscriminatorGuidance(discriminator)
            compile_networks([net, *(guided.networks() if guided else [])])
        as_float32 = ("as published", "float32", "TF32")
        precisions = candidates(net, device, num_steps)
        best = chosen(net, device, precisions, 1, threads=False).precision
        self.precision = (
            setting.split()[0]
            if setting.startswith(("bfloat16", "float16"))
            else ("float32" if setting in as_float32 else best)
        )
        self.system, self.setting = system, f"default ({best})" if setting == "default" else setting
        self.net, self.discriminator = net, discriminator
        self.guidance = discriminator and DiscriminatorGuidance(discriminator)
        self.seeds, self.device, self.clock = list(range(batch)), device, Clock(device)

    def draw(self, num_steps: int) -> np.ndarray:
        """uint8 images [N, R, R, C], which were also saved."""
        published = self.setting == "as published"
        throughout = self.setting == "bfloat16 throughout"
        exact = self.setting == "float32"
        tf32(matrices=not (exact or published), convolutions=not exact)
        with (
            as_published() if published else nullcontext(),
            mock.patch("dg.sampling.MixedPrecisionGuidance", lambda guidance: guidance)
            if throughout
            else nullcontext(),
            tempfile.TemporaryDirectory() as folder,
        ):
            images, _ = draw_images(
                self.net,
                self.seeds,
                Sampling(num_steps),
                self.guidance,
                None,
                self.device,
                self.precision,
            )
            with self.clock("saving"):
                pixels = to_uint8(images)
                SampleStore(folder, {}, self.seeds, len(self.seeds)).write(0, pixels)
        return pixels

    def measure(self, num_steps: int) -> dict:
        """One timed pass: seconds by label and in all, images, peak memory. On a GPU labels have a
        pass of their own, for they are waited for."""
        calls = [(self.net, "encode", "score network"), (self.net, "decode", "score network")]
        if self.discriminator is not None:
            calls += [
                (self.discriminator, "forward", "discriminator"),
                (self.discriminator, "from_encoding", "discriminator"),
                (torch.autograd, "grad", "gradient"),
            ]
        reset_peak(self.device)
        self.clock.seconds.clear()
        with self.clock.watching(*calls), self.clock("sampler"):
            pixels = self.draw(num_steps)
        seconds = dict(self.clock.seconds)
        total = watched = sum(seconds.values())
        if torch.device(self.device).type == "cuda":
            start = self.clock.synchronise()
            self.draw(num_steps)
            total = self.clock.synchronise() - start
        shares = {name: value / watched for name, value in seconds.items()}
        return {"total": total, "shares": shares, "peak": peak_gib(self.device), "pixels": pixels}


class OriginalRow:
    """The same system drawn by the original code."""

    setting = "original"

    def __init__(self, system: str, original: Original):
        self.system, self.original = system, original

    def measure(self, num_steps: int) -> dict:
        return self.original.draw(self.system, num_steps)


def load(options, device) -> tuple:
    """(score network, {extractor: discriminator}) from the files that are given, else of random
    weights."""
    if options.network:
        net = edm.load_network(resolve(options.network, progress, notify), device)
        heads = [
            load_discriminator(options.pretrained_classifier_ckpt, path, net, device=device)
            for path in options.discriminator_ckpt
        ]
        return net, {head.extractor.kind: head for head in heads}
    net = build_score_network(options.size).to(device)
    return net, {
        kind: build_discriminator(options.size, kind, net).to(device)
        for kind in ("classifier", "score")
    }


def rows_of(options, device) -> list:
    """Every system in every setting that concerns it."""
    net, discriminators = load(options, device)
    settings = [name for name in SETTINGS if name in options.settings or name == "float32"]
    rows = [
        Row(system, setting, net, discriminator, options.batch, device, options.steps)
        for system, discriminator in [("unguided", None), *discriminators.items()]
        for setting in settings
        if setting != "as published" or system == "classifier"
    ]
    if options.edm_repo:
        latents = edm.StackedRandomGenerator(device, range(options.batch)).randn(
            [options.batch, net.img_channels, net.img_resolution, net.img_resolution], device=device
        )
        original = Original(
            options.edm_repo,
            options.dg_repo,
            net,
            discriminators.get("classifier"),
            latents,
            device,
        )
        rows = [OriginalRow(system, original) for system in original.systems] + rows
    return sorted(rows, key=lambda row: ["unguided", *discriminators].index(row.system))  # stable


def line(row, passes: dict, warm_up: float) -> dict:
    """A row's line of the table, from the passes of all rows."""

    def of(system, *settings):
        return next(passes[system, setting] for setting in settings if (system, setting) in passes)

    def ratio(others):  # how often this row fits into the time of another
        return statistics.median(a["total"] / b["total"] for a, b in zip(others, mine, strict=True))

    mine, exact = passes[row.system, row.setting], of(row.system, "float32")
    off = np.abs(mine[0]["pixels"].astype(int) - exact[0]["pixels"]) > 2
    shares = {
        name: f"{statistics.median(one['shares'].get(name, 0) for one in mine):.1%}"
        for name in SHARES
        if "shares" in mine[0]
    }
    return {
        "system": row.system,
        "setting": row.setting,
        "images/s": len(off) / statistics.median(one["total"] for one in mine),
        "x reference": ratio(of(row.system, "original", "as published", "float32")),
        "x unguided": 1 / ratio(of("unguided", row.setting, "original", "float32")),
        "warm-up s": warm_up,
        "GiB": max(one["peak"] for one in mine),
        **shares,
        "off by > 2": f"{off.mean():.3%}",
        "seconds": [one["total"] for one in mine],
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="cifar10", choices=list(SIZES))
    parser.add_argument(
        "--settings",
        type=some_of(SETTINGS),
        default="as published,float32,default",
        help=f"some of: {', '.join(SETTINGS)}",
    )
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="begin no round that would end later"
    )
    parser.add_argument("--device")
    parser.add_argument("--network", help="a trained score network in place of --size")
    parser.add_argument("--pretrained_classifier_ckpt")
    parser.add_argument(
        "--discriminator_ckpt", action="append", default=[], help="repeat it for one per extractor"
    )
    parser.add_argument("--edm-repo", help="checkout of NVlabs/edm, for the rows original")
    parser.add_argument(
        "--dg-repo",
        help="checkout of alsdudrla10/DG, for its guided sampling; needs the other one too",
    )
    parser.add_argument("--out", help="also write the rows as JSON")
    options = parser.parse_args()
    keep_memory()
    device = pick_device(options.device)
    rows, warm_ups, passes = rows_of(options, device), {}, {}
    for row in rows:
        # three steps touch every kind of evaluation
        warm_ups[row.system, row.setting] = row.measure(3)["total"]
    for row in in_turns(rows, options.rounds, options.seconds):
        passes.setdefault((row.system, row.setting), []).append(row.measure(options.steps))
        print(".", end="", flush=True)
    print()
    lines = [line(row, passes, warm_ups[row.system, row.setting]) for row in rows]
    finish("benchmarks.sampling", lines, COLUMNS, device, options.out)


if __name__ == "__main__":
    main()
