"""A report made again from its results file: nothing is run, measured or loaded."""

import shutil
from collections.abc import Callable
from pathlib import Path

from dg.evaluation.report import Document
from dg.experiments import imagenet_report, report, two_gaussians
from dg.experiments.pictures import Source
from dg.experiments.registry import IMAGENET, TWO_GAUSSIANS
from dg.runtime.files import read_json
from dg.runtime.progress import unheard

PUBLISHED = Path("docs/results")


def report_again(
    name: str, folder: Path, published=PUBLISHED, notify: Callable[[str], None] = unheard
) -> dict:
    """Write report.html, report.md and the pictures of numbers to `folder` again from its
    results.json, and return the results.

    Pictures of images stay as they stand in the folder. A folder without results takes those of
    `published`/NAME. ValueError where there are none either.
    """
    folder, kept = Path(folder), Path(published) / name
    if not (folder / "results.json").is_file():
        if not (kept / "results.json").is_file():
            raise ValueError(
                f"there are no results in {folder} or {kept}; run the experiment first"
            )
        notify(f"results and pictures of {kept}")
        shutil.copytree(kept, folder, dirs_exist_ok=True)
    outcome = read_json(folder / "results.json")
    report.write_pages(folder, describe(name, folder, outcome))
    return outcome


def describe(name: str, folder: Path, outcome: dict) -> Document:
    """The report of any experiment, from its results."""
    if name.startswith(TWO_GAUSSIANS):
        return two_gaussians.describe(folder, outcome)
    if name.startswith(IMAGENET):
        return imagenet_report.describe(folder, outcome)
    return report.describe(Source(folder, outcome))
