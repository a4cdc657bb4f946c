"""A U-Net of ShuffleNet units, with few weights and no attention, as MNISTDiffusion has one: noisy
image, timestep and class -> prediction and variance."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from guided_diffusion.layers import Embedding, time_mlp, timestep_embedding, zeroed
from guided_diffusion.unet import check_input


class ShuffleUNet(nn.Module):
    """A network for `dg.models.ddpm.DDPM`, with the arguments of `UNetModel` where they mean the
    same.

    image_size      pixels of a side, divisible by 2 ** (number of multipliers)
    out_channels    as in_channels, or twice as many if the variance is learned
    model_channels  width at full resolution, a multiple of 16
    channel_mult    width after each halving of the resolution, relative to that
    num_units       units of a level, on the way down, at the bottom and on the way up
    num_classes     rows of the class embedding, 0 for an unconditional network

    Impossible settings raise ValueError.
    """

    def __init__(
        self,
        *,
        image_size: int,
        in_channels: int = 1,
        out_channels: int = 1,
        model_channels: int = 64,
        channel_mult: Sequence[int] = (2, 4),
        num_units: int = 4,
        num_classes: int = 0,
    ):
        super().__init__()
        halvings, widths = len(channel_mult), [model_channels * mult for mult in (1, *channel_mult)]
        if image_size % 2**halvings or any(width % 16 for width in widths) or num_units < 1:
            raise ValueError(
                f"images of {image_size} pixels and widths of {widths} with {num_units} units do "
                f"not fit; give pixels that can be halved {halvings} times, widths that are "
                "multiples of 16, and at least one unit"
            )
        self.image_size, self.in_channels, self.out_channels = image_size, in_channels, out_channels
        self.model_channels, self.num_classes = model_channels, num_classes

        emb_channels = 4 * model_channels
        self.time_embed = time_mlp(model_channels, emb_channels)
        if num_classes:
            self.label_emb = Embedding(num_classes, emb_channels)
        self.stem = nn.Conv2d(in_channels, model_channels, 3, padding=1)
        self.down, self.halve, self.up = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for width, below in pairwise(widths):
            self.down.append(Level(width, width, emb_channels, num_units))
            self.halve.append(ShuffleUnit(width, below, stride=2))
            self.up.insert(0, Level(below + width, width, emb_channels, num_units))
        self.middle = Level(widths[-1], widths[-1], emb_channels, num_units)
        self.enlarge = nn.Upsample(scale_factor=2, mode="bilinear")
        self.out = nn.Sequential(
            _norm(model_channels),
            nn.SiLU(),
            zeroed(nn.Conv2d(model_channels, out_channels, 3, padding=1)),
        )

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        """The prediction, and with learned variances a second set of channels for them, float32;
        arguments as of `UNetModel`."""
        check_input(self, x, y)
        dtype = self.stem.weight.dtype
        features = timestep_embedding(timesteps.reshape(-1), self.model_channels).to(dtype)
        emb = self.time_embed(features)  # [N or 1, 4*width]
        if y is not None:
            emb = emb + self.label_emb(y)  # [N, 4*width]

        h, skips = self.stem(x.to(dtype)), []
        for level, halve in zip(self.down, self.halve, strict=True):
            h = level(h, emb)
            skips.append(h)
            h = halve(h)
        h = self.middle(h, emb)
        for level in self.up:
            h = level(torch.cat([self.enlarge(h), skips.pop()], dim=1), emb)
        with torch.autocast(x.device.type, enabled=False):
            return self.out(h.to(dtype))


class Level(nn.Module):
    """Units of one resolution that know the time, x [N, in, H, W] -> [N, out, H, W]."""

    def __init__(self, channels: int, width: int, emb_channels: int, num_units: int):
        super().__init__()
        self.emb = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, channels))
        before = [channels, *[width] * (num_units - 1)]
        self.units = nn.Sequential(*(ShuffleUnit(one, width) for one in before))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.units(x + self.emb(emb)[..., None, None])


class ShuffleUnit(nn.Module):
    """The unit of ShuffleNet V2 (Ma et al. 2018, figure 3), x [N, in, H, W] -> [N, out, H / stride,
    W / stride].

    Where nothing changes its shape, half of the channels pass as they are, and the other half go
    through a bottleneck whose 3x3 convolution is depthwise. Else all channels go through both
    branches. The halves of the output are interleaved, so that the next unit splits them otherwise.
    Batches are normalised image by image, and not as a whole as in the paper, so that an image's
    prediction depends on no other one.
    """

    def __init__(self, channels: int, width: int, stride: int = 1):
        super().__init__()
        self.splits, half = stride == 1 and channels == width, width // 2
        inner = half if self.splits else channels
        self.beside = (
            nn.Identity()
            if self.splits
            else nn.Sequential(*_depthwise(inner, stride), *_pointwise(inner, half))
        )
        self.branch = nn.Sequential(
            *_pointwise(inner, half), *_depthwise(half, stride), *_pointwise(half, half)
        )

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=1) if self.splits else (x, x)
        halves = torch.stack([self.beside(first), self.branch(second)], dim=2)
        return halves.flatten(1, 2)  # channel by channel one of each half


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(8, channels)


def _pointwise(channels: int, width: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, width, 1, bias=False), _norm(width), nn.SiLU()]


def _depthwise(channels: int, stride: int) -> list[nn.Module]:
    mixing = dict(stride=stride, padding=1, groups=channels, bias=False)
    return [nn.Conv2d(channels, channels, 3, **mixing), _norm(channels)]
