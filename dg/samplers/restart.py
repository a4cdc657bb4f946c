"""Restart sampling (Xu et al. 2023, "Restart sampling for improving generative processes"): at
chosen noise levels, noise is added and taken away again, several times."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from dg.sampling import HeunSampling
from edm.guidance import Guidance
from edm.parametrisations import per_image
from edm.sampler import churn_factor, churned, heun_step, noise_schedule, sampling_levels

CIFAR10 = ((3, 2, 0.14, 0.30),)  # for EDM's network in 18 steps


class Restart(NamedTuple):
    """From the level nearest to t_min, `repeats` times up to t_max and down over `levels` noise
    levels, both ends counted."""

    levels: int
    repeats: int
    t_min: float
    t_max: float

    @property
    def num_evaluations(self) -> int:
        return self.repeats * 2 * (self.levels - 1)


def restarts_of(entries: Mapping | Sequence) -> tuple[Restart, ...]:
    """Entries [N_restart, K, t_min, t_max] from a list of them, from one, or from {i: entry}, as
    the authors' code takes them. ValueError for impossible ones."""
    entries = list(entries.values() if isinstance(entries, Mapping) else entries)
    if entries and all(isinstance(number, (int, float)) for number in entries):
        entries = [entries]
    return tuple(_checked(entry) for entry in entries)


def _checked(entry) -> Restart:
    try:
        levels, repeats, t_min, t_max = entry
        whole = int(levels) == levels >= 2 and int(repeats) == repeats >= 1
        possible = whole and 0 < t_min < t_max < math.inf
    except (TypeError, ValueError):
        possible = False
    if not possible:
        raise ValueError(
            f"the restart {entry} is none; give [levels, repeats, t_min, t_max] with at least 2 "
            "levels, 1 repeat and 0 < t_min < t_max"
        )
    return Restart(int(levels), int(repeats), float(t_min), float(t_max))


@dataclass(frozen=True)
class RestartSampling(HeunSampling):
    """How to sample with restarts.

    restart        entries as `restarts_of` takes them
    restart_gamma  relative raise of the noise level within restarts, where S_min <= sigma <= S_max;
                   0.05 is the authors' code's
    """

    restart: Sequence = CIFAR10
    restart_gamma: float = 0.05

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "restart", restarts_of(self.restart))
        if not 0 <= self.restart_gamma < math.inf:
            raise ValueError(f"restart_gamma is {self.restart_gamma}; give a finite number from 0")

    @property
    def sampler(self):
        return restart_sampler

    @property
    def num_evaluations(self) -> int:
        return super().num_evaluations + sum(entry.num_evaluations for entry in self.restart)


@torch.no_grad()
def restart_sampler(
    net,
    latents: Tensor,
    class_labels: Tensor | None = None,
    randn_like=torch.randn_like,
    guidance: Guidance | None = None,
    num_steps: int = 18,
    sigma_min: float = 0.002,
    sigma_max: float = 80,
    rho: float = 7,
    S_churn: float = 0,
    S_min: float = 0,
    S_max: float = math.inf,
    S_noise: float = 1,
    restart: Mapping | Sequence = CIFAR10,
    restart_gamma: float = 0.05,
) -> Tensor:
    """Draw images from noise; arguments and result as `edm.edm_sampler`, the last two as
    `RestartSampling`. Without entries the images are `edm_sampler`'s.

    The noise of a restart is inflated by S_noise. Every step on the way down is of second order.
    Within restarts a guidance is told the step of the restart, counted from 0.
    """
    guidance = guidance or Guidance()
    sigmas = sampling_levels(net, num_steps, sigma_min, sigma_max, rho, latents.device)
    restarts = _by_step(restarts_of(restart), sigmas)

    def down(x, sigma, sigma_next, gamma, noise_scale, step, second_order=True):
        gamma = gamma if S_min <= sigma <= S_max else 0
        x_hat, sigma_hat = churned(net, x, sigma, gamma, noise_scale, randn_like(x))
        return heun_step(
            net, x_hat, sigma_hat, sigma_next, class_labels, guidance, step, second_order
        )

    x = latents.to(torch.float64) * sigmas[0]
    guidance.begin(x)
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        churn, noise_scale = guidance.churn(S_churn, S_noise, step)
        gamma = churn_factor(churn, num_steps)
        x = down(x, sigma, sigma_next, gamma, noise_scale, step, step < num_steps - 1)
        if (entry := restarts.get(step + 1)) is None:
            continue
        bottom, top = float(sigma_next), entry.t_max
        inner = net.round_sigma(noise_schedule(entry.levels, bottom, top, rho, x.device))
        for _ in range(entry.repeats):
            rise = (inner[0] ** 2 - inner[-1] ** 2).sqrt()
            x = x + per_image(rise * S_noise, x) * randn_like(x)
            for inner_step, (upper, lower) in enumerate(pairwise(inner)):
                x = down(x, upper, lower, restart_gamma, S_noise, inner_step)
    return x


def _by_step(restarts: Sequence[Restart], sigmas: Tensor) -> dict[int, Restart]:
    """{index of the level nearest to t_min: entry}. ValueError for levels that cannot be restarted
    from."""
    found = {}
    for entry in restarts:
        index = int((sigmas - entry.t_min).abs().argmin())
        sigma = float(sigmas[index])
        if index in found or index == 0 or not 0 < sigma < entry.t_max:
            raise ValueError(
                f"the restart {list(entry)} would begin at the noise level {sigma:.3g}, the "
                "nearest to its t_min; give a level below the first, above 0, below t_max and in "
                "one entry only"
            )
        found[index] = entry
    return found
