#!/usr/bin/env python3
"""Run a named experiment from end to end: results table, pictures, report.

NAME is quickstart (the default), digits, a comparison, two-gaussians, imagenet-dit,
imagenet-adm, imagenet-adm-weights, a study or a setting. A comparison (mnist, models-mnist-14,
models-cifar10-16, models-cifar10, models-imagenet64; with classes: the same with -cond at
the end) is EDM against DDPM and VAE. A study (recipes, extractors, epochs, selection, weights,
window, churn, steps, significance, lora, ensemble, methods, gains-add-up, given, failures, cost,
kinds) runs in a setting (cifar10-uncond, cifar10-cond, ffhq-64, celeba-64, cifar10-jpeg,
cifar10-jpeg-16, mnist, mnist-14, mnist-28, cifar10-16). The name of a setting alone runs the study
recipes in it, except for mnist. Studies of one setting share their networks and samples.

The same command again continues after an interruption; finished stages are not repeated.

\b
Examples:
  # the quickstart: minutes on a CPU, nothing to download
  python reproduce.py
  # the same with every network trained anew: hours
  python reproduce.py --from-scratch
  # the published table beside the measured one
  python reproduce.py cifar10-uncond
  # the cost of it
  python reproduce.py cifar10-uncond --dry-run
  # a study on a CPU
  python reproduce.py ensemble --setting mnist-14 --data mnist.npz
  # EDM against DDPM and VAE, trained with equal compute: hours
  python reproduce.py models-mnist-14 --data mnist.npz
  # the same with all three trained in 90 minutes; mnist-cond: with classes
  python reproduce.py mnist --data mnist.npz
  # FFHQ: a folder with train and test
  python reproduce.py ffhq-64 --data FFHQ-64
  # CelebA, by a network of your own: the published one cannot be read
  python reproduce.py celeba-64 --data CelebA-64 --network runs/celeba
  # EDM against DDPM and VAE on JPEGs of CIFAR-10, at 16 pixels
  python reproduce.py models-cifar10-16 --data cifar10-jpeg
  # every loss against the closed form
  python reproduce.py two-gaussians
  # an eighth of the guided images of ImageNet
  python reproduce.py imagenet-dit --data ImageNet2012/train \\
      --stage sample-guided --shard 3/8
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import click

from dg.experiments import registry
from dg.options import common as shared
from dg.options.reproduce import BY_HAND, OPTIONS
from dg.runtime import console


class Job(NamedTuple):
    """A run that the command asks for.

    plan    its stages; None if they are not known before
    run     (folder of stages, folder of results, stage or None) -> results or None
    table   the results for a terminal
    folder  folder of its stages, and name of its results
    notes   of a dry run, a line each
    missing  what has to be given before it can run
    """

    plan: Callable | None
    run: Callable
    table: Callable
    folder: str
    name: str
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


UNKNOWN = "DATA"  # in place of images that are not given: no cost depends on them
RATES = {
    "studies": "GPU hours are rough: scaled from the paper's one A100-hour for 50,000 CIFAR-10 "
    "images.",
    "imagenet": "GPU hours are rough: of images alone, by their operations at 50 TFLOP/s, a third "
    "of an A100's peak in TF32.",
}


@click.command(
    cls=shared.Command, sections=OPTIONS, **shared.texts(__doc__), context_settings=shared.SETTINGS
)
@click.argument("name", default=registry.QUICKSTART, metavar="[NAME]")
@shared.version
def main(
    name, profile, dry_run, stage, fresh, runs, results, report_only, publish, device, **choices
):
    if publish and profile != "full":
        raise click.UsageError("--publish keeps measured results; leave --profile smoke out.")
    if choices["shard"] and fresh:
        raise click.UsageError(
            "--fresh would remove the images that other machines made with --shard; leave "
            "one of the two out."
        )
    suffix = "" if profile == "full" else f"-{profile}"
    if report_only:
        console.refuse(["dry_run", "stage", "fresh", "samples", "seeds_per_set", "shard"], name)
        target = _target(name, choices["setting"], choices["network"]) + suffix
        _report_again(target, Path(results), publish)
        return
    common = dict(
        command=console.command_line(),
        device=console.pick_device(device),
        progress=console.stoppable(console.progress),
        notify=console.notify,
    )
    job = _job(name, profile, dry_run, choices, common)
    run_folder, folder = Path(runs) / (job.folder + suffix), Path(results) / (job.name + suffix)
    if dry_run:
        click.echo(_overview(job, run_folder))
        more = ", and with what is missing" if job.missing else ""
        shared.finish([f"next: the same command without --dry-run{more}"])
        return
    outcome = _run(job, run_folder, folder, fresh, stage)
    if outcome is None:
        done = f"stage {stage} is done; its files are in {run_folder}"
        shared.finish([done, "next: the same command without --stage, for the rest and the report"])
        return
    told = [job.table(outcome), f"report: {folder / 'report.html'}"]
    if publish:
        from dg.experiments import publish as publishing

        told.append(f"published to {publishing.publish(folder, job.name)}")
        publishing.fill()
    click.echo("\n".join(told))  # last: nobody may be reading


def _report_again(target: str, results: Path, publish: bool) -> None:
    from dg.experiments import publish as publishing
    from dg.experiments.again import report_again

    report_again(target, results / target, notify=console.notify)
    click.echo(f"report: {results / target / 'report.html'}")
    if publish:
        click.echo(f"published to {publishing.publish(results / target, target)}")
        publishing.fill()


def _target(name: str, setting: str | None, network: str | None) -> str:
    """The name of an experiment's results."""
    if name in registry.STUDIES:
        setting = setting or registry.DEFAULT_SETTING.get(name, registry.SETTINGS[0])
        name = setting if name == "recipes" else f"{name}-{setting}"
    return f"{name}-{Path(network).stem}" if network else name


def _job(name, profile, dry_run, choices, common) -> Job:
    """The job that name and options ask for. Options that mean nothing for it are refused."""
    if name not in registry.IMAGENET:
        console.refuse(["shard"], name)
    if name in (*registry.IMAGENET, registry.TWO_GAUSSIANS):
        console.refuse(["from_scratch", "network"], name)
    if name in registry.IMAGENET:
        console.refuse(["setting", "seeds_per_set", "profile"], name)
        return _imagenet(name, choices, common)
    if name == registry.TWO_GAUSSIANS:
        refused = ["setting", "dry_run", "stage", "samples", "seeds_per_set", "data"]
        console.refuse(refused, name)
        return _two_gaussians(profile, common)
    return _study(name, profile, dry_run, choices, common)


def _run(job: Job, run_folder: Path, folder: Path, fresh: bool, stage: str | None):
    from dg.experiments.pipeline import Stages, needed
    from dg.runtime.files import writable_folder

    if stage is not None and job.plan is not None:
        needed(job.plan(), [stage])  # refuses what is not there, before anything is forgotten
    for place in (run_folder, folder):
        writable_folder(place)
    if fresh:
        Stages(run_folder).clear()
    return job.run(run_folder, folder, stage)


def _study(name, profile, dry_run, choices, common) -> Job:
    """A study in a setting, or an experiment that has its own."""
    from dg.experiments import runner
    from dg.experiments.context import Context
    from dg.experiments.plan import plan
    from dg.experiments.tables import published_lines, text_table

    comparison = name in registry.COMPARISONS
    choose = _comparison if comparison else _study_in_setting
    experiment = choose(name, profile, dry_run, choices, common)
    setting = experiment.setting
    if not dry_run:
        with console.option("--network"):
            setting.check_network()
    with console.option("--data"):
        stages = plan(Context(experiment, common["device"]))

    def run(run_folder, folder, stage):
        return runner.run(experiment, run_folder, folder, only=stage, **common)

    folder = experiment.setting_name
    notes = (RATES["studies"], *published_lines(experiment.study, setting))
    missing = [f"--network: {setting.missing}"] if setting.missing else []
    missing += ["--data: the images"] if experiment.data == UNKNOWN else []
    told = (folder, experiment.name, notes, tuple(missing))
    return Job(lambda: stages, run, text_table, *told)


def _study_in_setting(name, profile, dry_run, choices, common):
    setting = choices["setting"]
    if name in registry.SETTINGS:
        if setting not in (None, name):
            raise click.UsageError(f"{name} is a setting itself; leave --setting out.")
        name, setting = "recipes", name
    if name not in registry.STUDIES:
        known = ", ".join(registry.known_names())
        raise click.UsageError(f"there is no experiment {name!r}; use {known}.")
    from dg.experiments.context import Experiment
    from dg.experiments.settings import SETTINGS, smoke
    from dg.experiments.studies import build

    target = _target(name, setting, choices["network"])
    setting_name = setting or registry.DEFAULT_SETTING.get(name, registry.SETTINGS[0])
    chosen, data = SETTINGS[setting_name], choices["data"]
    if profile == "smoke":
        if data is not None:
            raise click.UsageError("--profile smoke uses the embedded digits; leave --data out.")
        chosen = smoke(chosen)
    if choices["from_scratch"]:
        with console.option("--from-scratch"):
            chosen = chosen.from_scratch()
    if choices["network"]:
        with console.option("--network"):
            chosen = chosen.with_network(choices["network"])
    chosen = _sized(chosen, choices)
    if dry_run and data is None and chosen.data is None:
        data = UNKNOWN
    return Experiment(target, chosen, build(name, chosen), data, name, setting_name)


def _comparison(name, profile, dry_run, choices, common):
    from dataclasses import replace

    from dg.experiments import comparisons
    from dg.experiments.context import Experiment

    console.refuse(["setting", "network"], name)
    data, gpu = choices["data"], common["device"].type == "cuda"
    setting = _sized(comparisons.setting_of(name, profile, gpu), choices)
    if choices["from_scratch"]:
        with console.option("--from-scratch"):
            setting = setting.from_scratch()
    elif name in ("quickstart", "digits") and data is not None:
        raise click.UsageError(f"--data {data}: {name} uses {setting.data}; leave it out.")
    if data is None and not dry_run:
        setting = comparisons.with_available_data(setting, common["notify"])
    study = comparisons.STUDIES[name](setting)
    if name in BY_HAND:
        study = replace(study, texts=study.texts | {"by hand": (BY_HAND[name],)})
    return Experiment(name, setting, study, data, name, name)


def _sized(setting, choices):
    """The setting with as many images as --samples and --seeds-per-set say."""
    from dataclasses import replace

    samples, size = choices["samples"], choices["seeds_per_set"]
    size = size or min(setting.num_images, samples or setting.num_images)
    if samples is not None and samples % size:
        raise click.UsageError(
            f"--samples {samples} is not a multiple of the {size} images of a set; change one "
            "of them."
        )
    sets = samples // size if samples else setting.num_sets
    return replace(setting, num_images=size, num_sets=sets)


def _two_gaussians(profile, common) -> Job:
    from dg.experiments import two_gaussians

    def run(run_folder, folder, stage):
        return two_gaussians.run(two_gaussians.PROFILES[profile], run_folder, folder, **common)

    name = registry.TWO_GAUSSIANS
    return Job(None, run, two_gaussians.text_table, name, name)


def _imagenet(name, choices, common) -> Job:
    if choices["data"] is None:
        raise click.UsageError(
            f"{name} needs the training images of ImageNet; give --data FOLDER with one "
            "folder per class."
        )
    from dataclasses import replace

    from dg.experiments import imagenet, imagenet_report
    from dg.experiments.imagenet_settings import SETTINGS

    samples, shard = choices["samples"], choices["shard"] and _shard(choices["shard"])
    setting = replace(SETTINGS[name], num_images=samples) if samples else SETTINGS[name]
    told = [common[key] for key in ("progress", "notify", "device")]
    chosen = imagenet.ImageNetRun(name, setting, choices["data"], *told, shard)

    console.allow_tf32()

    def run(run_folder, folder, stage):
        return imagenet.run(chosen, run_folder, folder, common["command"], stage)

    folder = setting.shares or name
    return Job(chosen.plan, run, imagenet_report.text_table, folder, name, (RATES["imagenet"],))


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


def _overview(job: Job, run_folder: Path) -> str:
    """One line for every stage: done, or its cost."""
    from dg.experiments.costs import Cost
    from dg.experiments.pipeline import Stages

    found = Stages(run_folder).overview(job.plan())
    width = max(24, *(len(stage.name) for stage, _ in found))

    def line(name, cost, note=""):
        figures = f"{cost.images:>10,} {cost.evaluations:>13,} {cost.gpu_hours:>10.2f}"
        figures += f" {cost.bytes / 1e6:>9,.0f}"
        return f"{name:<{width}} {figures}  {note}".rstrip("; ")

    total = Cost()
    lines = [
        f"{'stage':<{width}} {'images':>10} {'evaluations':>13} {'GPU hours':>10} {'disk MB':>9}"
    ]
    for stage, done in found:
        total = total if done else total + stage.cost
        lines.append(line(stage.name, stage.cost, f"{'done; ' if done else ''}{stage.title}"))
    missing = [f"missing: {what}" for what in job.missing]
    return "\n".join([*lines, line("still to do", total), *job.notes, *missing])


if __name__ == "__main__":
    console.run(main)
