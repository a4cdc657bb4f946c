"""Options of fid.py diagnose, and the diagnosis that they ask for."""

import click

from dg.options.common import DEVICE, Command, finish, head_file, input_file
from dg.options.guidance import refuse_unused_classifier
from dg.options.numbers import Numbers
from dg.runtime import console
from dg.runtime.pretrained import classifier_of

DIAGNOSE = dict(
    cls=Command,
    help="Measure on held-out images whether guidance by a discriminator will help: which window, "
    "which weight, which checkpoint, and why not.",
    sections={
        "Images": [
            click.option(
                "--network",
                required=True,
                type=console.InputPath(),
                metavar="PATH|URL|NAME",
                help="Score network that guidance is to correct.",
            ),
            click.option(
                "--data",
                required=True,
                type=console.InputPath(),
                metavar="PATH|NAME",
                help="Real images that no discriminator was trained on.",
            ),
            click.option(
                "--images",
                required=True,
                type=console.InputPath(),
                metavar="PATH",
                help="Images of the network that no discriminator was trained on.",
            ),
            click.option(
                "--train_data",
                type=console.InputPath(),
                metavar="PATH|NAME",
                help="Real training images of the discriminator, with --train_images: for its AUC "
                "on them, which tells overfitting.",
            ),
            click.option(
                "--train_images",
                type=console.InputPath(),
                metavar="PATH",
                help="Generated training images of the discriminator, with --train_data.",
            ),
            click.option(
                "--num_samples",
                "--num",
                type=click.IntRange(min=10),
                metavar="N",
                help="Number of images of each kind, drawn by --seed.  [default: as many as both "
                "have]",
            ),
            click.option(
                "--seed",
                type=click.IntRange(min=0),
                default=0,
                metavar="S",
                help="Seed of the noise and of the choice of images.",
            ),
        ],
        "Discriminator": [
            click.option(
                "--discriminator_ckpt",
                "--discriminator_checkpoint",
                multiple=True,
                required=True,
                type=console.InputPath(),
                metavar="PATH",
                help="Head of the discriminator. Repeat the option to compare heads, for example "
                "the best and the last.",
            ),
            click.option(
                "--pretrained_classifier_ckpt",
                type=console.InputPath(),
                metavar="PATH",
                help="ADM classifier on whose features the heads were trained.",
            ),
            click.option(
                "--lora_checkpoint",
                type=console.InputPath(),
                metavar="PATH",
                help="LoRA of the extractor, for a head that was trained with one.",
            ),
            click.option(
                "--calibrated",
                **console.FLAG,
                default=False,
                help="Diagnose the calibrated log ratio.",
            ),
        ],
        "Measurement": [
            click.option(
                "--weights",
                type=Numbers(),
                default="0.5,1,2",
                metavar="W,W,...",
                help="Weights, equal at both stages of a step, whose denoising error is listed.",
            ),
            click.option(
                "--levels",
                type=click.IntRange(min=2),
                default=10,
                metavar="N",
                help="Noise levels of the default sampler that are measured.",
            ),
            click.option(
                "--num_visited",
                type=click.IntRange(min=0),
                default=256,
                metavar="N",
                help="Guided images that are sampled to see which states they visit; 0 for none.",
            ),
        ],
        "Results": [
            click.option(
                "--outdir",
                type=console.OutputPath(),
                metavar="DIR",
                help="Folder for diagnosis.json, diagnosis.png and histograms of the log ratio, "
                "log_ratio.png.  [default: none is written]",
            ),
            click.option(
                "--store",
                type=console.OutputPath(),
                metavar="PATH",
                help="File for a copy of the only head with its temperatures by noise level, for "
                "`generate.py --calibrated`.",
            ),
        ],
        "Computation": [
            click.option(
                "--batch",
                "--batch_size",
                "batch",
                type=click.IntRange(min=1),
                default=64,
                metavar="N",
                help="Images computed at once.",
            ),
            DEVICE,
        ],
    },
)


def check_diagnosis(options, store):
    """Usage errors of options that do not go together."""
    if (options["train_data"] is None) != (options["train_images"] is None):
        raise click.UsageError("--train_data and --train_images belong together; give both.")
    if store and len(options["discriminator_ckpt"]) > 1:
        raise click.UsageError("--store keeps one head; give one --discriminator_ckpt.")
    if store and options["calibrated"]:
        raise click.UsageError(
            "--store fits temperatures to the logits as they are; leave --calibrated out."
        )


def diagnosis_of(options, device, progress, notify):
    """The diagnosis that the options ask for; heads are named as they are given."""
    import edm
    from dg.data.latents import load_set
    from dg.evaluation.diagnosis import diagnose
    from dg.training_data import doubts, random_subset

    net = edm.load_network(input_file(options["network"]), device, notify=notify)
    discriminators = _discriminators(net, device, options)
    real, fake = (load_set(options[name], notify) for name in ("data", "images"))
    for line in doubts(real, fake, options["data"], options["images"]):
        notify(line)
    _tell_origin(net, options["images"], notify)
    training, count = None, options["num_samples"]
    if options["train_data"] is not None:
        training = tuple(load_set(options[name], notify) for name in ("train_data", "train_images"))
    with console.option("--num_samples"):
        real, fake = (random_subset(one, count, options["seed"]) for one in (real, fake))
    if len(real) != len(fake):
        notify(f"{min(len(real), len(fake))} images of each kind are taken, drawn by the seed")
    return diagnose(
        net,
        discriminators,
        real,
        fake,
        training,
        options["weights"],
        num_levels=options["levels"],
        num_visited=options["num_visited"],
        seed=options["seed"],
        batch_size=options["batch"],
        device=device,
        progress=progress,
    )


def keep_diagnosis(outcome, options, folder, store):
    """Write the results and the calibrated head where they are asked for, and tell what to do
    next."""
    from dg.calibration import Calibration
    from dg.checkpoints import save_calibrated
    from dg.evaluation.diagnosis import calibration
    from dg.runtime.files import writable_file, write_json

    lines, heads = [], outcome["heads"]
    if folder is not None:
        write_json(folder / "diagnosis.json", outcome)
        lines.append(f"{', '.join(['diagnosis.json', *_draw(folder, heads)])} in {folder}")
    if store:
        (name,) = heads
        with console.option("--store"):
            fitted = Calibration(*calibration(heads[name]))
            save_calibrated(writable_file(store), head_file(name), fitted)
        lines.append(f"{store}: the head with its temperatures; use it with --calibrated")
    gains = {name: one["gain"]["value"] for name, one in heads.items() if one["verdict"] == "guide"}
    tries = [
        name
        for name, one in heads.items()
        if one["verdict"] == "measure guided images" and "wrong network" not in one["findings"]
    ]
    name = max(gains, key=gains.get) if gains else next(iter(tries), None)
    finish(lines, name and _guided(options, name, heads[name]))


def _draw(folder, heads):
    """Draw what was measured, and the log ratios of every head; returns the names of the files."""
    from dg.evaluation.figures import counted_log_ratios
    from dg.evaluation.figures.diagnosis import diagnosis_panels
    from dg.evaluation.figures.style import short_names

    short = {name.removesuffix(".safetensors"): one for name, one in short_names(heads).items()}
    diagnosis_panels(folder / "diagnosis.png", short)
    drawn = ["diagnosis.png"]
    for name, one in short.items():
        of_head = f"-{name.replace('/', '-')}" if len(short) > 1 else ""
        drawn.append(f"log_ratio{of_head}.png")
        title = f"Log ratio on held-out images{f', {name}' if of_head else ''}"
        counted_log_ratios(folder / drawn[-1], one["levels"], title)
    return drawn


def _guided(options, name, head):
    """The command that guides as the diagnosis of a head suggests, or else with the default
    weight."""
    words = ["generate.py", "--network", options["network"], "--outdir", "GUIDED"]
    words += ["--seeds", "0-63", "--discriminator_ckpt", name]
    for option in ("pretrained_classifier_ckpt", "lora_checkpoint"):
        words += [f"--{option}", options[option]] if options[option] else []
    words += ["--calibrated"] if options["calibrated"] else []
    if head["window"]:
        words += ["--dg_weight_1st_order", f"{2 * head['weight']['value']:.3g}"]
        words += ["--time_min", f"{head['window'][0]:.3g}"]
        words += ["--time_max", f"{head['window'][1]:.3g}"]
    return words


def _discriminators(net, device, options):
    """Discriminators by the names of their heads."""
    from dg.checkpoints import load_discriminator

    found, lora = {}, input_file(options["lora_checkpoint"])
    for name in options["discriminator_ckpt"]:
        classifier = input_file(options["pretrained_classifier_ckpt"] or classifier_of([name]))
        found[name] = load_discriminator(
            classifier,
            head_file(name),
            net,
            device=device,
            lora_path=lora,
            calibrated=options["calibrated"],
        )
        refuse_unused_classifier(found[name])
    return found


def _tell_origin(net, images, notify):
    """Say where a manifest names another network or a guidance."""
    from pathlib import Path

    from dg.data.manifests import manifest_of
    from edm.fingerprints import fingerprint

    manifest = manifest_of(Path(images))
    if manifest is None:
        return
    if manifest["settings"].get("network") not in (None, fingerprint(net)):
        notify(f"{images} was generated by another network or precision, as its manifest.json says")
    if manifest["settings"].get("guidance"):
        notify(f"{images} was generated with guidance, which a discriminator is not trained on")
