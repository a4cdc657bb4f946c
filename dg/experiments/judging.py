"""Stages that judge discriminators on images that they were not trained on."""

from dataclasses import replace
from functools import cache

from dg.data.datasets import load_images
from dg.evaluation.diagnosis import diagnose
from dg.experiments.context import SUGGESTION, Context, Paths
from dg.experiments.making import training_sets
from dg.experiments.study import Study, System, Training
from dg.runtime.files import plain, read_json, write_json
from dg.training_data import split_sets
from dg.training_metrics import evaluate

JUDGED = 1000  # noisy images of each kind by which a head is judged
DIAGNOSED = "fake-diagnosed"  # stage of the generated ones of the diagnosis


def judge_heads(context: Context, path, paths: Paths) -> None:
    """Numbers of images that every head of the study has seen, and its loss, AUC and the like on
    images that no training has seen: the test split, and the first set of the system whose images
    it has learned from, which is the unguided one unless its training says otherwise."""
    test, found, opened = context.images("test"), {}, cache(load_images)
    for head in context.study.heads:
        training = context.study.trainings[head.training]
        net = context.model(paths, training.model)
        discriminator = context.discriminator(paths, net, System("", (head,)))
        settings = replace(training.settings, split=(1.0, 0.0, 0.0), eval_images=JUDGED)
        generated = None
        if settings.needs_fake:
            generated = opened(paths[f"sample-{training.system or 'unguided'}"] / "set0")
        images, *_ = split_sets(test, generated, settings, context.device)
        seen = read_json(paths[f"train-{head.training}"] / "summary.json")["images"]
        found[head.training] = {"images": seen} | evaluate(discriminator, images, settings, net)
    write_json(path / "heads.json", found)


def suggest(context: Context, path, paths: Paths, system: System) -> None:
    """Window and weights of a system as the diagnosis of its discriminator suggests them, by images
    that it was not trained on: of the test split, and of seeds that serve nothing else. Weights of
    0 where it suggests none."""
    net = context.model(paths, system.model)
    discriminator = context.discriminator(paths, net, system)
    fake = load_images(paths[DIAGNOSED])
    real = context.images("test")
    real = real.take(min(len(fake), len(real)))
    run = dict(num_visited=0, device=context.device, progress=context.progress)
    head = diagnose(net, {"head": discriminator}, real, fake, **run)["heads"]["head"]
    weight = head["weight"]["value"] if head["window"] else 0.0
    found = {name: head[name] for name in ("verdict", "reason", "findings")}
    found |= {"images": len(real), "weights": [weight, weight]}
    write_json(path / SUGGESTION, found | {"window": head["window"] or context.setting.window})


def described(study: Study) -> dict:
    """What `judge_systems` depends on besides its discriminators."""
    return {name: [plain(s.heads), s.average] for name, s in study.systems.items() if s.heads}


def judge_systems(context: Context, path, paths: Paths) -> None:
    """The loss, AUC, precision and the like of every system's discriminator on the test images of
    its first member's training, which no other member was trained on.

    The noise is that of the first training of the study for all, and so are the images for
    discriminators that are given.
    """
    study, found = context.study, {}
    first = next(iter(study.trainings.values()))
    for name, system in study.systems.items():
        if not system.heads:
            continue
        names = [head.training for head in system.heads]
        trained = [study.trainings[name] for name in names if name in study.trainings]
        _check_unseen(system.title, trained)
        training = (trained or [first])[0]
        sets = training_sets(context, paths, training)
        *_, test = split_sets(*sets, training.settings, context.device)
        net = context.model(paths, system.model)
        discriminator = context.discriminator(paths, net, system)
        found[name] = evaluate(discriminator, test, first.settings)
    write_json(path / "systems.json", found)


def _check_unseen(title: str, trained: list[Training]) -> None:
    """ValueError where a member may have been trained on another one's test images: all take the
    same images by the same split, or each a part of its own."""

    def split(one):
        return (one.model, one.num_real, one.num_fake, one.settings.split, one.settings.seed)

    parts = {one.part for one in trained}
    apart = len(parts) == len(trained) and None not in parts
    if len({split(one) for one in trained}) > 1 or (len(parts) > 1 and not apart):
        raise ValueError(
            f"the members of “{title}” have different test images; give trainings of one split"
        )
