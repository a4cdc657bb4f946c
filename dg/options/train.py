"""Options of train.py."""

from pathlib import Path

import click

from dg.options.common import DEVICE
from dg.options.guidance import CLASSIFIER
from dg.options.numbers import Numbers, RealRange
from dg.recipes import CHOICES, PRESETS
from dg.runtime import console
from dg.runtime.console import FLAG

POSITIVE = RealRange(min=0, min_open=True)
INPUT = console.InputPath()
# Where the authors' train.py finds images of CIFAR-10 and leaves discriminators.
PLACES = {
    "data": Path("data/true_data.npz"),
    "sample_dir": Path("samples/cifar_uncond_vanilla"),
    "save_dir": Path("checkpoints/discriminator/cifar_uncond"),
}

IMAGES = [
    click.option(
        "--data",
        "--datadir",
        "data",
        type=INPUT,
        metavar="PATH|NAME",
        help="Real images, or their latents: a folder, zip or npz, or a name such as cifar10, "
        f"mnist or digits:train.  [default: the authors' {PLACES['data']} if it is there]",
    ),
    click.option(
        "--sample_dir",
        "--gendir",
        "sample_dir",
        type=INPUT,
        metavar="PATH",
        help="Generated images, or their latents: the folder of generate.py, or any folder, zip "
        "or npz; none with --loss difference.  [default: the authors' "
        f"{PLACES['sample_dir']} if it is there]",
    ),
    click.option(
        "--save_dir",
        "--savedir",
        "save_dir",
        type=console.OutputPath(),
        metavar="DIR",
        help="Folder for heads and curves. The same command again continues an interrupted "
        f"training.  [default: {PLACES['save_dir']}, where the images come by default too]",
    ),
    click.option(
        "--num_data",
        type=click.IntRange(min=1),
        metavar="N",
        help="Use N real and N generated images, drawn by the seed.  [default: all]",
    ),
    click.option(
        "--img_resolution",
        type=click.IntRange(min=1),
        metavar="PIXELS",
        help="Refuse images of another size.  [default: any size]",
    ),
]
DISCRIMINATOR = [
    click.option(
        "--extractor",
        type=click.Choice(["classifier", "score", "finetuned", "none"]),
        help="Features under the head: the ADM classifier's; the score network's encoder's; those "
        "of a copy of that encoder, trained with the head (finetuned); or none, for a U-Net "
        "encoder trained from scratch.  [default: classifier if its file is given, else with "
        "--network finetuned; score for --preset score and digits, --lora_rank and --loss "
        "difference]",
    ),
    click.option(
        "--pretrained_classifier_ckpt",
        type=INPUT,
        metavar="PATH|URL|NAME",
        help="ADM classifier for --extractor classifier.  [default: the authors' in "
        f"{CLASSIFIER.parent} if it is there]",
    ),
    click.option(
        "--network",
        type=INPUT,
        metavar="PATH|URL|NAME",
        help="Score network for --extractor score and finetuned, and for --loss matching and "
        "difference.",
    ),
    click.option(
        "--width",
        type=click.IntRange(min=1),
        metavar="N",
        help="Channels of the head.  [default: 32 on a score network's encoder, else 128]",
    ),
]
RECIPE = [
    click.option(
        "--preset",
        type=click.Choice(list(PRESETS)),
        default="default",
        metavar="NAME",
        help=f"Recipe: {', '.join(PRESETS)}. The options of this section change single values "
        "of it. The training prints all values when it starts.",
    ),
    click.option(
        "--cond",
        "--conditional",
        "conditional",
        **FLAG,
        default=None,
        help="Train a class-conditional discriminator.",
    ),
    click.option(
        "--epoch",
        "--n_epochs",
        "--epochs",
        "epochs",
        type=click.IntRange(min=1),
        metavar="N",
        help="Passes over the images.",
    ),
    click.option(
        "--patience",
        type=click.IntRange(min=0),
        metavar="N",
        help="Stop after N epochs without a lower validation loss; 0 never stops early.",
    ),
    click.option(
        "--split",
        type=Numbers(),
        metavar="A,B,C",
        help="Fractions of the images for training, validation and test, for example 0.8,0.1,0.1.",
    ),
    click.option(
        "--unequal",
        **FLAG,
        default=None,
        help="Allow different numbers of real and generated images.",
    ),
    click.option(
        "--batch_size",
        type=click.IntRange(min=2),
        metavar="N",
        help="Images per step, real and generated together.",
    ),
    click.option(
        "--batches",
        type=click.Choice(CHOICES["batches"]),
        help="Composition of a batch: half real and half generated, or drawn from one shuffled set "
        "of both.",
    ),
    click.option("--lr", type=POSITIVE, metavar="LR", help="Learning rate of the Adam optimiser."),
    click.option(
        "--lr_schedule",
        type=click.Choice(CHOICES["lr_schedule"]),
        help="Learning rate over time: constant, or falling to zero along a cosine.",
    ),
    click.option(
        "--wd",
        "--weight_decay",
        "weight_decay",
        type=RealRange(min=0),
        metavar="WD",
        help="Weight decay (L2).",
    ),
    click.option(
        "--ema_halflife",
        type=click.IntRange(min=0),
        metavar="IMAGES",
        help="Half-life of the moving average (EMA) of the head's weights, in images; 0 averages "
        "nothing.",
    ),
    click.option(
        "--ema_rampup",
        type=RealRange(min=0),
        metavar="R",
        help="Bound on --ema_halflife, as a fraction of the images seen so far; 0 sets none.",
    ),
    click.option(
        "--loss",
        type=click.Choice(CHOICES["loss"]),
        help="Loss: binary cross-entropy, or that plus gradient matching, or plus a penalty on the "
        "gradient (sobolev); or difference, which trains no discriminator: the head regresses "
        "the difference of the scores, on real images alone.",
    ),
    click.option(
        "--loss_weight",
        type=RealRange(min=0),
        metavar="W",
        help="Weight of what --loss matching or sobolev adds to the cross-entropy.",
    ),
    click.option(
        "--lora_rank",
        type=click.IntRange(min=0),
        metavar="N",
        help="Rank of a LoRA that is trained with the head, on the classifier or the score "
        "network's encoder; 0 trains none.",
    ),
    click.option(
        "--lora_alpha",
        type=POSITIVE,
        metavar="ALPHA",
        help="Alpha of the LoRA, which is scaled by alpha / rank.",
    ),
    click.option(
        "--noise",
        "time_sampling",
        type=click.Choice(CHOICES["time_sampling"]),
        help="Distribution of noise levels: the paper's importance sampling in VP time, uniform in "
        "VP time, or EDM's lognormal.",
    ),
    click.option(
        "--time_min",
        "--t_min",
        "time_min",
        type=RealRange(0, 1, min_open=True, max_open=True),
        metavar="T",
        help="Smallest VP time with --noise importance and uniform.",
    ),
    click.option(
        "--flip", **FLAG, default=None, help="Mirror half of the images, real and generated."
    ),
    click.option(
        "--bf16", **FLAG, default=None, help="Compute in bfloat16 where that loses little."
    ),
    click.option(
        "--eval_images",
        type=click.IntRange(min=1),
        metavar="N",
        help="Noisy images, real and generated each, in every evaluation.",
    ),
    click.option(
        "--keep_every",
        type=click.IntRange(min=0),
        metavar="N",
        help="Also keep the head of every N-th epoch; 0 keeps none of them.",
    ),
    click.option(
        "--seed",
        type=click.IntRange(0, 2**32 - 1),
        metavar="N",
        help="Seed of split, initialisation, order and noise.",
    ),
]
COMPUTATION = [
    DEVICE,
    click.option(
        "--microbatch",
        "--batch_gpu",
        "--batch-gpu",
        "microbatch",
        type=click.IntRange(min=1),
        metavar="N",
        help="Images that a process computes at once, to save memory.  [default: its whole part of "
        "the batch]",
    ),
    click.option(
        "--accumulate",
        type=click.IntRange(min=1),
        metavar="N",
        help="Compute every batch in N parts, to save memory.  [default: 1]",
    ),
    click.option(
        "--tensorboard", **FLAG, default=False, help="Also write the log to SAVE_DIR/tensorboard."
    ),
    click.option(
        "--num_workers",
        type=int,
        metavar="N",
        help="Ignored: no image is loaded while training.",
    ),
]
OPTIONS = {
    "Images": IMAGES,
    "Discriminator": DISCRIMINATOR,
    "Recipe (defaults: the preset's)": RECIPE,
    "Computation": COMPUTATION,
}
