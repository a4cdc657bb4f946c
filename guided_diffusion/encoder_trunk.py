"""The encoder path of ADM's encoder and U-Net: levels of residual blocks, then the middle block."""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from torch import nn

from .layers import Downsample, EmbedSequential


class EncoderTrunk(NamedTuple):
    """Every block is called as block(h, emb), in this order."""

    input_blocks: nn.ModuleList
    middle_block: EmbedSequential
    block_channels: list[int]  # outputs of the input blocks
    size: int  # side of the middle block in pixels


def build_encoder_trunk(
    in_channels: int,
    image_size: int,
    widths: Sequence[int],
    num_res_blocks: int,
    attention_resolutions: Collection[int],
    resblock_updown: bool,
    residual: Callable[..., nn.Module],
    attention: Callable[[int], nn.Module],
) -> EncoderTrunk:
    """Levels of `num_res_blocks` residual blocks of these widths; each level but the last ends in a
    downsampling.

    attention_resolutions  sizes in pixels of the feature maps with attention after each residual
                           block; the middle block always has one
    resblock_updown        residual downsampling instead of a strided convolution
    residual               residual(in_channels, out_channels, down=False), a residual block
    attention              attention(channels), a self-attention block
    """
    channels, size = widths[0], image_size
    blocks = nn.ModuleList([EmbedSequential(nn.Conv2d(in_channels, channels, 3, padding=1))])
    block_channels = [channels]
    for level, width in enumerate(widths):
        if level > 0:
            blocks.append(
                EmbedSequential(
                    residual(channels, channels, down=True)
                    if resblock_updown
                    else Downsample(channels)
                )
            )
            block_channels.append(channels)
            size //= 2
        for _ in range(num_res_blocks):
            layers = [residual(channels, width)]
            if size in attention_resolutions:
                layers.append(attention(width))
            blocks.append(EmbedSequential(*layers))
            block_channels.append(width)
            channels = width
    middle = EmbedSequential(
        residual(channels, channels), attention(channels), residual(channels, channels)
    )
    return EncoderTrunk(blocks, middle, block_channels, size)
