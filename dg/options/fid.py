"""Options of fid.py."""

import click

from dg.options.network import NETWORK
from dg.options.numbers import Real, RealRange
from dg.runtime import console
from dg.runtime.console import FLAG

# Of every command that computes features.
EXTRACTION = [
    click.option(
        "--features",
        default="inception",
        type=console.InputPath(),
        metavar="NAME|PATH",
        help="inception, dinov2-vit-{s,b,l,g}-14, clip-vit-{b-32,l-14}, vgg16, random-vgg "
        "(64 features of fixed random weights), pixels, or a classifier's file from `pretrain.py "
        "features`.",
    ),
    click.option(
        "--weights",
        type=console.InputPath(),
        metavar="PATH",
        help="File of the extractor's weights.  [default: downloaded once]",
    ),
    click.option(
        "--unpublished_weights",
        is_flag=True,
        help="Accept weights of another SHA-256 than the published.",
    ),
    click.option(
        "--batch",
        "--batch_size",
        "batch",
        type=click.IntRange(min=1),
        help="Images at once.  [default: 64, on a CPU 16]",
    ),
    click.option("--device", help="cpu, cuda, cuda:1 ...  [default: a GPU if there is one]"),
]

CALC = [
    click.option(
        "--images",
        required=True,
        multiple=True,
        type=console.InputPath(),
        metavar="PATH",
        help="Generated images, or their statistics; repeat it for a table.",
    ),
    click.option(
        "--ref",
        required=True,
        type=console.InputPath(),
        metavar="PATH|NAME|URL",
        help="Reference images, or statistics as npz.",
    ),
    click.option(
        "--train",
        type=console.InputPath(),
        metavar="PATH|NAME",
        help="Training images of the generator, or their statistics with features: adds "
        "authenticity and memorised, for which --ref is unseen images.",
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
        help="Draw the N images at random by this seed instead.",
    ),
    click.option(
        "--sets",
        type=click.IntRange(min=1),
        default=1,
        metavar="K",
        help="Measure K disjoint sets of N images: mean, sd and minimum.",
    ),
    click.option(
        "--metrics",
        metavar="LIST",
        help="For example fd,kid,precision,recall,density,coverage,is,sfid.  [default: all "
        "that images and reference allow]",
    ),
    click.option(
        "--fid_infinity",
        is_flag=True,
        help="Also extrapolate the distance to infinitely many images.",
    ),
    *EXTRACTION,
    click.option("--json", "as_json", is_flag=True, help="JSON on standard output."),
    click.option(
        "--outdir", type=console.OutputPath(), metavar="DIR", help="Write results.json there."
    ),
    click.option(
        "--plot",
        **FLAG,
        default=False,
        help="Draw the results as well, into --outdir.  [default there: fid-results]",
    ),
]

REF = [
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
        help="The first N images.  [default: all]",
    ),
    click.option(
        "--keep_features",
        is_flag=True,
        help="Also store every feature, for KID, precision and recall.",
    ),
    *EXTRACTION,
]

NLL = [
    click.option(
        "--network",
        required=True,
        type=console.InputPath(),
        metavar="PATH|URL|NAME",
        help="Score network, DDPM or VAE.",
    ),
    *NETWORK,
    click.option(
        "--data",
        required=True,
        type=console.InputPath(),
        metavar="PATH|NAME",
        help="Images, of the network's size.",
    ),
    click.option(
        "--num_samples",
        "--num",
        type=click.IntRange(min=1),
        metavar="N",
        help="The first N images.  [default: all]",
    ),
    click.option(
        "--seed",
        type=click.IntRange(min=0),
        help="Draw the N images at random by this seed instead.",
    ),
    click.option(
        "--steps",
        "--num_steps",
        "num_steps",
        type=click.IntRange(min=1),
        help="Heun steps, or those of a DDPM's chain.  [default: 128; of a DDPM all of its own]",
    ),
    click.option(
        "--solver",
        type=click.Choice(["heun", "rk45"]),
        default="heun",
        help="Fixed steps, or SciPy's adaptive RK45.",
    ),
    click.option(
        "--num_probes", type=click.IntRange(min=1), default=1, help="Hutchinson's probes per image."
    ),
    click.option(
        "--importance_samples",
        type=click.IntRange(min=1),
        metavar="K",
        help="Of a VAE: the tighter bound by K samples (Burda et al. 2016) in place of the ELBO.",
    ),
    click.option(
        "--discriminator_ckpt",
        "--discriminator_checkpoint",
        multiple=True,
        type=console.InputPath(),
        metavar="PATH",
        help="Discriminator head; repeat it for an ensemble.",
    ),
    click.option(
        "--pretrained_classifier_ckpt",
        type=console.InputPath(),
        metavar="PATH",
        help="ADM classifier under the discriminator, if it has one.",
    ),
    click.option(
        "--dg_weight_1st_order",
        "--w_dg_1",
        "w1",
        type=Real(),
        default=1,
        help="Weight at the first stage of a step.",
    ),
    click.option(
        "--dg_weight_2nd_order",
        "--w_dg_2",
        "w2",
        type=Real(),
        default=1,
        help="Weight at the second stage.",
    ),
    click.option(
        "--time_min",
        "--time_mid",
        "time_min",
        type=RealRange(0, 1),
        default=0.01,
        help="Start of the guided VP time window.",
    ),
    click.option("--time_max", type=RealRange(0, 1), default=1.0, help="End of the window."),
    click.option(
        "--batch",
        "--batch_size",
        "batch",
        type=click.IntRange(min=1),
        default=64,
        help="Images at once.",
    ),
    click.option("--device", help="cpu, cuda, cuda:1 ...  [default: a GPU if there is one]"),
    click.option("--json", "as_json", is_flag=True, help="JSON on standard output."),
]
