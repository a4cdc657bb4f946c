"""Run an experiment: from data to measured systems, stage by stage; results file and report at the
end."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import torch

from dg.checkpoints import load_discriminator
from dg.experiments import report
from dg.experiments.common import compare, one_thread, summarise, training_log
from dg.experiments.context import Context, Experiment, Paths
from dg.experiments.measuring import CORE
from dg.experiments.pipeline import Stages, in_two_processes
from dg.experiments.plan import plan, split_plan
from dg.experiments.provenance import provenance
from dg.runtime.files import plain, read_json, write_json
from dg.runtime.progress import Progress, silent


def run(
    experiment: Experiment,
    folder: Path,
    results: Path,
    command: str = "",
    device="cpu",
    progress: Progress = silent,
    notify: Callable[[str], None] = lambda line: None,
    only: str | None = None,
) -> dict | None:
    """Run what is not cached in `folder`; write results.json, pictures and report to `results`;
    return the results.

    only  the name of a stage: run it and what it needs, and nothing else; returns None

    On a CPU every process computes on one thread, which is reproducible and, for networks this
    small, as fast; where a study names systems that do not depend on the others, a second process
    makes them meanwhile.
    """
    results = Path(results)
    stages, context = (
        Stages(folder, progress, notify),
        Context(experiment, device, progress, notify),
    )
    todo = plan(context)
    with one_thread(device):
        if only is not None:
            stages.run_all(todo, [only])
            return None
        on_cpu = torch.device(device).type == "cpu" and (os.cpu_count() or 1) > 1
        if on_cpu and experiment.study.aside:
            helper = (_second_process, (experiment, folder, device))
            in_two_processes(stages, todo, *split_plan(context, todo), *helper)
        paths = stages.run_all(todo)
        outcome = results_of(context, stages, paths) | provenance(command, stages.seconds, device)
        results.mkdir(parents=True, exist_ok=True)
        write_json(results / "results.json", outcome)
        report.write(results, outcome, context, paths)
    return outcome


def _second_process(experiment: Experiment, folder, device) -> None:
    # Ctrl-C is the first process's to handle, which then ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    context = Context(experiment, device)
    todo = plan(context)
    with one_thread(device):
        Stages(folder).run_all(todo, split_plan(context, todo)[0])


def results_of(context: Context, stages: Stages, paths: Paths) -> dict:
    """The results file, but for what it ran on."""
    experiment, study, setting = context.experiment, context.study, context.setting
    metrics = {name: _metrics(paths, name) for name in study.systems}
    floor = read_json(paths["measure-floor"] / "metrics.json")
    metrics["floor"] = summarise(floor["rows"])
    extractor = read_json(paths["reference"] / "about.json")
    if extractor["name"] == "classifier":
        source = Path(experiment.source).name
        extractor["name"] = f"small classifier trained on the training images of {source}"
    names = list(dict.fromkeys((*CORE, *setting.metrics)))

    def compared(name):
        both = (metrics[name], metrics[study.systems[name].against])
        return compare(*({m: table[m] for m in names if m in table} for table in both))

    return {
        "experiment": experiment.name,
        "study": experiment.study_name or experiment.name,
        "setting_name": experiment.setting_name or experiment.name,
        "title": study.title,
        "question": study.question,
        "setting": setting.title,
        "data": Path(experiment.source).name,
        "metrics": metrics,
        "systems": plain(study.systems),
        "costs": {name: _costs(context, stages, paths, name) for name in study.systems},
        "comparison": {
            name: compared(name)
            for name, system in study.systems.items()
            if system.against not in (None, name)
        },
        "floor_images": floor["num_images"],
        "xlabel": study.xlabel,
        "tests": study.tests,
        "sections": list(study.sections),
        "texts": plain(study.texts),
        "selection": read_json(paths["weights"] / "weights.json") if "weights" in paths else None,
        "trainings": {name: training_log(paths[f"train-{name}"]) for name in study.trainings},
        "models": {
            name: read_json(paths[name] / "log.json")
            for name in setting.models
            if "models" in study.sections
        },
        "extractor": extractor,
        "settings": plain(setting),
    }


def _metrics(paths: Paths, name: str) -> dict:
    table = summarise(read_json(paths[f"measure-{name}"] / "metrics.json"))
    if f"nll-{name}" in paths:
        table["nll"] = read_json(paths[f"nll-{name}"] / "nll.json")
    return table


def _costs(context: Context, stages: Stages, paths: Paths, name: str) -> dict:
    """What a system took: seconds of all trainings, and for 1,000 images; a guided one with all
    that guidance needs."""
    setting, system = context.setting, context.study.systems[name]
    trained = [head.training for head in system.heads if head.training != "released"]
    names = [system.model, *(f"train-{training}" for training in trained)]
    if before := setting.models[system.model].continues:
        names.append(before)
    if trained:
        names.append(f"fake-{context.study.trainings[trained[0]].model}")
    images = setting.num_images * setting.num_sets
    costs = {
        "num_evaluations": setting.models[system.model].num_evaluations(system.num_steps),
        "training_seconds": sum(stages.took[paths[stage]] for stage in dict.fromkeys(names)),
        "seconds_per_1000": 1000 * stages.took[paths[f"sample-{name}"]] / images,
    }
    if "costs" in context.study.sections:
        parameters = read_json(paths[system.model] / "log.json")["parameters"]
        for training in trained:
            head = paths[f"train-{training}"] / "best.safetensors"
            parameters += sum(p.numel() for p in load_discriminator(None, head).parameters())
        costs["parameters"] = parameters
    return costs
