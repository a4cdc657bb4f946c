"""The denoised image and the noise level of every sampling step."""

import numpy as np
import torch
from torch import Tensor

from dg.models.discrete_sampling import as_cond_fn
from dg.sampling import draw_images
from edm import StackedRandomGenerator
from edm.guidance import Guidance, WrappedGuidance


class TrajectoryRecorder(WrappedGuidance):
    """Wraps a guidance (None: the network alone) and keeps the denoised image of every first-order
    stage.

    denoised  list of [N, C, H, W], one per step; sigmas  list of floats
    """

    def __init__(self, guidance: Guidance | None = None):
        super().__init__(guidance)
        self.denoised: list[Tensor] = []
        self.sigmas: list[float] = []

    def begin(self, x):
        self.denoised.clear()
        self.sigmas.clear()
        super().begin(x)

    def denoise(self, net, x, sigma, class_labels, step, order):
        denoised = super().denoise(net, x, sigma, class_labels, step, order)
        if order == 1:
            self.denoised.append(denoised)
            self.sigmas.append(float(sigma.flatten()[0]))
        return denoised


@torch.no_grad()
def score_trajectory(net, seeds, sampling, guidance=None, device="cpu"):
    """(denoised images, noise levels) of every step of a score network's sampler."""
    recorder = TrajectoryRecorder(guidance)
    draw_images(net, seeds, sampling, recorder, device=device)
    return recorder.denoised, recorder.sigmas


@torch.no_grad()
def ddim_trajectory(model, seeds, sampling, guidance=None, device="cpu"):
    """Predicted clean images of a DDPM's DDIM steps, and their noise levels at EDM scale."""
    diffusion, denoised = model.respaced(sampling.steps), []
    rnd, size = StackedRandomGenerator(device, seeds), model.img_resolution
    noise = rnd.randn([len(seeds), model.img_channels, size, size], device=device)
    classes = one_hot = None
    if model.label_dim:
        classes = rnd.randint(model.label_dim, size=[len(seeds)], device=device)
        one_hot = torch.eye(model.label_dim, device=device)[classes]
    if guidance is not None:
        guidance.begin(noise)
    diffusion.ddim_sample_loop(
        model.net,
        noise.to(torch.float64),
        randn_like=rnd.randn_like,
        denoised_fn=lambda x: denoised.append(x) or x,
        cond_fn=guidance and as_cond_fn(guidance, diffusion, one_hot),
        model_kwargs={} if classes is None else {"y": classes},
    )
    alpha_bar = diffusion.schedule.alphas_cumprod[::-1]
    return denoised, np.sqrt((1 - alpha_bar) / alpha_bar)
