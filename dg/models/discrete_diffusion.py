"""Base class of discrete diffusion models: a network, its process, and an optional guiding
classifier."""

from abc import abstractmethod

from torch import nn

from dg.models.discrete_sampling import DDPMSampling
from dg.models.generative_model import GenerativeModel
from edm.fingerprints import fingerprint
from guided_diffusion import GaussianDiffusion


class DiscreteDiffusion(GenerativeModel):
    """A model for `dg.models.discrete_sampling.ddpm_sampler`.

    net         called as net(x, t, y): x [N, C, R, R], t [N] original timesteps, y [N] classes
    null_class  the class number that stands for none, as classifier-free guidance needs it; or None
    classifier  frozen classifier of noisy images, for `dg.models.classifier_guidance`; or None
    """

    net: nn.Module
    null_class: int | None
    classifier: nn.Module | None
    sampling_type = DDPMSampling

    @abstractmethod
    def respaced(self, spec=None) -> GaussianDiffusion:
        """The process on fewer of its steps.

        spec  as `guided_diffusion.schedules.space_timesteps` takes it; None: all steps
        """

    def sampling(self, **settings) -> DDPMSampling:
        """As in `GenerativeModel`. ValueError also for more steps than the process has."""
        if settings.get("respacing") is not None:
            settings = {"num_steps": None} | settings  # in place of the published number
        chosen = super().sampling(**settings)
        self.respaced(chosen.steps)
        return chosen

    def num_classes(self, sampling: DDPMSampling | None = None) -> int:
        """Number of the network's classes, or of a classifier's that guides an unconditional
        network."""
        led = sampling is not None and sampling.classifier_scale and self.classifier is not None
        return self.label_dim or (self.classifier.out_channels if led else 0)

    def networks(self) -> list[nn.Module]:
        return [self.net]

    def describe(self) -> dict:
        parts = {"network": self, "classifier": self.classifier}
        return {name: fingerprint(part) for name, part in parts.items() if part is not None}
