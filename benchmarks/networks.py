"""Networks of full size with random weights: they cost what trained ones cost."""

import torch

import edm
from dg.discriminator import Discriminator
from dg.extractors import ClassifierExtractor, ScoreExtractor
from dg.heads import ScoreHead
from dg.pretraining.presets import SCORE_PRESETS
from guided_diffusion import create_classifier

# Published sizes: 55.7 M parameters of the score network, 47.8 M of the classifier, 2.9 M of the
# head.
CIFAR10 = dict(
    score="cifar10-edm",
    shape=(32, 3),
    network=dict(augment_dim=9),
    classifier=dict(
        image_size=32, in_channels=3, classifier_width=128, classifier_depth=4, out_channels=1000
    ),
    head=dict(
        image_size=8, in_channels=512, classifier_width=128, classifier_depth=2, out_channels=1
    ),
)
DIGITS = dict(
    score="digits",
    shape=(8, 1),
    network={},
    classifier=dict(
        image_size=8, in_channels=1, classifier_width=64, classifier_depth=1, out_channels=10
    ),
    head=dict(
        image_size=8, in_channels=64, classifier_width=64, classifier_depth=1, out_channels=1
    ),
)
SIZES = {"digits": DIGITS, "cifar10": CIFAR10}


@torch.no_grad()
def random_weights(module: torch.nn.Module, seed: int, gain: float = 0.6) -> torch.nn.Module:
    """Normal weights of variance gain^2 / fan_in, from the seed alone: no layer starts from zero,
    so that every rounding is seen in the output; parameters of one axis keep their initial
    values."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=gain * parameter[0].numel() ** -0.5, generator=generator)
    return module


def build_score_network(size: str) -> edm.EDMPrecond:
    """The frozen score network of a size."""
    settings = SIZES[size]
    network = SCORE_PRESETS[settings["score"]][0] | settings["network"]
    net = edm.EDMPrecond(*settings["shape"], **network)
    return random_weights(net, seed=0).eval().requires_grad_(False)


def build_discriminator(size: str, kind: str, net) -> Discriminator:
    """A frozen discriminator on features of a "classifier" or of the "score" network."""
    if kind == "score":
        extractor = ScoreExtractor(net)
        head = ScoreHead(*extractor.dims())
    else:
        extractor = ClassifierExtractor(
            random_weights(create_classifier(**SIZES[size]["classifier"]), seed=1)
        )
        head = create_classifier(**SIZES[size]["head"])
    return Discriminator(extractor, [random_weights(head, seed=2)]).eval().requires_grad_(False)
