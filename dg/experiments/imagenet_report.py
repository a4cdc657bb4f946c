"""Report of the experiments on ImageNet, from their results file and some images of every
system."""

import numpy as np

from dg.evaluation import figures
from dg.evaluation.measure import METRICS
from dg.evaluation.report import (
    Document,
    Note,
    Picture,
    Section,
    Table,
    text_of,
    write_markdown,
    write_report,
)
from dg.experiments.sections import how_it_was_run
from dg.experiments.tables import published_rows

SHOWN = 32  # images of a grid


def write(folder, outcome: dict, images: dict[str, np.ndarray]) -> None:
    """Write the pictures, report.html and report.md to `folder`. images: by system, uint8 [N, H, W,
    3] of the same seeds."""
    document = describe(folder, outcome, images)
    write_report(folder / "report.html", document)
    write_markdown(folder / "report.md", document)


def rows(outcome: dict) -> list[list[str]]:
    """Cells of the table: title, then every metric as measured and, in brackets, as published."""
    published = {
        (row["system"], row["metric"]): row["value"]
        for row in published_rows()
        if row["data"] == "imagenet-256"
    }
    table = []
    for name, system in outcome["settings"]["systems"].items():
        cells = [system["title"]]
        for metric in _metrics(outcome):
            value = outcome["metrics"][name].get(metric)
            known = published.get((system["published"], "fid" if metric == "fd" else metric))
            cells.append(
                ("" if value is None else f"{value['mean']:.4g}")
                + ("" if known is None else f" ({known:g})")
            )
        table.append(cells)
    return table


def columns(outcome: dict) -> list[str]:
    names = {metric: METRICS[metric][0] for metric in _metrics(outcome)}
    return [
        "",
        *(names | ({"fd": "FID"} if outcome["extractor"]["name"] == "inception" else {})).values(),
    ]


def _metrics(outcome) -> list[str]:
    return [
        metric
        for metric in METRICS
        if any(metric in found for found in outcome["metrics"].values())
    ]


def text_table(outcome: dict) -> str:
    """The metrics for a terminal."""
    return text_of([columns(outcome), *rows(outcome)])


def describe(folder, outcome: dict, images: dict[str, np.ndarray]) -> Document:
    """The report as plain data; draws its pictures."""
    settings, grids = outcome["settings"], []
    for name, batch in images.items():
        figures.image_grid(folder / f"{name}.png", batch[:SHOWN], columns=8, scale=1)
        grids.append(Picture(folder / f"{name}.png", settings["systems"][name]["title"]))
    figures.training_curves(
        folder / "curves.png", outcome["training"]["log"], title="Discriminator"
    )
    extractor = outcome["extractor"]
    caption = f"Features: {extractor['name']}; reference: {settings['reference']}, "
    caption += f"{extractor['num_reference'] or '?'} images."
    foreign = Note("The features are not those of the published numbers: do not compare.")
    return Document(
        settings["title"],
        (
            f"{settings['num_images']:,} images of every system, the same seeds for all; published "
            "values in brackets (Kim et al. "
            "2023). One set each: a distance has no spread here."
        ),
        [],
        [
            Section(
                "Results",
                [
                    Table(columns(outcome), rows(outcome), caption=caption),
                    *([] if extractor["published_weights"] else [foreign]),
                ],
            ),
            Section("The same seeds", grids),
            Section(
                "Training of the discriminator",
                [Picture(folder / "curves.png", "Loss and accuracy by epoch.")],
            ),
            Section("Deviations", list(settings["deviations"])),
            how_it_was_run(outcome),
        ],
    )
