"""The one seam through which anything steers a sampler."""

from torch import Tensor


class Guidance:
    """What a sampler asks for the denoised image. This base class returns the network's own.

    A new guidance overrides `correction`; one that shares the network's forward pass overrides `denoise`; one that
    changes the noise of single samples overrides `churn`. State between steps belongs to one batch: `begin` resets it.
    """

    def begin(self, x: Tensor) -> None:
        """Called once per batch with the initial state x [N, C, H, W], before the first step."""

    def churn(
        self, S_churn: float, S_noise: float, step: int
    ) -> tuple[float | Tensor, float | Tensor]:
        """Stochasticity of one step: the sampler's (S_churn, S_noise), or a tensor [N] each to set it per sample."""
        return S_churn, S_noise

    def correction(
        self, x: Tensor, sigma: Tensor, class_labels: Tensor | None, step: int, order: int
    ) -> Tensor | None:
        """What to add to the denoised image, like x [N, C, H, W] in image units, or None for nothing.

        x             [N, C, H, W]  noisy images
        sigma         [] or [N]     their noise level
        class_labels  [N, K]        one-hot, or None
        step, order                 index of the sampling step; 1 = predictor (Euler), 2 = corrector (Heun)
        """
        return None

    def denoise(
        self, net, x: Tensor, sigma: Tensor, class_labels: Tensor | None, step: int, order: int
    ) -> Tensor:
        """Denoised images in the dtype of x: `net(x, sigma, class_labels)` plus `correction`."""
        denoised = net(x, sigma, class_labels).to(x.dtype)
        correction = self.correction(x, sigma, class_labels, step, order)
        return denoised if correction is None else denoised + correction
