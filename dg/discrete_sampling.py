"""Sampling of DDPMs, unguided or steered by any guidance: `dg.sampling` with `DDPMSampling` in place of `Sampling`.

    draw_images(model, seeds, DDPMSampling("ddim", num_steps=50), guidance)
    generate(model, store, DDPMSampling("ancestral"), guidance, class_idx)
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from dg.ddpm import DDPM
from edm.guidance import Guidance
from edm.sampler import per_image
from guided_diffusion import GaussianDiffusion

METHODS = ("ddim", "ancestral")


@dataclass(frozen=True)
class DDPMSampling:
    """How to sample a DDPM. Impossible values: ValueError."""

    method: str = "ddim"  # Song et al. 2021, or "ancestral", Ho et al. 2020
    num_steps: int | None = None  # evenly spaced ones of the process; None: all
    eta: float = 0.0  # noise of DDIM, from 0 to 1
    clip_denoised: bool = True  # clip predicted clean images to [-1, 1]; unclipped samples leave the range

    def __post_init__(self):
        if self.method not in METHODS:
            raise ValueError(f"method is {self.method!r}; use {' or '.join(METHODS)}")
        if self.num_steps is not None and self.num_steps < 1:
            raise ValueError(f"{self.num_steps} sampling steps; give at least 1")
        if not 0 <= self.eta <= 1 or (self.eta and self.method != "ddim"):
            raise ValueError(f"eta {self.eta:g} with {self.method}; eta is DDIM's, from 0 to 1")

    @property
    def sampler(self):
        return ddpm_sampler

    def kwargs(self) -> dict:
        return {name: value for name, value in asdict(self).items() if value is not None}


@torch.no_grad()
def ddpm_sampler(model: DDPM, latents: Tensor, class_labels: Tensor | None = None, randn_like=torch.randn_like,
                 guidance: Guidance | None = None, method: str = "ddim", num_steps: int | None = None, eta: float = 0.0,
                 clip_denoised: bool = True) -> Tensor:
    """Draw images from noise; takes what `edm.edm_sampler` takes, and the values of `DDPMSampling`.

    latents       [N, C, H, W]  standard normal
    class_labels  [N, K]        one-hot, None for an unconditional network
    randn_like                  source of the noise; called once per step, also where none is added
    guidance                    see `as_cond_fn`; enters as gradient of the mean ("ancestral"; Dhariwal & Nichol 2021,
                                algorithm 1) or of the score ("ddim"; algorithm 2)
    returns       [N, C, H, W]  float64 images, nominally in [-1, 1]
    """
    diffusion = model.respaced(num_steps and str(num_steps))
    x = latents.to(torch.float64)
    kwargs = dict(randn_like=randn_like, clip_denoised=clip_denoised)
    if guidance is not None:
        guidance.begin(x)
        kwargs["cond_fn"] = as_cond_fn(guidance, diffusion, class_labels)
    if class_labels is not None:
        kwargs["model_kwargs"] = {"y": class_labels.argmax(dim=1)}
    if method == "ancestral":
        return diffusion.p_sample_loop(model.net, x, **kwargs)
    return diffusion.ddim_sample_loop(model.net, x, eta=eta, **kwargs)


def as_cond_fn(guidance: Guidance, diffusion: GaussianDiffusion, class_labels: Tensor | None = None) -> Callable:
    """What a guidance of denoisers adds to the score of x_t: a `cond_fn(x, t)` for the samplers of `diffusion`.

    class_labels  [N, K]  one-hot, passed on to the guidance

    Noise levels are matched, not times: x_t / sqrt(alpha_bar) is at EDM scale with sigma^2 = (1 - alpha_bar) / alpha_bar,
    so the same discriminator serves every schedule. There the score's share of a correction of the denoised image is
    correction / sigma^2 (Karras et al. 2022, Eq. 3), here it is that over sqrt(alpha_bar) by the chain rule.

    Every step is of first order, so the weight of the first order counts, and 1 is exact for an exact log ratio.
    ValueError for boosting, whose churn has no place here.
    """
    if getattr(guidance, "boosting", None) is not None:
        raise ValueError("boosting is made for EDM's sampler, whose churn it raises; leave it out with a DDPM")
    timesteps, alpha_bars = diffusion.schedule.timestep_map, diffusion.schedule.alphas_cumprod

    def gradient(x: Tensor, t: Tensor, **kwargs) -> Tensor:
        index = np.searchsorted(timesteps, t.cpu().numpy())
        alpha_bar = torch.as_tensor(alpha_bars[index], device=x.device)  # float64 [N]
        scale, sigma = alpha_bar.sqrt(), ((1 - alpha_bar) / alpha_bar).sqrt()
        correction = guidance.correction(x / per_image(scale, x), sigma, class_labels, diffusion.num_steps - 1 - int(index[0]), 1)
        return torch.zeros_like(x) if correction is None else correction / per_image(scale * sigma**2, x)

    return gradient
