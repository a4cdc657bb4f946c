"""Run an experiment stage by stage: from data to measured systems, results and report."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import torch

from dg.evaluation.uncertainty import compare, summarise
from dg.experiments import report
from dg.experiments.context import SUGGESTION, Context, Experiment, Paths
from dg.experiments.making import fake_set
from dg.experiments.pipeline import Stages, in_two_processes
from dg.experiments.plan import plan, split_plan
from dg.experiments.setting import CORE, Setting
from dg.runtime.files import plain, read_json
from dg.runtime.processes import cpu_threads
from dg.runtime.progress import Progress, silent, unheard
from dg.runtime.provenance import provenance
from dg.runtime.run_folder import sole_writer
from dg.training import training_log


def run(
    experiment: Experiment,
    folder: Path,
    results: Path,
    command: str = "",
    device="cpu",
    progress: Progress = silent,
    notify: Callable[[str], None] = unheard,
    only: str | None = None,
) -> dict | None:
    """Run what is not cached in `folder`; write results.json, pictures and report to `results`;
    return the results.

    only  the name of a stage: run it and what it needs, and nothing else; returns None

    On a CPU every process computes on one thread, which is reproducible and, for networks this
    small, as fast; where a study names systems that do not depend on the others, a second process
    makes them meanwhile.
    """
    stages, context = Stages(folder, notify), Context(experiment, device, progress, notify)
    results, todo = Path(results), plan(context)
    with cpu_threads(1, device):
        if only is not None:
            stages.run_all(todo, [only])
            return None
        on_cpu = torch.device(device).type == "cpu" and (os.cpu_count() or 1) > 1
        if on_cpu and experiment.study.aside:
            helper = (_second_process, (experiment, folder, device))
            in_two_processes(stages, todo, *split_plan(context, todo), *helper)
        paths = stages.run_all(todo)
        outcome = results_of(context, stages, paths) | provenance(command, stages.seconds, device)
        with sole_writer(results):
            report.write(results, outcome, context, paths)
    return outcome


def _second_process(experiment: Experiment, folder, device) -> None:
    # Ctrl-C is the first process's to handle, which then ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    context = Context(experiment, device)
    todo = plan(context)
    with cpu_threads(1, device):
        Stages(folder).run_all(todo, split_plan(context, todo)[0])


def results_of(context: Context, stages: Stages, paths: Paths) -> dict:
    """The results file, but for what it ran on."""
    experiment, study, setting = context.experiment, context.study, context.setting
    data, told = Path(experiment.source).name, "models" in study.sections
    models = [name for name, model in setting.models.items() if told and not model.published]
    floor = read_json(paths["measure-floor"] / "metrics.json")
    metrics = {}
    for name in study.systems:
        metrics[name] = summarise(read_json(paths[f"measure-{name}"] / "metrics.json"))
        if f"nll-{name}" in paths:
            metrics[name]["nll"] = read_json(paths[f"nll-{name}"] / "nll.json")
    metrics["floor"] = summarise(floor["rows"])
    names = list(dict.fromkeys((*CORE, *setting.metrics)))

    def compared(*systems):
        return compare(*({m: metrics[s][m] for m in names if m in metrics[s]} for s in systems))

    return {
        "experiment": experiment.name,
        "study": experiment.study_name or experiment.name,
        "setting_name": experiment.setting_name or experiment.name,
        "title": study.title,
        "question": study.question,
        "setting": setting.title,
        "data": data,
        "metrics": metrics,
        "systems": plain(study.systems),
        "costs": {name: _costs(context, stages, paths, name) for name in study.systems},
        "comparison": {
            name: compared(name, system.against)
            for name, system in study.systems.items()
            if system.against not in (None, name)
        },
        "floor_images": floor["num_images"],
        "xlabel": study.xlabel,
        "tests": study.tests,
        "sections": list(study.sections),
        "side_by_side": bool(study.aside),
        "texts": plain(study.texts),
        "known": study.known,
        "choices": {
            name: read_json(paths[f"choice-{name}"] / "choice.json")
            for name in study.systems
            if f"choice-{name}" in paths
        },
        "training_compute": (
            read_json(paths["training-compute"] / "trainings.json") if study.compute else {}
        ),
        "heldout": read_json(paths["heldout"] / "heads.json") if study.heldout else {},
        "tested": read_json(paths["tested"] / "systems.json") if study.tested else {},
        "selection": read_json(paths["weights"] / "weights.json") if "weights" in paths else None,
        "suggestion": (
            read_json(paths["suggestion"] / SUGGESTION) if "suggestion" in paths else None
        ),
        "trainings": {name: training_log(paths[f"train-{name}"]) for name in study.trainings},
        "models": {name: read_json(paths[name] / "log.json") for name in models},
        "bounds": {
            name: read_json(paths[f"bounds-{name}"] / "bounds.json")
            for name in setting.models
            if f"bounds-{name}" in paths
        },
        "extractor": _extractor(paths, setting, data),
        "settings": plain(setting),
    }


def _extractor(paths: Paths, setting: Setting, data: str) -> dict:
    """What the features came from, by a name for readers."""
    found = read_json(paths["reference"] / "about.json")
    if found["name"] == "classifier":
        found["name"] = f"small classifier trained on the training images of {data}"
        if setting.features != "classifier":
            found["name"] = f"{setting.features}, a small classifier in pretrained/"
    return found


def _costs(context: Context, stages: Stages, paths: Paths, name: str) -> dict:
    """Seconds of all trainings that a system needs, and for 1,000 images; its size."""
    setting, system = context.setting, context.study.systems[name]
    model = setting.models[system.model]
    trained = [head.training for head in system.heads if head.training not in setting.given]
    names = [system.model, *(f"train-{training}" for training in trained)]
    names += [model.continues] if model.continues else []
    trainings = [context.study.trainings[one] for one in trained]
    names += [fake_set(setting, one)[0] for one in trainings if one.settings.needs_fake]
    images = setting.num_images * setting.num_sets
    drawn = [stage for stage in (f"pool-{name}", f"sample-{name}") if stage in paths]
    costs = {
        "num_evaluations": context.num_evaluations(system),
        "training_seconds": sum(stages.took[paths[stage]] for stage in dict.fromkeys(names)),
        "seconds_per_1000": 1000 * sum(stages.took[paths[stage]] for stage in drawn) / images,
    }
    if context.study.compute:
        costs["compute"] = read_json(paths[f"compute-{name}"] / "compute.json")
    if "costs" in context.study.sections:
        costs["ships"] = bool(model.published)  # its training is not in the seconds
        network = context.model(paths, system.model)
        discriminator = context.discriminator(paths, network, system)
        modules = filter(None, (network, discriminator))
        distinct = {parameter for module in modules for parameter in module.parameters()}
        costs["parameters"] = sum(parameter.numel() for parameter in distinct)
    return costs
