"""VGG16 with random weights: features that nobody trained, the same for everyone, without a
download.

Naeem et al. 2020, Reliable Fidelity and Diversity Metrics, take 64 random features of a VGG16 for
images that ImageNet says little about. Here images are resized to 32 x 32 pixels (bilinear,
antialiased where they shrink) and pass VGG16's 13 convolutions and 5 poolings, a fully connected
layer to 4096, a ReLU, and a fully connected layer to 64. The features are the outputs of that last
layer, one layer of one initialisation: after a ReLU half of them would be zeros, which no Gaussian
describes. Weights are He's (2015) normal ones, of variance 2 / inputs, biases are 0, and nothing is
normalised.

Such deep features nearly point into one direction: between two images their cosine is 0.99 on MNIST
and 0.98 on CIFAR-10. That direction is the mean. About the mean the first direction holds 52% of
the variance on MNIST and 85% on CIFAR-10, and the last one 1/460 and 1/2500 of the first's, far
above the rounding of float32, so a Fréchet distance in float64 is well conditioned.
"""

import hashlib
import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from dg.runtime.randomness import seeded

SIZE = 32  # pixels
NUM_FEATURES = 64
STAGES = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)  # a pooling after each
CONNECTED = (512, 4096, NUM_FEATURES)
SEED = 0
SHA256 = "589dc667f7f66fd33a8c0f60c71ef8e2ec441390354b5b9fc79fe6abbc28dcb5"


class RandomVGG(nn.Module):
    """uint8 [N, 3, H, W] -> {"features": float32 [N, 64]}.

    The weights come from numpy's RandomState, whose stream never changes, and not from torch's
    generators. ValueError where they have another SHA-256 than those of this project.
    """

    def __init__(self):
        super().__init__()
        with seeded(SEED):  # weights that are replaced; the meta device takes longer
            self.layers = _layers()
        shapes = {name: parameter.shape for name, parameter in self.layers.named_parameters()}
        weights, found = _draw(shapes)
        if found != SHA256:
            raise ValueError(
                f"the random weights have SHA-256 {found} on this machine, but {SHA256} "
                "elsewhere, so distances would not be comparable; take other features"
            )
        self.layers.load_state_dict(weights, assign=True)
        self.layers.to(memory_format=torch.channels_last)  # faster on CPUs

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = x.float() / 127.5 - 1
        if x.shape[2:] != (SIZE, SIZE):
            x = nn.functional.interpolate(x, (SIZE, SIZE), mode="bilinear", antialias=True)
        return {"features": self.layers(x.contiguous(memory_format=torch.channels_last))}


def _layers() -> nn.Sequential:
    layers, channels = [], 3
    for stage in STAGES:
        for width in stage:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(2))
    layers.append(nn.Flatten())
    for inputs, outputs in pairwise(CONNECTED):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


def _draw(shapes: dict[str, torch.Size]) -> tuple[dict[str, Tensor], str]:
    """Parameters of these shapes by name, and the SHA-256 of the weights: float32, little-endian,
    in their order."""
    random, digest, drawn = np.random.RandomState(SEED), hashlib.sha256(), {}
    for name, shape in shapes.items():
        if name.endswith("bias"):
            drawn[name] = torch.zeros(shape)
            continue
        scale = math.sqrt(2 / math.prod(shape[1:]))
        weight = (random.standard_normal(tuple(shape)) * scale).astype(np.float32)
        digest.update(weight.astype("<f4").tobytes())
        drawn[name] = torch.from_numpy(weight)
    return drawn, digest.hexdigest()
