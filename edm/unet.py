"""Base of the U-Nets of `edm.networks`: forward pass, label dropout, the blocks of their levels."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from edm.layers import UNetBlock


class UNet(nn.Module):
    """Base class of both U-Nets: forward = decode(encode), and label dropout in training."""

    label_dropout: float

    def forward(
        self,
        x: Tensor,
        noise_labels: Tensor,
        class_labels: Tensor | None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """x [N, C, R, R], noise_labels [N], class_labels [N or 1, label_dim], augment_labels [N,
        augment_dim]."""
        return self.decode(*self.encode(x, noise_labels, class_labels, augment_labels))

    def _dropped(self, class_labels: Tensor, batch: int) -> Tensor:
        if not (self.training and self.label_dropout):
            return class_labels
        return class_labels * (
            torch.rand(batch, 1, device=class_labels.device) >= self.label_dropout
        )

    def _add_down_blocks(self, level, channels, skip_channels, num_blocks, block) -> int:
        """Blocks of one level of the encoder; `skip_channels` grows. Returns the channels of the
        last."""
        for index in range(num_blocks):
            self.enc[f"{level.name}_block{index}"] = UNetBlock(
                channels, level.channels, attention=level.attention, **block
            )
            channels = level.channels
            skip_channels.append(channels)
        return channels

    def _add_up_blocks(self, level, lowest, channels, skip_channels, attention, block) -> int:
        """Blocks of one level of the decoder, which take up skip tensors from the end. Returns the
        channels of the last."""
        name = level.name
        if level is lowest:
            self.dec[f"{name}_in0"] = UNetBlock(channels, channels, attention=True, **block)
            self.dec[f"{name}_in1"] = UNetBlock(channels, channels, **block)
        else:
            self.dec[f"{name}_up"] = UNetBlock(channels, channels, up=True, **block)
        for index, attends in enumerate(attention):
            joined = channels + skip_channels.pop()
            self.dec[f"{name}_block{index}"] = UNetBlock(
                joined, level.channels, attention=attends, **block
            )
            channels = level.channels
        return channels


class Level(NamedTuple):
    """One resolution of a U-Net: prefix of its blocks' names, their width, whether they have
    attention."""

    name: str
    channels: int
    attention: bool


def levels_of(img_resolution, model_channels, channel_mult, attn_resolutions) -> list[Level]:
    """The levels from full resolution down."""
    sizes = [img_resolution >> index for index in range(len(channel_mult))]
    return [
        Level(f"{size}x{size}", model_channels * mult, size in attn_resolutions)
        for size, mult in zip(sizes, channel_mult, strict=True)
    ]


def check_choice(name, value, *choices):
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; use one of {', '.join(choices)}")


def check_resolution(img_resolution, channel_mult):
    if img_resolution % 2 ** (len(channel_mult) - 1):
        raise ValueError(
            f"images of {img_resolution} pixels cannot be halved {len(channel_mult) - 1} times, as "
            f"{len(channel_mult)} levels need; use images of another size, or fewer levels"
        )
