"""Cells of the tables of a report, from its results file alone: the README's tables are made of
them too."""

import math
from functools import cache
from pathlib import Path

import numpy as np

from dg.evaluation.figures.style import mean_sd
from dg.evaluation.report import text_of
from dg.evaluation.significance import paired_t
from dg.runtime.files import read_json

TITLES = {
    "fd": "FD",
    "fd_heldout": "FD held out",
    "kid": "KID",
    "precision": "precision",
    "recall": "recall",
    "fd_pixels": "FD in pixels",
    "nll": "bits/dim",
}
COSTS = ["parameters", "training", "evaluations", "s / 1,000 images"]
FLOOR = "real against real"
PUBLISHED = Path(__file__).parents[2] / "stats" / "published.json"


def distance_name(outcome: dict) -> str:
    return "FID" if outcome["extractor"]["name"] == "inception" else "FD"


def metric_names(outcome: dict) -> list[str]:
    found = [set(metrics) for metrics in outcome["metrics"].values()]
    return [metric for metric in TITLES if any(metric in names for names in found)]


def pairs(outcome: dict) -> dict[str, str]:
    """The guided system that is shown beside each unguided one: the one called guided, else the one
    of least distance."""
    shown = {}
    for base in outcome["systems"]:
        guided = [
            name
            for name, system in outcome["systems"].items()
            if system["heads"] and system["against"] == base
        ]
        if guided:
            fd = {name: outcome["metrics"][name]["fd"]["mean"] for name in guided}
            shown[base] = "guided" if "guided" in guided else min(guided, key=fd.get)
    return shown


def columns(outcome: dict) -> list[str]:
    named = [
        distance_name(outcome) if metric == "fd" else TITLES[metric]
        for metric in metric_names(outcome)
    ]
    return ["", *named, *(["published", "off by (sd)"] if has_published(outcome) else [])]


def rows(outcome: dict) -> list[list[str]]:
    """Title, mean ± sd of every metric, published value and how many sd the mean is off it; real
    against real at the end."""
    table = []
    for name, system in [*outcome["systems"].items(), ("floor", {"title": FLOOR})]:
        metrics = outcome["metrics"][name]
        cells = [cell(outcome, metric, metrics.get(metric)) for metric in metric_names(outcome)]
        if has_published(outcome):
            cells += _against_published(outcome, name, system, metrics)
        table.append([system["title"], *cells])
    return table


def cell(outcome: dict, metric: str, entry: dict | None) -> str:
    """Mean and standard deviation (of bits/dim: standard error) of a metric, with as many decimals
    as the setting says."""
    if entry is None:
        return ""
    sd = entry.get("sd", entry.get("standard_error"))
    decimals = outcome["settings"].get("decimals", {}).get(metric)
    if decimals is None:
        return mean_sd(entry["mean"], sd)
    return f"{entry['mean']:.{decimals}f} ± {sd:.{decimals}f}"


def text_table(outcome: dict) -> str:
    """The metrics for a terminal."""
    return text_of([columns(outcome), *rows(outcome)])


# Published numbers --------------------------------------------------------------------------------


@cache
def published_rows() -> list[dict]:
    return read_json(PUBLISHED)["rows"]


def published(outcome: dict, name: str, system: dict) -> list[dict]:
    """The published rows that stand beside a system."""
    filters = outcome["settings"]["published"].get(name) or [system.get("published")]
    matching = [
        [row for row in published_rows() if wanted.items() <= row.items()]
        for wanted in filters
        if wanted
    ]
    return [rows[0] for rows in matching if rows]


def has_published(outcome: dict) -> bool:
    return any(published(outcome, name, system) for name, system in outcome["systems"].items())


def _against_published(outcome, name, system, metrics) -> list[str]:
    """What was published, and how far the mean is from the first of it in sd."""
    found = published(outcome, name, system) if name != "floor" else []
    if not found:
        return ["", ""]
    fd, wanted = metrics["fd"], 10_000 if found[0]["metric"] == "fid-10k" else 50_000
    comparable = outcome["settings"]["num_images"] == wanted
    off = f"{(fd['mean'] - found[0]['value']) / fd['sd']:+.1f}" if fd["sd"] and comparable else ""
    return ["; ".join(f"{row['value']:g} ({row['source']})" for row in found), off]


# Comparisons --------------------------------------------------------------------------------------


def tests(outcome: dict) -> list[list[str]]:
    """Every system against the one that it is compared with, on the same seeds."""
    table = []
    for name in outcome["comparison"]:
        system = outcome["systems"][name]
        base, values = (
            outcome["metrics"][which]["fd"]["values"] for which in (system["against"], name)
        )
        if len(values) > 1 and np.ptp(np.subtract(values, base)) > 0:
            test, sd = paired_t(values, base), float(np.std(np.subtract(values, base), ddof=1))
            interval = f"{test.low:+.3f} to {test.high:+.3f}"
            difference = f"{test.difference:+.3f} (sd {sd:.3f})"
            table.append([system["title"], difference, interval, f"{test.t:.2f}", f"{test.p:.2g}"])
    return table


def guidance_rows(outcome: dict) -> list[list[str]]:
    """What guidance does to each model: paired differences on equal seeds."""
    table = []
    for base, guided in pairs(outcome).items():
        before, after = (outcome["metrics"][name]["fd"] for name in (base, guided))
        fd, recall = (outcome["comparison"][guided][metric] for metric in ("fd", "recall"))
        test = paired_t(after["values"], before["values"]) if fd["sd"] else None
        table.append(
            [
                outcome["systems"][base]["title"],
                mean_sd(before["mean"], before["sd"]),
                mean_sd(after["mean"], after["sd"]),
                f"{100 * (fd['ratio'] - 1):+.0f}%",
                f"{-fd['difference'] / fd['sd']:.1f} sd" if fd["sd"] else "",
                f"{test.p:.2g}" if test else "",
                f"{recall['difference']:+.3f}",
            ]
        )
    return table


def cost_rows(outcome: dict) -> list[list[str]]:
    """Title, parameters, time of training, network evaluations and time of sampling."""
    return [
        [
            outcome["systems"][name]["title"],
            f"{costs['parameters']:,}",
            duration(costs["training_seconds"]),
            str(costs["num_evaluations"]),
            f"{costs['seconds_per_1000']:.1f}",
        ]
        for name, costs in outcome["costs"].items()
    ]


def duration(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


def winners(outcome: dict) -> list[list[str]]:
    """Who is best where, and how far ahead of the next in standard deviations (of the two
    together)."""
    systems, metrics = outcome["systems"], outcome["metrics"]

    def ranked(values, title, unit="", least=True):
        order = sorted(values, key=lambda name: values[name][0] if least else -values[name][0])
        (first, sd0), (second, sd1) = (values[name] for name in order[:2])
        spread = math.hypot(sd0, sd1)
        ahead = f"{abs(first - second) / spread:.1f} sd" if spread else "measured once"
        best, following = (systems[name]["title"] for name in order[:2])
        return [title, best, f"{mean_sd(first, sd0)}{unit}", following, ahead]

    def of(metric, spread="sd"):
        return {
            name: (metrics[name][metric]["mean"], metrics[name][metric][spread]) for name in systems
        }

    def once(entry):
        return {name: (costs[entry], 0.0) for name, costs in outcome["costs"].items()}

    return [
        ranked(of("fd"), "Fréchet distance"),
        ranked(of("kid"), "KID"),
        ranked(of("precision"), "precision", least=False),
        ranked(of("recall"), "recall", least=False),
        ranked(of("nll", "standard_error"), "bits/dim (± standard error)"),
        ranked(once("training_seconds"), "training time", " s"),
        ranked(once("seconds_per_1000"), "sampling time", " s / 1,000"),
    ]


def stage_seconds(seconds: dict[str, float]) -> list[list[str]]:
    """Seconds of every stage; those of many systems are added up by kind of stage."""
    kinds = ("sample", "measure", "nll")
    many, groups = sum(name.startswith("sample-") for name in seconds) > 6, {}
    for name, value in seconds.items():
        kind = name.split("-")[0]
        key = kind if many and kind in kinds else name
        count, total = groups.get(key, (0, 0.0))
        groups[key] = (count + 1, total + value)
    return [
        [key if count == 1 else f"{key} ({count})", f"{total:.1f}"]
        for key, (count, total) in groups.items()
    ]
