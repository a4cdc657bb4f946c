"""The presets of `pretrain.py`: networks and settings of their training. They are plain data, so a
script lists them without loading torch."""

import math
from dataclasses import replace

from dg.pretraining.settings import (
    DDPMTraining,
    NoisyClassifierTraining,
    ScoreTraining,
    VAETraining,
)

AUGMENT_DIM = 9  # labels of EDM's augmentation, edm.AugmentPipe

# Kinds of U-Net under EDM's names (Karras et al. 2022, appendix F.2), and their network settings.
ARCHITECTURES = {
    "ddpmpp": dict(
        model_type="SongUNet",
        embedding_type="positional",
        encoder_type="standard",
        decoder_type="standard",
        channel_mult_noise=1,
        resample_filter=[1, 1],
    ),
    "ncsnpp": dict(
        model_type="SongUNet",
        embedding_type="fourier",
        encoder_type="residual",
        decoder_type="standard",
        channel_mult_noise=2,
        resample_filter=[1, 3, 3, 1],
    ),
    "adm": dict(model_type="DhariwalUNet"),
}
PRECONDITIONING = {"edm": "EDMPrecond", "vp": "VPPrecond", "ve": "VEPrecond"}

# EDM sums its loss over the pixels and here it is averaged: Adam's steps are the same with its eps
# divided by their number.
EDM_CIFAR10 = ScoreTraining(
    steps=390_625,
    batch_size=512,
    lr=1e-3,
    warmup=10_000_000,
    ema_halflife=500_000,
    augment=0.12,
    adam_eps=1e-8 / 3072,
)
SMALL_UNET = dict(model_type="SongUNet", num_blocks=1, dropout=0.0)
SHIPPED = ScoreTraining(steps=20_000, ema_halflife=100_000)
# Settings per data set: the network's arguments beyond resolution, channels and classes, and how to
# train it.
SCORE_PRESETS = {
    "digits": (
        dict(
            model_type="SongUNet",
            model_channels=24,
            channel_mult=[1, 2],
            num_blocks=1,
            attn_resolutions=[4],
            dropout=0.0,
            sigma_data=0.75,
        ),
        ScoreTraining(steps=1000),
    ),
    "mnist": (
        dict(
            model_type="SongUNet",
            model_channels=16,
            channel_mult=[1, 2, 4],
            num_blocks=1,
            attn_resolutions=[7],
            dropout=0.0,
            sigma_data=0.6,
        ),
        ScoreTraining(steps=3000, ema_halflife=20_000),
    ),
    "cifar10-small": (
        ARCHITECTURES["ddpmpp"]
        | dict(model_channels=64, channel_mult=[1, 2, 2], num_blocks=1, dropout=0.0),
        replace(
            EDM_CIFAR10,
            steps=40_000,
            batch_size=256,
            warmup=500_000,
            ema_halflife=200_000,
            augment=0.0,
            flip=True,
            precision="bfloat16",
        ),
    ),
    # The networks in pretrained/, as large as a CPU core trains in hours.
    "mnist-14": (
        SMALL_UNET
        | dict(model_channels=16, channel_mult=[1, 2], attn_resolutions=[7], sigma_data=0.55),
        SHIPPED,
    ),
    "mnist-28": (
        SMALL_UNET
        | dict(model_channels=8, channel_mult=[1, 2, 4], attn_resolutions=[7], sigma_data=0.6),
        SHIPPED,
    ),
    "cifar10-16": (
        SMALL_UNET
        | dict(model_channels=16, channel_mult=[1, 2, 4], attn_resolutions=[8], sigma_data=0.5),
        replace(SHIPPED, lr=1e-3, flip=True),
    ),
    # As wide and deep as the DDPMs below, for a comparison on one GPU.
    "cifar10-models": (
        ARCHITECTURES["ddpmpp"]
        | dict(model_channels=128, channel_mult=[1, 2, 2, 2], num_blocks=2, dropout=0.1),
        replace(
            EDM_CIFAR10,
            steps=80_000,
            batch_size=256,
            warmup=500_000,
            augment=0.0,
            flip=True,
            precision="bfloat16",
        ),
    ),
    "imagenet64-models": (
        ARCHITECTURES["adm"]
        | dict(model_channels=128, channel_mult=[1, 2, 3, 4], num_blocks=2, dropout=0.0),
        replace(
            EDM_CIFAR10,
            steps=50_000,
            lr=2e-4,
            warmup=5_000_000,
            augment=0.0,
            flip=True,
            adam_eps=1e-8 / 12288,
            precision="bfloat16",
        ),
    ),
    # The published settings of Karras et al. 2022, tables 7 and 8 and their code.
    "cifar10-edm": (
        ARCHITECTURES["ddpmpp"] | dict(model_channels=128, channel_mult=[2, 2, 2], dropout=0.13),
        EDM_CIFAR10,
    ),
    "imagenet64-edm": (
        ARCHITECTURES["adm"] | dict(model_channels=192, channel_mult=[1, 2, 3, 4], dropout=0.1),
        replace(
            EDM_CIFAR10,
            steps=610_352,
            batch_size=4096,
            lr=1e-4,
            ema_halflife=50_000_000,
            augment=0.0,
            adam_eps=1e-8 / 12288,
            precision="float16",
        ),
    ),
}
CLASSIFIER_PRESETS = {
    # The noise-aware classifiers in pretrained/.
    "mnist-14": NoisyClassifierTraining(
        channel_mult=(1, 2), attention_resolutions=(7,), steps=2500, batch_size=64
    ),
    "mnist-28": NoisyClassifierTraining(
        channel_mult=(1, 2, 2), attention_resolutions=(7,), steps=2000, batch_size=64
    ),
    "cifar10-16": NoisyClassifierTraining(
        channel_mult=(1, 2, 2), attention_resolutions=(8,), steps=4000, batch_size=64, flip=True
    ),
    "mnist": NoisyClassifierTraining(attention_resolutions=(7,), steps=1500, batch_size=64),
    "cifar10-small": NoisyClassifierTraining(
        model_channels=64,
        num_res_blocks=2,
        attention_resolutions=(16, 8),
        steps=10_000,
        batch_size=256,
        flip=True,
        precision="bfloat16",
    ),
    # The architecture of Kim et al. 2023; how to train it on CIFAR-10 is this project's choice.
    "cifar10": NoisyClassifierTraining(
        model_channels=128,
        num_res_blocks=4,
        attention_resolutions=(32, 16, 8),
        steps=20_000,
        batch_size=256,
        lr=3e-4,
        flip=True,
        precision="bfloat16",
    ),
    # The authors' architecture for latents of ImageNet at 256 pixels; how to train it is this
    # project's choice. With `pretrain.py latents --flip` the mirrored images are among them.
    "imagenet-latent": NoisyClassifierTraining(
        model_channels=128,
        num_res_blocks=2,
        channel_mult=(1, 2, 3),
        attention_resolutions=(32, 16, 8),
        steps=150_000,
        batch_size=512,
        lr=3e-4,
        precision="bfloat16",
    ),
}
# MNISTDiffusion (bot66): noise, loss, optimizer, batch, 100 epochs and average are its own, as are
# the widths 64, 128, 256 at 28, 14 and 7 pixels. "mnist-ddpm-shuffle" has its ShuffleNet units,
# four to a level, and no attention; "mnist-ddpm" has ADM's blocks, with attention at 7 pixels. Its
# average keeps 0.936 of itself every tenth step: half after 13,400 images.
MNIST_DIFFUSION = DDPMTraining(steps=46_900, ema_halflife=13_400)
MNIST_UNET = dict(
    model_channels=64,
    channel_mult=[1, 2, 4],
    num_res_blocks=1,
    attention_resolutions=[7],
    resblock_updown=False,
)

LARGE_DDPM = DDPMTraining(
    variance="learned_range", lr=2e-4, ema_halflife=500_000, flip=True, precision="bfloat16"
)

# The network's arguments beyond size, channels and classes, and how to train it.
DDPM_PRESETS = {
    "mnist-ddpm": (MNIST_UNET, MNIST_DIFFUSION),
    "mnist-ddpm-shuffle": (
        dict(architecture="shuffle", model_channels=64, channel_mult=[2, 4], num_units=4),
        MNIST_DIFFUSION,
    ),
    # The noise of Ho et al. 2020.
    "mnist-ddpm-linear": (MNIST_UNET, replace(MNIST_DIFFUSION, schedule="linear")),
    # For a CPU; about as many parameters as the EDM preset `mnist`.
    "mnist-ddpm-small": (
        MNIST_UNET | dict(model_channels=32, channel_mult=[1, 1, 2]),
        DDPMTraining(steps=3000, ema_halflife=20_000),
    ),
    "digits-ddpm": (
        dict(
            model_channels=32,
            channel_mult=[1, 1],
            num_res_blocks=1,
            attention_resolutions=[4],
            num_head_channels=32,
            resblock_updown=False,
        ),
        DDPMTraining(num_steps=200, steps=1000, batch_size=64, lr=2e-3, ema_halflife=5000),
    ),
    # The U-Net of Ho et al. 2020 with ADM's blocks; noise and learned variances of Nichol &
    # Dhariwal 2021, but 1000 steps.
    "cifar10-ddpm": (
        dict(
            model_channels=128,
            channel_mult=[1, 2, 2, 2],
            num_res_blocks=2,
            attention_resolutions=[16],
            resblock_updown=False,
            dropout=0.1,
        ),
        replace(LARGE_DDPM, steps=160_000),
    ),
    # The widths of Nichol & Dhariwal 2021 for this size, with two blocks to a level and not three.
    "imagenet64-ddpm": (
        dict(
            model_channels=128,
            channel_mult=[1, 2, 3, 4],
            num_res_blocks=2,
            attention_resolutions=[16, 8],
            resblock_updown=False,
        ),
        replace(LARGE_DDPM, steps=200_000),
    ),
}
# The network's arguments beyond size and channels, and how to train it.
VAE_PRESETS = {
    # About as many parameters as the EDM preset `mnist`.
    "mnist-vae": (dict(width=32, channel_mult=[1, 2, 2], latent_dim=32), VAETraining(steps=3000)),
    "digits-vae": (dict(width=32, channel_mult=[1, 2], latent_dim=8), VAETraining(batch_size=64)),
    # For the comparison with the DDPMs of these sizes.
    "cifar10-vae": (
        dict(width=128, channel_mult=[1, 2, 2], latent_dim=256),
        VAETraining(steps=160_000, lr=5e-4, flip=True),
    ),
    "imagenet64-vae": (
        dict(width=64, channel_mult=[1, 2, 2, 2], latent_dim=512),
        VAETraining(steps=200_000, lr=5e-4, flip=True),
    ),
}


def score_recipe(
    preset: str,
    arch: str | None = None,
    precond: str | None = None,
    duration: float | None = None,
    **changes,
) -> tuple[dict, ScoreTraining]:
    """(arguments of `build_score_network`, settings) of a preset with changes.

    arch      a key of ARCHITECTURES: the kind of U-Net; widths and depth stay
    precond   a key of PRECONDITIONING
    duration  millions of images in place of `steps`; without either, the preset's number of images
              is kept
    changes   fields of ScoreTraining, and model_channels, channel_mult, dropout of the network;
              None changes nothing
    """
    network, settings = SCORE_PRESETS[preset]
    changes = {name: value for name, value in changes.items() if value is not None}
    if arch is not None:
        arch_settings = {name for kind in ARCHITECTURES.values() for name in kind}
        network = ARCHITECTURES[arch] | {
            name: value for name, value in network.items() if name not in arch_settings
        }
    network = network | {
        name: changes.pop(name)
        for name in ("model_channels", "channel_mult", "dropout")
        if name in changes
    }
    if precond is not None:
        network["precond"] = precond
        if precond != "edm":
            network.pop("sigma_data", None)
    images = settings.steps * settings.batch_size
    if duration is not None:
        if "steps" in changes:
            raise ValueError(
                f"{changes['steps']} steps and {duration} million images; give one of them"
            )
        images = duration * 1e6
    settings = replace(settings, **changes)
    if "steps" not in changes:
        settings = replace(settings, steps=math.ceil(images / settings.batch_size))
    return network | ({"augment_dim": AUGMENT_DIM} if settings.augment else {}), settings
