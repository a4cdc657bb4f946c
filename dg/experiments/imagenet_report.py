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
LEAD = (
    "{:,} images of every system, the same seeds for all; published values in brackets (Kim et al. "
    "2023). One set each: a distance has no spread here."
)
FOREIGN = Note("The features are not those of the published numbers: do not compare.")


def write(folder, outcome: dict, images: dict[str, np.ndarray]) -> None:
    """Write results, pictures and report. images: by system, uint8 [N, H, W, 3], equal seeds."""
    write_results(folder, outcome, describe(folder, outcome, images))


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


def describe(folder, outcome: dict, images: dict[str, np.ndarray]) -> Document:
    """The report as plain data; draws its pictures."""
    settings, grids, extractor = outcome["settings"], [], outcome["extractor"]
    for name, batch in images.items():
        figures.image_grid(folder / f"{name}.png", batch[:SHOWN], columns=8, scale=1)
        grids.append(Picture(folder / f"{name}.png", settings["systems"][name]["title"]))
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
    return Document(settings["title"], LEAD.format(settings["num_images"]), [], sections)
