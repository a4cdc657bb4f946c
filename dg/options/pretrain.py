"""Options of pretrain.py's commands."""

import click

from dg.options.numbers import RealRange
from dg.pretraining.presets import (
    ARCHITECTURES,
    CLASSIFIER_PRESETS,
    DDPM_PRESETS,
    PRECONDITIONING,
    SCORE_PRESETS,
    VAE_PRESETS,
)
from dg.runtime import console
from dg.runtime.console import FLAG

POSITIVE = RealRange(min=0, min_open=True)


class Multipliers(click.ParamType):
    """`1,2,2`, a list of integers."""

    name = "multipliers"

    def convert(self, value, param, ctx):
        try:
            return [int(part) for part in value.split(",")] if isinstance(value, str) else value
        except ValueError:
            self.fail(f"{value!r} is no list of integers; write for example 1,2,2", param, ctx)


TRAINING = [  # options of the trainings that run on several processes
    click.option(
        "--data",
        required=True,
        type=console.InputPath(),
        metavar="PATH|NAME",
        help="Training images.",
    ),
    click.option(
        "--outdir", required=True, type=console.OutputPath(), metavar="DIR", help="Where to write."
    ),
    click.option(
        "--steps", type=click.IntRange(min=1), help="Training steps.  [default: the preset's]"
    ),
    click.option(
        "--batch",
        "--batch_size",
        "batch_size",
        type=click.IntRange(min=1),
        help="Images per step, all processes together.  [default: the preset's]",
    ),
    click.option(
        "--batch_gpu",
        "--batch-gpu",
        "--microbatch",
        "microbatch",
        type=click.IntRange(min=1),
        help="Images that a process computes at once, to save memory.  [default: all of its part]",
    ),
    click.option("--lr", type=POSITIVE, help="Learning rate.  [default: the preset's]"),
    click.option(
        "--xflip",
        "--flip",
        "flip",
        **FLAG,
        default=None,
        help="Mirror half of the images.  [default: the preset's]",
    ),
    click.option(
        "--bf16", **FLAG, default=None, help="Compute in bfloat16.  [default: the preset's]"
    ),
    click.option(
        "--fp16", **FLAG, default=None, help="Compute in float16, on GPUs.  [default: the preset's]"
    ),
    click.option(
        "--seed", type=click.IntRange(0, 2**32 - 1), help="Seed.  [default: the preset's]"
    ),
    click.option(
        "--save_seconds",
        type=RealRange(min=0),
        default=60,
        help="How often to save the state, besides at the end.",
    ),
    click.option("--device", help="cpu, cuda, cuda:1 ...  [default: a GPU if there is one]"),
]
SCORE = [
    *TRAINING,
    click.option(
        "--preset",
        type=click.Choice(list(SCORE_PRESETS)),
        help="Network and training settings.  [default: digits; with --arch those of EDM's "
        "authors]",
    ),
    click.option("--cond", **FLAG, default=False, help="Class-conditional network."),
    click.option(
        "--arch",
        type=click.Choice(list(ARCHITECTURES)),
        help="Kind of U-Net.  [default: the preset's]",
    ),
    click.option(
        "--precond",
        type=click.Choice(list(PRECONDITIONING)),
        help="Preconditioning and loss.  [default: edm]",
    ),
    click.option(
        "--cbase",
        type=click.IntRange(min=1),
        help="Channels of the U-Net.  [default: the preset's]",
    ),
    click.option(
        "--cres",
        type=Multipliers(),
        metavar="INTS",
        help="Their multiples, level by level (1,2,2), each level at half "
        "the resolution of the one before.  [default: the preset's]",
    ),
    click.option(
        "--dropout",
        type=RealRange(0, 1, max_open=True),
        help="Dropout probability.  [default: the preset's]",
    ),
    click.option(
        "--duration", type=POSITIVE, metavar="MIMG", help="Training length in place of --steps."
    ),
    click.option(
        "--ema",
        type=POSITIVE,
        metavar="MIMG",
        help="Half-life of the average.  [default: the preset's]",
    ),
    click.option(
        "--augment",
        type=RealRange(0, 1),
        help="Probability of EDM's augmentation, which does not leak into what is drawn.  "
        "[default: the preset's]",
    ),
    click.option(
        "--transfer",
        type=console.InputPath(),
        metavar="PATH|URL|NAME",
        help="Go on with the weights of this network, in place of random ones.",
    ),
    click.option(
        "--snap",
        type=click.IntRange(min=0),
        default=0,
        metavar="KIMG",
        help="Thousands of images from one OUTDIR/network-snapshot-KIMG.safetensors to the next; 0 "
        "= none.",
    ),
    click.option(
        "--tick",
        "--ls",
        "ignored",
        metavar="N",
        help="Ignored: there are no ticks, and float16 is scaled as needed.",
    ),
]
CLASSIFIER = [
    *TRAINING,
    click.option(
        "--preset",
        type=click.Choice(list(CLASSIFIER_PRESETS)),
        required=True,
        help="Network and training settings.",
    ),
    click.option(
        "--test",
        type=console.InputPath(),
        metavar="PATH|NAME",
        help="Labelled images to state the accuracy on.",
    ),
]
DDPM = [
    *TRAINING,
    click.option(
        "--preset",
        type=click.Choice(list(DDPM_PRESETS)),
        required=True,
        help="Network and training settings.",
    ),
    click.option("--cond", **FLAG, default=False, help="Class-conditional network."),
    click.option(
        "--schedule",
        type=click.Choice(["cosine", "linear"]),
        help="Schedule of the noise.  [default: the preset's]",
    ),
    click.option(
        "--timesteps",
        "num_steps",
        type=click.IntRange(min=1),
        help="Steps of the noise.  [default: the preset's]",
    ),
    click.option(
        "--variance",
        type=click.Choice(["fixed_small", "fixed_large", "learned", "learned_range"]),
        help="Variance of the reverse steps.  [default: the preset's]",
    ),
]
VAE = [
    *TRAINING,
    click.option(
        "--preset",
        type=click.Choice(list(VAE_PRESETS)),
        required=True,
        help="Network and training settings.",
    ),
]
LATENTS = [
    click.option(
        "--data",
        required=True,
        type=console.InputPath(),
        metavar="PATH|NAME",
        help="Images of any sizes: class folders, or what train.py takes.",
    ),
    click.option(
        "--vae",
        default="sd-vae-ft-mse",
        type=console.InputPath(),
        metavar="PATH|NAME",
        help="VAE of the latents.",
    ),
    click.option(
        "--outdir", required=True, type=console.OutputPath(), metavar="DIR", help="Where to write."
    ),
    click.option(
        "--resolution", type=click.IntRange(min=1), default=256, help="Side of the crops in pixels."
    ),
    click.option(
        "--batch",
        "--batch_size",
        "batch_size",
        type=click.IntRange(min=1),
        default=64,
        help="Images encoded at once; a shard holds their latents.",
    ),
    click.option(
        "--xflip",
        "--flip",
        "flip",
        **FLAG,
        default=False,
        help="Encode a mirrored copy of every image too.",
    ),
    click.option(
        "--sample", **FLAG, default=True, help="Draw from the VAE's posterior; 0: its mean."
    ),
    click.option(
        "--dtype",
        type=click.Choice(["float32", "float16"]),
        default="float32",
        help="Precision of the shards. The last line compares what float16 rounds off with the "
        "posterior's spread.",
    ),
    click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, help="Seed of the draws."),
    click.option("--device", help="cpu, cuda, cuda:1 ...  [default: a GPU if there is one]"),
]
FEATURES = [
    click.option(
        "--data",
        required=True,
        type=console.InputPath(),
        metavar="PATH|NAME",
        help="Labelled training images.",
    ),
    click.option(
        "--outdir", required=True, type=console.OutputPath(), metavar="DIR", help="Where to write."
    ),
    click.option(
        "--test",
        type=console.InputPath(),
        metavar="PATH|NAME",
        help="Labelled images to state the accuracy on.",
    ),
    click.option(
        "--epochs", type=click.IntRange(min=1), default=20, help="Passes over the training images."
    ),
    click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, help="Seed."),
]
CONVERT = [
    click.option(
        "--network",
        required=True,
        type=console.InputPath(),
        metavar="PATH|URL|NAME",
        help="The network to read.",
    ),
    click.option(
        "--out",
        required=True,
        type=console.OutputPath(),
        metavar="PATH",
        help="The .safetensors file to write.",
    ),
    click.option(
        "--fp16",
        **FLAG,
        default=False,
        help="Round the weights to float16: half the size. They are read back as float32.",
    ),
]
