"""Building blocks of the EDM networks, with the parameter names of the published checkpoints.

Weights are cast to the dtype of the activations at every use, so that one float32 module also runs
in half precision. Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative
Models", appendix F.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _initial(
    shape: tuple[int, ...], mode: str, fan_in: int, fan_out: int, gain: float
) -> nn.Parameter:
    """A freshly drawn parameter of the given shape; on the meta device, an empty one.

    Arithmetic on the meta device loads torch._dynamo, which fails for users without a name.
    """
    if min(shape) < 1:
        raise ValueError(f"a layer has weights {list(shape)}; give positive sizes")
    if torch.get_default_device().type == "meta":
        return nn.Parameter(torch.empty(shape))
    if mode == "xavier_uniform":
        value = math.sqrt(6 / (fan_in + fan_out)) * (torch.rand(shape) * 2 - 1)
    elif mode == "kaiming_uniform":
        value = math.sqrt(3 / fan_in) * (torch.rand(shape) * 2 - 1)
    elif mode == "kaiming_normal":
        value = math.sqrt(1 / fan_in) * torch.randn(shape)
    else:
        raise ValueError(
            f"unknown initialisation {mode!r}; use xavier_uniform, kaiming_uniform or "
            "kaiming_normal"
        )
    return nn.Parameter(value * gain)


def blur_of(taps) -> Tensor:
    """Two-dimensional filter of sum 1 from its one-dimensional taps, float32 [1, 1, k, k] on the
    CPU."""
    taps = torch.tensor(taps, dtype=torch.float32, device="cpu")
    return (taps.outer(taps) / taps.sum() ** 2)[None, None]


class Linear(nn.Module):
    """Fully connected layer, [N, in_features] -> [N, out_features]."""

    def __init__(
        self,
        in_features,
        out_features,
        bias=True,
        init_mode="kaiming_normal",
        init_weight=1,
        init_bias=0,
    ):
        super().__init__()
        self.in_features = in_features
        fans = dict(mode=init_mode, fan_in=in_features, fan_out=out_features)
        self.weight = _initial((out_features, in_features), gain=init_weight, **fans)
        self.bias = _initial((out_features,), gain=init_bias, **fans) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(
            x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype)
        )


class Conv2d(nn.Module):
    """Convolution with optional 2x up- or downsampling by a separable filter; `kernel=0` only
    resamples.

    [N, in_channels, H, W] -> [N, out_channels, H', W'] with H' = 2H (up), H/2 (down) or H.
    `fused_resample` applies the convolution before the downsampling filter instead of after it, as
    the residual encoder of NCSN++ does.
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel,
        up=False,
        down=False,
        resample_filter=(1, 1),
        fused_resample=False,
        init_mode="kaiming_normal",
        init_weight=1,
        init_bias=0,
    ):
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.up, self.down, self.fused_resample = up, down, fused_resample
        fans = dict(
            mode=init_mode, fan_in=in_channels * kernel**2, fan_out=out_channels * kernel**2
        )
        shape = (out_channels, in_channels, kernel, kernel)
        self.weight = _initial(shape, gain=init_weight, **fans) if kernel else None
        self.bias = _initial((out_channels,), gain=init_bias, **fans) if kernel else None
        blur = blur_of(resample_filter)
        blur = torch.as_tensor(blur, device=torch.get_default_device()) if up or down else None
        self.register_buffer("resample_filter", blur)

    def forward(self, x: Tensor) -> Tensor:
        weight = None if self.weight is None else self.weight.to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        pad = 0 if weight is None else weight.shape[-1] // 2
        if self.fused_resample and self.down:
            blur = self.resample_filter.to(x.dtype)
            x = F.conv2d(x, weight, padding=pad + (blur.shape[-1] - 1) // 2)
            blur = blur.expand(self.out_channels, 1, -1, -1)
            return F.conv2d(x, blur, groups=self.out_channels, stride=2) + bias[:, None, None]
        if self.up or self.down:
            blur = self.resample_filter.to(x.dtype).expand(self.in_channels, 1, -1, -1)
            how = dict(groups=self.in_channels, stride=2, padding=(blur.shape[-1] - 1) // 2)
            x = F.conv_transpose2d(x, blur * 4, **how) if self.up else F.conv2d(x, blur, **how)
        return x if weight is None else F.conv2d(x, weight, bias, padding=pad)


class GroupNorm(nn.Module):
    """Group normalisation with at least four channels in a group and at most 32 groups."""

    def __init__(self, num_channels: int, eps: float = 1e-5):
        super().__init__()
        self.num_groups = min(32, num_channels // 4)
        if num_channels < 4 or num_channels % self.num_groups:
            raise ValueError(
                f"{num_channels} channels cannot be normalised; give a multiple of 4 (of 32 "
                "above 128)"
            )
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(
            x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps
        )


class PositionalEmbedding(nn.Module):
    """Sinusoidal embedding of DDPM++ and ADM, [N] -> [N, num_channels] as (cos, sin)."""

    def __init__(self, num_channels: int, endpoint: bool = False):
        super().__init__()
        self.num_channels, self.endpoint = num_channels, endpoint

    def forward(self, x: Tensor) -> Tensor:
        half = self.num_channels // 2
        exponent = torch.arange(half, dtype=torch.float32, device=x.device) / (
            half - int(self.endpoint)
        )
        angles = x.outer((1 / 10000) ** exponent)  # [N, C/2]
        return torch.cat([angles.cos(), angles.sin()], dim=1)  # [N, C]


class FourierEmbedding(nn.Module):
    """Random Fourier features of NCSN++, [N] -> [N, num_channels] as (cos, sin); the frequencies
    are a buffer."""

    def __init__(self, num_channels: int, scale: float = 16):
        super().__init__()
        freqs = torch.randn(num_channels // 2)
        self.register_buffer("freqs", freqs if freqs.is_meta else freqs * scale)

    def forward(self, x: Tensor) -> Tensor:
        angles = x.outer(2 * math.pi * self.freqs)  # [N, C/2]
        return torch.cat([angles.cos(), angles.sin()], dim=1)  # [N, C]


class UNetBlock(nn.Module):
    """Residual block with noise embedding and optional self-attention; serves DDPM++, NCSN++ and
    ADM.

    x [N, in_channels, H, W], emb [N, emb_channels] -> [N, out_channels, H', W']. With
    `adaptive_scale` the embedding scales and shifts the second normalisation (ADM), otherwise it is
    added before it. Attention with `out_channels // channels_per_head == 0` heads is no attention,
    as in the published code.
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        emb_channels,
        up=False,
        down=False,
        attention=False,
        num_heads=None,
        channels_per_head=64,
        dropout=0.0,
        skip_scale=1.0,
        eps=1e-5,
        resample_filter=(1, 1),
        resample_proj=False,
        adaptive_scale=True,
        init=None,
        init_zero=None,
        init_attn=None,
    ):
        super().__init__()
        init, init_zero = init or {}, init_zero or {"init_weight": 0}
        self.in_channels, self.out_channels = in_channels, out_channels
        self.num_heads = 0 if not attention else num_heads or out_channels // channels_per_head
        self.dropout, self.skip_scale, self.adaptive_scale = dropout, skip_scale, adaptive_scale

        resample = dict(up=up, down=down, resample_filter=resample_filter)
        self.norm0 = GroupNorm(in_channels, eps)
        self.conv0 = Conv2d(in_channels, out_channels, kernel=3, **resample, **init)
        self.affine = Linear(emb_channels, out_channels * (2 if adaptive_scale else 1), **init)
        self.norm1 = GroupNorm(out_channels, eps)
        self.conv1 = Conv2d(out_channels, out_channels, kernel=3, **init_zero)
        self.skip = None
        if out_channels != in_channels or up or down:
            kernel = 1 if resample_proj or out_channels != in_channels else 0
            self.skip = Conv2d(in_channels, out_channels, kernel=kernel, **resample, **init)
        if self.num_heads:
            self.norm2 = GroupNorm(out_channels, eps)
            self.qkv = Conv2d(out_channels, out_channels * 3, kernel=1, **(init_attn or init))
            self.proj = Conv2d(out_channels, out_channels, kernel=1, **init_zero)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv0(F.silu(self.norm0(x)))  # [N, out, H', W']
        params = self.affine(emb)[:, :, None, None].to(h.dtype)  # [N, out or 2 out, 1, 1]
        if self.adaptive_scale:
            scale, shift = params.chunk(2, dim=1)
            h = F.silu(torch.addcmul(shift, self.norm1(h), scale + 1))
        else:
            h = F.silu(self.norm1(h + params))
        h = self.conv1(F.dropout(h, self.dropout, self.training))
        x = (h + (x if self.skip is None else self.skip(x))) * self.skip_scale
        return (x + self._attention(x)) * self.skip_scale if self.num_heads else x

    def _attention(self, x: Tensor) -> Tensor:
        n, c, height, width = x.shape
        qkv = self.qkv(self.norm2(x)).reshape(
            n, self.num_heads, c // self.num_heads, 3, height * width
        )
        q, k, v = qkv.permute(3, 0, 1, 4, 2).unbind(0)  # each [N, heads, HW, C / heads]
        out = F.scaled_dot_product_attention(q, k, v)  # [N, heads, HW, C / heads]
        return self.proj(out.transpose(-1, -2).reshape(n, c, height, width))
