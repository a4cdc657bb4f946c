"""The protocol of models that `dg.sampling.generate` samples."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from edm.guidance import Guidance


class SamplingSettings(Protocol):
    """How a kind of model is sampled: a frozen dataclass, such as `Sampling` or `DDPMSampling`."""

    @property
    def sampler(self) -> Callable[..., Tensor]:
        """sampler(model, latents, class_labels, randn_like=, guidance=, **kwargs()) -> images."""

    def kwargs(self) -> dict[str, Any]:
        """The settings that are not left to the sampler; plain data, which a store keeps."""


class GenerativeModel(ABC):
    """A model that draws images from latents.

    img_resolution    side in pixels of the latents and of the images or latents drawn
    img_channels      channels of both
    label_dim         number of classes, 0 = unconditional
    sampling_type     class of its sampling settings, see `SamplingSettings`
    sampling_defaults settings with which it was published, where they are not the class's defaults

    Parts such as a decoder or a classifier are given to the constructor, or to a method `with_...`
    that returns the model with them. A score network, which knows nothing of this, is wrapped by
    `dg.sampling.as_model`.
    """

    img_resolution: int
    img_channels: int
    label_dim: int
    sampling_type: ClassVar[type]
    sampling_defaults: Mapping[str, Any] = {}

    def sampling(self, **settings) -> SamplingSettings:
        """Its settings: those given, else the published ones. ValueError for impossible ones."""
        return self.sampling_type(**{**self.sampling_defaults, **settings})

    def num_classes(self, sampling: SamplingSettings | None = None) -> int:
        """Number of classes to draw from with these settings; 0 = none."""
        return self.label_dim

    def for_seeds(self, seeds: Sequence[int]) -> "GenerativeModel":
        """The model as it draws the images of these seeds; here it is the same for all."""
        return self

    def draw(
        self,
        latents: Tensor,
        class_labels: Tensor | None,
        sampling: SamplingSettings,
        randn_like=torch.randn_like,
        guidance: Guidance | None = None,
    ) -> Tensor:
        """Draw [N, C, R, R] float64 from standard normal latents [N, C, R, R].

        class_labels  [N, K]  one-hot, None where there are no classes
        randn_like            source of the noise of the steps
        """
        return sampling.sampler(
            self,
            latents,
            class_labels,
            randn_like=randn_like,
            guidance=guidance,
            **sampling.kwargs(),
        )

    def to_images(self, drawn: Tensor) -> Tensor:
        """Turn the result of `draw` into images [N, C, H, W], nominally in [-1, 1]; here
        unchanged."""
        return drawn

    @abstractmethod
    def networks(self) -> list[nn.Module]:
        """The networks that `draw` evaluates."""

    @abstractmethod
    def describe(self) -> dict:
        """Fingerprints of all parts that images depend on; the model's own is named "network"."""
