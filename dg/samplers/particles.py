"""Groups of particles that are resampled by the change of the log density ratio (Liu et al. 2024,
"Correcting diffusion generation through resampling")."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from dg import vp
from dg.discriminator import known_log_ratio
from dg.sampling import HeunSampling
from edm.guidance import Guidance
from edm.sampler import churn_factor, churned, heun_step, sampling_levels

SELECTIONS = ("largest", "draw")
FULL_CHURN = math.sqrt(2) - 1  # the largest raise of the noise level in one step


@dataclass(frozen=True)
class ParticleSampling(HeunSampling):
    """How to sample with groups of particles, one image from each group.

    particles       size of a group
    resample_steps  steps before which groups are resampled; the churn at them is the largest there
                    is, so that copies part
    select          of each group the particle of the "largest" log ratio, as in the authors' code,
                    or a "draw" by the weights, which tends to the data with more particles
    time_min, time_max  VP time window of the ratio; resampling outside of it is refused
    """

    particles: int = 4
    resample_steps: tuple[int, ...] = ()
    select: str = "largest"
    time_min: float = 0.01
    time_max: float = 1.0

    needs_log_ratio: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "resample_steps", tuple(self.resample_steps))
        vp.check_window(self.time_min, self.time_max)
        if self.particles < 1:
            raise ValueError(f"{self.particles} particles; give at least 1")
        if self.select not in SELECTIONS:
            raise ValueError(f"select is {self.select!r}; use {' or '.join(SELECTIONS)}")
        late = [step for step in self.resample_steps if not 0 < step < self.num_steps]
        if late:
            raise ValueError(
                f"resampling before step {late[0]} of {self.num_steps}; give steps from 1 to "
                f"{self.num_steps - 1}"
            )

    @property
    def sampler(self):
        return particle_sampler

    @property
    def num_evaluations(self) -> int:
        return self.particles * super().num_evaluations


@torch.no_grad()
def particle_sampler(
    net,
    latents: Tensor,
    class_labels: Tensor | None = None,
    randn_like=torch.randn_like,
    guidance: Guidance | None = None,
    log_ratio: Callable[[Tensor, Tensor, Tensor | None], Tensor] | None = None,
    num_steps: int = 18,
    sigma_min: float = 0.002,
    sigma_max: float = 80,
    rho: float = 7,
    S_churn: float = 0,
    S_min: float = 0,
    S_max: float = math.inf,
    S_noise: float = 1,
    particles: int = 4,
    resample_steps: Sequence[int] = (),
    select: str = "largest",
    time_min: float = 0.01,
    time_max: float = 1.0,
) -> Tensor:
    """Draw one image per latent; arguments and result as `edm.edm_sampler`, and

    log_ratio   log_ratio(x, sigma, class_labels) -> [N * particles]
    the others  as `ParticleSampling`

    A group is the particles of one latent: the first begins with it, the others draw theirs. One
    particle alone gives `edm_sampler`'s images. All noise of a group, also that of its choices,
    comes from its own row of `randn_like`. The networks see N * particles images at once.
    """
    guidance, groups = guidance or Guidance(), len(latents)
    sigmas = sampling_levels(net, num_steps, sigma_min, sigma_max, rho, latents.device)
    checked = vp.in_window(sigmas, time_min, time_max).tolist()
    if particles > 1:
        _check_levels(resample_steps, sigmas, checked)
        _check_guidance(guidance, resample_steps)
    labels = None if class_labels is None else class_labels.repeat_interleave(particles, dim=0)

    def noise():  # [N * particles, C, H, W] float64
        shape = (groups, particles, *latents.shape[1:])
        return randn_like(latents.new_zeros(shape, dtype=torch.float64)).flatten(0, 1)

    others = randn_like(latents.new_zeros(groups, particles - 1, *latents.shape[1:]))
    x = torch.cat([latents[:, None], others], dim=1).flatten(0, 1).to(torch.float64) * sigmas[0]
    before = latents.new_zeros(groups, particles, dtype=torch.float64)  # at the last resampling
    last = before
    guidance.begin(x)
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        resampled = step in resample_steps and particles > 1
        if resampled:
            last = known_log_ratio(log_ratio, x, sigma, labels).view(groups, particles)
            chosen = drawn(last - before, randn_like)  # [N, particles]
            before = last.gather(1, chosen)
            x = taken(x, chosen)
        churn = FULL_CHURN * num_steps if resampled else S_churn
        churn, noise_scale = guidance.churn(churn, S_noise, step)
        gamma = churn_factor(churn, num_steps) if S_min <= sigma <= S_max else 0
        x_hat, sigma_hat = churned(net, x, sigma, gamma, noise_scale, noise())
        second_order = step < num_steps - 1
        x = heun_step(net, x_hat, sigma_hat, sigma_next, labels, guidance, step, second_order)
        if particles > 1 and checked[step + 1] and not any(checked[step + 2 :]):
            last = known_log_ratio(log_ratio, x, sigma_next, labels).view(groups, particles)
    if select == "draw":
        one = drawn(last - before, randn_like)[:, :1]  # [N, 1]
    else:
        one = last.argmax(dim=1, keepdim=True)
    return taken(x, one)


def drawn(log_weights: Tensor, randn_like) -> Tensor:
    """Indices [N, K] drawn from each row of log weights [N, K], independently and with
    repetition."""
    uniform = torch.special.ndtr(randn_like(log_weights))
    sums = log_weights.softmax(dim=1).cumsum(dim=1)
    return torch.searchsorted(sums, uniform * sums[:, -1:]).clamp(max=log_weights.shape[1] - 1)


def taken(x: Tensor, chosen: Tensor) -> Tensor:
    """Particles [N * M, C, H, W] that indices [N, M] choose from groups x [N * K, C, H, W]."""
    groups = x.view(len(chosen), -1, *x.shape[1:])
    rows = torch.arange(len(chosen), device=x.device)[:, None]
    return groups[rows, chosen].flatten(0, 1)


def _check_guidance(guidance: Guidance, resample_steps) -> None:
    """ValueError for a guidance that remembers single particles, which resampling replaces."""
    if guidance.needs_step and resample_steps:
        raise ValueError(
            "boosting and guidance at every K-th step remember every particle, but resampling "
            "replaces particles by others; leave them out"
        )


def _check_levels(resample_steps, sigmas, checked) -> None:
    """ValueError unless the ratio is known at these steps and at a level to select by."""
    if not any(checked[1:]):
        raise ValueError("no noise level to select by is in the time window; widen the window")
    for step in resample_steps:
        if not checked[step]:
            raise ValueError(
                f"resampling before step {step} at the noise level {float(sigmas[step]):.3g}, "
                "which is outside of the time window; leave the step out or widen the window"
            )
