"""Images from a VAE: drawn from seeds by `dg.sampling`, and between two given ones."""

from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dg.data.datasets import to_float, to_uint8
from dg.models.logistic import draw_logistic

SAMPLES = ("mean", "draw")


@dataclass(frozen=True)
class VAESampling:
    """How to draw from a VAE, in place of `dg.sampling.Sampling`: generate(model, store,
    VAESampling()).

    sample  "mean": the mean of each pixel's logistic, a smooth image, as is usually shown; "draw":
            a draw from it, with its noise, the model whose likelihood is measured. The two differ
            in their distances, so name the one you measure
    """

    sample: str = "mean"

    def __post_init__(self):
        if self.sample not in SAMPLES:
            raise ValueError(f"sample is {self.sample!r}; use {' or '.join(SAMPLES)}")

    @property
    def sampler(self):
        return vae_sampler

    @property
    def num_evaluations(self) -> int:
        return 1

    def kwargs(self) -> dict:
        return asdict(self)


@torch.no_grad()
def vae_sampler(
    model: nn.Module,
    latents: Tensor,
    class_labels=None,
    randn_like=torch.randn_like,
    guidance=None,
    sample: str = "mean",
) -> Tensor:
    """Draw images from noise. It has the arguments of `edm.edm_sampler`, but a VAE uses neither
    classes nor guidance.

    model    a `dg.models.vae.VAE`
    latents  [N, C, R, R]  standard normal; the first `latent_dim` numbers of each image are used
    returns  [N, C, R, R]  float64, nominally in [-1, 1]
    """
    if guidance is not None:
        raise ValueError(
            "a VAE is sampled in one step, so it cannot be guided; leave the guidance out"
        )
    mean, log_scale = (
        part.to(torch.float64) for part in model.decode(latents.flatten(1)[:, : model.latent_dim])
    )
    return mean if sample == "mean" else draw_logistic(mean, log_scale, randn_like(mean))


@torch.no_grad()
def interpolate(
    model: nn.Module, first: np.ndarray, last: np.ndarray, num_images: int = 9
) -> np.ndarray:
    """uint8 [num_images, R, R, C] from one image to another, uint8 [R, R, C] each: means of pixels
    along the great circle between the means of their posteriors (Shoemake 1985); the ends are the
    reconstructions. `model` is a `dg.models.vae.VAE`."""
    device = next(model.parameters()).device
    ends, _ = model.encode(to_float(np.stack([first, last])).to(device))
    return to_uint8(model.decode(slerp(*ends, torch.linspace(0, 1, num_images, device=device)))[0])


def slerp(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """[K, D] from a [D] at share 0 to b [D] at share 1, the angle proportional to share [K];
    straight where they are parallel."""
    angle = torch.arccos(F.cosine_similarity(a, b, dim=0).clamp(-1, 1))
    share = share[:, None]
    if angle.sin() < 1e-4:
        return (1 - share) * a + share * b
    return (((1 - share) * angle).sin() * a + (share * angle).sin() * b) / angle.sin()
