"""ADM's U-Net (Dhariwal & Nichol 2021, section 3): noisy image, timestep and class -> prediction
and variance."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .encoder import level_widths
from .encoder_trunk import build_encoder_trunk
from .layers import (
    AttentionBlock,
    Embedding,
    EmbedSequential,
    GroupNorm,
    ResBlock,
    attend,
    time_mlp,
    timestep_embedding,
    zeroed,
)


class UNetModel(nn.Module):
    """The diffusion models of guided-diffusion, with the parameter names of their checkpoints.

    image_size            pixels of a side, divisible by 2 ** (levels - 1)
    in_channels           channels of the images
    out_channels          as in_channels, or twice as many if the variance is learned
    model_channels        width of the first level; every level's width is a multiple of 32
    num_res_blocks        residual blocks per level on the way down; one more on the way up
    channel_mult          width of each level relative to model_channels
    attention_resolutions sizes in pixels of the feature maps that get self-attention after each
    residual block
    num_classes           rows of the class embedding, 0 for an unconditional network
    num_head_channels     channels of one attention head; `num_heads`, where given, counts the heads
                          instead
    use_new_attention_order  rows of `qkv` are all queries, all keys, all values, as the 64x64 model
                             has them
    use_scale_shift_norm, resblock_updown, dropout  as in `EncoderUNetModel`

    Half precision: call it under `torch.autocast`; normalisations and the last convolution then
    still run in float32. Impossible settings raise ValueError.
    """

    def __init__(
        self,
        *,
        image_size: int,
        in_channels: int = 3,
        out_channels: int = 6,
        model_channels: int = 256,
        num_res_blocks: int = 2,
        channel_mult: Sequence[float] = (1, 1, 2, 2, 4, 4),
        attention_resolutions: Sequence[int] = (32, 16, 8),
        num_classes: int = 0,
        num_head_channels: int = 64,
        num_heads: int | None = None,
        use_new_attention_order: bool = False,
        use_scale_shift_norm: bool = True,
        resblock_updown: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__()
        widths = level_widths(image_size, model_channels, channel_mult)
        self.image_size, self.in_channels, self.out_channels = image_size, in_channels, out_channels
        self.model_channels, self.num_classes = model_channels, num_classes

        emb_channels = 4 * model_channels
        self.time_embed = time_mlp(model_channels, emb_channels)
        if num_classes:
            self.label_emb = Embedding(num_classes, emb_channels)

        def residual(channels: int, width: int, down: bool = False, up: bool = False) -> ResBlock:
            block = UpBlock if up else ResBlock
            return block(
                channels,
                width,
                emb_channels,
                use_scale_shift_norm=use_scale_shift_norm,
                dropout=dropout,
                down=down,
            )

        def attention(width: int) -> AttentionBlock:
            block = NewOrderAttentionBlock if use_new_attention_order else AttentionBlock
            if num_heads and width % num_heads:
                raise ValueError(
                    f"{width} channels do not divide into {num_heads} attention heads; give a "
                    "divisor"
                )
            return block(width, width // num_heads if num_heads else num_head_channels)

        layout = num_res_blocks, attention_resolutions, resblock_updown, residual, attention
        trunk = build_encoder_trunk(in_channels, image_size, widths, *layout)
        self.input_blocks, self.middle_block = trunk.input_blocks, trunk.middle_block
        self.output_blocks = _decoder(trunk, widths, *layout)
        channels = widths[0]
        self.out = nn.Sequential(
            GroupNorm(channels), nn.SiLU(), zeroed(nn.Conv2d(channels, out_channels, 3, padding=1))
        )

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        """The prediction, and with learned variances a second set of channels for them, float32.

        x          [N, in_channels, image_size, image_size]  noisy images, VP scale
        timesteps  [] or [N]                                 of the 1000-step process, 0..999;
                   fractions allowed
        y          [N] integer                               classes; needed by a conditional
                   network, refused by others
        returns    [N, out_channels, image_size, image_size]
        """
        check_input(self, x, y)
        dtype = self.time_embed[0].weight.dtype
        # [N or 1, 4*width]
        emb = self.time_embed(
            timestep_embedding(timesteps.reshape(-1), self.model_channels).to(dtype)
        )
        if y is not None:
            emb = emb + self.label_emb(y)  # [N, 4*width]

        h, skips = x.to(dtype), []
        for block in self.input_blocks:
            h = block(h, emb)
            skips.append(h)
        h = self.middle_block(h, emb)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), emb)
        with torch.autocast(x.device.type, enabled=False):
            return self.out(h.to(dtype))


def check_input(network, x: Tensor, y: Tensor | None) -> None:
    """ValueError for images of another shape than the network's, and for classes that are missing
    or not wanted."""
    expected = [network.in_channels, network.image_size, network.image_size]
    if list(x.shape[1:]) != expected:
        raise ValueError(
            f"images have the shape {list(x.shape)}; give [N, {', '.join(map(str, expected))}]"
        )
    if (y is None) == bool(network.num_classes):
        raise ValueError(
            f"this network has {network.num_classes} classes; give y [N] if there are "
            "classes, and no y if there are none"
        )


def _decoder(
    trunk, widths, num_res_blocks, attention_resolutions, resblock_updown, residual, attention
) -> nn.ModuleList:
    """The decoder, which takes the outputs of the trunk's blocks from the end; arguments as of
    `build_encoder_trunk`."""
    skips, channels, size = list(trunk.block_channels), trunk.block_channels[-1], trunk.size
    blocks = nn.ModuleList()
    for level, width in reversed(list(enumerate(widths))):
        for i in range(num_res_blocks + 1):
            layers = [residual(channels + skips.pop(), width)]
            channels = width
            if size in attention_resolutions:
                layers.append(attention(width))
            if level > 0 and i == num_res_blocks:
                layers.append(
                    residual(width, width, up=True) if resblock_updown else Upsample(width)
                )
                size *= 2
            blocks.append(EmbedSequential(*layers))
    return blocks


class UpBlock(ResBlock):
    """Residual block that doubles the resolution in both branches, x [N, in, H, W] -> [N, out, 2H,
    2W]."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.resample = nn.Upsample(scale_factor=2, mode="nearest")


class Upsample(nn.Module):
    """Double the resolution, then convolve, x [N, C, H, W] -> [N, C, 2H, 2W]."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class NewOrderAttentionBlock(AttentionBlock):
    """Self-attention whose rows of `qkv` are all queries, all keys, all values, each of them head
    by head."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # [N, H*W, C]
        # [N, H*W, heads, C/heads] each
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).unbind(2)
        h = self.proj_out(attend(q, k, v))  # [N, H*W, C]
        return x + h.transpose(1, 2).reshape(x.shape)  # [N, C, H, W]
