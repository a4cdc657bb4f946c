"""Options of fid.py."""

import click

from dg.options.common import DEVICE, Command
from dg.options.network import HEADING, NETWORK
from dg.options.numbers import Real, RealRange
from dg.runtime import console
from dg.runtime.console import FLAG

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
FEATURES = [  # of every command that computes features
    click.option(
        "--features",
        default="inception",
        type=console.InputPath(),
        metavar="NAME|PATH",
        help="Features to measure in: inception, dinov2-vit-{s,b,l,g}-14, clip-vit-{b-32,l-14}, "
        "vgg16, random-vgg (64 features of fixed random weights), pixels, or the file of a "
        "classifier from `pretrain.py features`.",
    ),
    click.option(
        "--weights",
        type=console.InputPath(),
        metavar="PATH",
        help="File of the feature network's weights.  [default: downloaded once]",
    ),
    click.option(
        "--unpublished_weights",
        is_flag=True,
        help="Accept weights whose SHA-256 is not the published one.",
    ),
]
COMPUTATION = [
    click.option(
        "--batch",
        "--batch_size",
        "batch",
        type=click.IntRange(min=1),
        metavar="N",
        help="Images computed at once.  [default: 64; on a CPU 16, for Inception 4]",
    ),
    DEVICE,
]

CALC = dict(
    cls=Command,
    help="Measure generated images against a reference. Compare distances only in the same "
    "features and at the same number of images.",
    sections={
        "Images": [
            click.option(
                "--images",
                required=True,
                multiple=True,
                type=console.InputPath(),
                metavar="PATH",
                help="Generated images, or their statistics. Repeat the option for a table.",
            ),
            click.option(
                "--ref",
                required=True,
                type=console.InputPath(),
                metavar="PATH|NAME|URL",
                help="Reference images, or their statistics as npz.",
            ),
            click.option(
                "--train",
                type=console.InputPath(),
                metavar="PATH|NAME",
                help="Training images of the generator, or their statistics with features. Adds "
                "authenticity and memorised; --ref is then of images that were not trained on.",
            ),
            click.option(
                "--num_samples",
                "--num",
                type=click.IntRange(min=2),
                metavar="N",
                help="Measure the first N images, in the order of their seeds.  [default: all]",
            ),
            click.option(
                "--seed",
                type=click.IntRange(min=0),
                metavar="S",
                help="Draw the --num_samples images at random by this seed.  [default: take the first]",
            ),
            click.option(
                "--sets",
                type=click.IntRange(min=1),
                default=1,
                metavar="K",
                help="Measure K disjoint sets of --num_samples images: mean, sd and minimum.",
            ),
        ],
        "Metrics": [
            click.option(
                "--metrics",
                metavar="LIST",
                help="Metrics, for example fd,kid,precision,recall,density,coverage,is,sfid.  "
                "[default: all that images and reference allow]",
            ),
            click.option(
                "--fid_infinity",
                is_flag=True,
                help="Also extrapolate the distance to infinitely many images.",
            ),
            *FEATURES,
        ],
        "Output": [
            JSON,
            click.option(
                "--outdir",
                type=console.OutputPath(),
                metavar="DIR",
                help="Folder for results.json and figures.  [default: none; with --plot fid-results]",
            ),
            click.option("--plot", **FLAG, default=False, help="Draw figures of the results."),
        ],
        "Computation": COMPUTATION,
    },
)

REF = dict(
    cls=Command,
    help="Write the statistics of real images. The npz file has EDM's form (mu, sigma) and a note "
    "of the data and features.",
    sections={
        "Images": [
            click.option(
                "--data",
                required=True,
                type=console.InputPath(),
                metavar="PATH|NAME",
                help="Reference images.",
            ),
            click.option(
                "--dest",
                required=True,
                type=console.OutputPath(),
                metavar="PATH",
                help="The npz file to write.",
            ),
            click.option(
                "--num_samples",
                "--num",
                type=click.IntRange(min=2),
                metavar="N",
                help="Number of images, the first N.  [default: all]",
            ),
        ],
        "Features": [
            *FEATURES,
            click.option(
                "--keep_features",
                is_flag=True,
                help="Also store the features of every image. KID, precision and recall need them.",
            ),
        ],
        "Computation": COMPUTATION,
    },
)

NLL = dict(
    cls=Command,
    help="Measure bits per dimension of a network on 8-bit images. A score network is measured by "
    "its probability flow; a DDPM or VAE by its variational bound, which is an upper bound. With a "
    "discriminator, the flow or chain is the guided one.",
    sections={
        "Images": [
            click.option(
                "--network",
                required=True,
                type=console.InputPath(),
                metavar="PATH|URL|NAME",
                help="Score network, DDPM or VAE.",
            ),
            click.option(
                "--data",
                required=True,
                type=console.InputPath(),
                metavar="PATH|NAME",
                help="Images of the network's size.",
            ),
            click.option(
                "--num_samples",
                "--num",
                type=click.IntRange(min=1),
                metavar="N",
                help="Number of images, the first N.  [default: all]",
            ),
            click.option(
                "--seed",
                type=click.IntRange(min=0),
                metavar="S",
                help="Draw the --num_samples images at random by this seed.  [default: take the first]",
            ),
            JSON,
        ],
        "Likelihood": [
            click.option(
                "--steps",
                "--num_steps",
                "num_steps",
                type=click.IntRange(min=1),
                metavar="N",
                help="Heun steps, or steps of a DDPM's chain.  [default: 128; DDPM: all of its own]",
            ),
            click.option(
                "--solver",
                type=click.Choice(["heun", "rk45"]),
                default="heun",
                help="ODE solver: Heun with fixed steps, or SciPy's adaptive RK45 (score networks "
                "only).",
            ),
            click.option(
                "--num_probes",
                type=click.IntRange(min=1),
                default=1,
                metavar="N",
                help="Hutchinson probes per image (score networks only).",
            ),
            click.option(
                "--importance_samples",
                type=click.IntRange(min=1),
                metavar="K",
                help="Importance samples per image for the tighter bound of Burda et al. 2016 (VAE "
                "only).  [default: the ELBO]",
            ),
        ],
        "Discriminator guidance": [
            click.option(
                "--discriminator_ckpt",
                "--discriminator_checkpoint",
                multiple=True,
                type=console.InputPath(),
                metavar="PATH",
                help="Head of the discriminator. Repeat the option for an ensemble.  [default: no "
                "guidance]",
            ),
            click.option(
                "--pretrained_classifier_ckpt",
                type=console.InputPath(),
                metavar="PATH",
                help="ADM classifier on whose features the head was trained.",
            ),
            click.option(
                "--dg_weight_1st_order",
                "--w_dg_1",
                "w1",
                type=Real(),
                default=1,
                metavar="W",
                help="Guidance weight at the first stage of a Heun step. Equal weights measure the flow "
                "with this weight at all times; generate.py's 2 and 0 only come near 1 and 1.",
            ),
            click.option(
                "--dg_weight_2nd_order",
                "--w_dg_2",
                "w2",
                type=Real(),
                default=1,
                metavar="W",
                help="Guidance weight at the second stage of a Heun step. Give that of the first stage, "
                "so that both stages see the same field.",
            ),
            click.option(
                "--time_min",
                "--time_mid",
                "time_min",
                type=RealRange(0, 1),
                default=0.01,
                metavar="T",
                help="Lowest time with guidance, from 0 (no noise) to 1 (pure noise) of the VP process.",
            ),
            click.option(
                "--time_max",
                type=RealRange(0, 1),
                default=1.0,
                metavar="T",
                help="Highest time with guidance, from 0 (no noise) to 1 (pure noise) of the VP process.",
            ),
        ],
        HEADING: NETWORK,
        "Computation": [
            click.option(
                "--batch",
                "--batch_size",
                "batch",
                type=click.IntRange(min=1),
                default=64,
                metavar="N",
                help="Images computed at once.",
            ),
            DEVICE,
        ],
    },
)


def metrics_of(listed, train):
    """Names from METRICS, as the option lists them."""
    from dg.evaluation.measure import METRICS
    from dg.evaluation.memorisation import MEMORISATION

    names = [name.strip().lower() for name in listed.strip(",").split(",")]
    names = ["fd" if name == "fid" else name for name in names]
    if unknown := [name for name in names if name not in METRICS]:
        raise click.UsageError(
            f"--metrics {','.join(unknown)}: no such metric; use {', '.join(METRICS)}."
        )
    of_training = [name for name in names if name in MEMORISATION]
    if of_training and train is None:
        raise click.UsageError(
            f"--metrics {','.join(of_training)} needs --train, the training images."
        )
    if train is not None and not of_training:
        raise click.UsageError(
            f"--train serves {' and '.join(MEMORISATION)} alone; name them in --metrics, or "
            "leave --train out."
        )
    return names
