"""Stages that make something, by the library calls of the scripts: models, heads, samples."""

from dataclasses import replace
from functools import partial

import torch

from dg.data.datasets import ImageSet, load_images
from dg.discriminator import build_difference, build_discriminator
from dg.evaluation.feature_sets import load_features, save_features
from dg.experiments import bound_curves
from dg.experiments.context import Context, Paths
from dg.experiments.costs import generation_cost
from dg.experiments.drawing import draw_pools, draw_sets
from dg.experiments.measuring import Meter
from dg.experiments.models import KINDS
from dg.experiments.pipeline import Stage
from dg.experiments.setting import Setting
from dg.experiments.study import System, Training
from dg.precision import computable
from dg.pretraining.held_out_loss import watched
from dg.pretraining.noisy_classifier import train_noisy_classifier
from dg.runtime.files import atomic_write, plain, write_json
from dg.runtime.processes import cpu_threads
from dg.samplers.cost import training_multiply_adds
from dg.training import train_discriminator
from dg.training_data import images_per_epoch


def make_model(context: Context, path, paths: Paths, name: str) -> None:
    """A model of the setting: fetched, or trained, perhaps from where another training ended."""
    setting, model = context.setting, context.setting.models[name]
    setting.check_network()
    if model.published:
        context.resolve(model.published)
        return
    state = path / "state.pt"
    if model.continues and not state.exists():
        with atomic_write(state) as file:
            file.write((paths[model.continues] / "state.pt").read_bytes())
    kind, (network, settings) = KINDS[model.kind], model.training
    settings = _computable(context, settings)
    run = dict(state_path=state, progress=context.progress, ranks=context.ranks)
    if count := setting.num_test_loss:
        test = context.reference_images()
        test = test.take(min(count, len(test)))
        run["observe"] = watched(kind.test_loss, settings, test, context.device)
    if keep := bound_curves.keeper(path, setting, name):
        run["after"] = keep
    train, conditional = context.images("train"), setting.conditional
    net, log = kind.train(train, network, settings, conditional, context.device, **run)
    with atomic_write(path / "network.safetensors") as file:
        kind.save(file, net)
    write_json(path / "log.json", {"log": log})


def _computable(context: Context, asked):
    """Settings of a training, in float32 if the device is slow in what they ask for; it is told."""
    settings = computable(asked, context.device)
    if settings is not asked:
        context.notify(
            f"computing in float32: the setting asks for {asked.precision}, for which this "
            f"{torch.device(context.device).type} has no instructions"
        )
    return settings


def make_classifier(context: Context, path, paths: Paths) -> None:
    """The noise-aware classifier under the discriminators."""
    s, state = context.setting, path / "state.pt"
    if s.classifier:
        context.resolve(s.classifier)
        return
    run = (context.device, context.progress, state)
    images = context.images("train")
    settings = _computable(context, s.noisy_classifier)
    model, log = train_noisy_classifier(images, settings, *run, ranks=context.ranks)
    with atomic_write(path / "classifier.pt") as file:
        torch.save(model.state_dict(), file)
    write_json(path / "log.json", log)


def fake_set(setting: Setting, training: Training) -> tuple[str, int]:
    """Stage and number of the generated images of which a discriminator learns from the first."""
    number = max(training.num_fake or 0, setting.num_data)
    name = f"drawn-{training.system}" if training.system else f"fake-{training.model}"
    return (f"{name}-{number}" if number > setting.num_data else name), number


def images_stage(
    context: Context, name: str, model: str, first: int, number: int, title: str = ""
) -> Stage:
    """The stage of images that something learns from: `number` of a model, from seed `first` on."""
    s, seeds = context.setting, range(first, first + number)
    settings = plain(s.models[model].sampling) | {"batch_size": s.batch_size}
    settings |= {"num_images": number, "seed": first}
    make = partial(make_images, context, model=model, seeds=seeds)
    return Stage(name, settings, [model], make, generation_cost(s, number, model=model), title)


def make_images(context: Context, path, paths: Paths, model: str, seeds: range) -> None:
    """Images of a model, that something learns from."""
    net = context.model(paths, model)
    context.sample(path, net, context.setting.models[model].sampling, seeds)


def draw_images(context: Context, path, paths: Paths, system: System, number: int) -> None:
    """Images of a system, that a discriminator learns from: set0, on the seeds of a model's."""
    settled, first = context.settled(paths, system), context.setting.fake_seed
    draw_sets(context, path, paths, settled, [first], number)


def width_of(context: Context, training: Training) -> int | None:
    """Channels of a head, None for the default of its extractor."""
    on_classifier = training.extractor == "classifier"
    return training.width or (context.setting.head_width if on_classifier else None)


def _numbers(context: Context, training: Training) -> list[int]:
    """Real and generated images of a training, before every n-th of them is taken."""
    s = context.setting
    real = training.num_real or min(s.num_real or s.num_data, len(context.images("train")))
    return [real, training.num_fake or s.num_data] if training.settings.needs_fake else [real]


def training_sets(context: Context, paths: Paths, training: Training) -> list[ImageSet | None]:
    """The real and the generated images that a discriminator learns from, None where its loss takes
    none."""
    numbers, sets = _numbers(context, training), [context.images("train")]
    if training.settings.needs_fake:
        folder = paths[fake_set(context.setting, training)[0]]
        sets.append(load_images(folder / "set0" if training.system else folder))
    sets = [one.take(number) for one, number in zip(sets, numbers, strict=True)]
    if training.part:
        first, step = training.part
        sets = [one.subset(slice(first, None, step)) for one in sets]
    return sets if training.settings.needs_fake else [*sets, None]


def _untrained(context: Context, paths: Paths, training: Training, net):
    """What a training begins with, a discriminator or a score difference."""
    s, seed, width = context.setting, training.settings.seed, width_of(context, training)
    real, device = context.images("train"), context.device
    if training.settings.loss == "difference":
        return build_difference(net, real, s.conditional, width or 32, seed, device)
    on = (training.extractor, real, net, context.classifier_path(paths))
    return build_discriminator(*on, s.conditional, width, seed, device)


def epoch_multiply_adds(context: Context, paths: Paths, training: Training, net) -> float:
    """Multiply-adds of an epoch, counted on what a training begins with."""
    first, step = training.part or (0, 1)
    sizes = [len(range(first, number, step)) for number in _numbers(context, training)]
    discriminator = _untrained(context, paths, training, net)
    each = training_multiply_adds(discriminator, context.few_images(), training.settings, net)
    return each * images_per_epoch(sizes, training.settings)


def epochs_of(context: Context, paths: Paths, training: Training, net) -> int:
    """Its own, or as many as the training takes that it is like."""
    if not (like := training.like):
        return training.settings.epochs
    of_like = context.model(paths, like.model)
    wanted = like.settings.epochs * epoch_multiply_adds(context, paths, like, of_like)
    return max(1, round(wanted / epoch_multiply_adds(context, paths, training, net)))


def make_discriminator(context: Context, path, paths: Paths, training: Training) -> None:
    """A trained head."""
    s, net = context.setting, context.model(paths, training.model)
    settings = replace(training.settings, conditional=s.conditional)
    settings = replace(settings, epochs=epochs_of(context, paths, training, net))
    real, fake = training_sets(context, paths, training)
    discriminator = _untrained(context, paths, training, net)
    run = dict(progress=context.progress, ranks=context.ranks, net=net)
    with cpu_threads(context.cores if s.parallel_training else 1, context.device):
        train_discriminator(discriminator, real, fake, settings, path, **run)


def choose_weight(context: Context, path, paths: Paths, system: System) -> None:
    """The weight whose selection set is nearest to the real training images."""
    s, table, meter = context.setting, {}, Meter(context, paths)
    reference = meter.features(context.images("train"))
    net, sampling = context.model(paths, system.model), context.sampling(system)
    for weight in (0.0, *s.candidates):
        guidance = context.guidance(paths, net, system, (weight, 0.0)) if weight else None
        folder = path / f"w{weight:g}"
        seeds = range(s.selection_seed, s.selection_seed + s.num_selection)
        context.sample(folder, net, sampling, seeds, guidance)
        table[weight] = meter.features(load_images(folder)).distance(reference)
    chosen = min(s.candidates, key=table.get)
    fd = [[weight, value] for weight, value in table.items()]
    write_json(path / "weights.json", {"chosen": chosen, "fd": fd})


def make_pools(context: Context, path, paths: Paths, system: System) -> None:
    """The finished images from which the measured sets of a system are chosen."""
    draw_pools(context, path, paths, system, _firsts(context), context.setting.num_images)


def sample_sets(context: Context, path, paths: Paths, system: System, pools: str) -> None:
    """The measured sets of a system; the same seeds for every system.

    pools  the stage of its finished images, where it has one
    """
    settled, number = context.settled(paths, system), context.setting.num_images
    draw_sets(context, path, paths, settled, _firsts(context), number, paths.get(pools))


def _firsts(context: Context) -> list[int]:
    """The first seed of every measured set."""
    return [index * context.setting.num_images for index in range(context.setting.num_sets)]


def make_choice_reference(context: Context, path, paths: Paths) -> None:
    """Statistics of the real images by which options are chosen."""
    meter = Meter(context, paths)
    found = meter.features(context.images(context.setting.choice_split))
    save_features(path / "features.npz", replace(found, features=None, logits=None))


def choose(context: Context, path, paths: Paths, system: System) -> None:
    """The option whose images are nearest to real ones that nothing else is measured by."""
    s, meter, found = context.setting, Meter(context, paths), []
    reference = load_features(paths["choice-reference"] / "features.npz")
    for place, option in enumerate(system.options):
        folder = path / f"option{place}"
        if option.kept:  # one pool for all options
            draw_pools(context, path, paths, option, [s.selection_seed], s.num_selection)
        draw_sets(context, folder, paths, option, [s.selection_seed], s.num_selection, path)
        found.append(meter.features(load_images(folder / "set0")).distance(reference))
    fd = [[option.title, value] for option, value in zip(system.options, found, strict=True)]
    write_json(path / "choice.json", {"index": found.index(min(found)), "fd": fd})
