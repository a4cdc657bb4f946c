"""The figures of one results file of `fid.py`, those that its rows allow."""

import re
from pathlib import Path

from dg.evaluation.figures.distances import (
    distance_against_size,
    distance_sweep,
    metric_bars,
    precision_recall_scatter,
)
from dg.evaluation.figures.style import short_names


def draw_measurements(folder: Path, results: dict) -> None:
    """Draw `Measurement.results` into PNG files of a folder: bars, a scatter, lines against the
    number of images.

    A series against the number in the sources' names is drawn as well, where they differ in one
    number.
    """
    distance = results["distance"]
    rows = short_names(results["images"])
    tables = {
        name: {metric: _mean_and_spread(value) for metric, value in row["metrics"].items()}
        for name, row in rows.items()
    }
    titles = {
        "fd": f"{distance} (lower is better)",
        "kid": "KID (lower is better)",
        "precision": "precision (higher is better)",
        "recall": "recall (higher is better)",
        "authenticity": "authenticity (higher is better)",
        "memorised": "memorised (0.5: as unseen images, 1: copies)",
    }
    shown = {
        metric: title
        for metric, title in titles.items()
        if any(metric in table for table in tables.values())
    }
    if shown:
        metric_bars(
            folder / "metrics.png", tables, shown, title="Value and 95% interval (over sets: sd)"
        )
    pairs = {
        name: row["metrics"]
        for name, row in rows.items()
        if "low" in row["metrics"].get("precision", {})
    }
    if pairs:
        precision_recall_scatter(folder / "precision-recall.png", pairs)
    if lines := {name: row["fid_infinity"] for name, row in rows.items() if "fid_infinity" in row}:
        distance_against_size(folder / "fid-against-n.png", lines, distance)
    numbers = _numbers_in(list(results["images"]))
    if numbers and all("fd" in table for table in tables.values()):
        fd = [table["fd"] for table in tables.values()]
        distance_sweep(
            folder / "series.png",
            numbers,
            [row["mean"] for row in fd],
            [row["sd"] or 0 for row in fd],
            xlabel="number in the names",
            ylabel=distance,
            title=f"{distance} against the number in the names",
        )


def _mean_and_spread(value):
    """For bars: mean and sd over sets, or the value and half of its 95% interval, where it has
    one."""
    if "mean" in value:
        return value
    return {
        "mean": value["value"],
        "sd": (value["high"] - value["low"]) / 2 if "low" in value else None,
    }


def _numbers_in(names):
    """The number that names differ in, such as an epoch; None unless there is exactly one, and more
    than one name."""
    found = [re.findall(r"\d+(?:\.\d+)?", name) for name in names]
    if len(names) < 2 or len({len(numbers) for numbers in found}) != 1:
        return None
    columns = [
        [float(number) for number in column]
        for column in zip(*found, strict=True)
        if len(set(column)) > 1
    ]
    return columns[0] if len(columns) == 1 and len(set(columns[0])) == len(names) else None
