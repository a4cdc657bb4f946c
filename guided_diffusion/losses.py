"""Losses of discrete diffusion: the hybrid loss for training, and the variational bound in
bits/dim.

Ho et al. 2020, Eqs. 5, 13 and 14; Nichol & Dhariwal 2021, section 3.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.special import log_ndtr

from .gaussian_diffusion import GaussianDiffusion, ReverseStep, at

BOUND_WEIGHT = 1e-3  # lambda of L_hybrid, Nichol & Dhariwal 2021, Eq. 16
HALF_LEVEL = 1 / 255  # half the distance of neighbouring 8-bit values on [-1, 1]


class Losses(NamedTuple):
    """Each [N], one value per image."""

    loss: Tensor  # to be minimised
    mse: Tensor
    bound: Tensor | None  # the share of the bound in `loss`, None where the variance is fixed


class Bound(NamedTuple):
    """Upper bound on the negative log likelihood in bits per dimension of 8-bit images."""

    total: Tensor  # [N]
    prior: Tensor  # [N]     L_T
    terms: Tensor  # [N, T]  L_0 (the decoder), L_1 .. L_{T-1}


def training_losses(
    diffusion: GaussianDiffusion,
    model,
    x_start: Tensor,
    t: Tensor,
    noise: Tensor,
    model_kwargs: dict | None = None,
) -> Losses:
    """Mean squared error of the prediction, plus, for learned variances, a share of the bound that
    trains them alone.

    x_start  [N, C, H, W]  images in [-1, 1]
    t        [N]           int64 steps of this process, uniform on 0..num_steps - 1
    noise    [N, C, H, W]  standard normal

    L_simple, or L_hybrid in its published scale: the drawn term of the bound stands for all
    `num_steps`, with weight 1e-3.
    """
    x = diffusion.q_sample(x_start, t, noise)
    output = diffusion.model_output(model, x, t, model_kwargs)
    prediction = output[:, : x.shape[1]]
    mse = _mean((prediction - (noise if diffusion.mean == "epsilon" else x_start)) ** 2)
    if not diffusion.learns_variance:
        return Losses(mse, mse, None)
    frozen = torch.cat([prediction.detach(), output[:, x.shape[1] :]], dim=1)
    step = diffusion.reverse_step(frozen, x, t, clip_denoised=False)
    bound = BOUND_WEIGHT * diffusion.num_steps * bound_term(diffusion, step, x_start, x, t)
    return Losses(mse + bound, mse, bound)


@torch.no_grad()
def vlb(
    diffusion: GaussianDiffusion,
    model,
    x_start: Tensor,
    randn_like=torch.randn_like,
    clip_denoised: bool = True,
    model_kwargs: dict | None = None,
) -> Bound:
    """The variational bound of 8-bit images, one evaluation of the network per step of the process.

    x_start     [N, C, H, W]  images u / 127.5 - 1 with u in 0..255
    randn_like                source of the noise; called once per step, from the last to the first
    """
    terms = []
    for index in reversed(range(diffusion.num_steps)):
        t = torch.full([len(x_start)], index, device=x_start.device)
        x = diffusion.q_sample(x_start, t, randn_like(x_start))
        step = diffusion.p_mean_variance(model, x, t, clip_denoised, model_kwargs=model_kwargs)
        terms.append(bound_term(diffusion, step, x_start, x, t))
    terms = torch.stack(terms[::-1], dim=1)  # [N, T]
    prior = prior_term(diffusion, x_start)
    return Bound(prior + terms.sum(dim=1), prior, terms)


def prior_term(diffusion: GaussianDiffusion, x_start: Tensor) -> Tensor:
    """L_T [N] in bits/dim: divergence of q(x_T | x_0) from the prior."""
    s = diffusion.schedule
    log_variance = torch.tensor(
        s.log_one_minus_alphas_cumprod[-1], dtype=x_start.dtype, device=x_start.device
    )
    zero = torch.zeros_like(log_variance)
    return _mean(
        normal_kl(s.sqrt_alphas_cumprod[-1] * x_start, log_variance, zero, zero)
    ) / math.log(2)


def bound_term(
    diffusion: GaussianDiffusion, step: ReverseStep, x_start: Tensor, x: Tensor, t: Tensor
) -> Tensor:
    """L_t [N] in bits/dim: the step's divergence from the true posterior, at t = 0 the decoder's
    negative log likelihood."""
    true_log_variance = at(diffusion.schedule.posterior_log_variance_clipped, t, x)
    divergence = normal_kl(
        diffusion.q_posterior_mean(x_start, x, t), true_log_variance, step.mean, step.log_variance
    )
    decoder = -discretized_log_likelihood(x_start, step.mean, 0.5 * step.log_variance)
    return torch.where(t == 0, _mean(decoder), _mean(divergence)) / math.log(2)


def normal_kl(mean: Tensor, log_variance: Tensor, mean_2: Tensor, log_variance_2: Tensor) -> Tensor:
    """Divergence of the first normal distribution from the second, elementwise, in nats."""
    difference = log_variance - log_variance_2
    return 0.5 * (
        difference.exp() - 1 - difference + (mean - mean_2) ** 2 * (-log_variance_2).exp()
    )


def discretized_log_likelihood(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log probability in nats, elementwise like x, that a normal variable rounds to the 8-bit value
    x on [-1, 1].

    Ho et al. 2020, Eq. 13: the outermost values take the tails, so the 256 probabilities add up to
    one. Computed in float64 from logarithms, so that values far from the mean keep their
    probability and their gradient.
    """
    dtype = mean.dtype
    x, mean, std = x.to(torch.float64), mean.to(torch.float64), log_std.to(torch.float64).exp()
    # A bin above the mean is mirrored to below it, where the logarithm of the distribution function
    # is precise.
    side = torch.where(x > mean, -1.0, 1.0)
    inner, outer = side * (x - mean) + HALF_LEVEL, side * (x - mean) - HALF_LEVEL
    open_inner, open_outer = side * x > 1 - HALF_LEVEL, side * x < -1 + HALF_LEVEL
    log_inner = log_ndtr((inner / std).masked_fill(open_inner, math.inf))
    log_outer = log_ndtr((outer / std).masked_fill(open_outer, -math.inf))
    return (log_inner + torch.log(-torch.expm1(log_outer - log_inner))).to(dtype)


def _mean(x: Tensor) -> Tensor:
    """Mean over all but the first dimension, [N]."""
    return x.flatten(1).mean(dim=1)
