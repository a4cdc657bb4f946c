#!/usr/bin/env python3
"""Train networks that have no public checkpoint: a score network, the noise-aware classifier under a
discriminator, a classifier whose features measure small images, and a DDPM and a VAE to compare
with. Also encode images into latents, convert networks to this project's format, and merge two.

\b
Examples:
  python pretrain.py score --preset digits --data digits:train \\
      --outdir runs/by-hand/score
  torchrun --standalone --nproc_per_node=8 pretrain.py score \\
      --preset cifar10-edm --data cifar10 --outdir runs/cifar10
  python pretrain.py classifier --preset mnist --data mnist:train \\
      --test mnist:test --outdir runs/mnist-classifier
  python pretrain.py ddpm --preset mnist-ddpm --data mnist:train \\
      --outdir runs/mnist-ddpm
  python pretrain.py vae --preset mnist-vae --data mnist:train \\
      --outdir runs/mnist-vae
  python pretrain.py latents --data ImageNet2012/train --outdir real_latents
  python pretrain.py classifier --preset imagenet-latent --data real_latents \\
      --outdir runs/latent-classifier
  python pretrain.py features --data digits:train \\
      --outdir runs/by-hand/features
  python pretrain.py convert --network edm-cifar10-32x32-uncond-vp \\
      --out cifar10.safetensors
  python pretrain.py merge mnist-14 runs/self --weight 0.5 \\
      --out merged.safetensors
"""

import json
import sys
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path

import click

from dg.options.common import (
    SETTINGS,
    computable,
    finish,
    input_file,
    precision_of,
    processes,
    texts,
    used,
    version,
)
from dg.options.pretrain import CLASSIFIER, CONVERT, DDPM, FEATURES, LATENTS, MERGE, SCORE, VAE
from dg.options.training_sets import heldout_set, training_set
from dg.pretraining.presets import CLASSIFIER_PRESETS, DDPM_PRESETS, VAE_PRESETS, score_recipe
from dg.runtime import console
from dg.runtime.files import atomic_write, plain, writable_file, write_json
from dg.runtime.run_folder import sole_writer

TEST_TIMES = (0.01, 0.1, 0.3, 0.6)  # VP times at which a noisy classifier is tested
# whose defaults --arch brings
EDM_PRESETS = {"ddpmpp": "cifar10-edm", "ncsnpp": "cifar10-edm", "adm": "imagenet64-edm"}


@click.group(**texts(__doc__), no_args_is_help=False, context_settings=SETTINGS)
@version
def main():
    pass


@main.command(**SCORE)
def score(
    preset,
    arch,
    precond,
    cond,
    duration,
    ema,
    snap,
    transfer,
    ddo,
    alpha,
    beta,
    dry_run,
    data,
    outdir,
    device,
    save_seconds,
    microbatch,
    bf16,
    fp16,
    **changes,
):
    network, settings = score_recipe(
        preset or EDM_PRESETS.get(arch, "digits"),
        arch,
        precond,
        duration,
        ema_halflife=ema and round(ema * 1e6),
        precision=precision_of(bf16, fp16),
        **changes,
    )
    settings = computable(settings, device, (bf16, fp16) != (None, None))
    if transfer:
        shape = {"cond", "arch", "precond", "model_channels", "channel_mult", "dropout"}
        console.refuse(shape, "the network of --transfer")
    elif ddo:
        raise click.UsageError("--ddo needs the network that made its images; give --transfer.")
    if not ddo:
        console.refuse({"alpha", "beta"}, "a training without --ddo")
    about = {"ddo": {"generated": ddo, "alpha": alpha, "beta": beta}} if ddo else {}
    if dry_run:
        shape = {"transfer": transfer} if transfer else {"network": network, "cond": cond}
        click.echo(json.dumps(plain(shape | about | {"settings": settings}), indent=2))
        return
    import edm
    from dg.pretraining.ddo import DDO
    from dg.pretraining.score import build_score_network, train_score_network

    def train(images, device, ranks, **job):
        if transfer:
            net = edm.load_network(input_file(transfer), device, notify=console.notify)
            net.requires_grad_(True)
        else:
            net = build_score_network(images, network, settings.seed, cond).to(device)
        if ddo:
            job["ddo"] = DDO(training_set(ddo, ranks), alpha, beta)
            about["ddo"] = job["ddo"].describe()
        return train_score_network(net, images, settings, snap=snap, ranks=ranks, **job)

    def described(net):
        return {"network": net.init_kwargs} | about

    job = (data, outdir, device, save_seconds, microbatch)
    _train(train, edm.save_network, settings, *job, described=described)


@main.command(**CLASSIFIER)
def classifier(preset, test, **options):
    settings = _settings(CLASSIFIER_PRESETS[preset], options)
    import torch

    from dg.pretraining.noisy_classifier import noisy_accuracy, train_noisy_classifier

    def train(images, **job):
        nonlocal test
        test = heldout_set(test, images)
        return train_noisy_classifier(images, settings, **job)

    def save(file, model):
        torch.save({name: tensor.cpu() for name, tensor in model.state_dict().items()}, file)

    def measured(model):
        stated = (f"{noisy_accuracy(model, test, time):.4f} at {time}" for time in TEST_TIMES)
        return [f"of {test.name}, by VP time: {', '.join(stated)}"] if test else []

    _train(
        train,
        save,
        settings,
        **options,
        latents=True,
        name="classifier.pt",
        described=lambda model: {},
        told="names {accuracy:.3f} of noisy images",
        measured=measured,
        following=lambda path: ["train.py", "--pretrained_classifier_ckpt", path]
        + ["--data", options["data"], "--sample_dir", "GENERATED", "--save_dir", "DISC"],
    )


@main.command(**DDPM)
def ddpm(preset, cond, **options):
    from dg.models.ddpm import save_ddpm
    from dg.pretraining.ddpm import train_ddpm

    network, settings = DDPM_PRESETS[preset]
    settings = _settings(settings, options)
    train = partial(train_ddpm, network=network, settings=settings, conditional=cond)
    _train(train, save_ddpm, settings, **options)


@main.command(**VAE)
def vae(preset, **options):
    from dg.models.vae import save_vae
    from dg.pretraining.vae import train_vae

    network, settings = VAE_PRESETS[preset]
    settings = _settings(settings, options)
    train = partial(train_vae, network=network, settings=settings)
    _train(train, save_vae, settings, **options)


def generation(path):
    """The command that samples the network at `path`, as its words."""
    return ["generate.py", "--network", path, "--outdir", "OUT", "--seeds", "0-63"]


def _train(
    train,
    save,
    settings,
    data,
    outdir,
    device,
    save_seconds,
    microbatch,
    latents=False,
    name="network.safetensors",
    described=lambda model: {"network": model.init_kwargs},
    told="loss {loss:.4f}",
    measured=lambda model: [],
    following=generation,
):
    """Train on `data`, write OUTDIR/name and training.json, and tell how the training ended.

    train      images and what all trainings take -> (model, log)
    save       writes a model to a file
    latents    the data may be latents
    described  model -> entries of training.json beside data and settings
    told       text about the log's last entry
    measured   model -> further lines
    following  path of the model -> words of the command to type next
    """
    with processes(on_gpus=True) as ranks:
        device, images = console.pick_device(device, ranks.rank), training_set(data, ranks, latents)
        folder, (progress, _) = Path(outdir), console.shown_by(ranks)
        with sole_writer(folder, ranks):
            model, log = train(
                images,
                device=device,
                state_path=folder / "state.pt",
                progress=console.stoppable(progress, ranks.any),
                save_seconds=save_seconds,
                ranks=ranks,
                microbatch=microbatch,
            )
            if not ranks.first:
                return
            with atomic_write(folder / name) as file:
                save(file, model)
            write_json(folder / "training.json", _record(images, settings) | described(model))
    size, told = sum(p.numel() for p in model.parameters()), told.format(**log[-1])
    line = f"{folder / name}: {size:,} parameters, {settings.steps} steps, {told}"
    finish([line, *measured(model)], following(folder / name))


def _record(images, settings):
    """The content of training.json: data, settings and command."""
    names = {"class_names": list(images.class_names)} if images.class_names else {}
    data = {"data": images.name, "fingerprint": images.fingerprint()}
    return data | {"settings": asdict(settings), "used": used()} | names


def _settings(preset, options):
    """A preset's settings with the changes in `options`, which are taken out of these."""
    options["precision"] = asked = precision_of(options.pop("bf16"), options.pop("fp16"))
    names = [field.name for field in fields(preset) if field.name in options]
    changes = {name: options.pop(name) for name in names}
    changes = {name: value for name, value in changes.items() if value is not None}
    return computable(replace(preset, **changes), options["device"], asked)


@main.command(**LATENTS)
def latents(data, vae, outdir, batch_size, device, **settings):
    from dg.data.reader import open_images
    from dg.models.dit import load_vae
    from dg.pretraining.latents import Encoding, encode, latent_store
    from dg.runtime.downloads import resolve

    settings = Encoding(**settings)
    with processes() as ranks:
        device = console.pick_device(device, ranks.rank)
        vae = resolve(vae, console.progress, console.notify)
        progress, notify = console.shown_by(ranks)
        images = open_images(data, notify=notify)
        vae = load_vae(vae, device)
        with sole_writer(outdir, ranks):
            store = latent_store(outdir, images, vae, settings, batch_size, used(), ranks)
            progress = console.stoppable(progress)
            made = encode(vae, images, store, settings, device, progress, ranks, console.notify)
        if not ranks.first:
            return
    for name in store.damaged:
        console.notify(f"{name} was damaged and has been made again")
    measured = (
        f"; float16 rounds off {made.rounding:.1e}, the posterior's spread is {made.spread:.1e}"
        if made.rounding
        else ""
    )
    finish(
        [f"{len(store.seeds)} latents in {outdir}{measured}"],
        ["pretrain.py", "classifier", "--preset", "imagenet-latent"]
        + ["--data", outdir, "--outdir", "CLASSIFIER"],
    )


@main.command(**FEATURES)
def features(data, outdir, test, epochs, seed, device):
    from dg.data.datasets import load_images
    from dg.evaluation.classifier import (
        ClassifierTraining,
        accuracy,
        save_classifier,
        train_classifier,
    )

    device = console.pick_device(device)
    images, folder = load_images(data, notify=console.notify), Path(outdir)
    heldout = heldout_set(test, images)
    settings = ClassifierTraining(epochs=epochs, seed=seed)
    with sole_writer(folder):
        model = train_classifier(images, settings, console.progress, device)
        save_classifier(folder / "classifier.safetensors", model)
        write_json(folder / "training.json", _record(images, settings))
    stated = f", {accuracy(model, heldout):.4f} of {heldout.name}" if heldout else ""
    path = folder / "classifier.safetensors"
    finish(
        [f"{path}: names {accuracy(model, images):.4f} of {images.name}{stated}"],
        ["fid.py", "--images", "IMAGES", "--ref", data, "--features", path],
    )


@main.command(**CONVERT)
def convert(network, out, fp16, image_size):
    from dg.models.conversion import convert, is_score_network, share_within
    from dg.runtime.downloads import resolve

    out = writable_file(out)
    bare = out.suffix == ".pt"
    path = resolve(network, console.progress, console.notify)
    with atomic_write(out) as file:
        size = convert(path, file, fp16, bare, image_size, console.notify)
    lines = [f"{out}: {size:,} weights{' in float16' if fp16 else ''}"]
    samples = not bare and is_score_network(out)
    if fp16 and samples:
        share = f"{100 * share_within(path, out):.2f}% of values within 2 levels of 255"
        lines.append(f"images of 64 seeds: {share} of those of {path.name}")
    finish(lines, generation(out) if samples else None)


@main.command(**MERGE)
@click.argument("first", type=console.InputPath(), metavar="A")
@click.argument("second", type=console.InputPath(), metavar="B")
def merge(first, second, weight, out):
    from dg.models.merging import merge

    out = writable_file(out)
    with atomic_write(out) as file:
        size = merge(input_file(first), input_file(second), weight, file, console.notify)
    finish([f"{out}: {size:,} weights"], generation(out))


if __name__ == "__main__":
    console.run(main, resumes=sys.argv[1:2] not in (["features"], ["convert"], ["merge"]))
