"""Report of the experiments on ImageNet, from results and some images of every system."""

import numpy as np

from dg.evaluation import figures
from dg.evaluation.measure import METRICS
from dg.evaluation.published import published_rows
from dg.evaluation.report import Document, Note, Picture, Section, Table, text_of
from dg.evaluation.tables import how_it_was_run
from dg.experiments.report import write_results
from dg.experiments.tables import distance_name

SHOWN = 32  # images of a grid
ABOUT = (
    "{:,} images of every system, the same seeds for all; published values in brackets (Kim et al. "
    "2023). One set each: a distance has no spread here."
)
BEST = {"fd": min, "recall": max}  # of the systems of a sweep
FOREIGN = Note("The features are not those of the published numbers: do not compare.")


def write(folder, outcome: dict, images: dict[str, np.ndarray]) -> None:
    """Write results, pictures and report. images: by system, uint8 [N, H, W, 3], equal seeds."""
    write_results(folder, outcome, describe(folder, outcome, images))


def best(outcome: dict) -> dict[str, str]:
    """The systems of a sweep of the lowest distance and of the highest recall."""
    metrics = outcome["metrics"]
    return {
        metric: choose(metrics, key=lambda name: metrics[name][metric]["mean"])
        for metric, choose in BEST.items()
        if all(metric in found for found in metrics.values())
    }


def shown(outcome: dict) -> list[str]:
    """The systems whose images are shown: all, or the best of a sweep."""
    swept = outcome["settings"].get("swept")
    return list(dict.fromkeys(best(outcome).values() if swept else outcome["metrics"]))


def rows(outcome: dict) -> list[list[str]]:
    """Cells of the table: title, then every metric as measured and, in brackets, as published."""
    published = {
        (row["system"], row["metric"]): f" ({row['value']:g})"
        for row in published_rows()
        if row["data"] == "imagenet-256"
    }
    table = []
    for name, system in outcome["settings"]["systems"].items():
        cells = [system["title"]]
        for metric in _metrics(outcome):
            value = outcome["metrics"][name].get(metric)
            known = (system["published"], "fid" if metric == "fd" else metric)
            cells.append((f"{value['mean']:.4g}" if value else "") + published.get(known, ""))
        table.append(cells)
    return table


def columns(outcome: dict) -> list[str]:
    names = {metric: title for metric, (title, _) in METRICS.items()}
    names["fd"] = distance_name(outcome)
    return ["", *(names[metric] for metric in _metrics(outcome))]


def _metrics(outcome) -> list[str]:
    measured = outcome["metrics"].values()
    return [metric for metric in METRICS if any(metric in found for found in measured)]


def text_table(outcome: dict) -> str:
    """The metrics for a terminal."""
    return text_of([columns(outcome), *rows(outcome)])


def describe(folder, outcome: dict, images: dict[str, np.ndarray] | None = None) -> Document:
    """The report as plain data; draws its pictures, those of images unless there are none: then
    the files in the folder stay."""
    settings, grids, extractor = outcome["settings"], [], outcome["extractor"]
    for name in shown(outcome):
        system = settings["systems"][name]
        path = folder / f"{name}.png"
        if images and name in images:
            figures.image_grid(path, images[name][:SHOWN], columns=8, scale=1)
        if path.is_file():
            grids.append(Picture(path, f"{system['title']}: the first seeds.", wide=True))
    curves, log = folder / "curves.png", outcome["training"]["log"]
    figures.training_curves(curves, log, title="Discriminator")
    caption = f"Features: {extractor['name']}; reference: {settings['reference']}, "
    caption += f"{extractor['num_reference'] or '?'} images."
    table = Table(columns(outcome), rows(outcome), caption=caption)
    training = [Picture(curves, "Loss and accuracy by epoch.")]
    sections = [
        Section("Results", [table] if extractor["published_weights"] else [table, FOREIGN]),
        Section("The same seeds", grids),
        Section("Training of the discriminator", training),
        Section("Deviations", list(settings["deviations"])),
        how_it_was_run(outcome),
    ]
    about = ABOUT.format(settings["num_images"])
    return Document(settings["title"], verdict(outcome), about, sections)


def verdict(outcome: dict) -> str:
    """The answer in a sentence: the distance of every system, or the best of a sweep."""
    systems, distance = outcome["settings"]["systems"], distance_name(outcome)
    if outcome["settings"].get("swept"):
        return _of_sweep(outcome, systems, distance)
    values = {
        system["title"]: outcome["metrics"][name]["fd"]["mean"] for name, system in systems.items()
    }
    named = ", ".join(f"{title} {value:.4g}" for title, value in values.items())
    return f"{distance}: {named}."


def _of_sweep(outcome: dict, systems: dict, distance: str) -> str:
    """The weights that are best by distance and by recall, with both numbers of each."""
    subjects, said = {"fd": f"{distance} is lowest", "recall": "Recall is highest"}, []
    for metric, name in best(outcome).items():
        found = outcome["metrics"][name]
        numbers = f"{distance} {found['fd']['mean']:.4g}"
        numbers += f", recall {found['recall']['mean']:.4g}" if "recall" in found else ""
        said.append(f"{subjects[metric]} with {systems[name]['title']}: {numbers}.")
    return " ".join(said)
