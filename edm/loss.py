"""EDM's training loss (Karras et al. 2022, Eq. 8)."""

import torch
from torch import Tensor


class EDMLoss:
    """Denoising error with log-normal noise levels, weighted to unit scale at initialisation.

    P_mean, P_std  mean and standard deviation of ln(sigma)
    sigma_data     standard deviation of the images, the same as the network's
    """

    def __init__(self, P_mean: float = -1.2, P_std: float = 1.2, sigma_data: float = 0.5):
        self.P_mean, self.P_std, self.sigma_data = P_mean, P_std, sigma_data

    def __call__(self, net, images: Tensor, class_labels: Tensor | None = None, augment_labels: Tensor | None = None,
                 generator: torch.Generator | None = None) -> Tensor:
        """Weighted squared error of every pixel, like images [N, C, H, W] in [-1, 1]."""
        draw = dict(device=images.device, generator=generator)
        sigma = (torch.randn(len(images), 1, 1, 1, **draw) * self.P_std + self.P_mean).exp()  # [N, 1, 1, 1]
        weight = (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2
        noisy = images + sigma * torch.randn(images.shape, **draw)
        return weight * (net(noisy, sigma.flatten(), class_labels, augment_labels=augment_labels) - images) ** 2
