"""The README's result tables, filled from the results files so that they cannot drift."""

import re
from pathlib import Path

from dg.experiments import tables
from dg.runtime.files import read_json, write_text


def block(results: dict) -> str:
    """Markdown of an experiment's table, with what it was run on and what guidance changed."""
    settings, name, systems = results["settings"], results["experiment"], results["systems"]
    columns, rows = tables.columns(results), tables.rows(results)
    columns[0] = results["setting"]
    if "costs" in results["sections"]:
        found = {row[0]: row[1:] for row in tables.cost_rows(results)}
        columns = [*columns, *tables.COSTS]
        rows = [[*row, *found.get(row[0], [""] * len(tables.COSTS))] for row in rows]
    text = f"{_measured(results)}; "
    text += f"budget {settings['budget']}; " if settings["budget"] else ""
    text += f"mean ± sd over {settings['num_sets']} sets of {settings['num_images']} seeds"
    if "nll" in tables.metric_names(results):
        counts = {results["metrics"][system]["nll"]["n"] for system in systems}
        text += f"; bits/dim ± standard error on {max(counts):,} test images"
    text += f". Features: {results['extractor']['name']}. "
    if results["selection"]:
        compared = results["comparison"][tables.pairs(results)["unguided"]]
        fd, heldout, kid = (
            f"{100 * (compared[metric]['ratio'] - 1):+.0f}%"
            for metric in ("fd", "fd_heldout", "kid")
        )
        text += f"Guidance of weight {results['selection']['chosen']:g} changes FD by {fd}, "
        text += f"FD held out by {heldout} and KID by {kid}. "
    text += f"[Report](docs/results/{name}/report.md)."
    return "\n".join([*_table(columns, rows), "", text])


def _table(columns, rows) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in [columns, ["---"] * len(columns), *rows]]


def _measured(results: dict) -> str:
    hardware = results["hardware"]
    machine = hardware.get("gpu") or hardware["cpu"]
    return (
        f"Measured by `{results['command']}`, {results['seconds']['total']:.0f} s of stages on "
        f"{machine} ({hardware['threads']} threads per process, torch "
        f"{results['versions']['torch']})"
    )


def fill(readme=Path("README.md"), docs=Path("docs/results")) -> None:
    """Put the published results between the README's `<!-- results:NAME -->` marks."""
    text = readme.read_text(encoding="utf-8")
    for name in re.findall(r"<!-- results:([\w-]+) -->", text):
        if (docs / name / "results.json").exists():
            content = block(read_json(docs / name / "results.json"))
            marks = rf"(<!-- results:{name} -->\n).*?(<!-- /results:{name} -->)"
            parts = re.split(marks, text, flags=re.DOTALL)
            text = "".join([parts[0], parts[1], content, "\n", *parts[2:]])
    write_text(readme, text)
