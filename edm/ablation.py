"""The generalised sampler behind EDM's ablations (Karras et al. 2022, algorithm 1 and table 1, with
churn).

Every combination of solver, noise-level discretisation, noise schedule sigma(t) and image scaling
s(t).
"""

import math
from itertools import pairwise

import torch
from torch import Tensor

from edm.guidance import Guidance
from edm.parametrisations import per_image
from edm.sampler import churn_factor
from edm.schedules import (
    LINEAR_SCHEDULE,
    VE_SCHEDULE,
    Path,
    check_choices,
    fitted_vp_schedule,
    noise_levels,
    noise_range,
)


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
    check_choices(solver=solver, discretization=discretization, schedule=schedule, scaling=scaling)
    guidance = guidance or Guidance()
    sigma_range = noise_range(net, discretization, sigma_min, sigma_max, epsilon_s)
    vp = fitted_vp_schedule(*sigma_range, epsilon_s)
    path = Path({"vp": vp, "ve": VE_SCHEDULE, "linear": LINEAR_SCHEDULE}[schedule], scaling)
    sigmas = noise_levels(discretization, num_steps, sigma_range, rho, vp, epsilon_s, C_1, C_2, M)
    (sigma_of, _, time_of), scale = path.schedule, path.scale

    def slope(x, t, step, order):
        unscaled = x / per_image(scale(t), x)
        denoised = guidance.denoise(net, unscaled, sigma_of(t), class_labels, step, order)
        return path.slope(x, denoised, t)

    times = time_of(net.round_sigma(sigmas.to(latents.device)))
    times = torch.cat([times, torch.zeros_like(times[:1])])  # [num_steps + 1]
    x_next = latents.to(torch.float64) * (sigma_of(times[0]) * scale(times[0]))
    guidance.begin(x_next)
    for step, (t, t_next) in enumerate(pairwise(times)):
        # Add noise, which raises the noise level temporarily.
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
            weight = 1 / (2 * alpha)
            x_next = x_hat + length * ((1 - weight) * slope_hat + weight * slope_prime)
    return x_next
