"""The U-Nets under EDM's preconditioning: `SongUNet` (DDPM++, NCSN++) and `DhariwalUNet` (ADM).

Both are split in two: `encode` gives the skip tensors and the embedding, `decode` the output image. What only needs the
encoder (a discriminator on the score network's own features) runs it once and shares it with denoising.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edm.layers import Conv2d, FourierEmbedding, GroupNorm, Linear, PositionalEmbedding, UNetBlock


class UNet(nn.Module):
    """What both U-Nets share: forward = decode(encode), and label dropout in training."""

    label_dropout: float

    def forward(
        self,
        x: Tensor,
        noise_labels: Tensor,
        class_labels: Tensor | None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """x [N, C, R, R], noise_labels [N], class_labels [N or 1, label_dim], augment_labels [N, augment_dim]."""
        return self.decode(*self.encode(x, noise_labels, class_labels, augment_labels))

    def _dropped(self, class_labels: Tensor, batch: int) -> Tensor:
        if not (self.training and self.label_dropout):
            return class_labels
        return class_labels * (
            torch.rand(batch, 1, device=class_labels.device) >= self.label_dropout
        )


class SongUNet(UNet):
    """DDPM++ and NCSN++ (Song et al. 2021) as reimplemented by EDM (Karras et al. 2022, appendix F.2).

    DDPM++: embedding_type "positional", encoder "standard", resample_filter [1, 1], channel_mult_noise 1.
    NCSN++: embedding_type "fourier", encoder "residual", resample_filter [1, 3, 3, 1], channel_mult_noise 2.
    """

    def __init__(
        self,
        img_resolution,
        in_channels,
        out_channels,
        label_dim=0,
        augment_dim=0,
        model_channels=128,
        channel_mult=(1, 2, 2, 2),
        channel_mult_emb=4,
        num_blocks=4,
        attn_resolutions=(16,),
        dropout=0.10,
        label_dropout=0,
        embedding_type="positional",
        channel_mult_noise=1,
        encoder_type="standard",
        decoder_type="standard",
        resample_filter=(1, 1),
    ):
        _check_choice("embedding_type", embedding_type, "fourier", "positional")
        _check_choice("encoder_type", encoder_type, "standard", "skip", "residual")
        _check_choice("decoder_type", decoder_type, "standard", "skip")
        _check_resolution(img_resolution, channel_mult)
        super().__init__()
        self.label_dropout = label_dropout
        emb_channels, noise_channels = (
            model_channels * channel_mult_emb,
            model_channels * channel_mult_noise,
        )
        init = dict(init_mode="xavier_uniform")
        init_zero = dict(init_mode="xavier_uniform", init_weight=1e-5)
        block = dict(
            emb_channels=emb_channels,
            num_heads=1,
            dropout=dropout,
            skip_scale=math.sqrt(0.5),
            eps=1e-6,
            resample_filter=resample_filter,
            resample_proj=True,
            adaptive_scale=False,
            init=init,
            init_zero=init_zero,
            init_attn=dict(init_mode="xavier_uniform", init_weight=math.sqrt(0.2)),
        )

        # Embedding of noise level, class and augmentation.
        if embedding_type == "positional":
            self.map_noise = PositionalEmbedding(noise_channels, endpoint=True)
        else:
            self.map_noise = FourierEmbedding(noise_channels)
        self.map_label = Linear(label_dim, noise_channels, **init) if label_dim else None
        self.map_augment = (
            Linear(augment_dim, noise_channels, bias=False, **init) if augment_dim else None
        )
        self.map_layer0 = Linear(noise_channels, emb_channels, **init)
        self.map_layer1 = Linear(emb_channels, emb_channels, **init)

        # Encoder: from full resolution down; the `aux` branch carries the image itself alongside.
        self.enc = nn.ModuleDict()
        channels = aux_channels = in_channels
        last = len(channel_mult) - 1
        skip_channels = []
        for level, mult in enumerate(channel_mult):
            resolution = img_resolution >> level
            name = f"{resolution}x{resolution}"
            if level == 0:
                self.enc[f"{name}_conv"] = Conv2d(channels, model_channels, kernel=3, **init)
                channels = model_channels
            else:
                self.enc[f"{name}_down"] = UNetBlock(channels, channels, down=True, **block)
                down = dict(down=True, resample_filter=resample_filter)
                if encoder_type == "skip":
                    self.enc[f"{name}_aux_down"] = Conv2d(
                        aux_channels, aux_channels, kernel=0, **down
                    )
                    self.enc[f"{name}_aux_skip"] = Conv2d(aux_channels, channels, kernel=1, **init)
                if encoder_type == "residual":
                    residual = Conv2d(
                        aux_channels, channels, kernel=3, fused_resample=True, **down, **init
                    )
                    self.enc[f"{name}_aux_residual"] = residual
                    aux_channels = channels
            skip_channels.append(channels)
            for index in range(num_blocks):
                attention = resolution in attn_resolutions
                self.enc[f"{name}_block{index}"] = UNetBlock(
                    channels, model_channels * mult, attention=attention, **block
                )
                channels = model_channels * mult
                skip_channels.append(channels)

        # Decoder: back up to full resolution, taking the skip tensors from the end.
        self.dec = nn.ModuleDict()
        for level, mult in reversed(list(enumerate(channel_mult))):
            resolution = img_resolution >> level
            name = f"{resolution}x{resolution}"
            if level == last:
                self.dec[f"{name}_in0"] = UNetBlock(channels, channels, attention=True, **block)
                self.dec[f"{name}_in1"] = UNetBlock(channels, channels, **block)
            else:
                self.dec[f"{name}_up"] = UNetBlock(channels, channels, up=True, **block)
            for index in range(num_blocks + 1):
                attention = index == num_blocks and resolution in attn_resolutions
                joined = channels + skip_channels.pop()
                self.dec[f"{name}_block{index}"] = UNetBlock(
                    joined, model_channels * mult, attention=attention, **block
                )
                channels = model_channels * mult
            if decoder_type == "skip" or level == 0:
                if decoder_type == "skip" and level < last:
                    up = dict(up=True, resample_filter=resample_filter)
                    self.dec[f"{name}_aux_up"] = Conv2d(out_channels, out_channels, kernel=0, **up)
                self.dec[f"{name}_aux_norm"] = GroupNorm(channels, eps=1e-6)
                self.dec[f"{name}_aux_conv"] = Conv2d(channels, out_channels, kernel=3, **init_zero)

    def encode(
        self,
        x: Tensor,
        noise_labels: Tensor,
        class_labels: Tensor | None,
        augment_labels: Tensor | None = None,
    ) -> tuple[list[Tensor], Tensor]:
        """Skip tensors from full resolution to the bottleneck, each [N, C_i, R_i, R_i], and the embedding [N, E]."""
        emb = self.map_noise(noise_labels)  # [N, noise_channels]
        emb = (
            emb.reshape(emb.shape[0], 2, -1).flip(1).reshape(emb.shape)
        )  # published weights expect (sin, cos)
        if self.map_label is not None:
            emb = emb + self.map_label(
                self._dropped(class_labels, len(x)) * math.sqrt(self.map_label.in_features)
            )
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels)
        emb = F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))  # [N, emb_channels]

        skips, aux = [], x
        for name, block in self.enc.items():
            if name.endswith("aux_down"):
                aux = block(aux)
            elif name.endswith("aux_skip"):
                x = skips[-1] = x + block(aux)
            elif name.endswith("aux_residual"):
                x = skips[-1] = aux = (x + block(aux)) / math.sqrt(2)
            else:
                x = block(x, emb) if isinstance(block, UNetBlock) else block(x)
                skips.append(x)
        return skips, emb

    def decode(self, skips: list[Tensor], emb: Tensor) -> Tensor:
        """Output image [N, out_channels, R, R] from what `encode` returned; `skips` is left as it is."""
        remaining, x, image = list(skips), skips[-1], None
        for name, block in self.dec.items():
            if name.endswith("aux_up"):
                image = block(image)
            elif name.endswith("aux_norm"):
                normed = block(x)
            elif name.endswith("aux_conv"):
                out = block(F.silu(normed))
                image = out if image is None else out + image
            else:
                if x.shape[1] != block.in_channels:
                    x = torch.cat([x, remaining.pop()], dim=1)  # [N, C + C_skip, R_i, R_i]
                x = block(x, emb)
        return image


class DhariwalUNet(UNet):
    """ADM (Dhariwal & Nichol 2021) as reimplemented by EDM (Karras et al. 2022, appendix F.2)."""

    def __init__(
        self,
        img_resolution,
        in_channels,
        out_channels,
        label_dim=0,
        augment_dim=0,
        model_channels=192,
        channel_mult=(1, 2, 3, 4),
        channel_mult_emb=4,
        num_blocks=3,
        attn_resolutions=(32, 16, 8),
        dropout=0.10,
        label_dropout=0,
    ):
        _check_resolution(img_resolution, channel_mult)
        super().__init__()
        self.label_dropout = label_dropout
        emb_channels = model_channels * channel_mult_emb
        init = dict(
            init_mode="kaiming_uniform", init_weight=math.sqrt(1 / 3), init_bias=math.sqrt(1 / 3)
        )
        init_zero = dict(init_mode="kaiming_uniform", init_weight=0, init_bias=0)
        block = dict(
            emb_channels=emb_channels,
            channels_per_head=64,
            dropout=dropout,
            init=init,
            init_zero=init_zero,
        )

        # Embedding of noise level, augmentation and class.
        self.map_noise = PositionalEmbedding(model_channels)
        self.map_augment = (
            Linear(augment_dim, model_channels, bias=False, **init_zero) if augment_dim else None
        )
        self.map_layer0 = Linear(model_channels, emb_channels, **init)
        self.map_layer1 = Linear(emb_channels, emb_channels, **init)
        self.map_label = None
        if label_dim:
            self.map_label = Linear(
                label_dim, emb_channels, bias=False, init_weight=math.sqrt(label_dim)
            )

        # Encoder.
        self.enc = nn.ModuleDict()
        channels, skip_channels = in_channels, []
        for level, mult in enumerate(channel_mult):
            resolution = img_resolution >> level
            name = f"{resolution}x{resolution}"
            if level == 0:
                self.enc[f"{name}_conv"] = Conv2d(channels, model_channels * mult, kernel=3, **init)
                channels = model_channels * mult
            else:
                self.enc[f"{name}_down"] = UNetBlock(channels, channels, down=True, **block)
            skip_channels.append(channels)
            for index in range(num_blocks):
                attention = resolution in attn_resolutions
                self.enc[f"{name}_block{index}"] = UNetBlock(
                    channels, model_channels * mult, attention=attention, **block
                )
                channels = model_channels * mult
                skip_channels.append(channels)

        # Decoder.
        self.dec = nn.ModuleDict()
        for level, mult in reversed(list(enumerate(channel_mult))):
            resolution = img_resolution >> level
            name = f"{resolution}x{resolution}"
            if level == len(channel_mult) - 1:
                self.dec[f"{name}_in0"] = UNetBlock(channels, channels, attention=True, **block)
                self.dec[f"{name}_in1"] = UNetBlock(channels, channels, **block)
            else:
                self.dec[f"{name}_up"] = UNetBlock(channels, channels, up=True, **block)
            for index in range(num_blocks + 1):
                attention = resolution in attn_resolutions
                joined = channels + skip_channels.pop()
                self.dec[f"{name}_block{index}"] = UNetBlock(
                    joined, model_channels * mult, attention=attention, **block
                )
                channels = model_channels * mult
        self.out_norm = GroupNorm(channels)
        self.out_conv = Conv2d(channels, out_channels, kernel=3, **init_zero)

    def encode(
        self,
        x: Tensor,
        noise_labels: Tensor,
        class_labels: Tensor | None,
        augment_labels: Tensor | None = None,
    ) -> tuple[list[Tensor], Tensor]:
        """Skip tensors from full resolution to the bottleneck, each [N, C_i, R_i, R_i], and the embedding [N, E]."""
        emb = self.map_noise(noise_labels)  # [N, model_channels]
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels)
        emb = self.map_layer1(F.silu(self.map_layer0(emb)))  # [N, emb_channels]
        if self.map_label is not None:
            emb = emb + self.map_label(self._dropped(class_labels, len(x)))
        emb = F.silu(emb)

        skips = []
        for block in self.enc.values():
            x = block(x, emb) if isinstance(block, UNetBlock) else block(x)
            skips.append(x)
        return skips, emb

    def decode(self, skips: list[Tensor], emb: Tensor) -> Tensor:
        """Output image [N, out_channels, R, R] from what `encode` returned; `skips` is left as it is."""
        remaining, x = list(skips), skips[-1]
        for block in self.dec.values():
            if x.shape[1] != block.in_channels:
                x = torch.cat([x, remaining.pop()], dim=1)  # [N, C + C_skip, R_i, R_i]
            x = block(x, emb)
        return self.out_conv(F.silu(self.out_norm(x)))


def _check_choice(name, value, *choices):
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; use one of {', '.join(choices)}")


def _check_resolution(img_resolution, channel_mult):
    if img_resolution % 2 ** (len(channel_mult) - 1):
        raise ValueError(
            f"img_resolution {img_resolution} cannot be halved {len(channel_mult) - 1} times; "
            f"use fewer entries in channel_mult {list(channel_mult)}"
        )
