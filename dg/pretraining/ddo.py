"""Direct discriminative optimisation of a score network: DDO (Zheng et al., ICML 2025, arXiv
2503.01103).

The network and a frozen copy of its first weights, the reference, are a discriminator: the log
ratio of their densities is its logit. It learns to tell real images from those that the reference
has generated. If the densities were free, the network's would become p_ref (p_data / (alpha
p_ref))^(1 / beta), up to normalisation; that is p_data where alpha and beta are 1.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

import edm
from dg.data.datasets import ImageSet


@dataclass(frozen=True)
class DDO:
    """What a score network is trained against. Impossible values: ValueError.

    generated  images of the network that the training starts from
    alpha      weight of their loss, that of real images is 1
    beta       factor of the log ratio
    """

    generated: ImageSet
    alpha: float = 1.0
    beta: float = 1.0

    def __post_init__(self):
        if not (0 <= self.alpha < math.inf and 0 < self.beta < math.inf):
            raise ValueError(
                f"alpha is {self.alpha} and beta {self.beta}; give an alpha of at least 0 and a "
                "beta above 0"
            )

    def describe(self) -> dict:
        """What the weights depend on, as plain data."""
        told = {"generated": self.generated.name, "fingerprint": self.generated.fingerprint()}
        return told | {"alpha": self.alpha, "beta": self.beta}


def log_ratios(loss: edm.DenoisingLoss, net, reference, images: Tensor, *drawn) -> Tensor:
    """Estimates [N] of log p_net(x) - log p_ref(x), each from one noise level.

    They are differences of the weighted denoising errors, summed over the pixels of an image.

    drawn  further arguments of `DenoisingLoss.error`: noise levels, noise, labels
    """
    with torch.no_grad():
        frozen = loss.error(reference, images, *drawn)
    return (frozen - loss.error(net, images, *drawn)).flatten(1).sum(1)


def ddo_loss(real: Tensor, generated: Tensor, alpha: float = 1.0, beta: float = 1.0) -> Tensor:
    """-log sigmoid(beta r), and alpha times -log sigmoid(-beta r), of log ratios r of real and of
    generated images: the sum of the means."""
    return softplus(-beta * real).mean() + alpha * softplus(beta * generated).mean()
