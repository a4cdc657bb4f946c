"""Train a discriminator: real against generated images at every noise level.

\b
Examples:
  # on the score network's own encoder (no second network), digits by hand
  python train.py --preset digits --network runs/by-hand/score/network.safetensors --data digits:train \\
      --sample_dir runs/by-hand/fake --save_dir runs/by-hand/disc
  # the authors' recipe on the ADM classifier's features, and reproduction A's LoRA
  python train.py --preset authors-uncond --pretrained_classifier_ckpt 32x32_classifier.pt --data cifar10 \\
      --sample_dir out --save_dir disc --num_data 50000
  python train.py --preset lora-16 --pretrained_classifier_ckpt 32x32_classifier.pt --data cifar10 \\
      --sample_dir out --save_dir disc-lora --num_data 50000
  # on latents, which pretrain.py latents has made of ImageNet and of generated images
  python train.py --preset imagenet-latent --pretrained_classifier_ckpt latent_classifier.pt --data real_latents \\
      --sample_dir gen_latents --save_dir disc-latent

The frozen classifier or score network sees the noisy image; a small head on its features learns. SAVE_DIR gets
best.safetensors (lowest validation loss), last.safetensors, log.jsonl, summary.json (what the test images say) and
curves.png. Stopped and started again, the same command goes on. Under torchrun the processes share every batch.
"""

from pathlib import Path

import click

from dg.recipes import CHOICES, PRESETS
from dg.runtime import console
from dg.runtime.console import FLAG

CLASSIFIER = Path(
    "checkpoints/ADM_classifier/32x32_classifier.pt"
)  # where the authors' code expects it
POSITIVE = click.FloatRange(min=0, min_open=True)
INPUT = console.InputPath()


@click.command(help=__doc__, context_settings=dict(max_content_width=110, show_default=True))
@click.option(
    "--data",
    "--datadir",
    "data",
    type=INPUT,
    required=True,
    metavar="PATH|NAME",
    help="Real images: digits:train, cifar10, mnist, a folder, zip or npz; or latents.",
)
@click.option(
    "--sample_dir",
    "--gendir",
    "sample_dir",
    type=INPUT,
    required=True,
    metavar="PATH",
    help="Generated images: what generate.py wrote, or any folder, zip or npz; or latents.",
)
@click.option(
    "--save_dir",
    "--savedir",
    "save_dir",
    required=True,
    metavar="DIR",
    help="Where to keep checkpoints and curves; a rerun goes on there.",
)
@click.option(
    "--num_data",
    type=click.IntRange(min=1),
    metavar="N",
    help="Use N real and N generated images, drawn by the seed.",
)
@click.option(
    "--unequal", **FLAG, default=None, help="Allow different numbers of real and generated images."
)
@click.option("--img_resolution", type=click.IntRange(min=1), help="Refuse images of another size.")
@click.option(
    "--split",
    type=console.Numbers(),
    metavar="A,B,C",
    help="Training, validation and test parts of the images.",
)
@click.option(
    "--extractor",
    type=click.Choice(["classifier", "score", "none"]),
    help="What the head sees.  [default: classifier if its file is given, else score if a network is given]",
)
@click.option(
    "--pretrained_classifier_ckpt",
    type=INPUT,
    metavar="PATH|URL|NAME",
    help=f"ADM classifier for --extractor classifier.  [default: {CLASSIFIER} if it is there]",
)
@click.option(
    "--network",
    type=INPUT,
    metavar="PATH|URL|NAME",
    help="Score network, for --extractor score and --loss matching.",
)
@click.option(
    "--width",
    type=click.IntRange(min=1),
    help="Channels of the head.  [default: 32 on a score network, else 128]",
)
@click.option(
    "--cond",
    "--conditional",
    "conditional",
    **FLAG,
    default=None,
    help="Class-conditional discriminator.",
)
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    default="default",
    help="Recipe; the other options change single values of it.",
)
@click.option(
    "--epoch",
    "--n_epochs",
    "--epochs",
    "epochs",
    type=click.IntRange(min=1),
    help="Passes over the images.",
)
@click.option(
    "--patience",
    type=click.IntRange(min=0),
    help="Stop after so many epochs without improvement; 0 = never.",
)
@click.option(
    "--batch_size", type=click.IntRange(min=2), help="Real and generated images of one step."
)
@click.option(
    "--batches",
    type=click.Choice(CHOICES["batches"]),
    help="Half real, or drawn from one shuffled set of both.",
)
@click.option(
    "--accumulate",
    type=click.IntRange(min=1),
    help="Compute every batch in so many parts, to save memory.",
)
@click.option("--lr", type=POSITIVE, help="Learning rate of Adam.")
@click.option(
    "--lr_schedule", type=click.Choice(CHOICES["lr_schedule"]), help="Learning rate over time."
)
@click.option(
    "--wd",
    "--weight_decay",
    "weight_decay",
    type=click.FloatRange(min=0),
    help="Weight decay (L2).",
)
@click.option(
    "--ema_halflife", type=click.IntRange(min=0), help="Images; 0 = no averaging of the head."
)
@click.option(
    "--ema_rampup",
    type=click.FloatRange(min=0),
    help="The half-life is at most this part of the images seen; 0 = no such bound.",
)
@click.option(
    "--loss",
    type=click.Choice(CHOICES["loss"]),
    help="Cross-entropy; plus gradient matching; plus its size.",
)
@click.option(
    "--loss_weight",
    type=click.FloatRange(min=0),
    help="Of what the last two add; on its own scale each.",
)
@click.option(
    "--lora_rank",
    type=click.IntRange(min=0),
    help="Train an adapter of this rank on the classifier; 0 = none.",
)
@click.option("--lora_alpha", type=POSITIVE, help="Its scale is alpha / rank.")
@click.option(
    "--noise",
    "time_sampling",
    type=click.Choice(CHOICES["time_sampling"]),
    help="Distribution of noise levels.",
)
@click.option(
    "--time_min",
    "--t_min",
    "time_min",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Smallest VP time of importance and uniform.",
)
@click.option("--flip", **FLAG, default=None, help="Mirror half of the images, real and generated.")
@click.option("--bf16", **FLAG, default=None, help="Compute in bfloat16 where that loses little.")
@click.option(
    "--eval_images",
    type=click.IntRange(min=1),
    help="Noisy images of each kind in every evaluation.",
)
@click.option(
    "--keep_every", type=click.IntRange(min=0), help="Also keep the head of every so many epochs."
)
@click.option(
    "--tensorboard", **FLAG, default=False, help="Also write the log to SAVE_DIR/tensorboard."
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    help="Seed of split, initialisation, order and noise.",
)
@click.option("--device", help="cpu, cuda, cuda:1 ...  [default: a GPU if there is one]")
@click.option("--num_workers", type=int, help="Ignored: no image is loaded while training.")
def main(
    data,
    sample_dir,
    save_dir,
    num_data,
    img_resolution,
    extractor,
    pretrained_classifier_ckpt,
    network,
    width,
    preset,
    tensorboard,
    device,
    num_workers,
    **changes,
):
    if (
        extractor in (None, "classifier")
        and not (pretrained_classifier_ckpt or network)
        and CLASSIFIER.exists()
    ):
        pretrained_classifier_ckpt = str(CLASSIFIER)
    extractor = extractor or (
        "classifier" if pretrained_classifier_ckpt else "score" if network else None
    )
    if extractor is None:
        raise click.UsageError(
            "what should the head see? Give --network, --pretrained_classifier_ckpt, or "
            "--extractor none."
        )
    if extractor == "classifier" and not pretrained_classifier_ckpt:
        raise click.UsageError("--extractor classifier needs --pretrained_classifier_ckpt.")
    from dataclasses import replace

    from dg.data.latents import load_set
    from dg.discriminator import build_discriminator
    from dg.evaluation.figures import training_curves
    from dg.runtime.processes import process_group
    from dg.training import check_sets, train_discriminator
    from dg.training_data import random_subset

    settings = replace(
        PRESETS[preset], **{name: value for name, value in changes.items() if value is not None}
    )
    with process_group(on_gpus=True) as ranks:
        device = console.pick_device(device, ranks.rank)
        with ranks.main_process_first():
            real, fake = (
                random_subset(load_set(source), num_data, settings.seed)
                for source in (data, sample_dir)
            )
        if img_resolution not in (None, real.resolution):
            raise ValueError(
                f"{real.name}: {real.what} of {real.resolution} pixels, but --img_resolution is {img_resolution}"
            )
        check_sets(real, fake, settings)
        net = _network(network, device)
        discriminator = build_discriminator(
            extractor,
            real,
            net,
            _file(pretrained_classifier_ckpt),
            settings.conditional,
            width,
            settings.seed,
            device,
        )
        progress = console.stoppable(console.progress if ranks.first else console.silent, ranks.any)
        log = train_discriminator(
            discriminator,
            real,
            fake,
            settings,
            save_dir,
            net=net,
            tensorboard=tensorboard,
            progress=progress,
            ranks=ranks,
        )
        if not ranks.first:
            return
    training_curves(Path(save_dir) / "curves.png", log)
    _tell(Path(save_dir), log)


def _file(name):
    from dg.runtime.downloads import resolve

    return name and resolve(name, console.progress, console.notify)


def _network(name, device):
    import edm

    return name and edm.load_network(_file(name), device)


def _tell(folder, log):
    from dg.training import best_entry

    best, last = best_entry(log), log[-1]
    for name, entry, part in (
        ("best", best, "valid"),
        ("last", last, "valid"),
        ("last", last, "train"),
    ):
        if f"{part}_loss" in entry:
            console.notify(
                f"{folder / name}.safetensors: epoch {entry['epoch']}, {part} loss {entry[f'{part}_loss']:.4f}, "
                f"accuracy {entry[f'{part}_accuracy']:.3f}, AUC {entry[f'{part}_auc']:.3f}"
            )


if __name__ == "__main__":
    console.run(main)
