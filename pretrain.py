"""Train what has no public checkpoint: a score network, the noise-aware classifier that discriminators look through, a
classifier whose features measure small images; and what EDM is compared against, a DDPM and a VAE. Also: encode images into
a VAE's latents, and convert a published network to this project's format.

\b
Examples:
  python pretrain.py score --preset digits --data digits:train --outdir runs/by-hand/score
  torchrun --standalone --nproc_per_node=8 pretrain.py score --preset cifar10-edm --data cifar10 --outdir runs/cifar10
  python pretrain.py classifier --preset mnist --data mnist:train --test mnist:test --outdir runs/mnist-classifier
  python pretrain.py ddpm --preset mnist-ddpm --data mnist:train --outdir runs/mnist-ddpm
  python pretrain.py vae --preset mnist-vae --data mnist:train --outdir runs/mnist-vae
  python pretrain.py latents --data ImageNet2012/train --outdir real_latents
  python pretrain.py classifier --preset imagenet-latent --data real_latents --outdir runs/latent-classifier
  python pretrain.py features --data digits:train --outdir runs/by-hand/features
  python pretrain.py convert --network edm-cifar10-32x32-uncond-vp --out cifar10.safetensors
"""

from pathlib import Path

import click

from dg.pretraining.presets import (
    ARCHITECTURES,
    CLASSIFIER_PRESETS,
    DDPM_PRESETS,
    PRECONDITIONING,
    SCORE_PRESETS,
    VAE_PRESETS,
    score_recipe,
)
from dg.runtime import console
from dg.runtime.console import FLAG

EDM_PRESETS = {
    "ddpmpp": "cifar10-edm",
    "ncsnpp": "cifar10-edm",
    "adm": "imagenet64-edm",
}  # whose defaults --arch brings
POSITIVE = click.FloatRange(min=0, min_open=True)


class Multipliers(click.ParamType):
    """`1,2,2`, a list of integers."""

    name = "multipliers"

    def convert(self, value, param, ctx):
        try:
            return [int(part) for part in value.split(",")] if isinstance(value, str) else value
        except ValueError:
            self.fail(f"{value!r} is no list of integers; write for example 1,2,2", param, ctx)


TRAINING = [  # options of the trainings that run on several processes
    click.option("--data", required=True, metavar="PATH|NAME", help="Training images."),
    click.option("--outdir", required=True, metavar="DIR", help="Where to write."),
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
        "batch_gpu",
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
        type=click.FloatRange(min=0),
        default=60,
        help="How often to save the state, besides at the end.",
    ),
    click.option("--device", help="cpu, cuda, cuda:1 ...  [default: a GPU if there is one]"),
]


def training_options(command):
    for option in reversed(TRAINING):
        command = option(command)
    return command


@click.group(
    help=__doc__,
    no_args_is_help=False,
    context_settings=dict(max_content_width=110, show_default=True),
)
def main():
    pass


@main.command(
    help="""Train an EDM score network; writes OUTDIR/network.safetensors, the average of the weights.

The same command again goes on where it stopped. Under torchrun the processes share every batch. Options that EDM's train.py
has too are named as there; durations are in millions of images (Mimg)."""
)
@training_options
@click.option(
    "--preset",
    type=click.Choice(list(SCORE_PRESETS)),
    help="Network and training settings.  [default: digits; with --arch those of EDM's authors]",
)
@click.option("--cond", **FLAG, default=False, help="Class-conditional network.")
@click.option(
    "--arch", type=click.Choice(list(ARCHITECTURES)), help="Kind of U-Net.  [default: the preset's]"
)
@click.option(
    "--precond",
    type=click.Choice(list(PRECONDITIONING)),
    help="Preconditioning and loss.  [default: edm]",
)
@click.option(
    "--cbase", type=click.IntRange(min=1), help="Channels of the U-Net.  [default: the preset's]"
)
@click.option(
    "--cres",
    type=Multipliers(),
    metavar="INTS",
    help="Their multiples, level by level (1,2,2), each level at half "
    "the resolution of the one before.  [default: the preset's]",
)
@click.option(
    "--dropout",
    type=click.FloatRange(0, 1, max_open=True),
    help="Dropout probability.  [default: the preset's]",
)
@click.option(
    "--duration", type=POSITIVE, metavar="MIMG", help="Training length in place of --steps."
)
@click.option(
    "--ema",
    type=POSITIVE,
    metavar="MIMG",
    help="Half-life of the average.  [default: the preset's]",
)
@click.option(
    "--augment",
    type=click.FloatRange(0, 1),
    help="Probability of EDM's augmentation, which does not leak into what is drawn.  [default: the preset's]",
)
@click.option(
    "--snap",
    type=click.IntRange(min=0),
    default=0,
    metavar="KIMG",
    help="Thousands of images from one OUTDIR/network-snapshot-KIMG.safetensors to the next; 0 = none.",
)
@click.option(
    "--tick",
    "--ls",
    "ignored",
    metavar="N",
    help="Ignored: there are no ticks, and float16 is scaled as needed.",
)
def score(
    data,
    outdir,
    preset,
    arch,
    precond,
    cond,
    cbase,
    cres,
    duration,
    ema,
    snap,
    ignored,
    batch_gpu,
    bf16,
    fp16,
    save_seconds,
    device,
    **changes,
):
    preset = preset or EDM_PRESETS.get(arch, "digits")
    network, settings = score_recipe(
        preset,
        arch,
        precond,
        duration,
        model_channels=cbase,
        channel_mult=cres,
        ema_halflife=ema and round(ema * 1e6),
        precision=_precision(bf16, fp16),
        **changes,
    )
    import edm
    from dg.pretraining.score import build_score_network, train_score_network
    from dg.runtime.files import atomic_write, writable_folder
    from dg.runtime.processes import process_group

    with process_group(on_gpus=True) as ranks:
        device, images = console.pick_device(device, ranks.rank), _images(data, ranks)
        net = build_score_network(images, network, settings.seed, cond).to(device)
        folder = writable_folder(outdir)
        net, log = train_score_network(
            net,
            images,
            settings,
            folder / "state.pt",
            _progress(ranks),
            save_seconds,
            snap,
            ranks,
            batch_gpu,
        )
        if not ranks.first:
            return
    with atomic_write(folder / "network.safetensors") as file:
        edm.save_network(file, net)
    _describe(folder, images, settings, network=net.init_kwargs)
    console.notify(
        f"{folder / 'network.safetensors'}: {settings.steps} steps, loss {log[-1]['loss']:.4f}"
    )


@main.command(
    help="""Train the noise-aware classifier (Dhariwal & Nichol 2021) whose features discriminators take; writes
OUTDIR/classifier.pt for --pretrained_classifier_ckpt of train.py and generate.py.

The same command again goes on where it stopped. Under torchrun the processes share every batch."""
)
@training_options
@click.option(
    "--preset",
    type=click.Choice(list(CLASSIFIER_PRESETS)),
    required=True,
    help="Network and training settings.",
)
@click.option("--test", metavar="PATH|NAME", help="Labelled images to state the accuracy on.")
def classifier(data, outdir, preset, test, batch_gpu, bf16, fp16, save_seconds, device, **changes):
    from dataclasses import replace

    import torch

    from dg.pretraining.noisy_classifier import noisy_accuracy, train_noisy_classifier
    from dg.runtime.files import atomic_write, writable_folder
    from dg.runtime.processes import process_group

    changes |= {"precision": _precision(bf16, fp16)}
    settings = replace(
        CLASSIFIER_PRESETS[preset],
        **{name: value for name, value in changes.items() if value is not None},
    )
    with process_group(on_gpus=True) as ranks:
        device, images = console.pick_device(device, ranks.rank), _images(data, ranks, latents=True)
        heldout, folder = _heldout(test, images), writable_folder(outdir)
        model, log = train_noisy_classifier(
            images,
            settings,
            device,
            _progress(ranks),
            folder / "state.pt",
            save_seconds,
            ranks,
            batch_gpu,
        )
        if not ranks.first:
            return
    with atomic_write(folder / "classifier.pt") as file:
        torch.save({name: tensor.cpu() for name, tensor in model.state_dict().items()}, file)
    _describe(folder, images, settings)
    console.notify(
        f"{folder / 'classifier.pt'}: {settings.steps} steps, names {log[-1]['accuracy']:.3f} of noisy images"
    )
    if heldout:
        stated = ", ".join(
            f"{noisy_accuracy(model, heldout, time):.4f} at {time}"
            for time in (0.01, 0.1, 0.3, 0.6)
        )
        console.notify(f"of {heldout.name}, by VP time: {stated}")


@main.command(
    help="""Train a DDPM (Ho et al. 2020) on ADM's U-Net; writes OUTDIR/network.safetensors, the average of the
weights, for generate.py and `fid.py nll`.

The same command again goes on where it stopped. Under torchrun the processes share every batch."""
)
@training_options
@click.option(
    "--preset",
    type=click.Choice(list(DDPM_PRESETS)),
    required=True,
    help="Network and training settings.",
)
@click.option("--cond", **FLAG, default=False, help="Class-conditional network.")
@click.option(
    "--schedule",
    type=click.Choice(["cosine", "linear"]),
    help="Schedule of the noise.  [default: the preset's]",
)
@click.option(
    "--timesteps",
    "num_steps",
    type=click.IntRange(min=1),
    help="Steps of the noise.  [default: the preset's]",
)
@click.option(
    "--variance",
    type=click.Choice(["fixed_small", "fixed_large", "learned", "learned_range"]),
    help="Variance of the reverse steps.  [default: the preset's]",
)
def ddpm(preset, cond, bf16, fp16, **options):
    from dg.models.ddpm import save_ddpm
    from dg.pretraining.ddpm import train_ddpm

    _train_model(
        train_ddpm,
        save_ddpm,
        *DDPM_PRESETS[preset],
        _precision(bf16, fp16),
        {"conditional": cond},
        **options,
    )


@main.command(
    help="""Train a variational autoencoder with discretised logistic pixels; writes OUTDIR/network.safetensors for
generate.py and `fid.py nll`. Its loss is the negative ELBO in bits per dimension.

The same command again goes on where it stopped. Under torchrun the processes share every batch."""
)
@training_options
@click.option(
    "--preset",
    type=click.Choice(list(VAE_PRESETS)),
    required=True,
    help="Network and training settings.",
)
def vae(preset, bf16, fp16, **options):
    from dg.models.vae import save_vae
    from dg.pretraining.vae import train_vae

    _train_model(train_vae, save_vae, *VAE_PRESETS[preset], _precision(bf16, fp16), {}, **options)


def _train_model(
    train,
    save,
    network,
    settings,
    precision,
    kind,
    data,
    outdir,
    save_seconds,
    device,
    batch_gpu,
    **changes,
):
    """Train with a preset's network and settings and write OUTDIR/network.safetensors."""
    from dataclasses import replace

    from dg.runtime.files import atomic_write, writable_folder
    from dg.runtime.processes import process_group

    changes |= {"precision": precision}
    settings = replace(
        settings, **{name: value for name, value in changes.items() if value is not None}
    )
    with process_group(on_gpus=True) as ranks:
        device, images, folder = (
            console.pick_device(device, ranks.rank),
            _images(data, ranks),
            writable_folder(outdir),
        )
        model, log = train(
            images,
            network,
            settings,
            device=device,
            state_path=folder / "state.pt",
            progress=_progress(ranks),
            save_seconds=save_seconds,
            ranks=ranks,
            microbatch=batch_gpu,
            **kind,
        )
        if not ranks.first:
            return
    with atomic_write(folder / "network.safetensors") as file:
        save(file, model)
    _describe(folder, images, settings, network=model.init_kwargs)
    console.notify(
        f"{folder / 'network.safetensors'}: {model.num_parameters:,} parameters, {settings.steps} steps, "
        f"loss {log[-1]['loss']:.4f}"
    )


def _precision(bf16, fp16):
    """The precision that the two flags ask for; None where neither says."""
    if bf16 and fp16:
        raise click.UsageError("--bf16 and --fp16: give one of them.")
    if bf16 is None and fp16 is None:
        return None
    return "bfloat16" if bf16 else "float16" if fp16 else "float32"


def _images(data, ranks, latents=False):
    """The training images, or latents if allowed."""
    from dg.data.datasets import load_images
    from dg.data.latents import load_set

    with ranks.main_process_first():
        return load_set(data) if latents else load_images(data)


def _heldout(source, images):
    """Labelled images or latents of the size of the training images, or None."""
    from dg.data.latents import load_set

    heldout = load_set(source) if source else None
    if heldout and (heldout.labels is None or heldout.items.shape[1:] != images.items.shape[1:]):
        raise ValueError(
            f"{heldout.name}: --test takes {images.what} of the size of {images.name}, with labels"
        )
    return heldout


def _progress(ranks):
    return console.stoppable(console.progress if ranks.first else console.silent, ranks.any)


def _describe(folder, images, settings, **more):
    """training.json: what the files in the folder come from."""
    from dataclasses import asdict

    from dg.runtime.files import write_json

    write_json(
        folder / "training.json", {"data": images.name, "settings": asdict(settings), **more}
    )


@main.command(
    help="""Encode images into a VAE's latents, for train.py and `pretrain.py classifier`; writes npz shards to OUTDIR.

Images are cropped to squares as ADM crops ImageNet; class folders are labels. The same command again goes on where it
stopped, and with --flip it adds the mirrored copies. Under torchrun the processes share the images."""
)
@click.option(
    "--data",
    required=True,
    metavar="PATH|NAME",
    help="Images of any sizes: class folders, or what train.py takes.",
)
@click.option("--vae", default="sd-vae-ft-mse", metavar="PATH|NAME", help="VAE of the latents.")
@click.option("--outdir", required=True, metavar="DIR", help="Where to write.")
@click.option(
    "--resolution", type=click.IntRange(min=1), default=256, help="Side of the crops in pixels."
)
@click.option(
    "--batch",
    "--batch_size",
    "batch_size",
    type=click.IntRange(min=1),
    default=64,
    help="Images encoded at once; a shard holds their latents.",
)
@click.option(
    "--xflip",
    "--flip",
    "flip",
    **FLAG,
    default=False,
    help="Encode a mirrored copy of every image too.",
)
@click.option("--sample", **FLAG, default=True, help="Draw from the VAE's posterior; 0: its mean.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    help="Precision of the shards. The last line compares what float16 rounds off with the posterior's spread.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, help="Seed of the draws.")
@click.option("--device", help="cpu, cuda, cuda:1 ...  [default: a GPU if there is one]")
def latents(data, vae, outdir, batch_size, device, **settings):
    from dg.data.reader import open_images
    from dg.models.dit import load_vae
    from dg.pretraining.latents import Encoding, encode, latent_store
    from dg.runtime.downloads import resolve
    from dg.runtime.processes import process_group

    settings = Encoding(**settings)
    with process_group() as ranks:
        device = console.pick_device(device, ranks.rank)
        images = open_images(data)
        vae = load_vae(resolve(vae, console.progress, console.notify), device)
        store = latent_store(outdir, images, vae, settings, batch_size)
        progress = console.stoppable(console.progress if ranks.first else console.silent)
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
    console.notify(f"{len(store.seeds)} latents in {outdir}{measured}")


@main.command(
    help="Train the classifier that gives the features of `fid.py`; writes OUTDIR/classifier.safetensors."
)
@click.option("--data", required=True, metavar="PATH|NAME", help="Labelled training images.")
@click.option("--outdir", required=True, metavar="DIR", help="Where to write.")
@click.option("--test", metavar="PATH|NAME", help="Labelled images to state the accuracy on.")
@click.option(
    "--epochs", type=click.IntRange(min=1), default=20, help="Passes over the training images."
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, help="Seed.")
def features(data, outdir, test, epochs, seed):
    from dg.data.datasets import load_images
    from dg.evaluation.classifier import (
        ClassifierTraining,
        accuracy,
        save_classifier,
        train_classifier,
    )
    from dg.runtime.files import writable_folder

    images, folder = load_images(data), writable_folder(outdir)
    heldout = _heldout(test, images)
    model = train_classifier(images, ClassifierTraining(epochs=epochs, seed=seed), console.progress)
    save_classifier(Path(folder) / "classifier.safetensors", model)
    stated = f", {accuracy(model, heldout):.4f} of {heldout.name}" if heldout else ""
    console.notify(
        f"{folder / 'classifier.safetensors'}: names {accuracy(model, images):.4f} of {images.name}{stated}"
    )


@main.command(
    help="Write any score network that can be read, such as an NVIDIA .pkl, as a .safetensors file."
)
@click.option("--network", required=True, metavar="PATH|URL|NAME", help="The network to read.")
@click.option("--out", required=True, metavar="PATH", help="The .safetensors file to write.")
def convert(network, out):
    import edm
    from dg.runtime.downloads import resolve
    from dg.runtime.files import atomic_write

    net = edm.load_network(resolve(network, console.progress, console.notify))
    with atomic_write(out) as file:
        edm.save_network(file, net)
    console.notify(
        f"{out}: {type(net).__name__}, {sum(p.numel() for p in net.parameters()):,} parameters"
    )


if __name__ == "__main__":
    console.run(main)
