"""The pictures of a report, from the results file and the stages' own folders."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from dg.data.datasets import load_images, to_uint8
from dg.evaluation import figures
from dg.evaluation.log_ratios import log_ratios
from dg.evaluation.report import Picture
from dg.experiments.context import Context, Paths
from dg.experiments.models import KINDS
from dg.experiments.tables import distance_name, metric_names, pairs
from dg.models.vae_sampling import interpolate
from dg.runtime.provenance import machine_of

HISTOGRAM_SIGMAS = (0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True, eq=False)
class Source:
    """What a report is made of: where it goes, the results, and the stages' folders."""

    folder: Path
    outcome: dict
    context: Context
    paths: Paths

    def draw(self, name: str, caption: str, figure: Callable, *args, **kwargs) -> Picture:
        """A picture by a function of `dg.evaluation.figures`."""
        path = self.folder / f"{name}.png"
        figure(path, *args, **kwargs)
        return Picture(path, caption)

    def title(self, system: str) -> str:
        return self.outcome["systems"][system]["title"]

    @cache  # noqa: B019
    def images(self, system: str) -> np.ndarray:
        """The first set of a system, uint8 [N, H, W, C]; seeds from 0 on, as of all systems."""
        return load_images(self.paths[f"sample-{system}"] / "set0").images

    def name(self, kind: str, base: str) -> str:
        """Of a picture of a pair of systems."""
        return kind if len(pairs(self.outcome)) == 1 else f"{kind}-{base}"

    def guided(self, name: str) -> tuple:
        """(model, guidance) of a system."""
        system = self.context.study.systems[name]
        net = self.context.model(self.paths, system.model)
        return net, self.context.guidance(self.paths, net, system)


def fair_floor(outcome: dict) -> bool:
    """Whether real against real has as many images as the systems, and so is a floor."""
    settings = outcome["settings"]
    return settings["reference_split"] == "all" or outcome["floor_images"] >= settings["num_images"]


def bars(source: Source) -> list[Picture]:
    outcome, distance = source.outcome, distance_name(source.outcome)
    named = {source.title(name): outcome["metrics"][name] for name in outcome["systems"]}
    fair = fair_floor(outcome)
    named |= {"floor": outcome["metrics"]["floor"]} if fair else {}
    titles = {"fd": f"{distance} (lower is better)"}
    if "fd_heldout" in metric_names(outcome):
        titles["fd_heldout"] = f"{distance} held out (lower is better)"
    if len(named) < 9:
        titles["kid"] = "KID (lower is better)"
    if "costs" in outcome["sections"]:
        titles["recall"] = "recall (higher is better)"
    told = "; the line is the floor, real against real images." if fair else "."
    caption = f"Distances of all systems{told}"
    return [source.draw("metrics", caption, figures.metric_bars, named, titles)]


def sweep(source: Source) -> list[Picture]:
    """Distance against what was varied."""
    outcome, distance = source.outcome, distance_name(source.outcome)
    swept = {name: s["x"] for name, s in outcome["systems"].items() if s["x"] is not None}
    if len(swept) < 2:
        return []
    fd = {name: outcome["metrics"][name]["fd"] for name in (*swept, "unguided")}
    (*means, base), (*sds, spread) = ([fd[name][key] for name in fd] for key in ("mean", "sd"))
    titles = dict(xlabel=outcome["xlabel"], ylabel=distance, title=outcome["title"])
    sets = outcome["settings"]["num_sets"]
    caption = f"{distance}, mean and sd over {sets} sets; the band is the unguided model."
    values = (list(swept.values()), means, sds, (base, spread))
    return [source.draw("sweep", caption, figures.distance_sweep, *values, **titles)]


def selection(source: Source) -> list[Picture]:
    """Distance of the selection sets against the guidance weight."""
    chosen, ((_, base), *others) = (source.outcome["selection"][name] for name in ("chosen", "fd"))
    weights, distances = (list(values) for values in zip(*others, strict=True))
    titles = dict(ylabel="FD to training images", chosen=chosen)
    titles["title"] = "Choice of the guidance weight (seeds of its own)"
    caption = "Chosen on seeds of their own, against the training images; the numbers above use "
    shown = (figures.distance_sweep, weights, distances, [0.0] * len(others), (base, 0.0))
    return [source.draw("weights", caption + "neither.", *shown, **titles)]


def costs(source: Source) -> list[Picture]:
    """Distance against the time of sampling."""
    outcome, settings, points = source.outcome, source.outcome["settings"], {}
    for name, costs in outcome["costs"].items():
        fd, seconds = outcome["metrics"][name]["fd"], costs["seconds_per_1000"]
        points[source.title(name)] = dict(seconds=seconds, mean=fd["mean"], sd=fd["sd"])
    images = settings["num_sets"] * settings["num_images"]
    caption = f"Sampling time against distance; time of {images:,} images on "
    caption += f"{machine_of(outcome)}, one process per model."
    shown = (figures.quality_against_cost, points, distance_name(outcome))
    return [source.draw("cost", caption, *shown)]


def before_and_after(source: Source) -> list[Picture]:
    """Pairs of the same seeds, and the first images of both systems."""
    found, shown = [], pairs(source.outcome)
    for base, guided in shown.items():
        before, after = source.images(base), source.images(guided)
        random = np.random.default_rng(0).permutation(len(before))[:8].tolist()
        panels = {"Most changed": figures.most_changed(before, after, 8), "Random": random}
        titles = f"{source.title(base)} and {source.title(guided)}"
        caption = f"{titles}: most changed pairs beside random ones."
        name, figure = source.name("pairs", base), figures.paired_grid
        found.append(source.draw(name, caption, figure, before, after, panels))
    if len(shown) == 1 and "images" not in source.outcome["sections"]:
        for name, system in zip(("unguided", "guided"), (base, guided), strict=True):
            found.append(grid(source, name, system, f"The first images, {source.title(system)}."))
    return found


def grid(source: Source, name: str, system: str, caption: str) -> Picture:
    """The first hundred images of a system."""
    images = source.images(system)[:100]
    shape = dict(columns=min(len(images), 20), scale=max(1, round(32 / images.shape[1])))
    return source.draw(name, caption, figures.image_grid, images, **shape)


def grids(source: Source) -> list[Picture]:
    """The first images of every system, and of a VAE what lies between test images."""
    systems, models = source.outcome["systems"], source.context.setting.models
    found = [grid(source, name, name, f"{source.title(name)}, not selected.") for name in systems]
    for name in (name for name, model in models.items() if model.kind == "vae"):
        vae, test = source.context.model(source.paths, name), source.context.images("test").images
        strips = [interpolate(vae, test[i], test[i + 1], 10) for i in range(0, 8, 2)]
        caption = "VAE: from one test image to another on the great circle between their codes."
        images, figure = np.concatenate(strips), figures.image_grid
        found.append(source.draw("interpolation", caption, figure, images, columns=10))
    return found


def strips(source: Source) -> list[Picture]:
    """Denoised images along the way, without and with guidance."""
    found, context = [], source.context
    for base, guided in pairs(source.outcome).items():
        seeds = figures.most_changed(source.images(base), source.images(guided), 3)
        rows, levels = {}, []
        for name in (base, guided):
            system = context.study.systems[name]
            record = KINDS[context.setting.models[system.model].kind].trajectory
            (net, guidance), sampling = source.guided(name), context.sampling(system)
            denoised, sigmas = record(net, seeds, sampling, guidance, context.device)
            every = max(len(sigmas) // 9, 1)
            levels = sigmas[::every]
            rows[name] = np.stack([to_uint8(step) for step in denoised[::every]], axis=1)
        labels = [f"seed {seed}, {source.title(name)}" for seed in seeds for name in rows]
        images = np.stack([rows[name][i] for i in range(len(seeds)) for name in rows])
        caption = f"{source.title(base)}: the denoised image at falling noise level, without and "
        caption += "with guidance."
        shown = (figures.denoising_strips, images, levels, labels)
        name, title = source.name("strips", base), "Denoised image, step by step"
        found.append(source.draw(name, caption, *shown, title=title))
    return found


def curves(source: Source) -> list[Picture]:
    """Training of every discriminator of more than one epoch, with the checkpoint that guides."""
    found, systems = [], source.context.study.systems.values()
    for name, entry in source.outcome["trainings"].items():
        if len(log := entry["log"]) > 1:
            best, title = entry["best_epoch"], f"Discriminator: {name}"
            caption = f"{name}: loss and accuracy; validation loss is lowest at epoch {best}."
            used = {h.checkpoint for s in systems for h in s.heads if h.training == name}
            step = log[-1]["step"] if used == {"last"} else None  # None: of the lowest loss
            shown = (f"curves-{name}", caption, figures.training_curves, log, step)
            found.append(source.draw(*shown, title=title))
    return found


def ratios(source: Source) -> list[Picture]:
    """Histograms of the log ratio of held-out real and of generated images, without classes."""
    ((base, guided),) = pairs(source.outcome).items()
    heldout, device = source.context.images("test").images, source.context.device
    discriminator, found = source.guided(guided)[1].discriminator, []
    for name, images in (("real", heldout), ("fake", source.images(base)[: len(heldout)])):
        stream = f"histogram-{name}"
        found.append(log_ratios(discriminator, images, HISTOGRAM_SIGMAS, stream, device))
    caption = "Held-out real against new generated images, which training has not seen."
    shown = (figures.log_ratio_histograms, HISTOGRAM_SIGMAS, *found)
    return [source.draw("log_ratio", caption, *shown)]


def losses(source: Source) -> list[Picture]:
    """Training of the models."""
    settings, panels = source.outcome["settings"], {}
    for name, trained in source.outcome["models"].items():
        model = settings["models"][name]
        panels[model["title"]] = {"ylabel": KINDS[model["kind"]].loss, "log": trained["log"]}
    caption = "Losses are on different scales: compare shapes. The test loss is of the averaged "
    caption += f"weights on {settings['num_test_loss']} test images with the same noise every time."
    return [source.draw("losses", caption, figures.loss_curves, panels)]
