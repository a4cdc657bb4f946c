"""EDM's stochastic Heun sampler (Karras et al. 2022, algorithm 2) for any denoiser and any
guidance.

The sampler's state is float64 whatever the network computes in.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor

from edm.guidance import Guidance
from edm.parametrisations import per_image


def noise_schedule(
    num_steps: int, sigma_min: float, sigma_max: float, rho: float, device=None
) -> Tensor:
    """Decreasing noise levels, float64 [num_steps], from sigma_max to sigma_min; Karras et al.
    2022, Eq. 5."""
    ramp = torch.arange(num_steps, dtype=torch.float64, device=device) / max(num_steps - 1, 1)
    return (
        sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))
    ) ** rho


def check_range(sigma_min: float, sigma_max: float) -> None:
    """ValueError unless noise can fall from sigma_max to sigma_min."""
    if not 0 <= sigma_min < sigma_max:
        raise ValueError(
            f"the noise levels would fall from sigma_max {sigma_max:g} to sigma_min {sigma_min:g}; "
            "give a larger sigma_max or a smaller sigma_min"
        )


def churn_factor(S_churn: float | Tensor, num_steps: int) -> float | Tensor:
    """gamma of algorithm 2: the relative raise of the noise level, at most sqrt(2) - 1; a float or
    [N]."""
    limit = math.sqrt(2) - 1
    if isinstance(S_churn, Tensor):
        return (S_churn.to(torch.float64) / num_steps).clamp(max=limit)
    return min(S_churn / num_steps, limit)


def steps_taken(num_steps: int, strength: float) -> int:
    """Number of the last steps that a sampler takes from an image on: the share `strength`, rounded
    down. ValueError for a share outside (0, 1] and for none."""
    if not 0 < strength <= 1:
        raise ValueError(f"strength is {strength}; give a number above 0, at most 1")
    if not (steps := int(round(num_steps * strength, 9))):  # 0.29 of 100 is 29
        raise ValueError(
            f"strength {strength} of {num_steps} steps is less than one step; give at least "
            f"{1 / num_steps:.3g}, or more steps"
        )
    return steps


def sampling_levels(
    net, num_steps: int, sigma_min: float, sigma_max: float, rho: float, device=None
) -> Tensor:
    """The noise levels that a sampler visits, float64 [num_steps + 1]: those of `noise_schedule`
    within the network's own range and as it rounds them, then 0."""
    sigma_min, sigma_max = max(sigma_min, net.sigma_min), min(sigma_max, net.sigma_max)
    check_range(sigma_min, sigma_max)
    sigmas = net.round_sigma(noise_schedule(num_steps, sigma_min, sigma_max, rho, device))
    return torch.cat([sigmas, torch.zeros_like(sigmas[:1])])


def churned(
    net, x: Tensor, sigma: Tensor, gamma: float | Tensor, S_noise: float | Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """(x, sigma) after the noise level was raised for a moment: algorithm 2, lines 5 and 6.

    x, noise        [N, C, H, W]  float64; the noise is standard normal
    sigma           [] or [N]     noise level of x
    gamma, S_noise  float or [N]  see `churn_factor`; inflation of the noise
    """
    sigma_hat = net.round_sigma(sigma + gamma * sigma)  # [] or [N]
    raised = per_image((sigma_hat**2 - sigma**2).sqrt(), x)
    return x + raised * per_image(S_noise, x) * noise, sigma_hat


def heun_step(
    net,
    x: Tensor,
    sigma: Tensor,
    sigma_next: Tensor,
    class_labels: Tensor | None = None,
    guidance: Guidance | None = None,
    step: int = 0,
    second_order: bool = True,
) -> Tensor:
    """One step down the probability flow: algorithm 2, lines 7 to 11.

    x                  [N, C, H, W]  float64 noisy images
    sigma, sigma_next  [] or [N]     their noise level, and the one to reach
    class_labels       [N, K]        one-hot, or None
    step                             index of the step, which the guidance is told
    second_order                     whether to correct the Euler step, which needs sigma_next > 0
    returns            [N, C, H, W]  float64, at sigma_next
    """
    guidance = guidance or Guidance()
    denoised = guidance.denoise(net, x, sigma, class_labels, step, order=1)
    slope = (x - denoised) / per_image(sigma, x)
    length = per_image(sigma_next - sigma, x)
    x_next = x + length * slope
    if second_order:
        denoised = guidance.denoise(net, x_next, sigma_next, class_labels, step, order=2)
        slope_next = (x_next - denoised) / per_image(sigma_next, x)
        x_next = x + length * (0.5 * slope + 0.5 * slope_next)
    return x_next


@torch.no_grad()
def edm_sampler(
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
    image: Tensor | None = None,
    strength: float = 1,
) -> Tensor:
    """Draw images from noise, or from images with noise.

    net           denoiser(x, sigma, class_labels), with `sigma_min`, `sigma_max` and `round_sigma`
    latents       [N, C, H, W]  standard normal
    class_labels  [N, K]        one-hot, None for an unconditional network
    randn_like                  source of the churn noise; called once per step, also where no noise
                                is added
    guidance                    corrects the denoised image; None samples from the network as it is
    image         [N, C, H, W]  to begin with, in [-1, 1]; None begins with noise alone
    strength                    share of the steps, the last ones, that are taken from `image` on
                                (Meng et al. 2022, SDEdit); 1 begins at the highest noise level
    returns       [N, C, H, W]  float64 images, nominally in [-1, 1]
    """
    guidance = guidance or Guidance()
    sigmas = sampling_levels(net, num_steps, sigma_min, sigma_max, rho, latents.device)
    first = num_steps - steps_taken(num_steps, strength)
    if image is None and first:
        raise ValueError(f"strength {strength} without an image; give the image to begin with")
    x = latents.to(torch.float64) * sigmas[first]
    x = x if image is None else x + image
    guidance.begin(x)
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas[first:]), first):
        churn, noise_scale = guidance.churn(S_churn, S_noise, step)
        gamma = churn_factor(churn, num_steps) if S_min <= sigma <= S_max else 0
        x_hat, sigma_hat = churned(net, x, sigma, gamma, noise_scale, randn_like(x))
        second_order = step < num_steps - 1
        x = heun_step(net, x_hat, sigma_hat, sigma_next, class_labels, guidance, step, second_order)
    return x
