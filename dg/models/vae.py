"""A convolutional variational autoencoder, whose likelihood bound compares with diffusion models'
(Kingma & Welling 2014).

Pixels are discretised logistics over 256 levels, so its bits per dimension are on the scale of
`dg.evaluation.bounds`.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dg.models.generative_model import GenerativeModel
from dg.models.logistic import discretized_logistic
from dg.models.vae_sampling import VAESampling
from edm.checkpoint import build, load_strictly, read_safetensors, write_safetensors
from edm.fingerprints import fingerprint

FORMAT = "vae"
MIN_LOG_SCALE = -7.0  # of a pixel's logistic; far below a level, so a smaller one gains nothing


class Block(nn.Module):
    """Residual block of two 3x3 convolutions, x [N, in, H, W] -> [N, out, H, W]."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.norm0, self.norm1 = nn.GroupNorm(8, channels), nn.GroupNorm(8, width)
        self.conv0, self.conv1 = (
            nn.Conv2d(channels, width, 3, padding=1),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.skip = nn.Conv2d(channels, width, 1) if channels != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv0(F.silu(self.norm0(x)))
        return self.skip(x) + self.conv1(F.silu(self.norm1(h)))


class VAE(GenerativeModel, nn.Module):
    """Normal latents, a normal posterior with diagonal covariance, logistic pixels.

    img_resolution, img_channels  size of the images; the resolution is divisible by 2 ** (levels -
                                  1)
    width         channels of the first level, a multiple of 8
    channel_mult  width of each level relative to that
    latent_dim    numbers that stand for an image, at most as many as it has

    Images are [N, C, R, R] in [-1, 1]. Impossible settings raise ValueError.
    """

    label_dim = 0  # unconditional
    sampling_type = VAESampling

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        width: int = 32,
        channel_mult: Sequence[int] = (1, 2, 2),
        latent_dim: int = 32,
    ):
        super().__init__()
        self.init_kwargs = dict(
            img_resolution=img_resolution,
            img_channels=img_channels,
            width=width,
            channel_mult=list(channel_mult),
            latent_dim=latent_dim,
        )
        self.img_resolution, self.img_channels, self.latent_dim = (
            img_resolution,
            img_channels,
            latent_dim,
        )
        widths, halvings = [width * mult for mult in channel_mult], len(channel_mult) - 1
        if not widths or width < 8 or width % 8 or img_resolution % 2**halvings:
            raise ValueError(
                f"images of {img_resolution} pixels do not fit a width of {width} and "
                f"{len(channel_mult)} levels; give pixels that can be halved {halvings} times "
                "and a width that is a multiple of 8"
            )
        if not 0 < latent_dim <= img_channels * img_resolution**2:
            raise ValueError(
                f"latent_dim is {latent_dim}; give 1 to {img_channels * img_resolution**2}, the "
                "numbers of an image"
            )
        size = img_resolution // 2**halvings
        bottom = [widths[-1], size, size]

        encoder = [nn.Conv2d(img_channels, widths[0], 3, padding=1), Block(widths[0], widths[0])]
        for width_before, width in pairwise(widths):
            encoder += [
                nn.Conv2d(width_before, width_before, 3, stride=2, padding=1),
                Block(width_before, width),
            ]
        self.encoder = nn.Sequential(
            *encoder,
            nn.GroupNorm(8, widths[-1]),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(math.prod(bottom), 2 * latent_dim),
        )
        decoder = [
            nn.Linear(latent_dim, math.prod(bottom)),
            nn.Unflatten(1, bottom),
            Block(widths[-1], widths[-1]),
        ]
        for width_before, width in pairwise(widths[::-1]):
            decoder += [nn.Upsample(scale_factor=2), Block(width_before, width)]
        self.decoder = nn.Sequential(
            *decoder,
            nn.GroupNorm(8, widths[0]),
            nn.SiLU(),
            nn.Conv2d(widths[0], 2 * img_channels, 3, padding=1),
        )

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def networks(self) -> list[nn.Module]:
        return [self.decoder]

    def describe(self) -> dict:
        return {"network": fingerprint(self)}

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, log variance) of q(z | x), [N, latent_dim] float32 each."""
        mean, log_variance = self.encoder(x).float().chunk(2, dim=1)
        return mean, log_variance

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, log scale) of the logistic pixels of z [N, latent_dim], [N, C, R, R] float32
        each."""
        mean, log_scale = self.decoder(z).float().chunk(2, dim=1)
        return mean, log_scale.clamp(min=MIN_LOG_SCALE)

    def reconstruction(self, x: Tensor, z: Tensor) -> Tensor:
        """-log p(x | z) in nats, [N]."""
        return -discretized_logistic(x, *self.decode(z)).flatten(1).sum(dim=1)


def elbo(model, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """(-log p(x | z), divergence of q(z | x) from the prior) in nats, [N] each; they add up to the
    negative ELBO.

    model  a `VAE`, or anything with its `encode` and `reconstruction`
    x      [N, C, R, R]     8-bit images on [-1, 1]
    noise  [N, latent_dim]  standard normal: z is drawn once, the divergence is in closed form
    """
    mean, log_variance = model.encode(x)
    divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=1)
    return model.reconstruction(x, mean + (0.5 * log_variance).exp() * noise), divergence


def importance_bound(model, x: Tensor, noise: Tensor) -> Tensor:
    """Bound of Burda et al. 2016 on -log p(x) in nats, [N]: tighter with K, in expectation.

    noise  [N, K, latent_dim]  standard normal; K = 1 is the ELBO with its divergence estimated from
                               the draw
    """
    mean, log_variance = model.encode(x)
    log_weights = []
    for e in noise.unbind(dim=1):
        z = mean + (0.5 * log_variance).exp() * e
        log_prior_to_posterior = 0.5 * (e**2 - z**2 + log_variance).sum(dim=1)
        log_weights.append(log_prior_to_posterior - model.reconstruction(x, z))
    return math.log(noise.shape[1]) - torch.stack(log_weights).logsumexp(dim=0)


def save_vae(file, model: VAE) -> None:
    """Write a model as safetensors, its settings in the metadata. `file`: a path or a binary file
    object."""
    write_safetensors(file, model.state_dict(), FORMAT, model.init_kwargs)


def load_vae(path, device="cpu") -> VAE:
    """A frozen model in evaluation mode. ValueError with one line that names the file and what is
    wrong."""
    config, tensors = read_safetensors(path, FORMAT, "img_resolution", "img_channels")
    model = build(VAE, config, tensors, path, "describes no VAE that can be built")
    load_strictly(model, tensors, path)
    return model.eval().requires_grad_(False).to(device)
