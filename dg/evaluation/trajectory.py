"""A guidance that looks on: records what the sampler sees, and leaves everything to another guidance."""

from torch import Tensor

from edm.guidance import Guidance, WrappedGuidance


class TrajectoryRecorder(WrappedGuidance):
    """Wraps a guidance (None: the network alone) and keeps the denoised image of every first-order stage.

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
