"""Train what has no public checkpoint: a score network, and a classifier whose features measure small images.
Also: convert a published network to this project's format.

\b
Examples:
  python pretrain.py score --preset digits --data digits:train --outdir runs/by-hand/score
  python pretrain.py features --data digits:train --outdir runs/by-hand/features
  python pretrain.py convert --network edm-cifar10-32x32-uncond-vp --out cifar10.safetensors
"""

from pathlib import Path

import click

from dg.runtime import console
from dg.runtime.console import FLAG


@click.group(help=__doc__, no_args_is_help=False, context_settings=dict(max_content_width=110, show_default=True))
def main():
    pass


@main.command(help="Train an EDM score network; writes OUTDIR/network.safetensors. A rerun goes on where it stopped.")
@click.option("--data", required=True, metavar="PATH|NAME", help="Training images.")
@click.option("--outdir", required=True, metavar="DIR", help="Where to write.")
@click.option("--preset", type=click.Choice(["digits"]), default="digits", help="Network and training settings.")
@click.option("--cond", **FLAG, default=False, help="Class-conditional network.")
@click.option("--steps", type=click.IntRange(min=1), help="Training steps.  [default: the preset's]")
@click.option("--batch_size", type=click.IntRange(min=1), help="Images per step.  [default: the preset's]")
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="Learning rate.  [default: the preset's]")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Seed.  [default: the preset's]")
@click.option("--device", help="cpu, cuda, cuda:1 ...  [default: a GPU if there is one]")
def score(data, outdir, preset, cond, device, **changes):
    from dataclasses import asdict, replace

    import edm
    from dg.pretraining import SCORE_PRESETS, build_score_network, train_score_network
    from dg.runtime.datasets import load_images
    from dg.runtime.files import atomic_write, writable_folder, write_json

    device, images = console.pick_device(device), load_images(data)
    if cond and images.labels is None:
        raise ValueError(f"{images.name}: has no class labels, which --cond needs")
    folder = writable_folder(outdir)
    network, settings = SCORE_PRESETS[preset]
    settings = replace(settings, **{name: value for name, value in changes.items() if value is not None})
    net = build_score_network(images, network, settings.seed, cond).to(device)
    net, log = train_score_network(net, images, settings, folder / "state.pt", console.progress)
    with atomic_write(folder / "network.safetensors") as file:
        edm.save_network(file, net)
    write_json(folder / "log.json", {"data": images.name, "settings": asdict(settings), "log": log})
    console.notify(f"{folder / 'network.safetensors'}: {settings.steps} steps, loss {log[-1]['loss']:.4f}")


@main.command(help="Train the classifier that gives the features of `fid.py`; writes OUTDIR/classifier.safetensors.")
@click.option("--data", required=True, metavar="PATH|NAME", help="Labelled training images.")
@click.option("--outdir", required=True, metavar="DIR", help="Where to write.")
@click.option("--test", metavar="PATH|NAME", help="Labelled images to state the accuracy on.")
@click.option("--epochs", type=click.IntRange(min=1), default=20, help="Passes over the training images.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, help="Seed.")
def features(data, outdir, test, epochs, seed):
    from dg.evaluation.classifier import ClassifierTraining, accuracy, save_classifier, train_classifier
    from dg.runtime.datasets import load_images
    from dg.runtime.files import writable_folder

    images, folder = load_images(data), writable_folder(outdir)
    heldout = load_images(test) if test else None
    if heldout and (heldout.labels is None or heldout.images.shape[1:] != images.images.shape[1:]):
        raise ValueError(f"{heldout.name}: --test takes images of the size of {images.name}, with labels")
    model = train_classifier(images, ClassifierTraining(epochs=epochs, seed=seed), console.progress)
    save_classifier(Path(folder) / "classifier.safetensors", model)
    stated = f", {accuracy(model, heldout):.4f} of {heldout.name}" if heldout else ""
    console.notify(f"{folder / 'classifier.safetensors'}: names {accuracy(model, images):.4f} of {images.name}{stated}")


@main.command(help="Write any score network that can be read, such as an NVIDIA .pkl, as a .safetensors file.")
@click.option("--network", required=True, metavar="PATH|URL|NAME", help="The network to read.")
@click.option("--out", required=True, metavar="PATH", help="The .safetensors file to write.")
def convert(network, out):
    import edm
    from dg.runtime.downloads import resolve
    from dg.runtime.files import atomic_write

    net = edm.load_network(resolve(network, console.progress, console.notify))
    with atomic_write(out) as file:
        edm.save_network(file, net)
    console.notify(f"{out}: {type(net).__name__}, {sum(p.numel() for p in net.parameters()):,} parameters")


if __name__ == "__main__":
    console.run(main)
