"""The encoder half of ADM's U-Net with a classification head: noisy-image classifiers and
discriminators.

Dhariwal & Nichol 2021, section 4 and appendix: classifiers of noisy images. Kim et al. 2023
(Discriminator Guidance), appendix: the middle block of a frozen classifier feeds a second, small
encoder with one output, the discriminator.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .encoder_trunk import build_encoder_trunk
from .layers import (
    NORM_GROUPS,
    AttentionBlock,
    AttentionPool,
    Embedding,
    GroupNorm,
    ResBlock,
    time_mlp,
    timestep_embedding,
    zeroed,
)

TIME_SCALE = 999  # time in [0, 1] -> the 1000 steps on which the published classifiers were trained
SPATIAL_WIDTH = 2048  # hidden width of the two "spatial" heads


class EncoderUNetModel(nn.Module):
    """ADM encoder: image, time and (optionally) class -> middle-block features or logits.

    image_size            pixels of a side, divisible by 2 ** (levels - 1)
    in_channels           channels of the input (3 for images, an extractor's `feature_channels` for
                          a discriminator)
    out_channels          logits per image
    model_channels        width of the first level; every level's width is a multiple of 32
    num_res_blocks        residual blocks per level (the published "depth")
    channel_mult          width of each level relative to model_channels; each level but the last
                          ends in a downsampling
    attention_resolutions sizes in pixels of the feature maps that get self-attention after each
    residual block (not the
                          downsampling factors that guided-diffusion's constructor of the same name
                          takes)
    num_head_channels     channels of one attention head
    num_classes           rows of the class embedding, 0 for an unconditional encoder
    use_scale_shift_norm  embeddings scale and shift the normalised features ("adaptive group
                          normalisation")
    resblock_updown       residual downsampling instead of a strided convolution
    pool                  head: "attention", "adaptive" (average), "spatial" or "spatial_v2"
                          (averages of every block)
    dropout               probability inside the residual blocks, in train mode

    `feature_channels` and `feature_size` describe the features. Half precision: call it under
    `torch.autocast`; normalisations and the head then still run in float32. Impossible settings
    raise ValueError.
    """

    def __init__(
        self,
        *,
        image_size: int,
        in_channels: int,
        out_channels: int,
        model_channels: int = 128,
        num_res_blocks: int = 2,
        channel_mult: Sequence[float] = (1, 2, 4),
        attention_resolutions: Sequence[int] = (32, 16, 8),
        num_head_channels: int = 64,
        num_classes: int = 0,
        use_scale_shift_norm: bool = True,
        resblock_updown: bool = True,
        pool: str = "attention",
        dropout: float = 0.0,
    ):
        super().__init__()
        widths = level_widths(image_size, model_channels, channel_mult)
        self.image_size, self.in_channels, self.out_channels = image_size, in_channels, out_channels
        self.model_channels, self.num_classes, self.pool = model_channels, num_classes, pool

        emb_channels = 4 * model_channels
        self.time_embed = time_mlp(model_channels, emb_channels)
        if num_classes:
            self.label_emb = Embedding(num_classes, emb_channels)

        def residual(channels: int, width: int, down: bool = False) -> ResBlock:
            return ResBlock(
                channels,
                width,
                emb_channels,
                use_scale_shift_norm=use_scale_shift_norm,
                dropout=dropout,
                down=down,
            )

        def attention(width: int) -> AttentionBlock:
            return AttentionBlock(width, num_head_channels)

        self.input_blocks, self.middle_block, block_channels, size = build_encoder_trunk(
            in_channels,
            image_size,
            widths,
            num_res_blocks,
            attention_resolutions,
            resblock_updown,
            residual,
            attention,
        )
        channels = block_channels[-1]
        block_channels.append(channels)
        self.feature_channels, self.feature_size = channels, size
        self.out = make_head(
            pool, size, channels, sum(block_channels), num_head_channels, out_channels
        )

    def forward(
        self, x: Tensor, timesteps: Tensor, feature: bool = False, condition: Tensor | None = None
    ) -> Tensor:
        """Features of the middle block, or logits.

        x          [N, in_channels, image_size, image_size]  noisy images, VP scale, or an
                   extractor's features
        timesteps  [] or [N]                                 time in [0, 1]; multiplied by 999
                   inside
        condition  [N] integer or [N, K] one-hot, K <= num_classes; needed by a conditional encoder,
                   ignored by others
        returns    [N, feature_channels, feature_size, feature_size] if feature else [N,
                   out_channels] float32

        ValueError for a wrong number of channels, and for a condition that is missing or has
        another form.
        """
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"inputs have the shape {list(x.shape)}; give [N, {self.in_channels}, H, W]"
            )
        dtype = self.time_embed[0].weight.dtype
        # [N or 1, model_channels]
        emb = timestep_embedding(TIME_SCALE * timesteps.reshape(-1), self.model_channels)
        emb = self.time_embed(emb.to(dtype))  # [N or 1, 4*model_channels]
        if self.num_classes:
            emb = emb + self.label_emb(self._class_numbers(condition))  # [N, 4*model_channels]

        h, averages = x.to(dtype), []
        for block in (*self.input_blocks, self.middle_block):
            h = block(h, emb)  # [N, width, size, size] of the block
            if not self.head_takes_features:
                averages.append(h.mean(dim=(2, 3)))  # [N, width]
        return h if feature else self.logits(torch.cat(averages, dim=1) if averages else h)

    @property
    def head_takes_features(self) -> bool:
        """Whether `logits` takes what `feature` returns; the "spatial" heads see every block."""
        return not self.pool.startswith("spatial")

    def logits(self, features: Tensor) -> Tensor:
        """Logits [N, out_channels] by the head alone, of the middle block's features, or of every
        block's averages."""
        # the head is cheap, and half-precision logits are coarse
        with torch.autocast(features.device.type, enabled=False):
            return self.out(features.to(self.time_embed[0].weight.dtype))

    def _class_numbers(self, condition: Tensor | None) -> Tensor:
        if condition is None:
            raise ValueError(
                "this encoder is conditional; give class numbers or one-hot labels as condition"
            )
        if condition.ndim == 2 and condition.shape[1] <= self.num_classes:
            return condition.argmax(dim=1)  # [N]
        if condition.ndim != 1 or condition.is_floating_point():
            raise ValueError(
                f"condition is {condition.dtype} {list(condition.shape)}; give integers [N] "
                f"or one-hot [N, K] with K <= {self.num_classes}"
            )
        return condition.long()


def level_widths(image_size: int, model_channels: int, channel_mult: Sequence[float]) -> list[int]:
    """Channels of each level; ValueError where they cannot be normalised in groups or the image
    cannot be halved."""
    widths = [round(mult * model_channels) for mult in channel_mult]
    if not widths or min(widths) <= 0 or any(width % NORM_GROUPS for width in widths):
        raise ValueError(
            f"levels have {', '.join(map(str, widths))} channels; give positive multiples of "
            f"{NORM_GROUPS}"
        )
    if image_size % 2 ** (len(widths) - 1):
        raise ValueError(
            f"images of {image_size} pixels cannot be halved {len(widths) - 1} times, as "
            f"{len(widths)} levels need; use images of another size, or fewer levels"
        )
    return widths


def make_head(
    pool: str,
    size: int,
    channels: int,
    block_channels: int,
    num_head_channels: int,
    out_channels: int,
) -> nn.Sequential:
    """Head from the middle block's [N, channels, size, size], or from all blocks' averages [N,
    block_channels]."""
    match pool:
        case "attention":
            return nn.Sequential(
                GroupNorm(channels),
                nn.SiLU(),
                AttentionPool(size, channels, num_head_channels, out_channels),
            )
        case "adaptive":
            return nn.Sequential(
                GroupNorm(channels),
                nn.SiLU(),
                nn.AdaptiveAvgPool2d(1),
                zeroed(nn.Conv2d(channels, out_channels, 1)),
                nn.Flatten(),
            )
        case "spatial":
            return nn.Sequential(
                nn.Linear(block_channels, SPATIAL_WIDTH),
                nn.ReLU(),
                nn.Linear(SPATIAL_WIDTH, out_channels),
            )
        case "spatial_v2":
            return nn.Sequential(
                nn.Linear(block_channels, SPATIAL_WIDTH),
                GroupNorm(SPATIAL_WIDTH),
                nn.SiLU(),
                nn.Linear(SPATIAL_WIDTH, out_channels),
            )
    raise ValueError(f"pool is {pool!r}; use attention, adaptive, spatial or spatial_v2")
