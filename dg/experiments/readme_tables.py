"""The README's result tables, filled from the results files so that they cannot drift."""

import re
from pathlib import Path

from dg.experiments import mnist_report, study_report
from dg.experiments.digits_report import METRICS, metric_rows
from dg.runtime.files import read_json, write_text


def digits_block(results: dict) -> str:
    """Markdown of the digits table with what it was run on."""
    settings, selection = results["settings"], results["selection"]
    ratio = {
        name: 100 * (results["comparison"][name]["ratio"] - 1)
        for name in ("fd", "fd_heldout", "kid")
    }
    return "\n".join(
        [
            *_table(["", *METRICS.values()], metric_rows(results)),
            "",
            (
                f"{_measured(results)}; mean ± sd over {settings['num_sets']} sampling seeds, {settings['num_images']} images each, "
                f"guidance weight {selection['chosen']:g}. Guidance changes FD by {ratio['fd']:+.0f}%, FD held out by "
                f"{ratio['fd_heldout']:+.0f}% and KID by {ratio['kid']:+.0f}%."
            ),
        ]
    )


def study_block(results: dict) -> str:
    """Markdown of a study's table."""
    settings, name = results["settings"], results["experiment"]
    features = results["extractor"]["name"]
    return "\n".join(
        [
            *_table(
                [results["setting"], *study_report.columns(results)[1:]], study_report.rows(results)
            ),
            "",
            (
                f"{_measured(results)}; mean ± sd over {settings['num_sets']} sets of {settings['num_images']} seeds; bits/dim ± "
                f"standard error over images. Features: {features}. [Report](docs/results/{name}/report.md)."
            ),
        ]
    )


def mnist_block(results: dict) -> str:
    """Markdown of the comparison on MNIST."""
    settings, name = results["settings"], results["experiment"]
    cost = {row[0]: row[1:] for row in mnist_report.cost_rows(results)}
    joined = [[*row, *cost.get(row[0], [""] * 4)] for row in mnist_report.rows(results)]
    return "\n".join(
        [
            *_table([*mnist_report.COLUMNS, *mnist_report.COST_COLUMNS[1:]], joined),
            "",
            (
                f"{_measured(results)}; budget {settings['budget']}; mean ± sd over {settings['num_sets']} sets of "
                f"{settings['num_images']} images; features of a small MNIST classifier, no Inception FID; bits/dim ± standard error on "
                f"{results['systems']['edm']['nll']['n']} test images (VAE: {results['systems']['vae']['nll']['n']:,}). "
                f"[Report](docs/results/{name}/report.md)."
            ),
        ]
    )


def _table(columns, rows) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in [columns, ["---"] * len(columns), *rows]]


def _measured(results: dict) -> str:
    hardware = results["hardware"]
    machine = hardware.get("gpu") or hardware["cpu"]
    return (
        f"Measured by `{results['command']}`, {results['seconds']['total']:.0f} s of stages on {machine} "
        f"({hardware['threads']} threads per process, torch {results['versions']['torch']})"
    )


# Of experiments with a table of their own; the others are studies.
BLOCKS = {"digits": digits_block, "mnist": mnist_block, "mnist-cond": mnist_block}


def fill(readme=Path("README.md"), docs=Path("docs/results")) -> None:
    """Put the published results between the README's `<!-- results:NAME -->` marks."""
    text = readme.read_text(encoding="utf-8")
    for name in re.findall(r"<!-- results:([\w-]+) -->", text):
        if (docs / name / "results.json").exists():
            content = BLOCKS.get(name, study_block)(read_json(docs / name / "results.json"))
            marks = rf"(<!-- results:{name} -->\n).*?(<!-- /results:{name} -->)"
            text = re.sub(
                marks,
                lambda match, content=content: f"{match[1]}{content}\n{match[2]}",
                text,
                flags=re.DOTALL,
            )
    write_text(readme, text)
