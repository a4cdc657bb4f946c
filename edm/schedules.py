"""The choices of EDM's ablations: noise schedules sigma(t), scalings s(t), noise levels (Karras et
al. 2022, table 1)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from edm.parametrisations import per_image
from edm.precond import iddpm_noise_levels
from edm.sampler import check_range, noise_schedule

CHOICES = {
    "solver": ("euler", "heun"),
    "discretization": ("vp", "ve", "iddpm", "edm"),
    "schedule": ("vp", "ve", "linear"),
    "scaling": ("vp", "none"),
}
DEFAULT_BETA_D, DEFAULT_BETA_MIN = 19.9, 0.1


class Schedule(NamedTuple):
    """Noise level as a function of time, its derivative and its inverse."""

    sigma: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]


def vp_schedule(beta_d: float, beta_min: float) -> Schedule:
    def sigma(t):
        return (0.5 * beta_d * t**2 + beta_min * t).exp().sub(1).sqrt()

    return Schedule(
        sigma=sigma,
        derivative=lambda t: 0.5 * (beta_min + beta_d * t) * (sigma(t) + 1 / sigma(t)),
        inverse=lambda sigma: ((beta_min**2 + 2 * beta_d * (sigma**2 + 1).log()).sqrt() - beta_min)
        / beta_d,
    )


VE_SCHEDULE = Schedule(torch.sqrt, lambda t: 0.5 / t.sqrt(), torch.square)
LINEAR_SCHEDULE = Schedule(lambda t: t, torch.ones_like, lambda sigma: sigma)


@dataclass(frozen=True)
class Path:
    """x(t) = s(t) (image + sigma(t) noise): a noise schedule and a scaling, as functions of time []
    or [N]."""

    schedule: Schedule
    scaling: str

    def scale(self, t: Tensor) -> Tensor:
        """s(t)."""
        if self.scaling == "none":
            return torch.ones_like(t)
        return (1 + self.schedule.sigma(t) ** 2).rsqrt()

    def scale_slope(self, t: Tensor) -> Tensor:
        """ds/dt."""
        if self.scaling == "none":
            return torch.zeros_like(t)
        return -self.schedule.sigma(t) * self.schedule.derivative(t) * self.scale(t) ** 3

    def slope(self, x: Tensor, denoised: Tensor, t: Tensor) -> Tensor:
        """dx/dt of the probability flow, Karras et al. 2022, Eq. 4; x and denoised [N, C, H, W]."""
        sigma, sigma_dot, s = self.schedule.sigma(t), self.schedule.derivative(t), self.scale(t)
        return (
            per_image(sigma_dot / sigma + self.scale_slope(t) / s, x) * x
            - per_image(sigma_dot * s / sigma, x) * denoised
        )


def check_choices(solver: str, discretization: str, schedule: str, scaling: str) -> None:
    """ValueError for a choice that does not exist."""
    chosen = (solver, discretization, schedule, scaling)
    for (name, choices), value in zip(CHOICES.items(), chosen, strict=True):
        if value not in choices:
            raise ValueError(f"{name} is {value!r}; use one of {', '.join(choices)}")


def noise_range(net, discretization, sigma_min, sigma_max, epsilon_s):
    """(sigma_min, sigma_max) within the network's own range; None takes the discretisation's."""
    low, high = _default_range(discretization, epsilon_s)
    sigma_min = max(low if sigma_min is None else sigma_min, net.sigma_min)
    sigma_max = min(high if sigma_max is None else sigma_max, net.sigma_max)
    check_range(sigma_min, sigma_max)
    return sigma_min, sigma_max


def _default_range(discretization, epsilon_s):
    if discretization == "vp":
        sigma = vp_schedule(DEFAULT_BETA_D, DEFAULT_BETA_MIN).sigma
        return tuple(float(sigma(torch.tensor(t, dtype=torch.float64))) for t in (epsilon_s, 1.0))
    return {"ve": (0.02, 100), "iddpm": (0.002, 81), "edm": (0.002, 80)}[discretization]


def fitted_vp_schedule(sigma_min, sigma_max, epsilon_s):
    """The VP schedule that passes sigma_min at time epsilon_s and sigma_max at time 1."""
    low, high = math.log(sigma_min**2 + 1), math.log(sigma_max**2 + 1)
    beta_d = 2 * (low / epsilon_s - high) / (epsilon_s - 1)
    return vp_schedule(beta_d, high - 0.5 * beta_d)


def noise_levels(discretization, num_steps, sigma_range, rho, vp, epsilon_s, C_1, C_2, M):
    """Noise levels from the upper end of `sigma_range` to the lower one, float64 [num_steps]."""
    sigma_min, sigma_max = sigma_range
    ramp = torch.arange(num_steps, dtype=torch.float64) / max(num_steps - 1, 1)
    if discretization == "vp":
        return vp.sigma(1 + ramp * (epsilon_s - 1))
    if discretization == "ve":
        return (sigma_max**2 * (sigma_min**2 / sigma_max**2) ** ramp).sqrt()
    if discretization == "iddpm":
        u = iddpm_noise_levels(M, C_1, C_2, torch.float64)
        u = u[(u >= sigma_min) & (u <= sigma_max)]
        return u[((len(u) - 1) * ramp).round().to(torch.int64)]
    return noise_schedule(num_steps, sigma_min, sigma_max, rho)
