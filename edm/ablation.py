"""The generalised sampler behind EDM's ablations (Karras et al. 2022, algorithm 1 and table 1, with churn).

Every combination of solver, noise-level discretisation, noise schedule sigma(t) and image scaling s(t).
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from edm.guidance import Guidance
from edm.precond import iddpm_noise_levels
from edm.sampler import check_range, churn_factor, noise_schedule, per_image

SOLVERS = ("euler", "heun")
DISCRETIZATIONS = ("vp", "ve", "iddpm", "edm")
SCHEDULES = ("vp", "ve", "linear")
SCALINGS = ("vp", "none")
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


@torch.no_grad()
def ablation_sampler(
    net,
    latents: Tensor,
    class_labels: Tensor | None = None,
    randn_like=torch.randn_like,
    guidance: Guidance | None = None,
    num_steps: int = 18,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    rho: float = 7,
    solver: str = "heun",
    discretization: str = "edm",
    schedule: str = "linear",
    scaling: str = "none",
    epsilon_s: float = 1e-3,
    C_1: float = 0.001,
    C_2: float = 0.008,
    M: int = 1000,
    alpha: float = 1,
    S_churn: float = 0,
    S_min: float = 0,
    S_max: float = math.inf,
    S_noise: float = 1,
) -> Tensor:
    """Draw images from noise; arguments and result as `edm_sampler`, and

    solver          "euler" or "heun"; `alpha` places the second stage of the latter
    discretization  which noise levels are visited: "vp", "ve", "iddpm" or "edm"
    schedule        sigma(t): "vp", "ve" or "linear"
    scaling         s(t): "vp" or "none"
    sigma_min, sigma_max  None takes the discretisation's own range
    Raises ValueError for an unknown choice.
    """
    for name, value, choices in (
        ("solver", solver, SOLVERS),
        ("discretization", discretization, DISCRETIZATIONS),
        ("schedule", schedule, SCHEDULES),
        ("scaling", scaling, SCALINGS),
    ):
        if value not in choices:
            raise ValueError(f"{name} is {value!r}; use one of {', '.join(choices)}")
    guidance = guidance or Guidance()
    low, high = _default_range(discretization, epsilon_s)
    sigma_min = max(low if sigma_min is None else sigma_min, net.sigma_min)
    sigma_max = min(high if sigma_max is None else sigma_max, net.sigma_max)
    check_range(sigma_min, sigma_max)
    vp = _fitted_vp_schedule(sigma_min, sigma_max, epsilon_s)
    sigma_of, sigma_slope, time_of = {"vp": vp, "ve": VE_SCHEDULE, "linear": LINEAR_SCHEDULE}[
        schedule
    ]
    sigmas = _noise_levels(
        discretization, num_steps, sigma_min, sigma_max, rho, vp, epsilon_s, C_1, C_2, M
    )

    def scale(t):
        return (1 + sigma_of(t) ** 2).rsqrt() if scaling == "vp" else torch.ones_like(t)

    def scale_slope(t):
        return (
            -sigma_of(t) * sigma_slope(t) * scale(t) ** 3
            if scaling == "vp"
            else torch.zeros_like(t)
        )

    def slope(x, t, step, order):
        """dx/dt of the probability flow, Karras et al. 2022, Eq. 4."""
        sigma, sigma_dot, s = sigma_of(t), sigma_slope(t), scale(t)
        denoised = guidance.denoise(net, x / per_image(s, x), sigma, class_labels, step, order)
        return (
            per_image(sigma_dot / sigma + scale_slope(t) / s, x) * x
            - per_image(sigma_dot * s / sigma, x) * denoised
        )

    times = time_of(net.round_sigma(sigmas.to(latents.device)))
    times = torch.cat([times, torch.zeros_like(times[:1])])  # [num_steps + 1]
    x_next = latents.to(torch.float64) * (sigma_of(times[0]) * scale(times[0]))
    guidance.begin(x_next)
    for step, (t, t_next) in enumerate(pairwise(times)):
        # Raise the noise level for a moment.
        churn, noise_scale = guidance.churn(S_churn, S_noise, step)
        sigma = sigma_of(t)
        gamma = churn_factor(churn, num_steps) if S_min <= sigma <= S_max else 0
        t_hat = time_of(net.round_sigma(sigma + gamma * sigma))  # [] or [N]
        raised = (sigma_of(t_hat) ** 2 - sigma**2).clip(min=0).sqrt() * scale(t_hat)
        noise = per_image(raised, x_next) * per_image(noise_scale, x_next) * randn_like(x_next)
        x_hat = per_image(scale(t_hat) / scale(t), x_next) * x_next + noise

        # Euler step, then the second stage where there is one.
        length = per_image(t_next - t_hat, x_hat)
        slope_hat = slope(x_hat, t_hat, step, order=1)
        x_next = x_hat + length * slope_hat
        if solver == "heun" and step < num_steps - 1:
            t_prime = t_hat + alpha * (t_next - t_hat)
            slope_prime = slope(x_hat + alpha * length * slope_hat, t_prime, step, order=2)
            x_next = x_hat + length * (
                (1 - 1 / (2 * alpha)) * slope_hat + 1 / (2 * alpha) * slope_prime
            )
    return x_next


def _default_range(discretization, epsilon_s):
    if discretization == "vp":
        sigma = vp_schedule(DEFAULT_BETA_D, DEFAULT_BETA_MIN).sigma
        return tuple(float(sigma(torch.tensor(t, dtype=torch.float64))) for t in (epsilon_s, 1.0))
    return {"ve": (0.02, 100), "iddpm": (0.002, 81), "edm": (0.002, 80)}[discretization]


def _fitted_vp_schedule(sigma_min, sigma_max, epsilon_s):
    """The VP schedule that passes sigma_min at time epsilon_s and sigma_max at time 1."""
    low, high = math.log(sigma_min**2 + 1), math.log(sigma_max**2 + 1)
    beta_d = 2 * (low / epsilon_s - high) / (epsilon_s - 1)
    return vp_schedule(beta_d, high - 0.5 * beta_d)


def _noise_levels(discretization, num_steps, sigma_min, sigma_max, rho, vp, epsilon_s, C_1, C_2, M):
    """Decreasing noise levels, float64 [num_steps]."""
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
