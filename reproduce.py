"""Run a named experiment from end to end: results table, pictures, report.

\b
Examples:
  python reproduce.py                         # digits: minutes on a laptop's CPU, nothing to download
  python reproduce.py cifar10-uncond          # the published table beside the measured one; a GPU and a network
  python reproduce.py cifar10-uncond --dry-run    # what it would cost
  python reproduce.py ensemble --world mnist-14 --data mnist.npz    # a study in another world, on a CPU
  python reproduce.py mnist --data mnist.npz  # EDM against DDPM and VAE; mnist-cond: the same with classes
  python reproduce.py two-gaussians           # every loss of the discriminator against the closed form
  python reproduce.py imagenet-dit --data ImageNet2012/train --stage sample-guided --shard 3/8   # one of eight machines

A study (recipes, extractors, epochs, selection, weights, window, churn, steps, significance, lora, ensemble) runs in a world
(cifar10-uncond, cifar10-cond, cifar10-jpeg, cifar10-jpeg-16, mnist, mnist-14); the name of a world alone means its recipes,
except for mnist. Studies of one world share their networks and samples. Stages that are done are not repeated; after an
interruption the same command goes on.
"""

import shlex
import sys
from pathlib import Path

import click

from dg.runtime import console

EXPERIMENTS = {  # name: module of dg.experiments, and what its `run` is told besides
    "digits": ("digits", {}),
    "two-gaussians": ("two_gaussians", {}),
    "mnist": ("mnist", {"conditional": False}),
    "mnist-cond": ("mnist", {"conditional": True}),
}
STUDIES = (
    "recipes",
    "extractors",
    "epochs",
    "selection",
    "weights",
    "window",
    "churn",
    "steps",
    "significance",
    "lora",
    "ensemble",
)
IMAGENET = ("imagenet-dit", "imagenet-adm")
WORLDS = ("cifar10-uncond", "cifar10-cond", "cifar10-jpeg", "cifar10-jpeg-16", "mnist", "mnist-14")


@click.command(help=__doc__, context_settings=dict(max_content_width=110, show_default=True))
@click.argument("name", default="digits", metavar="[NAME]")
@click.option(
    "--world",
    type=click.Choice(WORLDS),
    help="Where to run a study.  [default: cifar10-uncond, churn: cifar10-cond]",
)
@click.option(
    "--profile",
    type=click.Choice(["full", "smoke"]),
    default="full",
    help="smoke: tiny and meaningless, to see that everything runs.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print the stages of a study and what they would cost, and run nothing.",
)
@click.option(
    "--stage",
    metavar="STAGE",
    help="Run this stage of a study and what it needs, and nothing else.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=2),
    metavar="N",
    help="Images of every system in all.  [default: the world's]",
)
@click.option(
    "--seeds-per-set",
    type=click.IntRange(min=2),
    metavar="N",
    help="Images of a measured set; --samples / N sets.  [default: the world's]",
)
@click.option(
    "--shard",
    metavar="I/N",
    help="Of imagenet: make only every N-th part of the images of --stage, from part I on, "
    "counted from 0. Without it afterwards the rest is made and measured.",
)
@click.option(
    "--fresh",
    is_flag=True,
    help="Forget what earlier runs made; of a study: everything in its world.",
)
@click.option(
    "--data",
    metavar="PATH",
    help="Data set of the experiment, where it is not embedded or downloaded.",
)
@click.option("--runs", default="runs", metavar="DIR", help="Where intermediate files stay.")
@click.option(
    "--results",
    default="results",
    metavar="DIR",
    help="Where results.json, pictures and report go.",
)
@click.option(
    "--publish",
    is_flag=True,
    help="Copy results and pictures to docs/results/NAME, fill the README.",
)
@click.option("--device", help="cpu, cuda, cuda:1 ...  [default: a GPU if there is one]")
def main(
    name,
    world,
    profile,
    dry_run,
    stage,
    samples,
    seeds_per_set,
    shard,
    fresh,
    data,
    runs,
    results,
    publish,
    device,
):
    if publish and profile != "full":
        raise click.UsageError("--publish keeps measured results; leave --profile smoke out.")
    suffix = "" if profile == "full" else f"-{profile}"
    command = shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])
    common = dict(
        command=command,
        device=console.pick_device(device),
        progress=console.progress,
        notify=console.notify,
    )
    if shard and name not in IMAGENET:
        raise click.UsageError(f"--shard belongs to {' and '.join(IMAGENET)}, not to {name}.")
    if shard and fresh:
        raise click.UsageError(
            "--fresh would forget what other machines have made with --shard; leave one of the two out."
        )
    if name in IMAGENET:
        if world or seeds_per_set or profile == "smoke":
            raise click.UsageError(
                f"--world, --seeds-per-set and --profile smoke are not for {name}."
            )
        imagenet = _imagenet(name, data, samples, shard, common)
        run_folder, folder, target = Path(runs) / name, Path(results) / name, name
        if dry_run:
            click.echo(_overview(imagenet.plan(), run_folder, RATES["imagenet"]))
            return
        outcome, table = _run_imagenet(imagenet, run_folder, folder, fresh, stage, command)
    elif name in EXPERIMENTS:
        if dry_run or stage or samples or seeds_per_set or world:
            raise click.UsageError(
                f"--world, --dry-run, --stage, --samples, --seeds-per-set belong to studies, not to {name}."
            )
        outcome, folder, table = _experiment(
            name,
            profile,
            Path(runs) / (name + suffix),
            Path(results) / (name + suffix),
            fresh,
            dict(common, data=data),
        )
        target = name
    else:
        request = _request(name, world, profile, data, samples, seeds_per_set)
        run_folder = Path(runs) / (request.world_name + suffix)
        if dry_run:
            from dg.experiments.pipeline import Stages
            from dg.experiments.study import StudyRun

            plan = StudyRun(request, Stages(run_folder), common["device"]).plan()
            click.echo(_overview(plan, run_folder, RATES["studies"]))
            return
        folder, target = Path(results) / (request.folder + suffix), request.folder
        outcome, table = _study(request, run_folder, folder, fresh, stage, common)
    if outcome is None:
        return
    click.echo(table)
    click.echo(f"report: {folder / 'report.html'}")
    if publish:
        from dg.experiments import publish as publishing
        from dg.experiments import readme_tables as readme

        click.echo(f"published to {publishing.publish(folder, target)}")
        readme.fill()


def _experiment(name, profile, run_folder, result_folder, fresh, common):
    """Run an experiment that has a module of its own."""
    from importlib import import_module

    from dg.experiments.pipeline import Stages
    from dg.runtime.files import writable_folder

    module, told = EXPERIMENTS[name]
    experiment = import_module(f"dg.experiments.{module}")
    for folder in (run_folder, result_folder):
        writable_folder(folder)
    if fresh:
        Stages(run_folder).clear()
    outcome = experiment.run(
        experiment.PROFILES[profile], run_folder, result_folder, **common, **told
    )
    return outcome, result_folder, experiment.text_table(outcome)


def _request(name, world, profile, data, samples, seeds_per_set):
    """The study that the options ask for."""
    if name in WORLDS:
        if world not in (None, name):
            raise click.UsageError(f"{name} is itself a world; leave --world out.")
        name, world = "recipes", name
    if name not in STUDIES:
        known = ", ".join((*EXPERIMENTS, *WORLDS, *STUDIES))
        raise click.UsageError(f"there is no experiment {name!r}; there are: {known}.")
    from dataclasses import replace

    from dg.experiments.settings import WORLDS as SETTINGS
    from dg.experiments.settings import smoke
    from dg.experiments.study import Request

    world = world or ("cifar10-cond" if name == "churn" else "cifar10-uncond")
    settings = SETTINGS[world]
    if profile == "smoke":
        if data is not None:
            raise click.UsageError("--profile smoke uses the embedded digits; leave --data out.")
        settings = smoke(settings)
    size = seeds_per_set or (min(settings.num_images, samples) if samples else settings.num_images)
    if samples is not None and samples % size:
        raise click.UsageError(
            f"--samples {samples} is no multiple of the {size} images of a set; change one of them."
        )
    sets = samples // size if samples else settings.num_sets
    return Request(name, world, replace(settings, num_images=size, num_sets=sets), data)


def _study(request, run_folder, result_folder, fresh, stage, common):
    from dg.experiments import study, study_report
    from dg.experiments.pipeline import Stages
    from dg.runtime.files import writable_folder

    for folder in (run_folder, result_folder):
        writable_folder(folder)
    if fresh:
        Stages(run_folder).clear()
    outcome = study.run(request, run_folder, result_folder, only=stage, **common)
    return outcome, outcome and study_report.text_table(outcome)


def _imagenet(name, data, samples, shard, common):
    """The experiment that the options ask for."""
    from dataclasses import replace

    from dg.experiments.imagenet import SETTINGS, ImageNetRun

    if data is None:
        raise click.UsageError(
            f"{name} needs the training images of ImageNet: give --data FOLDER with a folder for each class."
        )
    setting = replace(SETTINGS[name], num_images=samples) if samples else SETTINGS[name]
    return ImageNetRun(
        name,
        setting,
        data,
        common["progress"],
        common["notify"],
        common["device"],
        shard and _shard(shard),
    )


def _shard(text):
    """(i, n) of "i/n"."""
    parts = text.split("/")
    if (
        len(parts) != 2
        or not all(part.isdecimal() for part in parts)
        or not int(parts[0]) < int(parts[1])
    ):
        raise click.UsageError(f"--shard {text}: give I/N with I from 0 to N - 1, for example 3/8.")
    return int(parts[0]), int(parts[1])


def _run_imagenet(imagenet, run_folder, result_folder, fresh, stage, command):
    from dg.experiments import imagenet as experiment
    from dg.experiments import imagenet_report
    from dg.experiments.pipeline import Stages
    from dg.runtime.files import writable_folder

    console.allow_tf32()
    for folder in (run_folder, result_folder):
        writable_folder(folder)
    if fresh:
        Stages(run_folder).clear()
    outcome = experiment.run(imagenet, run_folder, result_folder, command, stage)
    return outcome, outcome and imagenet_report.text_table(outcome)


RATES = {
    "studies": "GPU hours are rough: scaled from the paper's one A100-hour for 50,000 CIFAR-10 images.",
    "imagenet": "GPU hours are rough: of images alone, by their operations at 50 TFLOP/s, a third of an A100's peak in TF32.",
}


def _overview(plan, run_folder, rate):
    """A line for every stage: done or what it would cost."""
    from dg.experiments.costs import Cost
    from dg.experiments.pipeline import Stages

    lines, total = (
        [f"{'stage':<24} {'images':>10} {'evaluations':>13} {'GPU hours':>10} {'disk MB':>9}"],
        Cost(),
    )
    for stage, done in Stages(run_folder).overview(plan):
        cost = stage.cost
        total = total if done else total + cost
        figures = f"{cost.images:>10,} {cost.evaluations:>13,} {cost.gpu_hours:>10.2f} {cost.bytes / 1e6:>9,.0f}"
        lines.append(
            f"{stage.name:<24} {figures}  {'done; ' if done else ''}{stage.title}".rstrip("; ")
        )
    lines.append(
        f"{'still to do':<24} {total.images:>10,} {total.evaluations:>13,} {total.gpu_hours:>10.2f} "
        f"{total.bytes / 1e6:>9,.0f}"
    )
    return "\n".join([*lines, rate])


if __name__ == "__main__":
    console.run(main)
