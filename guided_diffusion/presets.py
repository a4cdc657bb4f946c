"""The published configurations: encoders under guided-diffusion's keyword names, diffusion models
under their files'."""

from collections.abc import Mapping, Sequence
from functools import cache

import torch

from .encoder import EncoderUNetModel
from .unet import UNetModel

# Dhariwal & Nichol 2021 for 64 to 512 pixels, the authors of Discriminator Guidance for 8 to 32.
# Every network ends at 8x8 features. For 32x32 latents of ImageNet-256 the authors use (1, 2, 3)
# under the same image_size.
CHANNEL_MULT = {
    8: (1,),
    16: (1, 2),
    32: (1, 2, 4),
    64: (1, 2, 3, 4),
    128: (1, 1, 2, 3, 4),
    256: (1, 1, 2, 2, 4, 4),
    512: (0.5, 1, 1, 2, 2, 4, 4),
}
# class embedding of the published conditional discriminators, for CIFAR-10's ten classes too
CONDITION_ROWS = 1000


def create_classifier(
    image_size: int = 64,
    classifier_use_fp16: bool = False,
    classifier_width: int = 128,
    classifier_depth: int = 2,
    classifier_attention_resolutions: str = "32,16,8",
    classifier_use_scale_shift_norm: bool = True,
    classifier_resblock_updown: bool = True,
    classifier_pool: str = "attention",
    in_channels: int = 3,
    out_channels: int = 1000,
    condition: bool = False,
    channel_mult: Sequence[float] | None = None,
    num_head_channels: int = 64,
) -> EncoderUNetModel:
    """An `EncoderUNetModel` with random weights from guided-diffusion's settings; their defaults
    are kept.

    classifier_depth                  residual blocks per level
    classifier_attention_resolutions  sizes in pixels of the feature maps with self-attention,
                                      separated by commas
    condition                         add a class embedding of 1000 rows
    channel_mult                      widths of the levels relative to classifier_width; None: by
                                      image_size
    num_head_channels                 channels of one attention head

    The noisy-image classifier of Discriminator Guidance on CIFAR-10 is
    `create_classifier(image_size=32, classifier_depth=4)`, its discriminator
    `create_classifier(image_size=8, in_channels=512, out_channels=1)`. ValueError for an image_size
    without published channel_mult, and for classifier_use_fp16: half precision is the caller's
    `torch.autocast`.
    """
    if classifier_use_fp16:
        raise ValueError(
            "classifier_use_fp16 is not supported; call the float32 network under torch.autocast"
        )
    if channel_mult is None and image_size not in CHANNEL_MULT:
        raise ValueError(
            f"image_size {image_size} has no published channel_mult, only "
            f"{list(CHANNEL_MULT)} have; give channel_mult"
        )
    return EncoderUNetModel(
        image_size=image_size,
        in_channels=in_channels,
        out_channels=out_channels,
        model_channels=classifier_width,
        num_res_blocks=classifier_depth,
        channel_mult=channel_mult or CHANNEL_MULT[image_size],
        attention_resolutions=[int(size) for size in classifier_attention_resolutions.split(",")],
        num_classes=CONDITION_ROWS if condition else 0,
        use_scale_shift_norm=classifier_use_scale_shift_norm,
        resblock_updown=classifier_resblock_updown,
        pool=classifier_pool,
        num_head_channels=num_head_channels,
    )


# Dhariwal & Nichol 2021, appendix, and the commands published with the files. All learn a range of
# variances.
UNETS = {
    "64x64_diffusion": dict(
        image_size=64,
        model_channels=192,
        num_res_blocks=3,
        dropout=0.1,
        num_classes=1000,
        use_new_attention_order=True,
    ),
    "128x128_diffusion": dict(image_size=128, num_heads=4, num_classes=1000),
    "256x256_diffusion": dict(image_size=256, num_classes=1000),
    "256x256_diffusion_uncond": dict(image_size=256),
    "512x512_diffusion": dict(image_size=512, num_classes=1000),
}
UNET_SCHEDULES = {name: "cosine" if name == "64x64_diffusion" else "linear" for name in UNETS}


def create_unet(name: str, **overrides) -> UNetModel:
    """The network of a published file, with random weights; `overrides` are settings of `UNetModel`
    that win.

    Its process is `create_diffusion(UNET_SCHEDULES[name], 1000, respacing)`. ValueError for an
    unknown name.
    """
    if name not in UNETS:
        raise ValueError(
            f"no published diffusion model is called {name!r}; use one of {', '.join(UNETS)}"
        )
    settings = dict(channel_mult=CHANNEL_MULT[UNETS[name]["image_size"]])
    return UNetModel(**settings | UNETS[name] | overrides)


def published_unet(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Name of the published diffusion model whose tensors have exactly these names and shapes; None
    if there is none."""
    return next((name for name in UNETS if unet_layout(name) == shapes), None)


@cache
def unet_layout(name: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {key: tuple(tensor.shape) for key, tensor in create_unet(name).state_dict().items()}
