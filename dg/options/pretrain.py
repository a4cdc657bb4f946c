"""Options of pretrain.py's commands."""

import click

from dg.options.common import DEVICE, Command
from dg.options.numbers import Real, RealRange
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
            self.fail(f"{value!r} is not a list of integers; write for example 1,2,2", param, ctx)


DATA = click.option(
    "--data",
    required=True,
    type=console.InputPath(),
    metavar="PATH|NAME",
    help="Training images: a folder, zip or npz, or a name such as cifar10, mnist or digits:train.",
)
OUTDIR = click.option(
    "--outdir",
    required=True,
    type=console.OutputPath(),
    metavar="DIR",
    help="Folder to write to. The same command again continues an interrupted training.",
)
TEST = click.option(
    "--test",
    type=console.InputPath(),
    metavar="PATH|NAME",
    help="Labelled test images. The accuracy on them is printed at the end.",
)
SEED = click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    metavar="N",
    help="Seed of initialisation, order and noise.",
)
CONDITIONAL = click.option(
    "--cond", **FLAG, default=False, help="Train a class-conditional network."
)
TRAINING = [
    click.option("--steps", type=click.IntRange(min=1), metavar="N", help="Training steps."),
    click.option(
        "--batch",
        "--batch_size",
        "batch_size",
        type=click.IntRange(min=1),
        metavar="N",
        help="Images per step, all processes together.",
    ),
    click.option("--lr", type=POSITIVE, metavar="LR", help="Learning rate."),
    click.option(
        "--xflip", "--flip", "flip", **FLAG, default=None, help="Mirror half of the images."
    ),
    click.option("--bf16", **FLAG, default=None, help="Compute in bfloat16."),
    click.option("--fp16", **FLAG, default=None, help="Compute in float16 (GPUs only)."),
    SEED,
]
COMPUTATION = [
    DEVICE,
    click.option(
        "--batch_gpu",
        "--batch-gpu",
        "--microbatch",
        "microbatch",
        type=click.IntRange(min=1),
        metavar="N",
        help="Images that a process computes at once, to save memory.  [default: its whole part of "
        "the batch]",
    ),
    click.option(
        "--save_seconds",
        type=RealRange(min=0),
        default=60,
        metavar="S",
        help="Seconds between two saves of the training's state.",
    ),
]


def preset(names, default=""):
    """The option that chooses network and training; required unless the help tells a default."""
    return click.option(
        "--preset",
        required=not default,
        type=click.Choice(list(names)),
        metavar="NAME",
        help=f"Network and training settings: {', '.join(names)}.{default}",
    )


def training(told, files, network, more=()):
    """The declaration of a training that runs on several processes, for `click.command`."""
    sections = {
        "Files": files,
        "Network": network,
        "Training (defaults: the preset's)": [*TRAINING, *more],
        "Computation": COMPUTATION,
    }
    continues = (
        "The same command again continues an interrupted training. Under torchrun the processes "
        "share every batch."
    )
    return dict(cls=Command, help=f"{told}\n\n{continues}", sections=sections)


SCORE = training(
    "Train an EDM score network. OUTDIR/network.safetensors is the moving average of its "
    "weights. Options of EDM's train.py have the same names here; durations are in millions of "
    "images (Mimg).",
    [
        DATA,
        OUTDIR,
        click.option(
            "--transfer",
            type=console.InputPath(),
            metavar="PATH|URL|NAME",
            help="Network whose weights the training starts from.  [default: random weights]",
        ),
        click.option(
            "--ddo",
            type=console.InputPath(),
            metavar="PATH",
            help="Images that the network of --transfer has generated. It learns to tell --data "
            "from them against its frozen copy (DDO, Zheng et al. 2025). Each step takes as many "
            "of them.",
        ),
        click.option(
            "--snap",
            type=click.IntRange(min=0),
            default=0,
            metavar="KIMG",
            help="Write OUTDIR/network-snapshot-KIMG.safetensors every so many thousand images; 0 "
            "writes none.",
        ),
    ],
    [
        preset(SCORE_PRESETS, "  [default: digits; with --arch the settings of EDM's authors]"),
        CONDITIONAL,
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
            "model_channels",
            type=click.IntRange(min=1),
            metavar="N",
            help="Channels of the U-Net's first level.  [default: the preset's]",
        ),
        click.option(
            "--cres",
            "channel_mult",
            type=Multipliers(),
            metavar="INTS",
            help="Multiples of --cbase on each level, for example 1,2,2. Each level has half the "
            "resolution of the one before.  [default: the preset's]",
        ),
        click.option(
            "--dropout",
            type=RealRange(0, 1, max_open=True),
            metavar="P",
            help="Dropout probability.  [default: the preset's]",
        ),
    ],
    [
        click.option(
            "--duration",
            type=POSITIVE,
            metavar="MIMG",
            help="Training length in millions of images, in place of --steps.",
        ),
        click.option(
            "--ema",
            type=POSITIVE,
            metavar="MIMG",
            help="Half-life of the moving average (EMA) of the weights, in millions of images.",
        ),
        click.option(
            "--augment",
            type=RealRange(0, 1),
            metavar="P",
            help="Probability of EDM's augmentation. It does not leak into the images drawn.",
        ),
        click.option(
            "--alpha",
            type=RealRange(min=0),
            default=1.0,
            metavar="A",
            help="Weight of the loss on the images of --ddo; that on --data is 1.",
        ),
        click.option(
            "--beta",
            type=POSITIVE,
            default=1.0,
            metavar="B",
            help="Factor of the log ratio in the loss of --ddo.",
        ),
        click.option(
            "--tick",
            "--ls",
            "ignored",
            expose_value=False,
            metavar="N",
            help="Ignored: there are no ticks, and float16 is scaled as needed.",
        ),
        click.option(
            "--nosubdir",
            is_flag=True,
            expose_value=False,
            help="Write into OUTDIR itself, as this command always does.",
        ),
        click.option(
            "-n",
            "--dry-run",
            "--dry_run",
            "dry_run",
            is_flag=True,
            help="Print network and settings, and end.",
        ),
    ],
)
CLASSIFIER = training(
    "Train the noisy-image classifier under a discriminator. (Dhariwal & Nichol 2021.) "
    "OUTDIR/classifier.pt is for --pretrained_classifier_ckpt of train.py and generate.py.",
    [DATA, OUTDIR, TEST],
    [preset(CLASSIFIER_PRESETS)],
)
DDPM = training(
    "Train a DDPM on ADM's U-Net, or on one of ShuffleNet units (mnist-ddpm-shuffle). (Ho et al. "
    "2020.) OUTDIR/network.safetensors, the moving "
    "average of its weights, is for generate.py and `fid.py nll`.",
    [DATA, OUTDIR],
    [
        preset(DDPM_PRESETS),
        CONDITIONAL,
        click.option(
            "--schedule",
            type=click.Choice(["cosine", "linear"]),
            help="Noise schedule.  [default: the preset's]",
        ),
        click.option(
            "--timesteps",
            "num_steps",
            type=click.IntRange(min=1),
            metavar="N",
            help="Diffusion steps.  [default: the preset's]",
        ),
        click.option(
            "--variance",
            type=click.Choice(["fixed_small", "fixed_large", "learned", "learned_range"]),
            help="Variance of the reverse steps.  [default: the preset's]",
        ),
    ],
)
VAE = training(
    "Train a variational autoencoder. Its pixels are discretised logistics, and its loss is "
    "the negative ELBO in bits per dimension. OUTDIR/network.safetensors is for generate.py and "
    "`fid.py nll`.",
    [DATA, OUTDIR],
    [preset(VAE_PRESETS)],
)
LATENTS = dict(
    cls=Command,
    help="""Encode images into the latents of a VAE. OUTDIR gets npz files for train.py and
`pretrain.py classifier`. Images are cropped to squares as ADM crops ImageNet; class folders are
labels.

The same command again continues an interrupted run; with --flip it adds the mirrored copies. Under
torchrun the processes share the images.""",
    sections={
        "Files": [
            click.option(
                "--data",
                required=True,
                type=console.InputPath(),
                metavar="PATH|NAME",
                help="Images of any sizes: class folders, or any data that train.py takes.",
            ),
            click.option(
                "--outdir",
                required=True,
                type=console.OutputPath(),
                metavar="DIR",
                help="Folder for the latents. The same command again continues an interrupted run.",
            ),
            click.option(
                "--dtype",
                type=click.Choice(["float32", "float16"]),
                default="float32",
                help="Precision of the files. For float16 the last lines compare the rounding with the "
                "posterior's spread.",
            ),
        ],
        "Encoding": [
            click.option(
                "--vae",
                default="sd-vae-ft-mse",
                type=console.InputPath(),
                metavar="PATH|NAME",
                help="VAE that encodes the images.",
            ),
            click.option(
                "--resolution",
                type=click.IntRange(min=1),
                default=256,
                metavar="PIXELS",
                help="Side of the square crops.",
            ),
            click.option(
                "--xflip",
                "--flip",
                "flip",
                **FLAG,
                default=False,
                help="Also encode a mirrored copy of every image.",
            ),
            click.option(
                "--sample",
                **FLAG,
                default=True,
                help="Draw latents from the VAE's posterior; 0 takes its mean.",
            ),
            click.option(
                "--seed",
                type=click.IntRange(0, 2**32 - 1),
                default=0,
                metavar="N",
                help="Seed of the draws.",
            ),
        ],
        "Computation": [
            click.option(
                "--batch",
                "--batch_size",
                "batch_size",
                type=click.IntRange(min=1),
                default=64,
                metavar="N",
                help="Images encoded at once, and latents per file.",
            ),
            DEVICE,
        ],
    },
)
FEATURES = dict(
    cls=Command,
    help="Train a small classifier whose features fid.py measures in. "
    "OUTDIR/classifier.safetensors is for --features of fid.py.",
    sections={
        "Files": [
            DATA,
            click.option(
                "--outdir",
                required=True,
                type=console.OutputPath(),
                metavar="DIR",
                help="Folder to write to.",
            ),
            TEST,
        ],
        "Training": [
            click.option(
                "--epochs",
                type=click.IntRange(min=1),
                default=20,
                metavar="N",
                help="Passes over the training images.",
            ),
            click.option(
                "--seed",
                type=click.IntRange(0, 2**32 - 1),
                default=0,
                metavar="N",
                help="Seed of initialisation and order.",
            ),
            click.option("--device", default="cpu", metavar="DEVICE", help="Device to train on."),
        ],
    },
)
OUT = click.option(
    "--out",
    required=True,
    type=console.OutputPath(),
    metavar="PATH",
    help="File to write.",
)
CONVERT = dict(
    cls=Command,
    help="Convert a network to this project's .safetensors format. It reads every network that "
    "the other commands read, such as an NVIDIA .pkl, a checkpoint of score_sde or a classifier's .pt. An --out that "
    "ends in .pt gets the bare state dict of a classifier or discriminator, as the authors' code reads it.",
    sections={
        "Files": [
            click.option(
                "--network",
                required=True,
                type=console.InputPath(),
                metavar="PATH|URL|NAME",
                help="Network to read.",
            ),
            OUT,
            click.option(
                "--image_size",
                type=click.IntRange(min=1),
                metavar="PIXELS",
                help="Image size of a network of score_sde.  [default: the size that puts "
                "attention at 16 x 16]",
            ),
            click.option(
                "--fp16",
                **FLAG,
                default=False,
                help="Round the weights to float16, which halves the file. They are read back as "
                "float32.",
            ),
        ]
    },
)
MERGE = dict(
    cls=Command,
    help="Merge the weights of two score networks: A + W (A - B). A and B are files, addresses or "
    "names, of one shape. Where B is A trained on with A's own images, this goes the other way "
    "(Neon, arXiv 2510.03597). The file tells both networks and the weight.",
    sections={
        "Options": [
            click.option(
                "--weight",
                required=True,
                type=Real(),
                metavar="W",
                help="Weight of the difference: 0 gives A, -1 gives B, above 0 leads away from B.",
            ),
            OUT,
        ],
    },
)
