"""How much faster ADM is guided where classifier and discriminator share one pass of the encoder.

    python -m benchmarks.shared_encoder                                       # a minute on two CPU cores
    python -m benchmarks.shared_encoder --size 64 --width 128 --device cuda

A U-Net of ADM's kind, the classifier that leads it, and a discriminator on an equal classifier, with
random weights. One run draws the same seeds in one pass and in two, by turns; the ratio is the
median over the rounds. It falls with the share that the U-Net takes.
"""

import argparse
import copy

from benchmarks.networks import random_weights
from benchmarks.timing import (
    Clock,
    finish,
    measured_in_turns,
    peak_gib,
    reset_peak,
    speed_of_training,
)
from dg.discriminator import Discriminator
from dg.extractors import ClassifierExtractor
from dg.guidance import DiscriminatorGuidance
from dg.models.ddpm import DDPM
from dg.models.discrete_sampling import DDPMSampling
from dg.runtime.allocator import keep_memory
from dg.runtime.console import pick_device
from dg.samplers.cost import measured_cost
from dg.sampling import draw_images
from guided_diffusion import create_classifier

COLUMNS = ("passes", "images/s", "x reference", "multiply-adds", "warm-up s", "GiB", "off by")
CLASSES = 10


class Row:
    """ADM-G++ with the encoder's passes shared, or each on its own."""

    def __init__(self, passes: str, model, discriminator, options, device):
        self.passes, self.model, self.device = passes, model, device
        self.seeds, self.clock = list(range(options.batch)), Clock(device)
        how = dict(num_steps=options.steps, classifier_scale=1.0, dg_time="step")
        self.sampling = DDPMSampling("ancestral", **how)
        self.guidance = DiscriminatorGuidance(discriminator, (1.0, 0.0))
        if passes == "two":
            self.guidance.on_features = lambda encoder: None

    def measure(self) -> dict:
        """Seconds of a batch, its images, and peak memory."""
        reset_peak(self.device)
        self.clock.seconds.clear()
        what = self.model, self.seeds, self.sampling, self.guidance, None, self.device
        with self.clock("sampling"):
            images, _ = draw_images(*what)
        seconds = self.clock.seconds["sampling"]
        return {"total": seconds, "peak": peak_gib(self.device), "images": images}


def networks(size: int, width: int, device) -> tuple[DDPM, Discriminator]:
    """A model led by a classifier, and a discriminator on a copy of that."""
    shape = dict(image_size=size, in_channels=3)
    unet = dict(model_channels=width, channel_mult=[1, 2], num_res_blocks=2)
    process = dict(schedule="linear", num_steps=1000, variance="learned_range")
    layers = dict(attention_resolutions=[8], num_classes=CLASSES)
    model = random_weights(DDPM(process, shape | unet | layers), seed=0).eval()
    small = dict(classifier_width=width // 2, classifier_depth=2, num_head_channels=32)
    classifier = random_weights(create_classifier(**shape, **small, out_channels=CLASSES), seed=1)
    features = classifier.feature_size, classifier.feature_channels
    head = create_classifier(features[0], in_channels=features[1], out_channels=1, **small)
    extractor = ClassifierExtractor(copy.deepcopy(classifier))
    discriminator = Discriminator(extractor, [random_weights(head, seed=2)]).eval()
    for network in (model, classifier, discriminator):
        network.requires_grad_(False).to(device)
    return model.with_classifier(classifier.eval()), discriminator


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=32, help="pixels of a side")
    parser.add_argument("--width", type=int, default=64, help="of the U-Net; the others have half")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device")
    parser.add_argument("--out", help="also write the rows as JSON")
    options = parser.parse_args()
    keep_memory()
    device = pick_device(options.device)
    found = networks(options.size, options.width, device)
    rows = [Row(passes, *found, options, device) for passes in ("two", "one")]
    warm_ups, passes = measured_in_turns(rows, options.rounds)
    lines = []
    for row, warm_up, mine in zip(rows, warm_ups, passes, strict=True):
        off = float((mine[0]["images"] - passes[0][0]["images"]).abs().max())
        cost = measured_cost(row.model, row.sampling, row.guidance, device=device, seeds=[0])
        told = {"passes": row.passes, "warm-up s": warm_up, "off by": off}
        told["multiply-adds"] = cost["multiply-adds per image"]
        lines.append(told | speed_of_training(options.batch, mine, passes[0]))
    finish("benchmarks.shared_encoder", lines, COLUMNS, device, options.out)


if __name__ == "__main__":
    main()
