#!/usr/bin/env python3
"""Train a discriminator: real against generated images at every noise level.

A small head learns on the features of a frozen classifier or score network, which sees the noisy
image; or a copy of the score network's encoder is trained with it. SAVE_DIR gets best.safetensors (lowest validation loss), last.safetensors, log.jsonl,
summary.json (results on the test images), training.json (data and settings) and curves.png.

The same command again continues an interrupted training. Under torchrun the processes share every
batch.

\b
Examples:
  # on the score network's own encoder, without a second network
  python train.py --preset digits --data digits:train \\
      --network runs/by-hand/score/network.safetensors \\
      --sample_dir runs/by-hand/fake --save_dir runs/by-hand/disc
  # no discriminator: the difference of the scores, on real images alone
  python train.py --preset digits --data digits:train --loss difference \\
      --network runs/by-hand/score/network.safetensors \\
      --save_dir runs/by-hand/difference
  # the authors' recipe on the ADM classifier's features
  python train.py --preset authors-uncond --data cifar10 --num_data 50000 \\
      --pretrained_classifier_ckpt 32x32_classifier.pt \\
      --sample_dir out --save_dir disc
  # the LoRA of reproduction A
  python train.py --preset lora-16 --data cifar10 --num_data 50000 \\
      --pretrained_classifier_ckpt 32x32_classifier.pt \\
      --sample_dir out --save_dir disc-lora
  # on latents, made by `pretrain.py latents` of real and generated images
  python train.py --preset imagenet-latent --data real_latents \\
      --pretrained_classifier_ckpt latent_classifier.pt \\
      --sample_dir gen_latents --save_dir disc-latent
"""

from dataclasses import asdict, replace
from pathlib import Path

import click

from dg.options.common import (
    SETTINGS,
    Command,
    computable,
    finish,
    input_file,
    processes,
    texts,
    used,
    version,
)
from dg.options.guidance import CLASSIFIER
from dg.options.train import OPTIONS, PLACES
from dg.recipes import PRESETS
from dg.runtime import console
from dg.runtime.run_folder import sole_writer

ON_ENCODER = ("score", "digits")  # the presets of a head on the score network's frozen encoder


@click.command(cls=Command, sections=OPTIONS, **texts(__doc__), context_settings=SETTINGS)
@version
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
    settings = computable(_settings(**recipe), device, recipe["bf16"] is not None)
    data, sample_dir, save_dir = _places(data, sample_dir, save_dir, settings)
    if settings.needs_net and not network:
        raise click.UsageError(f"--loss {settings.loss} needs a score network; give --network.")
    frozen = settings.loss == "difference" or settings.lora_rank or recipe["preset"] in ON_ENCODER
    own = "score" if frozen else "finetuned"
    extractor, classifier = _extractor(extractor, pretrained_classifier_ckpt, network, own)
    if settings.loss == "difference" and extractor != "score":
        raise click.UsageError(f"--loss difference is not for --extractor {extractor}; give score.")
    if settings.lora_rank and extractor not in ("classifier", "score"):
        raise click.UsageError("--lora_rank needs a frozen extractor; give classifier or score.")
    from dg.data.latents import load_set
    from dg.training import check_sets, train_discriminator
    from dg.training_data import doubts, random_subset

    with processes(on_gpus=True) as ranks:
        device = console.pick_device(device, ranks.rank)
        progress, notify = console.shown_by(ranks)
        with ranks.main_process_first():
            real = load_set(data, notify)
            fake = load_set(sample_dir, notify) if settings.needs_fake else None
        doubtful = doubts(real, fake, data, sample_dir) if ranks.first else ()
        with console.option("--num_data"):
            real, fake = (
                images and random_subset(images, num_data, settings.seed) for images in (real, fake)
            )
        if img_resolution not in (None, real.resolution):
            found = f"{real.name} has {real.what} of {real.resolution} pixels"
            raise click.UsageError(f"--img_resolution {img_resolution}: {found}; give that.")
        check_sets(real, fake, settings)
        net = _network(network, device)
        discriminator = _built(extractor, real, net, classifier, width, settings, device)
        for line in doubtful:
            notify(line)
        progress = console.stoppable(progress, ranks.any)
        progress = _telling(progress, notify, _recipe(recipe["preset"], settings))
        with sole_writer(save_dir, ranks):
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
            if ranks.first:
                sets = {"data": real} | ({"sample_dir": fake} if fake else {})
                _record(Path(save_dir), sets, settings)
                _tell(Path(save_dir), log, classifier, network)


def _built(extractor, real, net, classifier, width, settings, device):
    """What the loss trains, before its training."""
    from dg.discriminator import build_difference, build_discriminator

    conditional, seed = settings.conditional, settings.seed
    if settings.loss == "difference":
        return build_difference(net, real, conditional, width or 32, seed, device)
    classifier = input_file(classifier)
    return build_discriminator(extractor, real, net, classifier, conditional, width, seed, device)


def _places(data, sample_dir, save_dir, settings):
    """The three, those that are not given being the authors': images where they are, and the folder
    to write to where none is given at all."""
    given = {"data": data, "sample_dir": sample_dir, "save_dir": save_dir}
    if not settings.needs_fake:
        console.refuse({"sample_dir"}, f"--loss {settings.loss}, which takes real images alone")
        del given["sample_dir"]
    missing = [name for name, place in given.items() if place is None]
    for name in missing:
        known = missing == [*given] if name == "save_dir" else PLACES[name].exists()
        if not known:
            raise click.UsageError(f"Missing option '--{name}'; give it.")
        given[name] = str(PLACES[name])
    if missing and console.speaks():
        places = ", ".join(f"--{name} {given[name]}" for name in missing)
        console.notify(f"the authors' places are taken: {places}")
    return given["data"], given.get("sample_dir"), given["save_dir"]


def _extractor(kind, classifier, network, own):
    """Return (kind of extractor, the classifier's file or None).

    own  the kind where a score network is given alone
    """
    if kind in (None, "classifier") and not (classifier or network) and CLASSIFIER.exists():
        classifier = str(CLASSIFIER)
        if console.speaks():
            console.notify(f"features of the authors' classifier {classifier} are used")
    kind = kind or ("classifier" if classifier else own if network else None)
    if kind is None:
        raise click.UsageError(
            "the features for the head are missing; give --network, "
            "--pretrained_classifier_ckpt, or --extractor none."
        )
    if kind == "classifier" and not classifier:
        raise click.UsageError(
            "--extractor classifier needs a classifier; give --pretrained_classifier_ckpt."
        )
    if kind != "classifier":
        console.refuse({"pretrained_classifier_ckpt"}, f"the extractor {kind}")
    return kind, classifier


def _settings(preset, accumulate, bf16, **changes):
    """The preset with the given options. `accumulate` parts of a batch become micro-batches."""
    if bf16 is not None:
        changes["precision"] = "bfloat16" if bf16 else "float32"
    changes = {name: value for name, value in changes.items() if value is not None}
    settings = replace(PRESETS[preset], **changes)
    if accumulate is None or accumulate == 1:
        return settings
    if "microbatch" in changes:
        raise click.UsageError("--accumulate and --microbatch are both given; give one of them.")
    if accumulate > settings.batch_size:
        raise click.UsageError(
            f"--accumulate {accumulate}, but a batch has {settings.batch_size} images; give "
            "at most that many parts."
        )
    return replace(settings, microbatch=-(-settings.batch_size // accumulate))


def _telling(progress, notify, line):
    """A progress that tells a line before its first bar: from then on nothing is refused."""
    untold = [line]

    def shown(*args, **kwargs):
        while untold:
            notify(untold.pop())
        return progress(*args, **kwargs)

    return shown


def _recipe(preset, settings):
    """One line with every value of the training that is set."""
    values = {name: value for name, value in asdict(settings).items() if value is not None}
    listed = ", ".join(f"{name} {value}" for name, value in values.items())
    return f"recipe {preset}: {listed}"


def _network(name, device):
    import edm

    return name and edm.load_network(input_file(name), device, notify=console.notify)


def _record(folder, sets, settings):
    """Write training.json: data, settings and command of the training."""
    from dg.runtime.files import write_json

    found = {name: {"name": s.name, "fingerprint": s.fingerprint()} for name, s in sets.items()}
    write_json(folder / "training.json", found | {"settings": settings, "used": used()})


def _tell(folder, log, classifier, network):
    """Draw the curves, and tell how the training ended."""
    from dg.checkpoints import trained_head
    from dg.evaluation.figures import denoising_curves, training_curves
    from dg.training import best_entry

    best, last = best_entry(log), log[-1]
    of_difference = "train_network_loss" in last
    with console.as_notice("the picture of the curves"):
        draw = denoising_curves if of_difference else training_curves
        draw(folder / "curves.png", log)
    measures = _denoising if of_difference else _classified
    lines = [
        f"{folder / name}.safetensors: epoch {entry['epoch']}, {part} loss "
        f"{entry[f'{part}_loss']:.4f}, {measures(entry, part)}"
        for name, entry, part in (
            ("best", best, "valid"),
            ("last", last, "valid"),
            ("last", last, "train"),
        )
        if f"{part}_loss" in entry
    ]
    head = trained_head(folder)
    if len(lines) == 3:
        lines[0] += "; the folder stands for this file (docs/choosing-settings.md: when the last)"
    lora = head.with_name(f"lora_{head.name}")
    guided = ["--discriminator_ckpt", head]
    if classifier:
        guided += ["--pretrained_classifier_ckpt", classifier]
    if lora.exists():
        guided += ["--lora_checkpoint", lora]
    generated = ["--network", network or "NETWORK", "--outdir", "GUIDED", "--seeds", "0-63"]
    finish(lines, ["generate.py", *generated, *guided])


def _classified(entry, part):
    return f"accuracy {entry[f'{part}_accuracy']:.3f}, AUC {entry[f'{part}_auc']:.3f}"


def _denoising(entry, part):
    return f"that of the network alone {entry[f'{part}_network_loss']:.4f}"


if __name__ == "__main__":
    console.run(main)
