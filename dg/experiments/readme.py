"""The README's result tables, filled from the results files so that they cannot drift."""

import re
from pathlib import Path

from dg.experiments import mnist_recipes
from dg.experiments.digits_report import METRICS, metric_rows
from dg.runtime.files import read_json, write_text


def digits_block(results: dict) -> str:
    """Markdown of the digits table with what it was run on."""
    settings, selection = results["settings"], results["selection"]
    ratio = {name: 100 * (results["comparison"][name]["ratio"] - 1) for name in ("fd", "fd_heldout", "kid")}
    return "\n".join([*_table(["", *METRICS.values()], metric_rows(results)), "", (
        f"{_measured(results)}; mean ± sd over {settings['num_sets']} sampling seeds, {settings['num_images']} images each, "
        f"guidance weight {selection['chosen']:g}. Guidance changes FD by {ratio['fd']:+.0f}%, FD held out by "
        f"{ratio['fd_heldout']:+.0f}% and KID by {ratio['kid']:+.0f}%.")])


def mnist_recipes_block(results: dict) -> str:
    """Markdown of the table of recipes."""
    settings = results["settings"]
    return "\n".join([*_table(["MNIST at 14 × 14 pixels", *mnist_recipes.METRICS.values()], mnist_recipes.rows(results)), "", (
        f"{_measured(results)}; mean ± sd over {settings['num_sets']} sampling seeds, {settings['num_images']} images each, "
        f"{settings['num_data']} real and as many generated images for the discriminators, {settings['epochs']} epochs. "
        "Features of a small MNIST classifier, no Inception FID. [Report](docs/results/mnist-recipes/report.md).")])


def _table(columns, rows) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in [columns, ["---"] * len(columns), *rows]]


def _measured(results: dict) -> str:
    hardware = results["hardware"]
    return (f"Measured by `{results['command']}`, {results['seconds']['total']:.0f} s of stages on {hardware['cpu']} "
            f"({hardware['threads']} threads per process, torch {results['versions']['torch']})")


BLOCKS = {"digits": digits_block, "mnist-recipes": mnist_recipes_block}


def fill(readme=Path("README.md"), docs=Path("docs/results")) -> None:
    """Put the published results between the README's `<!-- results:NAME -->` marks."""
    text = readme.read_text(encoding="utf-8")
    for name, block in BLOCKS.items():
        if (docs / name / "results.json").exists():
            content = block(read_json(docs / name / "results.json"))
            marks = rf"(<!-- results:{name} -->\n).*?(<!-- /results:{name} -->)"
            text = re.sub(marks, lambda match, content=content: f"{match[1]}{content}\n{match[2]}", text, flags=re.DOTALL)
    write_text(readme, text)
