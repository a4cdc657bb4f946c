"""Losses of a discriminator. Each takes a noisy batch and returns (loss [], logits [N]).

The logit d(x, sigma) estimates the log density ratio, and guidance uses its gradient. Binary
cross-entropy alone makes the ratio right, not its gradient; two others add a term in the gradient.
The last one, `difference`, is that of a `ScoreDifference`, which has no logits: None.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from dg.discriminator import ScoreDifference, correction_scale
from edm.parametrisations import per_image


class NoisyBatch(NamedTuple):
    """A perturbed batch, x = clean + sigma z."""

    clean: Tensor  # [N, C, H, W] in [-1, 1]
    x: Tensor  # [N, C, H, W] EDM scale
    sigma: Tensor  # [N]
    labels: Tensor | None  # [N, K] one-hot
    targets: Tensor  # [N] 1 real, 0 generated

    def part(self, part: slice) -> "NoisyBatch":
        """Some consecutive images of the batch."""
        return NoisyBatch(*(None if column is None else column[part] for column in self))


def bce(discriminator, batch: NoisyBatch, weight: float = 0.0, net=None) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy [nats]: Kim et al. 2023, Eq. 7. Its minimum is the log density ratio."""
    logits = discriminator(batch.x, batch.sigma, batch.labels)
    # [N], half precision is too coarse for the sum
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.binary_cross_entropy_with_logits(logits, batch.targets.to(logits.dtype)), logits


def matching(discriminator, batch: NoisyBatch, weight: float, net) -> tuple[Tensor, Tensor]:
    """Cross-entropy plus weight * E_real ||(x_0 - D(x)) / sigma - sigma grad d||^2, D the score
    network `net`.

    Verine et al. 2025 (arXiv 2503.16117) at EDM scale: (x_0 - D) / sigma^2 is log p(x | x_0)'s
    gradient less the model's score, whose mean given x is the gradient of the true log ratio. Half
    of the images count as real.
    """
    loss, logits, gradient = _with_gradient(discriminator, batch)
    sigma = batch.sigma.to(gradient.dtype).reshape(-1, 1, 1, 1)
    with torch.no_grad():
        denoised = net(batch.x, batch.sigma, batch.labels if net.label_dim else None).to(
            gradient.dtype
        )
    error = ((batch.clean - denoised) / sigma - sigma * gradient).square().sum(dim=(1, 2, 3))  # [N]
    return loss + weight * 2 * (batch.targets * error).mean(), logits


def sobolev(discriminator, batch: NoisyBatch, weight: float, net=None) -> tuple[Tensor, Tensor]:
    """Cross-entropy plus weight * E ||grad d||^2 (arXiv 2608.18237), the gradient with respect to
    the VP-scaled image.

    That is sqrt(1 + sigma^2) times the gradient at EDM scale: the input as the discriminator sees
    it.
    """
    loss, logits, gradient = _with_gradient(discriminator, batch)
    squared = (1 + batch.sigma**2).to(gradient.dtype) * gradient.square().sum(dim=(1, 2, 3))  # [N]
    return loss + weight * squared.mean(), logits


def difference(
    model: ScoreDifference, batch: NoisyBatch, weight: float, net
) -> tuple[Tensor, None]:
    """The denoising error of D + sigma^2 s on real images, s being the model and D the score
    network `net`.

    The mean of x_0 given x is x + sigma^2 times the score of the data (Tweedie's formula). So the
    minimum over s is that score less (D - x) / sigma^2, whatever D is: all images of the batch are
    real.
    """
    return denoising_errors(model, batch, net)[0].mean(), None


def denoising_errors(model: ScoreDifference, batch: NoisyBatch, net) -> tuple[Tensor, Tensor]:
    """Mean square errors per value, [N] each, in units of `correction_scale`: with the model's
    correction, and without."""
    labels = batch.labels if net.label_dim else None
    with torch.no_grad():
        encoding = net.encode(batch.x, batch.sigma, labels) if model.shares_encoder(net) else None
        denoised = (
            net(batch.x, batch.sigma, labels) if encoding is None else net.decode(encoding)
        ).to(batch.x.dtype)
    found = (
        model(batch.x, batch.sigma, batch.labels)
        if encoding is None
        else model.from_encoding(encoding, batch.labels)
    )
    scale = per_image(correction_scale(batch.sigma), denoised)
    rest = (batch.clean - denoised) / scale
    change = per_image(batch.sigma, denoised) ** 2 / scale * found
    return tuple(error.square().mean(dim=(1, 2, 3)) for error in (rest - change, rest))


LOSSES = {"bce": bce, "matching": matching, "sobolev": sobolev, "difference": difference}


def _with_gradient(discriminator, batch: NoisyBatch) -> tuple[Tensor, Tensor, Tensor]:
    """(cross-entropy [], logits [N], gradient of the logits [N, C, H, W]), differentiable once
    more."""
    batch = batch._replace(x=batch.x.detach().requires_grad_())
    with sdpa_kernel(SDPBackend.MATH):  # the fused attention kernels have no second derivative
        loss, logits = bce(discriminator, batch)
        (gradient,) = torch.autograd.grad(logits.sum(), batch.x, create_graph=True)
    return loss, logits, gradient
