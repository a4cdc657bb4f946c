"""A model in closed form: images with independent Gaussian pixels, their exact denoiser and
density."""

import numpy as np
import torch
from torch import Tensor


class Gaussian:
    """Images [N, 1, side, side] whose pixels have the mean `mean` or, every second one, its
    negative, and the standard deviation `sd`; a denoiser as the samplers and the losses take it."""

    img_channels, label_dim = 1, 0

    def __init__(self, mean: float, sd: float, side: int):
        sign = torch.tensor([1.0, -1.0]).repeat(side * side // 2).reshape(1, 1, side, side)
        self.mean, self.sd, self.img_resolution = (mean * sign).double(), sd, side

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        variance = torch.as_tensor(sigma).reshape(-1, 1, 1, 1) ** 2
        mean = self.mean.to(x.device)
        return (self.sd**2 * x + variance * mean) / (self.sd**2 + variance)

    def draw(self, n: int, seed: int) -> Tensor:
        """n images without noise, float64."""
        generator = torch.Generator().manual_seed(seed)
        shape = [n, *self.mean.shape[1:]]
        return self.mean + self.sd * torch.randn(shape, dtype=torch.float64, generator=generator)

    def log_density(self, x: Tensor, sigma: float) -> Tensor:
        """Log density of noisy images, [N] in nats, up to a constant shared by all Gaussians of a
        size."""
        variance = self.sd**2 + sigma**2
        return -0.5 * ((x - self.mean) ** 2 / variance + np.log(variance)).sum(dim=(1, 2, 3))
