"""Image to image by SDEdit (Meng et al. 2022, "SDEdit: guided image synthesis and editing with
stochastic differential equations"): EDM's sampler from an image with noise on, instead of from
noise."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

import edm
from dg.data.images import ImageSet
from dg.sampling import HeunSampling, ScoreModel
from edm.sampler import steps_taken


@dataclass(frozen=True)
class ImageToImageSampling(HeunSampling):
    """How to sample from images on.

    strength  share of the steps, the last ones, that are taken; as in diffusers rounded down to a
              whole number of steps
    """

    strength: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        steps_taken(self.num_steps, self.strength)  # or a ValueError

    @property
    def sampler(self):
        return edm.edm_sampler

    @property
    def num_evaluations(self) -> int:
        return 2 * steps_taken(self.num_steps, self.strength) - 1


class ImageToImage(ScoreModel):
    """A score network that draws from images on; see `ImageToImageSampling`.

    inputs  images of the network's size; a seed begins with the one at the place seed modulo their
            number, so that many seeds may begin with the same one
    seeds   whose images it draws

    ValueError for images of another size.
    """

    sampling_type = ImageToImageSampling

    def __init__(self, net, inputs: ImageSet, seeds: Sequence[int] = ()):
        super().__init__(net)
        if (inputs.resolution, inputs.channels) != (net.img_resolution, net.img_channels):
            raise ValueError(
                f"{inputs.name}: images of {inputs.resolution} pixels and {inputs.channels} "
                f"channels, but the network makes {net.img_resolution} pixels and "
                f"{net.img_channels} channels; give images of the network's size"
            )
        self.inputs, self.seeds = inputs, seeds

    def for_seeds(self, seeds):
        return ImageToImage(self.net, self.inputs, seeds)

    def draw(self, latents, class_labels, sampling, randn_like=torch.randn_like, guidance=None):
        places = [seed % len(self.inputs) for seed in self.seeds]
        image = self.inputs.floats(places).to(latents.device)
        return super().draw(latents, class_labels, sampling, randn_like, guidance, image=image)

    def describe(self):
        return super().describe() | {"image": self.inputs.fingerprint()}
