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

The frozen classifier or score network sees the noisy image; a small head on its features learns.
SAVE_DIR gets best.safetensors (lowest validation loss), last.safetensors, log.jsonl, summary.json
(what the test images say), training.json (what it was made of) and curves.png. Stopped and started
again, the same command goes on. Under torchrun the processes share every batch.
"""

from dataclasses import replace
from pathlib import Path

import click

from dg.options.common import SETTINGS, computable, declared, input_file, used, version
from dg.options.guidance import CLASSIFIER
from dg.options.train import OPTIONS
from dg.recipes import PRESETS
from dg.runtime import console


@click.command(help=__doc__, context_settings=SETTINGS)
@version
@declared(OPTIONS)
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
    tensorboard,
    device,
    num_workers,
    **recipe,
):
    extractor, classifier = _extractor(extractor, pretrained_classifier_ckpt, network)
    settings = computable(_settings(**recipe), device, recipe["bf16"] is not None)
    if settings.loss == "matching" and not network:
        raise click.UsageError("--loss matching needs --network.")
    if settings.lora_rank and extractor != "classifier":
        raise click.UsageError("--lora_rank adapts the classifier; give it, or --lora_rank 0.")
    from dg.data.latents import load_set
    from dg.discriminator import build_discriminator
    from dg.runtime.processes import process_group
    from dg.training import check_sets, train_discriminator
    from dg.training_data import doubts, random_subset

    with process_group(on_gpus=True) as ranks:
        device = console.pick_device(device, ranks.rank)
        progress, notify = console.shown_by(ranks)
        with ranks.main_process_first():
            real, fake = load_set(data, notify), load_set(sample_dir, notify)
        doubtful = doubts(real, fake, data, sample_dir) if ranks.first else ()
        with console.option("--num_data"):
            real, fake = (random_subset(images, num_data, settings.seed) for images in (real, fake))
        if img_resolution not in (None, real.resolution):
            found = f"{real.name} has {real.what} of {real.resolution} pixels"
            raise click.UsageError(f"--img_resolution {img_resolution}: {found}.")
        check_sets(real, fake, settings)
        net = _network(network, device)
        discriminator = build_discriminator(
            extractor,
            real,
            net,
            input_file(classifier),
            settings.conditional,
            width,
            settings.seed,
            device,
        )
        for line in doubtful:
            notify(line)
        progress = console.stoppable(progress, ranks.any)
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
    _record(Path(save_dir), {"data": real, "sample_dir": fake}, settings)
    _tell(Path(save_dir), log)


def _extractor(kind, classifier, network):
    """(what the head sees, the classifier's file or None)"""
    if kind in (None, "classifier") and not (classifier or network) and CLASSIFIER.exists():
        classifier = str(CLASSIFIER)
        if console.speaks():
            console.notify(f"the head sees the authors' {classifier}")
    kind = kind or ("classifier" if classifier else "score" if network else None)
    if kind is None:
        raise click.UsageError(
            "what should the head see? Give --network, --pretrained_classifier_ckpt, or "
            "--extractor none."
        )
    if kind == "classifier" and not classifier:
        raise click.UsageError("--extractor classifier needs --pretrained_classifier_ckpt.")
    if kind != "classifier":
        console.refuse({"pretrained_classifier_ckpt"}, f"the extractor {kind}")
    return kind, classifier


def _settings(preset, accumulate, bf16, **changes):
    """A preset with the options that are given; `accumulate` parts of a batch are micro-batches."""
    if bf16 is not None:
        changes["precision"] = "bfloat16" if bf16 else "float32"
    changes = {name: value for name, value in changes.items() if value is not None}
    settings = replace(PRESETS[preset], **changes)
    if accumulate is None or accumulate == 1:
        return settings
    if "microbatch" in changes:
        raise click.UsageError("--accumulate and --microbatch: give one of them.")
    if accumulate > settings.batch_size:
        raise click.UsageError(
            f"--accumulate: a batch of {settings.batch_size} cannot be computed in {accumulate} "
            "parts."
        )
    return replace(settings, microbatch=-(-settings.batch_size // accumulate))


def _network(name, device):
    import edm

    return name and edm.load_network(input_file(name), device)


def _record(folder, sets, settings):
    """What the discriminator was made of, in training.json."""
    from dg.runtime.files import write_json

    found = {name: {"name": s.name, "fingerprint": s.fingerprint()} for name, s in sets.items()}
    write_json(folder / "training.json", found | {"settings": settings, "used": used()})


def _tell(folder, log):
    from dg.evaluation.figures import training_curves
    from dg.training import best_entry

    with console.as_notice("the picture of the curves"):
        training_curves(folder / "curves.png", log)
    best, last = best_entry(log), log[-1]
    for name, entry, part in (
        ("best", best, "valid"),
        ("last", last, "valid"),
        ("last", last, "train"),
    ):
        if f"{part}_loss" in entry:
            console.notify(
                f"{folder / name}.safetensors: epoch {entry['epoch']}, {part} loss "
                f"{entry[f'{part}_loss']:.4f}, accuracy {entry[f'{part}_accuracy']:.3f}, AUC "
                f"{entry[f'{part}_auc']:.3f}"
            )


if __name__ == "__main__":
    console.run(main)
