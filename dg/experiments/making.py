"""Stages that make something: models, discriminators, samples. Each fills a folder by the library
calls of the scripts."""

from dataclasses import replace

import torch

from dg.data.datasets import load_images
from dg.discriminator import build_discriminator
from dg.evaluation.classifier import extract_features, load_classifier
from dg.experiments.common import distance
from dg.experiments.context import Context, Paths
from dg.experiments.models import KINDS
from dg.experiments.study import System, Training
from dg.pretraining.noisy_classifier import train_noisy_classifier
from dg.runtime.files import atomic_write, write_json
from dg.training import train_discriminator


def make_model(context: Context, path, paths: Paths, name: str) -> None:
    """A model of the setting: fetched, or trained from scratch or from where another one's training
    ended."""
    setting, model = context.setting, context.setting.models[name]
    if model.published:
        context.resolve(model.published)
        return
    state = path / "state.pt"
    if model.continues and not state.exists():
        with atomic_write(state) as file:
            file.write((paths[model.continues] / "state.pt").read_bytes())
    count, kind, watch = setting.num_test_loss, KINDS[model.kind], None
    if count:
        test = context.reference_images()
        watch = test.take(min(count, len(test)))
    net, log = kind.train(
        context.images("train"), setting, model, context.device, state, context.progress, watch
    )
    with atomic_write(path / "network.safetensors") as file:
        kind.save(file, net)
    parameters = sum(p.numel() for p in net.parameters())
    write_json(path / "log.json", {"log": log, "parameters": parameters})


def make_classifier(context: Context, path, paths: Paths) -> None:
    """The noise-aware classifier under the discriminators."""
    setting = context.setting
    if setting.classifier:
        context.resolve(setting.classifier)
        return
    model, log = train_noisy_classifier(
        context.images("train"),
        setting.noisy_classifier,
        context.device,
        context.progress,
        path / "state.pt",
    )
    with atomic_write(path / "classifier.pt") as file:
        torch.save(model.state_dict(), file)
    write_json(path / "log.json", log)


def make_fake(context: Context, path, paths: Paths, model: str) -> None:
    """The generated images that a discriminator learns from."""
    s = context.setting
    net = context.model(paths, model)
    context.sample(path, net, s.models[model].sampling, s.fake_seed, s.num_data)


def width_of(context: Context, training: Training) -> int | None:
    """Channels of a head, None for the default of its extractor."""
    on_classifier = training.extractor == "classifier"
    return training.width or (context.setting.head_width if on_classifier else None)


def make_discriminator(context: Context, path, paths: Paths, training: Training) -> None:
    """A trained head."""
    setting = context.setting
    settings = replace(training.settings, conditional=setting.conditional)
    net = context.model(paths, training.model)
    train, fake = context.images("train"), load_images(paths[f"fake-{training.model}"])
    real = train.take(min(setting.num_real or setting.num_data, len(train)))
    discriminator = build_discriminator(
        training.extractor,
        real,
        net,
        context.classifier_path(paths),
        setting.conditional,
        width_of(context, training),
        settings.seed,
        context.device,
    )
    train_discriminator(
        discriminator, real, fake, settings, path, progress=context.progress, net=net
    )


def choose_weight(context: Context, path, paths: Paths, system: System) -> None:
    """Distance of a selection set to the real training images, for every weight; the least one is
    chosen."""
    s, table = context.setting, {}
    model = load_classifier(paths["reference"] / "classifier.safetensors")
    reference = extract_features(model, context.images("train"))
    net, sampling = context.model(paths, system.model), context.sampling(system)
    for weight in (0.0, *s.candidates):
        guidance = context.guidance(paths, net, system, (weight, 0.0)) if weight else None
        folder = path / f"w{weight:g}"
        context.sample(folder, net, sampling, s.selection_seed, s.num_selection, guidance)
        table[weight] = distance(extract_features(model, load_images(folder)), reference)
    chosen = min(s.candidates, key=table.get)
    fd = [[weight, value] for weight, value in table.items()]
    write_json(path / "weights.json", {"chosen": chosen, "fd": fd})


def sample_sets(context: Context, path, paths: Paths, system: System) -> None:
    """The measured sets of a system; the same seeds for every system."""
    s, sampling = context.setting, context.sampling(system)
    net = context.model(paths, system.model)
    guidance = context.guidance(paths, net, system)
    for index in range(s.num_sets):
        first = index * s.num_images
        context.sample(path / f"set{index}", net, sampling, first, s.num_images, guidance)
