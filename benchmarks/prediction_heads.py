"""Discriminators of every quality on one network, for `python -m benchmarks.prediction`.

    python -m benchmarks.prediction_heads runs/prediction --network mnist-14 \\
        --classifier mnist-14-noisy-classifier --data mnist-small-14:train

The folder gets `fake`, images to train on; `heldout`, images to diagnose on; and one `train-NAME`
per training, with heads along its epochs. They differ in extractor, number of images, width and
length. An interrupted run goes on where it was.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import edm
from dg.data.latents import load_set
from dg.discriminator import build_discriminator
from dg.recipes import PRESETS
from dg.runtime.console import pick_device
from dg.runtime.downloads import resolve
from dg.sampling import Sampling, fill_store
from dg.training import train_discriminator
from dg.training_data import random_subset

FIRST_FAKE, FIRST_HELD_OUT = 1_000_000, 4_000_000  # seeds


class Making(NamedTuple):
    """A training: `images` of each kind; the head of every `keep`-th epoch is kept."""

    extractor: str
    images: int
    epochs: int
    keep: int
    lr: float
    width: int | None = None


TRAININGS = {
    "score-200": Making("score", 200, 40, 10, 2e-3),
    "score-1000": Making("score", 1000, 16, 4, 2e-3),
    "score-4000": Making("score", 4000, 8, 2, 2e-3),
    "score-4000-wide": Making("score", 4000, 8, 2, 2e-3, 64),
    "score-4000-slow": Making("score", 4000, 8, 4, 2e-4),
    "classifier-200": Making("classifier", 200, 24, 8, 3e-4, 64),
    "classifier-1000": Making("classifier", 1000, 6, 2, 3e-4, 64),
    "classifier-4000": Making("classifier", 4000, 3, 1, 3e-4, 64),
    "none-200": Making("none", 200, 24, 12, 3e-4, 32),
    "none-4000": Making("none", 4000, 4, 2, 3e-4, 32),
}


def make(folder: Path, network: str, classifier: str, data: str, trainings: dict, held_out: int):
    """Make images and heads; what is there already is left alone."""
    device = pick_device(None)
    net = edm.load_network(resolve(network), device)
    most = max(one.images for one in trainings.values())
    for name, first, count in (("fake", FIRST_FAKE, most), ("heldout", FIRST_HELD_OUT, held_out)):
        seeds = range(first, first + count)
        fill_store(folder / name, net, Sampling(), seeds, 250, device=device)
    sets = load_set(data), load_set(folder / "fake")
    for name, one in trainings.items():
        settings = replace(
            PRESETS["mnist-14"], epochs=one.epochs, keep_every=one.keep, lr=one.lr, eval_images=200
        )
        real, fake = (random_subset(images, one.images, seed=0) for images in sets)
        path = classifier and resolve(classifier)
        discriminator = build_discriminator(
            one.extractor, real, net, path, width=one.width, device=device
        )
        log = train_discriminator(
            discriminator, real, fake, settings, folder / f"train-{name}", net=net
        )
        print(f"{name}: validation loss {log[-1]['valid_loss']:.4f} at the end", flush=True)


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder of images and trainings")
    parser.add_argument("--network", required=True, help="score network")
    parser.add_argument("--classifier", help="noise-aware classifier, for heads on it")
    parser.add_argument("--data", required=True, help="real training images")
    parser.add_argument("--held-out", type=int, default=500, help="generated held-out images")
    args = parser.parse_args(argv)
    make(args.folder, args.network, args.classifier, args.data, TRAININGS, args.held_out)


if __name__ == "__main__":
    main()
