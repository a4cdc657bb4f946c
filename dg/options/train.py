"""Options of train.py."""

import click

from dg.options.guidance import CLASSIFIER
from dg.options.numbers import Numbers, RealRange
from dg.recipes import CHOICES, PRESETS
from dg.runtime import console
from dg.runtime.console import FLAG

POSITIVE = RealRange(min=0, min_open=True)
INPUT = console.InputPath()

OPTIONS = [
    click.option(
        "--data",
        "--datadir",
        "data",
        type=INPUT,
        required=True,
        metavar="PATH|NAME",
        help="Real images: digits:train, cifar10, mnist, a folder, zip or npz; or latents.",
    ),
    click.option(
        "--sample_dir",
        "--gendir",
        "sample_dir",
        type=INPUT,
        required=True,
        metavar="PATH",
        help="Generated images: what generate.py wrote, or any folder, zip or npz; or latents.",
    ),
    click.option(
        "--save_dir",
        "--savedir",
        "save_dir",
        required=True,
        type=console.OutputPath(),
        metavar="DIR",
        help="Where to keep checkpoints and curves; a rerun goes on there.",
    ),
    click.option(
        "--num_data",
        type=click.IntRange(min=1),
        metavar="N",
        help="Use N real and N generated images, drawn by the seed.",
    ),
    click.option(
        "--unequal",
        **FLAG,
        default=None,
        help="Allow different numbers of real and generated images.",
    ),
    click.option(
        "--img_resolution", type=click.IntRange(min=1), help="Refuse images of another size."
    ),
    click.option(
        "--split",
        type=Numbers(),
        metavar="A,B,C",
        help="Training, validation and test parts of the images.",
    ),
    click.option(
        "--extractor",
        type=click.Choice(["classifier", "score", "none"]),
        help="What the head sees.  [default: classifier if its file is given, else score if a "
        "network is given]",
    ),
    click.option(
        "--pretrained_classifier_ckpt",
        type=INPUT,
        metavar="PATH|URL|NAME",
        help=f"ADM classifier for --extractor classifier.  [default: {CLASSIFIER} if it is there]",
    ),
    click.option(
        "--network",
        type=INPUT,
        metavar="PATH|URL|NAME",
        help="Score network, for --extractor score and --loss matching.",
    ),
    click.option(
        "--width",
        type=click.IntRange(min=1),
        help="Channels of the head.  [default: 32 on a score network, else 128]",
    ),
    click.option(
        "--cond",
        "--conditional",
        "conditional",
        **FLAG,
        default=None,
        help="Class-conditional discriminator.",
    ),
    click.option(
        "--preset",
        type=click.Choice(list(PRESETS)),
        default="default",
        help="Recipe; the other options change single values of it.",
    ),
    click.option(
        "--epoch",
        "--n_epochs",
        "--epochs",
        "epochs",
        type=click.IntRange(min=1),
        help="Passes over the images.",
    ),
    click.option(
        "--patience",
        type=click.IntRange(min=0),
        help="Stop after so many epochs without improvement; 0 = never.",
    ),
    click.option(
        "--batch_size", type=click.IntRange(min=2), help="Real and generated images of one step."
    ),
    click.option(
        "--batches",
        type=click.Choice(CHOICES["batches"]),
        help="Half real, or drawn from one shuffled set of both.",
    ),
    click.option(
        "--microbatch",
        "--batch_gpu",
        "--batch-gpu",
        "microbatch",
        type=click.IntRange(min=1),
        help="Images that a process computes at once, to save memory.  [default: all of its part]",
    ),
    click.option(
        "--accumulate",
        type=click.IntRange(min=1),
        help="Compute every batch in so many parts, to save memory.",
    ),
    click.option("--lr", type=POSITIVE, help="Learning rate of Adam."),
    click.option(
        "--lr_schedule", type=click.Choice(CHOICES["lr_schedule"]), help="Learning rate over time."
    ),
    click.option(
        "--wd",
        "--weight_decay",
        "weight_decay",
        type=RealRange(min=0),
        help="Weight decay (L2).",
    ),
    click.option(
        "--ema_halflife", type=click.IntRange(min=0), help="Images; 0 = no averaging of the head."
    ),
    click.option(
        "--ema_rampup",
        type=RealRange(min=0),
        help="The half-life is at most this part of the images seen; 0 = no such bound.",
    ),
    click.option(
        "--loss",
        type=click.Choice(CHOICES["loss"]),
        help="Cross-entropy; plus gradient matching; plus its size.",
    ),
    click.option(
        "--loss_weight",
        type=RealRange(min=0),
        help="Of what the last two add; on its own scale each.",
    ),
    click.option(
        "--lora_rank",
        type=click.IntRange(min=0),
        help="Train an adapter of this rank on the classifier; 0 = none.",
    ),
    click.option("--lora_alpha", type=POSITIVE, help="Its scale is alpha / rank."),
    click.option(
        "--noise",
        "time_sampling",
        type=click.Choice(CHOICES["time_sampling"]),
        help="Distribution of noise levels.",
    ),
    click.option(
        "--time_min",
        "--t_min",
        "time_min",
        type=RealRange(0, 1, min_open=True, max_open=True),
        help="Smallest VP time of importance and uniform.",
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
        help="Noisy images of each kind in every evaluation.",
    ),
    click.option(
        "--keep_every",
        type=click.IntRange(min=0),
        help="Also keep the head of every so many epochs.",
    ),
    click.option(
        "--tensorboard", **FLAG, default=False, help="Also write the log to SAVE_DIR/tensorboard."
    ),
    click.option(
        "--seed",
        type=click.IntRange(0, 2**32 - 1),
        help="Seed of split, initialisation, order and noise.",
    ),
    click.option("--device", help="cpu, cuda, cuda:1 ...  [default: a GPU if there is one]"),
    click.option("--num_workers", type=int, help="Ignored: no image is loaded while training."),
]
