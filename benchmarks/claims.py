"""docs/claims.md: what was claimed, what was measured here, and whether the one shows the other.

python -m benchmarks.claims          # writes docs/claims.md anew

stats/claims.json lists the claims. The numbers come from stats/published.json and
docs/results/*/results.json, and so do the verdicts wherever two numbers can be compared.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

from dg.evaluation.figures.style import decimals, mean_sd
from dg.evaluation.published import PUBLISHED, published_rows
from dg.evaluation.significance import one_sample_t, paired_t
from dg.runtime.files import read_json, write_text

ROOT = Path(__file__).parent.parent
CLAIMS, PAGE = ROOT / "stats" / "claims.json", ROOT / "docs" / "claims.md"
RESULTS = ROOT / "docs" / "results"

WIDTH = 130  # columns of text in docs/
LEVEL = 0.05  # of the two-sided test
VERDICTS = {
    "reproduced": "measured in the claim's own setting, and shown",
    "partly": "shown in another setting than the claim's, or shown in part",
    "not": f"measured and not shown: the other way round, or chance can do it (p ≥ {LEVEL:g})",
    "not run": "nothing was measured here",
}
METRICS = {"fid": "FID", "fid-10k": "FID-10k", "fd": "FD", "nll": "bits/dim"}
# What else a published row tells, and how it is written.
MORE = {
    "against": "against {}",
    "sd": "sd {}",
    "n": "n = {}",
    "t": "t = {}",
    "told_as": "{}",
    "p_below": "p < {}",
    "epoch": "epoch {}",
    "S_churn": "S_churn {}",
}
HOLDS: dict[str, Callable[[float, float], bool]] = {  # of the difference and its p
    "lower": lambda difference, p: difference < 0 and p < LEVEL,
    "higher": lambda difference, p: difference > 0 and p < LEVEL,
    "alike": lambda difference, p: p >= LEVEL,
}


@dataclass(frozen=True)
class Measured:
    """What stands in a results file beside a claim.

    text        the numbers, with their spread
    n           how many of what they are
    setting     where they were measured
    difference  of the second number less the first; p of a two-sided test that it is 0. None where
                the file holds nothing to test
    """

    text: str
    n: str
    setting: str
    difference: float | None = None
    p: float | None = None


def results(name: str) -> dict:
    return read_json(RESULTS / name / "results.json")


def measured(here: dict) -> Measured:
    """The numbers that a claim's entry `here` names."""
    outcome = results(here["results"])
    setting = here.get("setting") or _setting(outcome)
    if "training" in here:
        return _along_a_training(outcome["trainings"][here["training"]]["log"], here, setting)
    metric = here["metric"]
    name = METRICS[metric]
    if isinstance(here["to"], list):
        return _several_trainings(outcome, here, setting)
    found = outcome.get("metrics") or outcome["images"]  # of an experiment, or of fid.py
    found = {name: entry.get("metrics", entry) for name, entry in found.items()}
    second = found[here["to"]][metric]
    n = f"{second['n']} {'images' if 'standard_error' in second else 'sets'}"
    if "from" not in here:
        return Measured(f"{name} {_shown(second)}", n, setting)
    first = found[here["from"]][metric]
    text = f"{name} {_shown(first, second)}"
    difference = second["mean"] - first["mean"]
    if "values" in second:
        return Measured(text, n, setting, difference, paired_t(second["values"], first["values"]).p)
    # Both are means over the same images, so independent errors overstate that of the difference.
    error = math.hypot(first["standard_error"], second["standard_error"])
    p = math.erfc(abs(difference) / error / math.sqrt(2))
    return Measured(text, n, setting, difference, p)


def _setting(outcome: dict) -> str:
    """The name of an experiment's setting, and whether its networks ship."""
    shipped = outcome["settings"].get("shipped")
    return outcome["setting_name"] + (", shipped" if shipped else "")


def _several_trainings(outcome: dict, here: dict, setting: str) -> Measured:
    """The mean of systems that differ in a seed of training, against one that is taken as known."""
    metric = here["metric"]
    base = outcome["metrics"][here["from"]][metric]["mean"]
    means = [outcome["metrics"][name][metric]["mean"] for name in here["to"]]
    test = one_sample_t(means, base)
    sd = abs(test.difference / test.effect)
    text = f"{METRICS[metric]} {base:.3g} → mean {base + test.difference:.3g} (sd {sd:.2g}), "
    text += f"t = {test.t:.3g}"
    return Measured(text, f"{len(means)} trainings", setting, test.difference, test.p)


def _along_a_training(log: list[dict], here: dict, setting: str) -> Measured:
    """The best and the last value of a column of a training's log."""
    column = here["column"]
    best = {"lowest": min, "highest": max}[here["best"]](log, key=lambda entry: entry[column])
    told = [f"{entry[column]:.3f} (epoch {entry['epoch']})" for entry in (best, log[-1])]
    return Measured(f"{here['best']} {told[0]}, last {told[1]}", "1 training", setting)


def _shown(*entries: dict) -> str:
    """Means with their spreads, to equally many digits."""
    spreads = [entry.get("sd", entry.get("standard_error")) for entry in entries]
    digits = decimals(spreads)
    pairs = zip(entries, spreads, strict=True)
    return " → ".join(mean_sd(entry["mean"], spread, digits) for entry, spread in pairs)


def published(filters: list[dict] | None) -> str:
    """The numbers of published rows; every filter must name one row."""
    told = []
    for wanted in filters or []:
        found = [row for row in published_rows() if wanted.items() <= row.items()]
        if len(found) != 1:
            raise ValueError(
                f"{wanted} names {len(found)} rows of {PUBLISHED.name}; name one in {CLAIMS.name}"
            )
        (row,) = found
        more = ", ".join(words.format(row[key]) for key, words in MORE.items() if key in row)
        told.append(f"{row['value']:g}" + (f" ({more})" if more else ""))
    return f"{METRICS.get(row['metric'], row['metric'])} {' → '.join(told)}" if told else "none"


def verdict(claim: dict, found: Measured | None) -> tuple[str, str]:
    """(one of VERDICTS, why)."""
    if "relation" not in claim:  # nothing that numbers could decide
        return claim.get("verdict", "not run"), claim["reason"]
    relation, p = claim["relation"], f"p = {found.p:.2g}"
    if HOLDS[relation](found.difference, found.p):
        same = found.setting == claim["setting"] and relation != "alike"
        return "reproduced" if same else "partly", p
    if relation == "alike":
        return "not", f"{p}: {'lower' if found.difference < 0 else 'higher'}"
    return "not", f"{p}: {'chance can do it' if found.p >= LEVEL else 'the other way round'}"


@dataclass(frozen=True)
class Row:
    """A claim with what follows for it."""

    claim: dict
    found: Measured | None
    verdict: str
    why: str

    def cells(self) -> list[str]:
        claim, found = self.claim, self.found
        command = claim["command"]
        deviation = [f"[{found.setting}](#where-it-was-measured)."] if found else []
        link = f" ([report](results/{claim['here']['results']}/report.md))" if found else ""
        return [
            claim["claim"],
            published(claim["published"]),
            found.text + link if found else "",
            found.n if found else "",
            f"**{self.verdict}**: {self.why}",
            " ".join([*deviation, *filter(None, [claim.get("deviation")])]),
            f"`{command}`" if command else "none",
        ]


def rows(claims: list[dict]) -> list[Row]:
    made = []
    for claim in claims:
        found = measured(claim["here"]) if "here" in claim else None
        made.append(Row(claim, found, *verdict(claim, found)))
    return made


def page() -> str:
    """The text of docs/claims.md."""
    listed = read_json(CLAIMS)
    made = rows(listed["claims"])
    parts = [_answer(made, listed["documents"])]
    columns = ["claim", "published", "here", "n", "verdict", "deviation", "command of the claim"]
    for name, (title, about) in listed["documents"].items():
        of_it = [row.cells() for row in made if row.claim["document"] == name]
        parts.append(f"## {title}\n\n{about}\n\n{_table(columns, of_it)}")
    parts.append(_places(made))
    parts.append(_later(listed["later"]))
    return "\n\n".join(parts) + "\n"


def _answer(made: list[Row], documents: dict) -> str:
    def counts(chosen):
        number = Counter(row.verdict for row in chosen)
        return [str(number[name]) for name in VERDICTS]

    table = [
        [title, *counts(row for row in made if row.claim["document"] == name)]
        for name, (title, _) in documents.items()
    ]
    said = ", ".join(f"{n} {name}" for n, name in zip(counts(made), VERDICTS, strict=True))
    meanings = "\n".join(f"- **{name}**: {meaning}." for name, meaning in VERDICTS.items())
    numbered = sum(
        row.verdict == "reproduced" and row.claim["published"] is not None for row in made
    )
    return (
        "# Which published claims hold here?\n\n"
        f"**{len(made)} claims: {said}.** {numbered or 'No'} published number was reproduced.\n\n"
        f"{_table(['document', *VERDICTS], table)}\n\n{meanings}\n\n"
        + fill(
            "The page is made by `python -m benchmarks.claims` from the published numbers, the "
            "measured results and the list of claims ([stats](../stats/README.md)). Numbers here "
            "are mean ± sd over sets of seeds, and bits/dim ± standard error over images. A p is "
            "two-sided, from a t test paired over sets or images, and not corrected for the number "
            "of claims. For trainings the test takes the unguided distance as known; bits/dim of "
            "which no single values are kept are compared by their standard errors. That two "
            "systems are alike is never more than partly shown: few sets can hide a difference. FD "
            "is the Fréchet distance in the features of a small classifier, and does not compare "
            "with FID.",
            WIDTH,
        )
    )


def _places(made: list[Row]) -> str:
    """Where the numbers come from, as the results files tell it."""
    lines = {}
    for row in made:
        if row.found and row.found.setting not in lines:
            outcome = results(row.claim["here"]["results"])
            told = [f"{outcome['setting']}.", f"Features: {outcome['extractor']['name']}."]
            told += outcome["settings"].get("deviations", [])
            text = f"- **{row.found.setting}**: {' '.join(told)}"
            lines[row.found.setting] = fill(text, WIDTH, subsequent_indent="  ")
    return "## Where it was measured\n\n" + "\n".join(lines.values())


def _later(sources: list[str]) -> str:
    """FID of later methods beside the paper's, with both counts of evaluations."""
    named = read_json(PUBLISHED)["sources"]
    chosen = [
        row
        for row in published_rows()
        if row["metric"] == "fid"
        and (row["source"] in sources or (row["system"] == "EDM-G++" and "conditional" in row))
        and row["source"] in ("paper-table-3", *sources)
    ]
    classes = {True: "with", False: "without", None: ""}
    cells = [
        [
            row["data"],
            row["system"],
            classes[row.get("conditional")],
            f"{row['value']:g}",
            f"{row['nfe']:g}" if "nfe" in row else "",
            f"{row['nfe_with_discriminator']:g}" if "nfe_with_discriminator" in row else "",
            named[row["source"]],
        ]
        for row in chosen
    ]
    columns = ["data", "method", "classes", "FID", "score network", "with discriminator", "source"]
    return (
        "## Later methods, as published\n\n"
        + fill(
            "None of these was measured here. Evaluations per image are counted both ways: those of "
            "score networks alone, and with those of a discriminator. A cell is empty where the "
            "sources do not tell it.",
            WIDTH,
        )
        + f"\n\n{_table(columns, cells)}"
    )


def _table(columns: list[str], table: list[list[str]]) -> str:
    return "\n".join(
        f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *table)
    )


if __name__ == "__main__":
    write_text(PAGE, page())
