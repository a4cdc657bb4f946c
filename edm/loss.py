"""Training losses (Karras et al. 2022, Eq. 2 and table 1): the distribution of noise levels, and
the weight of each."""

import math

import torch
from torch import Tensor


class DenoisingLoss:
    """Weighted squared error of the denoised images. Subclasses give `sigma` and `weight`; calling
    one draws and computes."""

    def sigma(self, count: int, **draw) -> Tensor:
        """Noise levels of `count` images, [count, 1, 1, 1]; `draw`: device and generator."""
        raise NotImplementedError

    def weight(self, sigma: Tensor) -> Tensor:
        """lambda(sigma), like sigma."""
        raise NotImplementedError

    def __call__(
        self,
        net,
        images: Tensor,
        class_labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Weighted squared error of every pixel, like images [N, C, H, W] in [-1, 1]."""
        drawn = self.draw(images.shape, images.device, generator)
        return self.error(net, images, *drawn, class_labels, augment_labels)

    def draw(
        self, shape, device=None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """(sigma [N, 1, 1, 1], unit normal noise) for images of a shape [N, C, H, W]."""
        draw = dict(device=device, generator=generator)
        return self.sigma(shape[0], **draw), torch.randn(shape, **draw)

    def error(
        self,
        net,
        images: Tensor,
        sigma: Tensor,
        noise: Tensor,
        class_labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """Return the result of a call for noise that is drawn already."""
        denoised = net(
            images + sigma * noise, sigma.flatten(), class_labels, augment_labels=augment_labels
        )
        return self.weight(sigma) * (denoised - images) ** 2


class EDMLoss(DenoisingLoss):
    """Log-normal noise levels, weighted to unit scale at initialisation (column "Ours").

    P_mean, P_std  mean and standard deviation of ln(sigma)
    sigma_data     standard deviation of the images, the same as the network's
    """

    def __init__(self, P_mean: float = -1.2, P_std: float = 1.2, sigma_data: float = 0.5):
        self.P_mean, self.P_std, self.sigma_data = P_mean, P_std, sigma_data

    def sigma(self, count, **draw):
        return (torch.randn(count, 1, 1, 1, **draw) * self.P_std + self.P_mean).exp()

    def weight(self, sigma):
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2


class VPLoss(DenoisingLoss):
    """Noise levels at VP times uniform on [epsilon_t, 1] (column "VP"; Song et al. 2021). Arguments
    as of `VPPrecond`."""

    def __init__(self, beta_d: float = 19.9, beta_min: float = 0.1, epsilon_t: float = 1e-5):
        self.beta_d, self.beta_min, self.epsilon_t = beta_d, beta_min, epsilon_t

    def sigma(self, count, **draw):
        t = 1 + torch.rand(count, 1, 1, 1, **draw) * (self.epsilon_t - 1)
        return (0.5 * self.beta_d * t**2 + self.beta_min * t).expm1().sqrt()

    def weight(self, sigma):
        return 1 / sigma**2


class VELoss(DenoisingLoss):
    """Log-uniform noise levels on [sigma_min, sigma_max] (column "VE"; Song et al. 2021)."""

    def __init__(self, sigma_min: float = 0.02, sigma_max: float = 100):
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def sigma(self, count, **draw):
        return (
            self.sigma_min
            * (math.log(self.sigma_max / self.sigma_min) * torch.rand(count, 1, 1, 1, **draw)).exp()
        )

    def weight(self, sigma):
        return 1 / sigma**2
