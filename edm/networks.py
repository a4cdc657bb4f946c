"""The U-Nets under EDM's preconditioning: `SongUNet` (DDPM++, NCSN++) and `DhariwalUNet` (ADM).

Both are split in two: `encode` gives the skip tensors and the embedding, `decode` the output image.
A discriminator on the score network's own features needs the encoder alone, and shares its pass
with the denoising; one that is fine-tuned from it has a U-Net of its own, with `decoder=False`.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edm.layers import Conv2d, FourierEmbedding, GroupNorm, Linear, PositionalEmbedding, UNetBlock
from edm.unet import UNet, check_choice, check_resolution, levels_of


class SongUNet(UNet):
    """DDPM++ and NCSN++ (Song et al. 2021) as reimplemented by EDM (Karras et al. 2022, appendix
    F.2).

    DDPM++: embedding_type "positional", encoder "standard", resample_filter [1, 1],
    channel_mult_noise 1. NCSN++: embedding_type "fourier", encoder "residual", resample_filter [1,
    3, 3, 1], channel_mult_noise 2.
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
        decoder=True,
    ):
        check_choice("embedding_type", embedding_type, "fourier", "positional")
        check_choice("encoder_type", encoder_type, "standard", "skip", "residual")
        check_choice("decoder_type", decoder_type, "standard", "skip")
        check_resolution(img_resolution, channel_mult)
        super().__init__()
        self.label_dropout = label_dropout
        emb_channels = model_channels * channel_mult_emb
        noise_channels = round(model_channels * channel_mult_noise)
        init = dict(init_mode="xavier_uniform")
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
            init_zero=dict(init_mode="xavier_uniform", init_weight=1e-5),
            init_attn=dict(init_mode="xavier_uniform", init_weight=math.sqrt(0.2)),
        )
        levels = levels_of(img_resolution, model_channels, channel_mult, attn_resolutions)
        self._add_embedding(
            embedding_type, noise_channels, emb_channels, label_dim, augment_dim, init
        )
        skip_channels = self._add_encoder(
            levels, in_channels, model_channels, num_blocks, encoder_type, block
        )
        if decoder:
            self._add_decoder(levels, skip_channels, out_channels, num_blocks, decoder_type, block)

    def _add_embedding(
        self, embedding_type, noise_channels, emb_channels, label_dim, augment_dim, init
    ):
        """Embedding of noise level, class and augmentation."""
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

    def _add_encoder(
        self, levels, in_channels, model_channels, num_blocks, encoder_type, block
    ) -> list[int]:
        """From full resolution down; the `aux` branch carries the image itself alongside. Returns
        the skips' channels."""
        self.enc = nn.ModuleDict()
        init, down = block["init"], dict(down=True, resample_filter=block["resample_filter"])
        channels = aux_channels = in_channels
        skip_channels = []
        for level in levels:
            name = level.name
            if level is levels[0]:
                self.enc[f"{name}_conv"] = Conv2d(channels, model_channels, kernel=3, **init)
                channels = model_channels
            else:
                self.enc[f"{name}_down"] = UNetBlock(channels, channels, down=True, **block)
                if encoder_type == "skip":
                    self.enc[f"{name}_aux_down"] = Conv2d(
                        aux_channels, aux_channels, kernel=0, **down
                    )
                    self.enc[f"{name}_aux_skip"] = Conv2d(aux_channels, channels, kernel=1, **init)
                if encoder_type == "residual":
                    self.enc[f"{name}_aux_residual"] = Conv2d(
                        aux_channels, channels, kernel=3, fused_resample=True, **down, **init
                    )
                    aux_channels = channels
            skip_channels.append(channels)
            channels = self._add_down_blocks(level, channels, skip_channels, num_blocks, block)
        return skip_channels

    def _add_decoder(self, levels, skip_channels, out_channels, num_blocks, decoder_type, block):
        """Back up to full resolution, taking the skip tensors from the end."""
        self.dec = nn.ModuleDict()
        up = dict(up=True, resample_filter=block["resample_filter"])
        channels = levels[-1].channels
        for level in reversed(levels):
            name = level.name
            attention = [False] * num_blocks + [level.attention]
            channels = self._add_up_blocks(
                level, levels[-1], channels, skip_channels, attention, block
            )
            if decoder_type == "skip" and level is not levels[-1]:
                self.dec[f"{name}_aux_up"] = Conv2d(out_channels, out_channels, kernel=0, **up)
            if decoder_type == "skip" or level is levels[0]:
                self.dec[f"{name}_aux_norm"] = GroupNorm(channels, eps=1e-6)
                self.dec[f"{name}_aux_conv"] = Conv2d(
                    channels, out_channels, kernel=3, **block["init_zero"]
                )

    def encode(
        self,
        x: Tensor,
        noise_labels: Tensor,
        class_labels: Tensor | None,
        augment_labels: Tensor | None = None,
    ) -> tuple[list[Tensor], Tensor]:
        """Skip tensors from full resolution to the bottleneck, each [N, C_i, R_i, R_i], and the
        embedding [N, E]."""
        emb = self.map_noise(noise_labels)  # [N, noise_channels]
        # published weights expect (sin, cos)
        emb = emb.reshape(emb.shape[0], 2, -1).flip(1).reshape(emb.shape)
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
        """Output image [N, out_channels, R, R] from what `encode` returned; `skips` is left as it
        is."""
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
        decoder=True,
    ):
        check_resolution(img_resolution, channel_mult)
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

        levels = levels_of(img_resolution, model_channels, channel_mult, attn_resolutions)
        skip_channels = self._add_encoder(levels, in_channels, num_blocks, block)
        if decoder:
            self._add_decoder(levels, skip_channels, num_blocks, block)
            self.out_norm = GroupNorm(levels[0].channels)
            self.out_conv = Conv2d(levels[0].channels, out_channels, kernel=3, **init_zero)

    def _add_encoder(self, levels, in_channels, num_blocks, block) -> list[int]:
        """From full resolution down. Returns the channels of the skip tensors."""
        self.enc = nn.ModuleDict()
        channels, skip_channels = in_channels, []
        for level in levels:
            if level is levels[0]:
                self.enc[f"{level.name}_conv"] = Conv2d(
                    channels, level.channels, kernel=3, **block["init"]
                )
                channels = level.channels
            else:
                self.enc[f"{level.name}_down"] = UNetBlock(channels, channels, down=True, **block)
            skip_channels.append(channels)
            channels = self._add_down_blocks(level, channels, skip_channels, num_blocks, block)
        return skip_channels

    def _add_decoder(self, levels, skip_channels, num_blocks, block):
        """Back up to full resolution, taking the skip tensors from the end."""
        self.dec = nn.ModuleDict()
        channels = levels[-1].channels
        for level in reversed(levels):
            attention = [level.attention] * (num_blocks + 1)
            channels = self._add_up_blocks(
                level, levels[-1], channels, skip_channels, attention, block
            )

    def encode(
        self,
        x: Tensor,
        noise_labels: Tensor,
        class_labels: Tensor | None,
        augment_labels: Tensor | None = None,
    ) -> tuple[list[Tensor], Tensor]:
        """Skip tensors from full resolution to the bottleneck, each [N, C_i, R_i, R_i], and the
        embedding [N, E]."""
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
        """Output image [N, out_channels, R, R] from what `encode` returned; `skips` is left as it
        is."""
        remaining, x = list(skips), skips[-1]
        for block in self.dec.values():
            if x.shape[1] != block.in_channels:
                x = torch.cat([x, remaining.pop()], dim=1)  # [N, C + C_skip, R_i, R_i]
            x = block(x, emb)
        return self.out_conv(F.silu(self.out_norm(x)))
