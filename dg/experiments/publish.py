"""Evidence worth keeping: the small files of a result, copied to docs/results/NAME, and the tables
of the README and of docs/*.md, filled from there so that they cannot drift."""

import os
import re
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from urllib.parse import unquote

from dg.evaluation.figures.pictures import copy_with_palette
from dg.evaluation.report import unbroken
from dg.experiments import tables
from dg.runtime.files import read_json, write_text
from dg.runtime.provenance import measured_by

MOST_BYTES = 2_000_000  # of one file in the repository


def publish(results: Path, name: str, docs=Path("docs/results")) -> Path:
    """Copy results.json, report.md and the pictures in it; what else was published of this name
    is removed. ValueError for a file too large to keep."""
    target, page = docs / name, results / "report.md"
    if results.resolve() == target.resolve():
        raise ValueError(f"{results}: this is where it is published; give another folder")
    shown = re.findall(r'<img src="([^"/]+)"', page.read_text(encoding="utf-8"))
    names = ["results.json", page.name, *map(unquote, shown)]
    for path in (results / name for name in names):
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{path}: larger than {MOST_BYTES} bytes; make the picture smaller")
    target.mkdir(parents=True, exist_ok=True)
    for path in target.iterdir():
        if path.suffix == ".png" and path.name not in names:
            path.unlink()
    for name in names:
        if name.endswith(".png"):
            copy_with_palette(results / name, target / name)
        else:
            shutil.copy(results / name, target / name)
    return target


def block(results: dict, report: str, shown: Sequence[str] = ()) -> str:
    """Markdown of an experiment's table, with what it was run on and what guidance changed.

    report  address of the whole report
    shown   metrics to show, by the keys of `tables.TITLES`; none: all of them, with the costs.
            ValueError for one that was not measured
    """
    settings, systems = results["settings"], results["systems"]
    columns, rows = tables.columns(results), tables.rows(results)
    columns[0] = results["setting"]
    if "costs" in results["sections"]:
        found = {row[0]: row[1:] for row in tables.cost_rows(results)}
        columns = [*columns, *tables.COSTS]
        rows = [[*row, *found.get(row[0], [""] * len(tables.COSTS))] for row in rows]
    if shown:
        kept = [0, *_places(tables.metric_names(results), shown)]
        columns, *rows = ([row[place] for place in kept] for row in (columns, *rows))
    text = f"{measured_by(results)}; "
    text += f"budget {settings['budget']}; " if settings["budget"] else ""
    text += f"mean ± sd over {settings['num_sets']} sets of {settings['num_images']} seeds"
    if "nll" in (shown or tables.metric_names(results)):
        measured = [results["metrics"][system].get("nll") for system in systems]
        counts = {nll["n"] for nll in measured if nll}
        text += f"; bits/dim ± standard error on {max(counts):,} test images"
    text += f". Features: {results['extractor']['name']}. "
    if results["selection"]:
        compared = results["comparison"][tables.pairs(results)["unguided"]]
        changes = [
            f"{tables.TITLES[metric]} by {100 * (compared[metric]['ratio'] - 1):+.0f}%"
            for metric in ("fd", "fd_heldout", "fd_random_vgg", "kid")
            if metric in compared
        ]
        text += f"Guidance of weight {results['selection']['chosen']:g} changes "
        text += f"{', '.join(changes[:-1])} and {changes[-1]}. "
    text += f"[Report]({report})."
    lines = [
        f"| {' | '.join(map(unbroken, row))} |" for row in [columns, ["---"] * len(columns), *rows]
    ]
    return "\n".join([*lines, "", text])


def _places(measured: list[str], shown: Sequence[str]) -> list[int]:
    """Where the columns of some metrics stand; the first column holds the titles."""
    if unknown := [metric for metric in shown if metric not in measured]:
        raise ValueError(
            f"{', '.join(unknown)}: not measured; name some of {', '.join(measured)} in the mark"
        )
    return [1 + measured.index(metric) for metric in shown]


MARKS = re.compile(
    r"(?P<opening><!-- results:(?P<name>[\w-]+)(?P<metrics>(?: \w+)*) -->\n)"
    r".*?(?P<closing><!-- /results:(?P=name) -->)",
    re.DOTALL,
)


def fill(pages: Sequence[Path] | None = None, docs=Path("docs/results")) -> None:
    """Put the published results between the marks `<!-- results:NAME METRIC METRIC -->` and
    `<!-- /results:NAME -->` of the README and of docs/*.md; without metrics, all are shown."""
    for page in pages or [Path("README.md"), *sorted(docs.parent.glob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        write_text(page, MARKS.sub(partial(_filled, page=page, docs=docs), text))


def _filled(marks: re.Match, page: Path, docs: Path) -> str:
    path = docs / marks["name"] / "results.json"
    if not path.exists():
        return marks[0]
    report = Path(os.path.relpath(path.with_name("report.md"), page.parent)).as_posix()
    content = block(read_json(path), report, marks["metrics"].split())
    return f"{marks['opening']}{content}\n{marks['closing']}"
