"""Figures and report of a study, from its results file and the images of its systems."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from dg.evaluation import figures
from dg.evaluation.figures.style import mean_sd
from dg.evaluation.report import (
    Card,
    Code,
    Document,
    Note,
    Picture,
    Section,
    Table,
    text_of,
    write_markdown,
    write_report,
)
from dg.evaluation.significance import one_sample_t, paired_t, smallest_detectable_difference
from dg.runtime.files import read_json

TITLES = {"fd": "FD", "kid": "KID", "precision": "precision", "recall": "recall", "nll": "bits/dim"}
PUBLISHED = Path(__file__).parents[2] / "stats" / "published.json"


def write(folder, outcome: dict, images: dict[str, Callable[[], np.ndarray]]) -> None:
    """Write the pictures, report.html and report.md to `folder`. images: by system, uint8 [N, H, W, C] of the same seeds."""
    document = describe(folder, outcome, draw(folder, outcome, images))
    write_report(folder / "report.html", document)
    write_markdown(folder / "report.md", document)


def distance_name(outcome) -> str:
    return "FID" if outcome["extractor"]["name"] == "inception" else "FD"


def main_system(outcome) -> str | None:
    """The guided system whose images are shown: the one called guided, else the one of least distance."""
    guided = [name for name, system in outcome["systems"].items() if system["heads"]]
    if "guided" in guided:
        return "guided"
    return min(guided, key=lambda name: outcome["metrics"][name]["fd"]["mean"], default=None)


# Tables -----------------------------------------------------------------------------------------------------------------


def rows(outcome: dict) -> list[list[str]]:
    """Cells of the metrics table: title, mean ± sd of every metric, published value and how many sd the mean is off it."""
    names = metric_names(outcome)
    table = []
    for name, system in [*outcome["systems"].items(), ("floor", {"title": "real against real"})]:
        metrics = outcome["metrics"][name]
        cells = [system["title"], *(_cell(metrics.get(metric)) for metric in names)]
        if has_published(outcome):
            cells += _against_published(outcome, name, system, metrics)
        table.append(cells)
    return table


def columns(outcome) -> list[str]:
    named = [
        distance_name(outcome) if metric == "fd" else TITLES[metric]
        for metric in metric_names(outcome)
    ]
    return ["", *named, *(["published", "off by (sd)"] if has_published(outcome) else [])]


def metric_names(outcome) -> list[str]:
    return [
        metric
        for metric in TITLES
        if any(metric in metrics for metrics in outcome["metrics"].values())
    ]


def _cell(entry):
    return (
        ""
        if entry is None
        else mean_sd(entry["mean"], entry.get("sd", entry.get("standard_error")))
    )


@cache
def _published_rows():
    return read_json(PUBLISHED)["rows"]


def published(outcome, name, system) -> list[dict]:
    """The published rows that stand beside a system."""
    filters = outcome["settings"]["published"].get(name) or [system.get("published")]
    matching = [
        [
            row
            for row in _published_rows()
            if all(row.get(key) == value for key, value in wanted.items())
        ]
        for wanted in filters
        if wanted
    ]
    return [rows[0] for rows in matching if rows]


def has_published(outcome) -> bool:
    return any(published(outcome, name, system) for name, system in outcome["systems"].items())


def _against_published(outcome, name, system, metrics) -> list[str]:
    """What was published, and how far the mean is from the first of it in sd."""
    found = published(outcome, name, system) if name != "floor" else []
    if not found:
        return ["", ""]
    fd = metrics["fd"]
    comparable = outcome["settings"]["num_images"] == (
        10_000 if found[0]["metric"] == "fid-10k" else 50_000
    )
    off = f"{(fd['mean'] - found[0]['value']) / fd['sd']:+.1f}" if fd["sd"] and comparable else ""
    return ["; ".join(f"{row['value']:g} ({row['source']})" for row in found), off]


def tests(outcome) -> list[list[str]]:
    """Cells of the table of tests: every system against unguided on the same seeds."""
    base, table = outcome["metrics"]["unguided"]["fd"]["values"], []
    for name in outcome["comparison"]:
        values = outcome["metrics"][name]["fd"]["values"]
        if len(values) > 1 and np.ptp(np.subtract(values, base)) > 0:
            test = paired_t(values, base)
            table.append(
                [
                    outcome["systems"][name]["title"],
                    f"{test.difference:+.3f}",
                    f"{test.low:+.3f} to {test.high:+.3f}",
                    f"{test.t:.2f}",
                    f"{test.p:.2g}",
                ]
            )
    return table


def _significance(outcome) -> list:
    """Several trainings against the unguided mean, as reproduction A did, and what so many can show."""
    base = outcome["metrics"]["unguided"]["fd"]
    means = [outcome["metrics"][name]["fd"]["mean"] for name in outcome["comparison"]]
    if len(means) < 2 or not np.std(means):
        return []
    test, sd = one_sample_t(means, base["mean"]), float(np.std(means, ddof=1))
    found = smallest_detectable_difference(sd, len(means))
    return [
        f"{len(means)} trainings that differ in their seed alone: mean {np.mean(means):.4f}, sd {sd:.4f}, n = {len(means)}; "
        f"against the unguided {base['mean']:.4f}: t = {test.t:.2f}, p = {test.p:.2g}, {test.effect_name} = "
        f"{test.effect:.2f}. With so many trainings a difference of {found:.4f} would be found with 80% power at the 5% "
        "level. Reproduction A published t = -26.42 for six discriminators (mean 1.8433, sd 0.01082, against 1.96).",
        Note(
            "The test takes the unguided distance as exactly known and the seeds of sampling as shared: it speaks of the "
            "trainings, not of other sampling seeds."
        ),
    ]


def text_table(outcome: dict) -> str:
    """The metrics for a terminal."""
    return text_of([columns(outcome), *rows(outcome)])


# Figures ----------------------------------------------------------------------------------------------------------------


def draw(folder, outcome, images) -> list[Picture]:
    """All pictures of the results section; the others are known by their names."""
    distance, metrics, systems, settings = (
        distance_name(outcome),
        outcome["metrics"],
        outcome["systems"],
        outcome["settings"],
    )
    shown = []
    swept = [name for name, system in systems.items() if system["x"] is not None]
    if len(swept) > 1:
        entries = [metrics[name]["fd"] for name in swept]
        figures.distance_sweep(
            folder / "sweep.png",
            [systems[name]["x"] for name in swept],
            [entry["mean"] for entry in entries],
            [entry["sd"] for entry in entries],
            (metrics["unguided"]["fd"]["mean"], metrics["unguided"]["fd"]["sd"]),
            xlabel=outcome["xlabel"],
            ylabel=distance,
            title=outcome["title"],
        )
        shown.append(
            Picture(
                folder / "sweep.png",
                f"{distance}, mean and sd over {settings['num_sets']} sets; the band is the "
                "unguided model.",
            )
        )
    named = {system["title"]: metrics[name] for name, system in systems.items()}
    named |= {"floor": metrics["floor"]} if _fair_floor(outcome) else {}
    titles = {"fd": f"{distance} (lower is better)"} | (
        {"kid": "KID (lower is better)"} if len(named) < 9 else {}
    )
    figures.metric_bars(folder / "metrics.png", named, titles)
    shown.append(
        Picture(
            folder / "metrics.png",
            "Distances of all systems"
            + (
                "; the line is the floor, real against real images."
                if _fair_floor(outcome)
                else "."
            ),
        )
    )
    for name, training in outcome["trainings"].items():
        if len(training["log"]) > 1:
            figures.training_curves(
                folder / f"curves-{name}.png", training["log"], title=f"Discriminator: {name}"
            )
    main = main_system(outcome)
    if main is not None:
        before, after = images["unguided"](), images[main]()
        changes = np.abs(after.astype(int) - before).mean(axis=(1, 2, 3))
        count = min(8, len(before))
        figures.paired_grid(
            folder / "pairs.png",
            before,
            after,
            {
                "Most changed": np.argsort(-changes)[:count].tolist(),
                "Random": np.random.default_rng(0).permutation(len(before))[:count].tolist(),
            },
        )
        side = min(len(before), 100)
        for name, batch in (("unguided", before), ("guided", after)):
            figures.image_grid(
                folder / f"{name}.png",
                batch[:side],
                columns=min(side, 20),
                scale=2 if batch.shape[1] < 20 else 1,
            )
    return shown


# Report -----------------------------------------------------------------------------------------------------------------


def describe(folder, outcome, shown: list[Picture]) -> Document:
    """The report as plain data."""
    settings, distance = outcome["settings"], distance_name(outcome)
    main, hardware = main_system(outcome), outcome["hardware"]
    curves = [
        Picture(
            folder / f"curves-{name}.png",
            f"{name}: validation loss is lowest at epoch {training['best_epoch']}.",
        )
        for name, training in outcome["trainings"].items()
        if len(training["log"]) > 1
    ]
    compared = tests(outcome)
    lead = (
        f"{outcome['question']} {outcome['setting']}; mean and sd over {settings['num_sets']} sets of "
        f"{settings['num_images']:,} images, the same seeds for every system."
    )
    results = [Table(columns(outcome), rows(outcome), caption=_caption(outcome)), *shown]
    if compared:
        caption = f"Paired t tests over {settings['num_sets']} sets; p is two-sided, not corrected for the number of systems."
        headings = [
            "against unguided, paired by seeds",
            f"difference of {distance}",
            "95% interval",
            "t",
            "p",
        ]
        results.append(Table(headings, compared, caption=caption))
    if outcome["tests"] == "significance":
        results += _significance(outcome)
    sections = [Section("Results", results)]
    if main is not None:
        sections.append(
            Section(
                "Same seeds, before and after",
                [
                    Picture(
                        folder / "pairs.png",
                        f"Unguided and {outcome['systems'][main]['title']}: most changed pairs beside random "
                        "ones.",
                    ),
                    Picture(folder / "unguided.png", "Unguided."),
                    Picture(folder / "guided.png", "The same seeds, guided."),
                ],
            )
        )
    if curves:
        sections.append(Section("Training of the discriminators", curves))
    deviations = [*settings["deviations"], *_standing_deviations(outcome)]
    sections.append(Section("Deviations", deviations))
    seconds = outcome["seconds"]
    sections.append(
        Section(
            "How it was run",
            [
                Code(outcome["command"]),
                f"{hardware.get('gpu') or hardware['cpu']}, {hardware['cores']} cores, {hardware['threads']} threads per process; "
                f"{seconds['total'] / 60:.0f} minutes of stages; "
                + ", ".join(f"{name} {version}" for name, version in outcome["versions"].items())
                + ".",
                Table(["stages", "seconds"], _grouped(seconds)),
                "Discriminators: "
                + "; ".join(
                    f"{name} ({len(t['log'])} epochs)" for name, t in outcome["trainings"].items()
                )
                + "."
                if outcome["trainings"]
                else "No discriminator was trained here.",
                "The complete settings stand in results.json beside this report.",
            ],
        )
    )
    return Document(
        f"{outcome['title']}: {outcome['setting']}", lead, _cards(outcome, main), sections
    )


def _cards(outcome, main) -> list[Card]:
    metrics, distance, cards = outcome["metrics"], distance_name(outcome), []
    if main is None:
        return cards
    base = metrics["unguided"]["fd"]["mean"]
    cards.append(
        Card(
            distance,
            f"{base:.2f} → {metrics[main]['fd']['mean']:.2f}",
            f"unguided → {outcome['systems'][main]['title']}",
        )
    )
    best = min(outcome["comparison"], key=lambda name: metrics[name]["fd"]["mean"])
    cards.append(
        Card(
            "least " + distance,
            f"{metrics[best]['fd']['mean']:.2f}",
            outcome["systems"][best]["title"],
        )
    )
    cards.append(
        Card(
            "real against real",
            f"{metrics['floor']['fd']['mean']:.2f}",
            f"{outcome['floor_images']:,} images",
        )
    )
    return cards


def _caption(outcome) -> str:
    inside = outcome["extractor"]["name"]
    text = f"Features: {inside}. "
    if outcome["extractor"]["name"] != "inception":
        text += "No Inception FID: compare within this table only. "
    if "nll" in metric_names(outcome):
        text += (
            "bits/dim: probability-flow likelihood of test images, ± one standard error; guided, of the corrected flow with "
            "the mean of the two weights at both stages, without boosting. "
        )
    if "nll" in metric_names(outcome) and outcome["settings"]["network"]:
        rows = [
            row
            for row in _published_rows()
            if row["metric"] == "nll" and row["system"].startswith("EDM")
        ]
        text += (
            "Published: "
            + ", ".join(f"{row['system']} {row['value']:g} ({row['source']})" for row in rows)
            + ". "
        )
    text += f"Real against real: {outcome['floor_images']:,} images per set"
    if not _fair_floor(outcome):
        text += ", fewer than of the systems: its distance carries a larger bias and is no floor for theirs"
    if (
        outcome["settings"]["features"] == "classifier"
        and outcome["settings"]["reference_split"] == "test"
    ):
        text += "; training images, which the feature classifier may have learned from"
    return text + "."


def _fair_floor(outcome) -> bool:
    """Whether real against real has as many images as the systems, so that its distance is a floor for theirs."""
    return outcome["floor_images"] >= outcome["settings"]["num_images"]


def _standing_deviations(outcome) -> list[str]:
    settings, found = outcome["settings"], []
    if settings["network"] is None:
        found.append(
            "The score network and the noise-aware classifier were trained here; no published weights were used."
        )
    if outcome["extractor"].get("published_weights") is False:
        found.append("The feature extractor does not have the published weights.")
    found.append(
        "Discriminators trained here see 80% of the images (10% validation, 10% test); the authors use all of them."
    )
    found.append("Guidance uses logits without the authors' clip of the probability.")
    return found


def _grouped(seconds: dict[str, float]) -> list[list[str]]:
    """Seconds by kind of stage: sample-1234abcd counts as sample."""
    groups = {}
    for name, value in seconds.items():
        if name != "total":
            kind = (
                name.split("-")[0] if name.split("-")[0] in ("sample", "measure", "nll") else name
            )
            count, total = groups.get(kind, (0, 0.0))
            groups[kind] = (count + 1, total + value)
    return [
        [kind if count == 1 else f"{kind} ({count})", f"{total:.0f}"]
        for kind, (count, total) in groups.items()
    ]
