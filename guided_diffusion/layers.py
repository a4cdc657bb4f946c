"""Building blocks of the ADM networks: time embedding, residual block, self-attention, attention
pooling.

Dhariwal & Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis", sections 3 and 4. Parameter
names and the order of queries, keys and values are those of the published checkpoints.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_GROUPS = 32


def timestep_embedding(timesteps: Tensor, channels: int) -> Tensor:
    """Sinusoidal features of the time step: cosines in the first half, sines in the second.

    timesteps  [N]            steps of the 1000-step process, fractions allowed
    channels                  even
    returns    [N, channels]  float32

    Ho et al. 2020, after Vaswani et al. 2017: frequencies fall geometrically from 1 to nearly
    1/10000.
    """
    half = channels // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    frequencies = torch.exp(-math.log(10000.0) * exponents)
    angles = timesteps.float()[:, None] * frequencies  # [N, channels/2]
    return torch.cat([angles.cos(), angles.sin()], dim=1)  # [N, channels]


def time_mlp(channels: int, emb_channels: int) -> nn.Sequential:
    """Layers that make the embedding of a network [N, emb_channels] from `timestep_embedding`."""
    return nn.Sequential(
        nn.Linear(channels, emb_channels), nn.SiLU(), nn.Linear(emb_channels, emb_channels)
    )


def zeroed(layer: nn.Module) -> nn.Module:
    """Set every parameter of `layer` to zero, so that the residual branch it closes starts as the
    identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class GroupNorm(nn.GroupNorm):
    """Group normalisation over 32 groups, in float32 even where the activations are half
    precision."""

    def __init__(self, channels: int):
        super().__init__(NORM_GROUPS, channels)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(torch.promote_types(x.dtype, torch.float32))).to(x.dtype)


class Pointwise(nn.Conv1d):
    """Linear map of tokens [N, T, in] -> [N, T, out] whose weight has the checkpoints' shape [out,
    in, 1].

    A matrix product on tokens is faster than a width-one convolution and leaves channels last for
    fused attention.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(tokens, self.weight[..., 0], self.bias)


def count_heads(channels: int, head_channels: int) -> int:
    """Number of attention heads of `head_channels` each; ValueError where they do not fill
    `channels`."""
    if channels % head_channels:
        raise ValueError(
            f"{channels} channels do not divide into attention heads of {head_channels}; set "
            "num_head_channels to a divisor"
        )
    return channels // head_channels


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Multi-head attention of [N, T, heads, C] queries over [N, S, heads, C] keys and values -> [N,
    T, heads * C].

    The fused kernels behind it have no second derivative: for a gradient penalty, run under
    `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`.
    """
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # [N, heads, T or S, C]
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # [N, T, heads * C]


class AttentionBlock(nn.Module):
    """Residual self-attention over all pixels, x [N, C, H, W] -> [N, C, H, W].

    The rows of `qkv` run head by head: head 0's queries, keys and values, then head 1's.
    """

    def __init__(self, channels: int, head_channels: int):
        super().__init__()
        self.heads = count_heads(channels, head_channels)
        self.norm = GroupNorm(channels)
        self.qkv = Pointwise(channels, 3 * channels)
        self.proj_out = zeroed(Pointwise(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # [N, H*W, C]
        # [N, H*W, heads, C/heads] each
        q, k, v = self.qkv(tokens).unflatten(2, (self.heads, 3, -1)).unbind(3)
        h = self.proj_out(attend(q, k, v))  # [N, H*W, C]
        return x + h.transpose(1, 2).reshape(x.shape)  # [N, C, H, W]


class Embedding(nn.Embedding):
    """One vector for each class; on the meta device nothing is drawn."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


class AttentionPool(nn.Module):
    """Pool a feature map by attention from its mean, x [N, C, size, size] -> [N, out_channels].

    Radford et al. 2021 (CLIP), section 2.4. Unlike in `AttentionBlock`, the rows of `qkv_proj` are
    all queries, all keys, all values, each of them head by head. Another map size than `size`
    raises ValueError.
    """

    def __init__(self, size: int, channels: int, head_channels: int, out_channels: int):
        super().__init__()
        self.size = size
        self.heads = count_heads(channels, head_channels)
        positions = torch.randn(channels, size**2 + 1)
        # Arithmetic on the meta device loads torch._dynamo, which fails for users without a name.
        positions = positions if positions.is_meta else positions / channels**0.5
        self.positional_embedding = nn.Parameter(positions)
        self.qkv_proj = Pointwise(channels, 3 * channels)
        self.c_proj = Pointwise(channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] != (self.size, self.size):
            raise ValueError(
                f"features are {x.shape[2]}x{x.shape[3]}, but the attention pool takes "
                f"{self.size}x{self.size}; build the encoder with the images' image_size"
            )
        tokens = x.flatten(2).transpose(1, 2)  # [N, size^2, C]
        tokens = (
            torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)
            + self.positional_embedding.T
        )
        # [N, 1+size^2, heads, C/heads]
        q, k, v = self.qkv_proj(tokens).unflatten(2, (3, self.heads, -1)).unbind(2)
        pooled = attend(q[:, :1], k, v)  # [N, 1, C], the mean's output alone is used
        return self.c_proj(pooled)[:, 0]  # [N, out_channels]


class ResBlock(nn.Module):
    """Residual block steered by the time embedding, x [N, in, H, W], emb [N or 1, E] -> [N, out, H,
    W].

    use_scale_shift_norm  the embedding scales and shifts the second normalisation; otherwise it is
                          added before it
    down                  halve the resolution [N, out, H/2, W/2] by averaging 2x2 pixels, in both
                          branches
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        *,
        use_scale_shift_norm: bool,
        dropout: float,
        down: bool = False,
    ):
        super().__init__()
        self.use_scale_shift_norm = use_scale_shift_norm
        self.in_layers = nn.Sequential(
            GroupNorm(in_channels), nn.SiLU(), nn.Conv2d(in_channels, out_channels, 3, padding=1)
        )
        self.resample = nn.AvgPool2d(2) if down else nn.Identity()
        self.emb_layers = nn.Sequential(
            nn.SiLU(),
            nn.Linear(emb_channels, 2 * out_channels if use_scale_shift_norm else out_channels),
        )
        self.out_layers = nn.Sequential(
            GroupNorm(out_channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        self.skip_connection = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Conv2d(in_channels, out_channels, 1)
        )

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        in_norm, in_act, in_conv = self.in_layers
        h = in_conv(self.resample(in_act(in_norm(x))))  # [N, out, H, W], halved if down
        out_norm, *out_rest = self.out_layers
        emb = self.emb_layers(emb)[:, :, None, None]  # [N or 1, out or 2*out, 1, 1]
        if self.use_scale_shift_norm:
            scale, shift = emb.chunk(2, dim=1)  # [N or 1, out, 1, 1] each
            h = out_norm(h) * (1 + scale) + shift
        else:
            h = out_norm(h + emb)
        for layer in out_rest:
            h = layer(h)
        return self.skip_connection(self.resample(x)) + h


class Downsample(nn.Module):
    """Halve the resolution with a strided convolution, x [N, C, H, W] -> [N, C, H/2, W/2]."""

    def __init__(self, channels: int):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class EmbedSequential(nn.Sequential):
    """A chain of layers that hands the time embedding to those that take one."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        for layer in self:
            x = layer(x, emb) if isinstance(layer, ResBlock) else layer(x)
        return x
