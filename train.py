"""Train a discriminator: real against generated images at every noise level.

\b
Examples:
  # on the score network's own encoder (no second network), digits by hand
  python train.py --preset digits --network runs/by-hand/score/network.safetensors --data digits:train \\
      --sample_dir runs/by-hand/fake --save_dir runs/by-hand/disc
  # the authors' recipe on the ADM classifier's features
  python train.py --pretrained_classifier_ckpt 32x32_classifier.pt --data cifar10 --sample_dir out \\
      --save_dir disc --epoch 60 --num_data 50000
"""

import click

from dg.runtime import console
from dg.runtime.console import FLAG


@click.command(help=__doc__, context_settings=dict(max_content_width=110, show_default=True))
@click.option("--data", "--datadir", "data", required=True, metavar="PATH|NAME",
              help="Real images: digits:train, cifar10, mnist, a folder, zip or npz.")
@click.option("--sample_dir", "--gendir", "sample_dir", required=True, metavar="PATH",
              help="Generated images: what generate.py wrote, or any folder, zip or npz.")
@click.option("--save_dir", "--savedir", "save_dir", required=True, metavar="DIR",
              help="Where to keep checkpoints and curves; a rerun goes on there.")
@click.option("--extractor", type=click.Choice(["classifier", "score", "none"]),
              help="What the head sees.  [default: classifier if its file is given, else score if a network is given]")
@click.option("--pretrained_classifier_ckpt", metavar="PATH", help="ADM classifier for --extractor classifier.")
@click.option("--network", metavar="PATH|URL|NAME", help="Score network for --extractor score.")
@click.option("--cond", "--conditional", "cond", **FLAG, default=False, help="Class-conditional discriminator.")
@click.option("--preset", type=click.Choice(["default", "digits"]), default="default",
              help="Recipe; the options below change single values of it.")
@click.option("--epoch", "--n_epochs", "--epochs", "epochs", type=click.IntRange(min=1), help="Passes over the images.")
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="Learning rate of Adam.")
@click.option("--wd", "--weight_decay", "weight_decay", type=click.FloatRange(min=0), help="Weight decay.")
@click.option("--lr_schedule", type=click.Choice(["constant", "cosine"]), help="Learning rate over time.")
@click.option("--batch_size", type=click.IntRange(min=2), help="Half of it real, half generated.")
@click.option("--num_data", type=click.IntRange(min=1), metavar="N", help="Use the first N real and generated images.")
@click.option("--unequal", **FLAG, default=None, help="Allow different numbers of real and generated images.")
@click.option("--ema_halflife", type=click.IntRange(min=0), help="Images; 0 = no averaging of the head.")
@click.option("--noise", "time_sampling", type=click.Choice(["importance", "uniform", "lognormal"]),
              help="Distribution of noise levels.")
@click.option("--time_min", "--t_min", "time_min", type=click.FloatRange(0, 1, min_open=True),
              help="Smallest VP time of the first two.")
@click.option("--width", type=click.IntRange(min=1),
              help="Channels of the head.  [default: 32 on a score network, else 128]")
@click.option("--keep_every", type=click.IntRange(min=0), help="Also keep the head of every so many epochs.")
@click.option("--seed", type=int, help="Seed of split, initialisation, order and noise.")
@click.option("--device", help="cpu, cuda, cuda:1 ...  [default: a GPU if there is one]")
def main(data, sample_dir, save_dir, extractor, pretrained_classifier_ckpt, network, cond, num_data, width, device,
         preset, **changes):
    extractor = extractor or ("classifier" if pretrained_classifier_ckpt else "score" if network else None)
    if extractor is None:
        raise click.UsageError("what should the head see? Give --network, --pretrained_classifier_ckpt, or "
                               "--extractor none.")
    from dataclasses import replace
    from pathlib import Path

    from dg.discriminator import build_discriminator
    from dg.evaluation.figures import training_curves
    from dg.runtime.datasets import load_images
    from dg.training import PRESETS, best_entry, check_sets, train_discriminator

    device = console.pick_device(device)
    settings = replace(PRESETS[preset], **{name: value for name, value in changes.items() if value is not None})
    real, fake = (load_images(source, num_data) for source in (data, sample_dir))
    check_sets(real, fake, settings, cond)
    discriminator = build_discriminator(extractor, real, _network(network, device), pretrained_classifier_ckpt,
                                        conditional=cond, width=width, seed=settings.seed, device=device)
    log = train_discriminator(discriminator, real, fake, settings, save_dir, cond, console.progress)
    training_curves(Path(save_dir) / "curves.png", log)
    best = best_entry(log)
    console.notify(f"{save_dir}/best.safetensors: epoch {best['epoch']}, validation loss {best['valid_loss']:.4f}, "
                   f"accuracy {best['valid_accuracy']:.3f}; last.safetensors: epoch {log[-1]['epoch']}, "
                   f"{log[-1]['valid_loss']:.4f}")


def _network(network, device):
    if network is None:
        return None
    import edm
    from dg.runtime.downloads import resolve

    return edm.load_network(resolve(network, console.progress, console.notify), device)


if __name__ == "__main__":
    console.run(main)
