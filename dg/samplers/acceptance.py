"""Finished images, accepted or resampled by their log density ratios."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dg.discriminator import known_log_ratio
from dg.runtime.randomness import step_generator
from edm.parametrisations import per_image


@torch.no_grad()
def finished_log_ratios(
    log_ratio: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    images: Tensor,
    sigma: float,
    seeds: Sequence[int],
    class_labels: Tensor | None = None,
) -> Tensor:
    """Log ratios [N] of images [N, C, H, W] in [-1, 1], float64.

    sigma  noise level at which the ratio is asked, the smallest that its discriminator knows; noise
           of that level, by each image's seed, is added first, because the ratio speaks of noisy
           images
    """
    noise = torch.stack(
        [
            torch.randn(images.shape[1:], generator=step_generator(seed, "finished", 0))
            for seed in seeds
        ]
    )
    noisy = images.to(torch.float64) + per_image(sigma, images) * noise.to(images)
    level = torch.as_tensor(sigma, dtype=torch.float64, device=images.device)
    return known_log_ratio(log_ratio, noisy, level, class_labels)


def budget_constant(log_ratios: Tensor, budget: float) -> float:
    """log c such that the mean of min(1, c r) over the ratios is the budget.

    Optimal budgeted rejection (Verine et al. 2023): of all rules with this mean acceptance, the one
    whose accepted images are nearest to the data. With c = 1 / max r they follow the data exactly,
    and a smaller c accepts fewer of the same.
    """
    if not 0 < budget <= 1:
        raise ValueError(f"the budget is {budget}; give a share of images above 0 and up to 1")
    values = log_ratios.to(torch.float64).sort(descending=True).values
    if budget == 1:
        return -float(values[-1])  # all are accepted
    # The m largest ratios are accepted for certain, the others with c r: c follows from the budget,
    # and m is the smallest number for which no other c r exceeds 1.
    sure = torch.arange(len(values), dtype=torch.float64)
    tails = values.flip(0).logcumsumexp(0).flip(0)  # log of the sum of r from m on
    constants = (budget * len(values) - sure).clamp(min=0).log() - tails
    return float(constants[(constants + values <= 1e-12).nonzero()[0, 0]])


def accepted(log_ratios: Tensor, log_constant: float, seeds: Sequence[int]) -> Tensor:
    """Boolean [N]: each image with probability min(1, c r), decided by its own seed."""
    return _log_uniform(seeds) < log_ratios.to(torch.float64).cpu() + log_constant


def most_acceptable(log_ratios: Tensor, count: int, seeds: Sequence[int]) -> Tensor:
    """Indices [count], ascending, of the images that `accepted` takes at the constant with which it
    takes so many. ValueError where there are fewer images."""
    if not 0 < count <= len(log_ratios):
        raise ValueError(f"{count} of {len(log_ratios)} images; give a number from 1 to that")
    ahead = log_ratios.to(torch.float64).cpu() - _log_uniform(seeds)
    return ahead.topk(count).indices.sort().values


def _log_uniform(seeds: Sequence[int]) -> Tensor:
    """Logarithm of a uniform number for each seed."""
    uniform = torch.stack(
        [
            torch.rand([], dtype=torch.float64, generator=step_generator(seed, "acceptance", 0))
            for seed in seeds
        ]
    )
    return uniform.log()


def resampled(log_ratios: Tensor, count: int, seed: int) -> Tensor:
    """Indices [count] of images drawn in proportion to their ratios, with repetition.

    Sampling-importance-resampling: the drawn images tend to the data as the number of images that
    they are drawn from grows; the bias falls like its inverse.
    """
    if count < 1 or math.isinf(float(log_ratios.max())):
        raise ValueError(
            f"{count} images by infinite ratios or none; give finite ones, and 1 image"
        )
    sums = log_ratios.to(torch.float64).cpu().softmax(dim=0).cumsum(dim=0)
    generator = step_generator(seed, "resampling", 0)
    uniform = torch.rand(count, dtype=torch.float64, generator=generator)
    return torch.searchsorted(sums, uniform * sums[-1]).clamp(max=len(sums) - 1)
