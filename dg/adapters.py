"""The same guidance in other people's samplers."""

from collections.abc import Callable

import torch
from torch import Tensor

from dg.discriminator import Discriminator, clipped
from edm.guidance import Guidance

LAST_TIMESTEP = 999  # of the 1,000-step discrete processes; VP time is timestep / 999, as the encoder's own scaling


class GuidedDenoiser:
    """A denoiser `model(x, sigma)` with guidance: for samplers in the style of k-diffusion.

    guided = GuidedDenoiser(model, guidance, class_labels); k_diffusion.sampling.sample_heun(guided, x, sigmas)

    The sampler does not tell its step or stage, so every call counts as a first-order one.
    ValueError for a guidance that needs the step, as a boosted one does.
    """

    def __init__(
        self,
        model: Callable[[Tensor, Tensor], Tensor],
        guidance: Guidance,
        class_labels: Tensor | None = None,
    ):
        if guidance.needs_step:
            raise ValueError(
                "the guidance needs the sampler's step, as boosting does, but this kind of sampler "
                "does not tell it; leave boosting out"
            )
        self.model, self.guidance, self.class_labels = model, guidance, class_labels

    def __call__(self, x: Tensor, sigma: Tensor, **kwargs) -> Tensor:
        """Denoised images like x [N, C, H, W] at noise level sigma [N]; `kwargs` go to the model."""

        def net(x, sigma, class_labels):
            return self.model(x, sigma, **kwargs)

        return self.guidance.denoise(net, x, sigma, self.class_labels, step=1, order=1)


def cond_fn(
    discriminator: Discriminator,
    scale: float = 1.0,
    time_min: float = 0.0,
    clip: float | None = None,
) -> Callable:
    """A `cond_fn(x, t, y)` for discrete VP samplers (guided-diffusion, DiT): scale * grad_x log ratio, like x.

    x  [N, C, H, W]  noisy images or latents at VP scale
    t  [N]           original timesteps 0..999; samples with t / 999 <= time_min are not guided
    y  [N] or [N, K] class numbers or one-hot, None for an unconditional discriminator

    The sampler adds variance * cond_fn to the mean of its step (Dhariwal & Nichol 2021, algorithm 1). For a sampler that
    takes a noise prediction instead, subtract sqrt(1 - alpha_bar) * cond_fn from it (algorithm 2).
    """

    def gradient(x: Tensor, t: Tensor, y: Tensor | None = None, **kwargs) -> Tensor:
        time = t.to(torch.float64) / LAST_TIMESTEP
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            log_ratio = clipped(discriminator.at_vp(leaf.to(torch.float32), time, y), clip)
            (result,) = torch.autograd.grad(log_ratio.sum(), leaf)
        return torch.where((time > time_min).reshape(-1, 1, 1, 1), scale * result, 0.0)

    return gradient
