"""The README's result tables, filled from the results files so that they cannot drift."""

import re
from pathlib import Path

from dg.experiments.digits_report import METRICS, metric_rows
from dg.runtime.files import read_json, write_text


def digits_block(results: dict) -> str:
    """Markdown of the digits table with what it was run on."""
    settings, hardware = results["settings"], results["hardware"]
    rows = [["", *METRICS.values()], ["---"] * (1 + len(METRICS)), *metric_rows(results)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    ratio = {name: 100 * (results["comparison"][name]["ratio"] - 1) for name in ("fd", "fd_heldout", "kid")}
    lines += ["", f"Measured by `{results['command']}` in {results['seconds']['total']:.0f} s on {hardware['cpu']} "
              f"({hardware['threads']} threads, torch {results['versions']['torch']}); mean ± sd over "
              f"{settings['num_sets']} sampling seeds, {settings['num_images']} images each, guidance weight "
              f"{results['selection']['chosen']:g}. Guidance changes FD by {ratio['fd']:+.0f}%, FD held out by "
              f"{ratio['fd_heldout']:+.0f}% and KID by {ratio['kid']:+.0f}%."]
    return "\n".join(lines)


def fill(readme=Path("README.md"), docs=Path("docs/results")) -> None:
    """Put the published results between the README's `<!-- results:NAME -->` marks."""
    text = readme.read_text(encoding="utf-8")
    block = digits_block(read_json(docs / "digits" / "results.json"))
    pattern = r"(<!-- results:digits -->\n).*?(<!-- /results:digits -->)"
    write_text(readme, re.sub(pattern, lambda match: f"{match[1]}{block}\n{match[2]}", text, flags=re.DOTALL))
