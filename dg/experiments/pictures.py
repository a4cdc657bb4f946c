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
from dg.experiments.tables import alone, distance_name, metric_names, pairs, role
from dg.models.vae_sampling import interpolate
from dg.runtime.provenance import machine_of

HISTOGRAM_IMAGES = 1000  # of each kind
HISTOGRAM_SIGMAS = (0.1, 0.3, 1.0, 3.0)
PAIRS, GRID, COLUMNS = 16, 64, 16  # seeds that are shown as pairs and in a grid; columns of a grid


@dataclass(frozen=True, eq=False)
class Source:
    """What a report is made of: where it goes, the results, and the stages' folders.

    context, paths  None: the report is made again from the results alone
    """

    folder: Path
    outcome: dict
    context: Context | None = None
    paths: Paths | None = None

    def draw(self, name: str, caption: str, figure: Callable, *args, **kwargs) -> list[Picture]:
        """A picture by a function of `dg.evaluation.figures`."""
        path = self.folder / f"{name}.png"
        figure(path, *args, **kwargs)
        return [Picture(path, caption)]

    def show(self, name: str, caption: str, draw: Callable, *args, wide=True) -> list[Picture]:
        """A picture by `draw(source, path, *args)`, which needs the stages' folders; without them
        the file that stands in the folder already, if there is one."""
        path = self.folder / f"{name}.png"
        if self.context is not None:
            draw(self, path, *args)
        return [Picture(path, caption, wide)] if path.is_file() else []

    def title(self, system: str) -> str:
        return self.outcome["systems"][system]["title"]

    def roles(self) -> dict[str, str]:
        """The role of every system by its title, for its colour."""
        return {self.title(name): role(self.outcome, name) for name in self.outcome["systems"]}

    @cache  # noqa: B019
    def images(self, system: str) -> np.ndarray:
        """The first set of a system, uint8 [N, H, W, C]; seeds from 0 on, as of all systems."""
        return load_images(self.paths[f"sample-{system}"] / "set0").images

    def name(self, kind: str, base: str) -> str:
        """The file's name of a picture of a pair of systems."""
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


# Pictures of numbers ------------------------------------------------------------------------------


def glance(source: Source) -> list[Picture]:
    """The one picture beside the table: the sweep, where something was varied, else bars."""
    return sweep(source) or bars(source)


def bars(source: Source) -> list[Picture]:
    outcome, distance = source.outcome, distance_name(source.outcome)
    named = {source.title(name): outcome["metrics"][name] for name in alone(outcome)}
    fair = fair_floor(outcome)
    named |= {"floor": outcome["metrics"]["floor"]} if fair else {}
    titles = {"fd": f"{distance} (lower is better)"}
    if "fd_heldout" in metric_names(outcome):
        titles["fd_heldout"] = f"{distance} held out (lower is better)"
    if len(named) < 9:
        titles["kid"] = "KID (lower is better)"
    if "costs" in outcome["sections"]:
        titles["recall"] = "recall (higher is better)"
    caption = "The bars show every system, the thin lines one sd."
    caption += " The green line is real against real images." if fair else ""
    title = f"Mean ± sd over {outcome['settings']['num_sets']} sets"
    look = dict(title=title, roles=source.roles())
    return source.draw("metrics", caption, figures.metric_bars, named, titles, **look)


def sweep(source: Source) -> list[Picture]:
    """Distance against what was varied."""
    outcome, systems = source.outcome, source.outcome["systems"]
    known = {name: s["x"] for name, s in systems.items() if s["x"] is not None}
    against = {name: systems[name]["against"] or "unguided" for name in known}
    swept = {name: x for name, x in known.items() if name not in against.values()}
    if len(swept) < 2:
        return []

    def of(names):
        found = [outcome["metrics"][name]["fd"] for name in names]
        return [one["mean"] for one in found], [one["sd"] for one in found]

    bases = [against[name] for name in swept]
    single = len(set(bases)) == 1
    baseline = tuple(values[0] for values in of(bases)) if single else of(bases)
    distance = distance_name(outcome)
    titles = dict(xlabel=outcome["xlabel"], ylabel=distance, title=outcome["title"])
    sets = outcome["settings"]["num_sets"]
    caption = f"The points show the mean over {sets} sets, the thin lines one sd. "
    caption += "The band is the unguided model." if single else "Equal seeds on both lines."
    values = (list(swept.values()), *of(swept), baseline)
    return source.draw("sweep", caption, figures.distance_sweep, *values, **titles)


def selection(source: Source) -> list[Picture]:
    """Distance of the selection sets against the guidance weight, where one was chosen."""
    if source.outcome["selection"] is None:
        return []
    chosen, ((_, base), *others) = (source.outcome["selection"][name] for name in ("chosen", "fd"))
    weights, distances = (list(values) for values in zip(*others, strict=True))
    titles = dict(ylabel="FD, training set", chosen=chosen, title="Choice of the weight")
    caption = "The weight was chosen on seeds of its own and against the training images. The "
    caption += "results above use neither."
    shown = (figures.distance_sweep, weights, distances, [0.0] * len(others), (base, 0.0))
    return source.draw("weights", caption, *shown, **titles)


def costs(source: Source) -> list[Picture]:
    """Distance against the time of sampling."""
    outcome, settings = source.outcome, source.outcome["settings"]

    def point(name):
        fd, seconds = outcome["metrics"][name]["fd"], outcome["costs"][name]["seconds_per_1000"]
        return dict(seconds=seconds, mean=fd["mean"], sd=fd["sd"])

    points, lines = {source.title(name): point(name) for name in alone(outcome)}, {}
    for name in (name for name in outcome["systems"] if name not in alone(outcome)):
        lines.setdefault(outcome["systems"][name]["line"], []).append(name)
    lines = {_with_steps(outcome, line, names): names for line, names in lines.items()}
    drawn = {line: [point(name) for name in names] for line, names in lines.items()}
    images = settings["num_sets"] * settings["num_images"]
    caption = f"The time was measured once, over {images:,} images on {machine_of(outcome)}, one "
    caption += "process for each model."
    shown = (figures.quality_against_cost, points, distance_name(outcome))
    return source.draw("cost", caption, *shown, roles=source.roles(), lines=drawn)


def _with_steps(outcome: dict, line: str, names: list[str]) -> str:
    """The name of a line with the evaluations of its systems, the fewest first."""
    found = sorted(outcome["costs"][name]["num_evaluations"] for name in names)
    return f"{line}: {', '.join(f'{number:,}' for number in found)} steps"


def curves(source: Source) -> list[Picture]:
    """Training of every discriminator of more than one epoch, with the checkpoint that guides. A
    score difference has another loss, and no share that is right."""
    shown, systems = {}, source.outcome["systems"].values()
    for name, entry in source.outcome["trainings"].items():
        if len(log := entry["log"]) < 2 or "train_accuracy" not in log[0]:
            continue
        heads = [head for system in systems for head in system["heads"]]
        used = {head["checkpoint"] for head in heads if head["training"] == name}
        best = entry["best_epoch"]
        step = next(row["step"] for row in log if row["epoch"] == best)
        shown[name] = (log, log[-1]["step"] if used == {"last"} else step)
    if not shown:
        return []
    caption = "The dashed line is chance, the dot the checkpoint that guides."
    return source.draw("curves", caption, figures.all_training_curves, shown)


def losses(source: Source) -> list[Picture]:
    """Training of the models."""
    settings, panels = source.outcome["settings"], {}
    for name, trained in source.outcome["models"].items():
        model = settings["models"][name]
        panels[model["title"]] = {"ylabel": KINDS[model["kind"]].loss, "log": trained["log"]}
    caption = (
        "The losses are on different scales: compare the shapes. The test loss is that of the "
    )
    caption += "averaged weights, on the same test images and with the same noise every time."
    return source.draw("losses", caption, figures.loss_curves, panels)


def bounds(source: Source) -> list[Picture]:
    """The bounds of the models along their training."""
    models, found = source.outcome["settings"]["models"], source.outcome["bounds"]
    curves = {models[name]["title"]: entries for name, entries in found.items()}
    caption = "−ELBO in bits/dim of the 8-bit images, for all models on one scale: uniform noise "
    caption += "has 8. The thin lines are one standard error."
    return source.draw("bounds", caption, figures.bound_curves, curves)


# Pictures of images -------------------------------------------------------------------------------


def before_and_after(source: Source) -> list[Picture]:
    """Pairs of the same seeds, and the first images of both systems."""
    found, shown = [], pairs(source.outcome)
    for base, guided in shown.items():
        titles = f"{source.title(base)} and {source.title(guided)}"
        caption = f"Both systems, {titles}, start from the first {PAIRS} seeds. The pairs are "
        caption += "sorted by how much they differ, and none is left out."
        found += source.show(source.name("pairs", base), caption, _draw_pairs, base, guided)
    if len(shown) == 1 and "images" not in source.outcome["sections"]:
        for name, system in zip(("unguided", "guided"), (base, guided), strict=True):
            found += grid(source, name, system)
    return found


def _draw_pairs(source: Source, path: Path, base: str, guided: str) -> None:
    before, after = source.images(base), source.images(guided)
    order = figures.by_change(before, after, PAIRS)
    half = len(order) // 2
    panels = {"The half that changes less": order[:half], "The other half": order[half:]}
    figures.paired_grid(path, before, after, panels)


def grid(source: Source, name: str, system: str) -> list[Picture]:
    """The first images of a system."""
    caption = f"{source.title(system)}: the first images, not selected."
    return source.show(name, caption, _draw_grid, system)


def _draw_grid(source: Source, path: Path, system: str) -> None:
    figures.image_grid(path, source.images(system)[:GRID], columns=COLUMNS)


def grids(source: Source) -> list[Picture]:
    """The first images of every system that is no point of a line, and of a VAE what lies between
    test images."""
    found, models = [], source.outcome["settings"]["models"]
    for name in alone(source.outcome):
        found += grid(source, name, name)
    for name in (name for name, model in models.items() if model["kind"] == "vae"):
        caption = "VAE: from one test image to another on the great circle between their codes."
        found += source.show("interpolation", caption, _draw_interpolation, name)
    return found


def _draw_interpolation(source: Source, path: Path, name: str) -> None:
    vae, test = source.context.model(source.paths, name), source.context.images("test").images
    rows = [interpolate(vae, test[i], test[i + 1], 10) for i in range(0, 8, 2)]
    figures.image_grid(path, np.concatenate(rows), columns=10)


def strips(source: Source) -> list[Picture]:
    """Denoised images along the way, without and with guidance."""
    found = []
    for base, guided in pairs(source.outcome).items():
        caption = f"{source.title(base)}: the denoised image at falling noise level, without and "
        caption += "with guidance."
        found += source.show(source.name("strips", base), caption, _draw_strips, base, guided)
    return found


def _draw_strips(source: Source, path: Path, base: str, guided: str) -> None:
    """Three of the seeds shown as pairs: changed little, more, and much."""
    context, rows, levels = source.context, {}, []
    order = figures.by_change(source.images(base), source.images(guided), PAIRS)
    seeds = [order[len(order) * part // 4] for part in (1, 2, 3)]
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
    figures.denoising_strips(path, images, levels, labels, title="Denoised image, step by step")


def ratios(source: Source) -> list[Picture]:
    """Histograms of the log ratio of held-out real and of generated images, without classes."""
    if source.outcome["settings"]["conditional"]:
        return []
    ((base, guided),) = pairs(source.outcome).items()
    caption = "The discriminator's log ratio on held-out real images and on new generated ones. "
    caption += "Its training has seen neither."
    return source.show("log_ratio", caption, _draw_ratios, base, guided, wide=False)


def _draw_ratios(source: Source, path: Path, base: str, guided: str) -> None:
    heldout, device = source.context.images("test").images, source.context.device
    discriminator, found = source.guided(guided)[1].discriminator, []
    generated = source.images(base)
    number = min(len(heldout), len(generated), HISTOGRAM_IMAGES)
    for name, images in (("real", heldout[:number]), ("fake", generated[:number])):
        stream = f"histogram-{name}"
        found.append(log_ratios(discriminator, images, HISTOGRAM_SIGMAS, stream, device))
    figures.log_ratio_histograms(path, HISTOGRAM_SIGMAS, *found)
