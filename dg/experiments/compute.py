"""Stages that count compute: multiply-adds of an image of a system, and of the trainings of its
discriminators."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from dg.checkpoints import training_of
from dg.data.datasets import open_images
from dg.experiments.context import Context, Paths
from dg.experiments.derived import OWN, Tuned
from dg.experiments.drawing import pool_seeds
from dg.experiments.study import Head, System, Training
from dg.recipes import PRESETS
from dg.runtime.files import read_json, write_json
from dg.samplers.constants import RejectionSampling, with_measured_constants
from dg.samplers.cost import (
    BACKWARD,
    FORWARD,
    NETWORK,
    measured_cost,
    ratio_multiply_adds,
    training_multiply_adds,
)
from dg.training import training_log

KNOWN = ("epochs", "split", "unequal")  # settings of a training on which its length depends


def count(context: Context, path: Path, paths: Paths, name: str, system: System) -> None:
    """Evaluations and multiply-adds per measured image of a system, by network.

    Of samplers without rejection by the calls for a few images. Of rejection evaluations and
    questions to the discriminator are those of all measured images; the share of evaluations that
    are guided, and the multiply-adds of one, are those of a few.
    """
    settled, folder = context.settled(paths, system), paths[f"sample-{name}"]
    net, sampling, discriminator, guidance = context.drawn_by(paths, settled)
    if isinstance(sampling, RejectionSampling):  # with those of the images
        sampling = with_measured_constants(net, sampling, guidance, folder, device=context.device)
    found = measured_cost(net, sampling, guidance, device=context.device)
    evaluations, of = found["evaluations per image"], found["of these"]
    if isinstance(sampling, RejectionSampling):
        seen = _seen(folder, evaluations)
        of = {part: of[part] * number / evaluations[part] for part, number in seen.items()}
        evaluations = seen
    if settled.kept:
        evaluations, of = _with_thrown_away(context, settled, discriminator, evaluations, of)
    write_json(path / "compute.json", {"evaluations": evaluations, "multiply-adds": of})


def _seen(folder: Path, measured: dict) -> dict:
    """Mean evaluations by network of the images of a system with rejection."""
    records = [read_json(path) for path in sorted(folder.glob("set*/shards/*.json"))]
    network, ratios = (
        float(np.mean([one for record in records for one in record[kind]]))
        for kind in ("evaluations", "ratios")
    )
    guided = network * measured[BACKWARD] / measured[NETWORK]
    seen = {NETWORK: network, FORWARD: ratios + guided, BACKWARD: guided}
    return {part: number for part, number in seen.items() if number}


def _with_thrown_away(context, system: System, discriminator, evaluations: dict, of: dict):
    """The same per image that is kept, and the log ratios by which it is."""
    size = context.setting.num_images
    drawn = len(pool_seeds(range(size), system.kept.share)) / size
    each = ratio_multiply_adds(discriminator, context.few_images())
    return (
        {part: drawn * (number + (part == FORWARD)) for part, number in evaluations.items()},
        {part: drawn * (number + each * (part == FORWARD)) for part, number in of.items()},
    )


def count_trainings(context: Context, path: Path, paths: Paths) -> None:
    """Multiply-adds of every discriminator of the study, and of every network that it trains on:
    of the training, and of the generated images that it learned from. The frozen network under a
    discriminator is given."""
    models = {}
    for system in context.study.systems.values():
        for head in system.heads:
            training = context.study.trainings.get(head.training)
            models.setdefault(head, training.model if training else system.model)
    found = {
        head.training: _training(context, paths, head, model) for head, model in models.items()
    }
    for name, model in context.setting.models.items():
        if name in paths and isinstance(model, Tuned):
            found[name] = _tuning(context, paths, model)
    write_json(path / "trainings.json", found)


def _tuning(context: Context, paths: Paths, model: Tuned) -> dict:
    """The same of a network that was trained on."""
    net, sampling = context.model(paths), context.setting.models["score"].sampling
    cost = measured_cost(net, sampling, device=context.device)
    each = cost["of these"][NETWORK] / cost["evaluations per image"][NETWORK]
    generated = len(open_images(paths[OWN]).seeds) * cost["multiply-adds per image"]
    return _counted(model.images_seen, model.evaluations * each, generated)


def _counted(seen: int, training: float, generated: float) -> dict:
    told = {"images seen": seen, "training": training, "generated images": generated}
    return told | {"multiply-adds": training + generated}


def _training(context: Context, paths: Paths, head: Head, model: str) -> dict:
    net, training = context.model(paths, model), context.study.trainings.get(head.training)
    discriminator = context.discriminator(paths, net, System("", (head,), model=model))
    settings = training.settings if training else PRESETS["default"]
    each = training_multiply_adds(discriminator, context.few_images(), settings, net)
    seen = _images_seen(context, paths, head)
    return _counted(seen, seen * each, _generated(context, paths, training, model, net))


def _generated(context: Context, paths: Paths, training: Training | None, model: str, net) -> float:
    """Multiply-adds of the generated images that a discriminator has learned from; one that is
    given, from those of the model."""
    if training and not training.settings.needs_fake:
        return 0.0
    number = (training and training.num_fake) or context.setting.num_data
    if training and training.system:
        counted = read_json(paths[f"compute-{training.system}"] / "compute.json")
        return number * sum(counted["multiply-adds"].values())
    sampling = context.setting.models[model].sampling
    return number * measured_cost(net, sampling, device=context.device)["multiply-adds per image"]


def _images_seen(context: Context, paths: Paths, head: Head) -> int:
    """Images in all steps of a training; of a given head by the settings in its file, or the
    authors'."""
    setting = context.setting
    if head.training not in setting.given:
        settings = context.study.trainings[head.training].settings
        log = training_log(paths[f"train-{head.training}"])["log"]
        return log[-1]["step"] * settings.batch_size
    kind = "cond" if setting.conditional else "uncond"
    told = training_of(context.resolve(setting.given[head.training]))
    settings = replace(PRESETS[f"authors-{kind}"], **{k: told[k] for k in KNOWN if k in told})
    real = len(context.images("train")) if settings.unequal else setting.num_data
    share = settings.split[0] if settings.split else 1.0
    return round(2 * max(real, setting.num_data) * share * settings.epochs)
