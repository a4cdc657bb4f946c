"""Tables of measurements and of their costs, for the terminal and for reports."""

import math

import numpy as np

from dg.evaluation.figures.style import mean_sd
from dg.evaluation.measure import METRICS
from dg.evaluation.report import Code, Section, Table, text_of
from dg.evaluation.significance import paired_t
from dg.runtime.provenance import machine_of, threads_of


def measurement_table(results: dict) -> str:
    """Lines for the terminal: the images compared, then a row for every set of images."""
    extractor, reference = results["extractor"], results["reference"]
    weights = "" if extractor["published_weights"] is not False else ", NOT the published weights"
    lines = [
        f"features: {extractor['name']} ({extractor['sha256'][:8]}{weights}); reference: "
        f"{_counted(reference)}"
    ]
    if "training" in results:
        lines[0] += f"; training images: {_counted(results['training'])}"
    rows = results["images"]
    names = [name for name in METRICS if any(name in row["metrics"] for row in rows.values())]
    titles = [results["distance"] if name == "fd" else METRICS[name][0] for name in names]
    cells = [["images", "n", *titles]]
    if infinite := any("fid_infinity" in row for row in rows.values()):
        cells[0].append(f"{results['distance']}\N{INFINITY}")
    for source, row in rows.items():
        count = row["num_images"] or "?"
        cells.append(
            [
                source,
                f"{row['sets']} x {count}" if row["sets"] > 1 else str(count),
                *(_cell(row["metrics"].get(name)) for name in names),
            ]
        )
        if infinite:
            line = row["fid_infinity"]
            cells[-1].append(f"{line['value']:.4f} ± {line['standard_error']:.4f}")
    lines.append(text_of(cells))
    if any(row["sets"] > 1 for row in rows.values()):
        lines.append(
            "mean ± sd over the sets (min: the least of them, which falls with their number)"
        )
    elif any(
        "standard_error" in value for row in rows.values() for value in row["metrics"].values()
    ):
        lines.append(
            "± is one standard error; a single distance has none, several sets measure its spread"
        )
    if infinite:
        lines.append(
            f"{results['distance']}\N{INFINITY}: ± of the line through these images; over fresh "
            "ones it varies about "
            "twice as much"
        )
    if "memorised" in names:
        lines.append(
            "memorised: 0.5 as near to training images as the reference images are, 1 copies"
        )
    return "\n".join(lines)


def _counted(described):
    return f"{described['source']} ({described['num_images'] or 'unknown number of'} images)"


def _cell(value):
    if value is None:
        return ""
    if "mean" in value:
        return f"{value['mean']:.4f} ± {value['sd']:.4f} (min {value['min']:.4f})"
    spread = value.get("standard_error", value.get("sd_of_splits"))
    return f"{value['value']:.4f}" + (f" ± {spread:.4f}" if spread is not None else "")


def ranking(values: dict[str, tuple[float, float]], unit="", least=True) -> list[str]:
    """Return the best name, its value, the next name, and the lead of the best in standard
    deviations of the two together.

    values  (mean, sd) by name; sd 0 where it was measured once
    """
    order = sorted(values, key=lambda name: values[name][0] if least else -values[name][0])
    (first, sd0), (second, sd1) = (values[name] for name in order[:2])
    spread = math.hypot(sd0, sd1)
    ahead = f"{abs(first - second) / spread:.1f} sd" if spread else "measured once"
    return [order[0], f"{mean_sd(first, sd0)}{unit}", order[1], ahead]


def paired_test(values, base, digits: int = 3) -> list[str] | None:
    """Difference, its sd, 95% interval, t and p of values paired with those of `base`; None where
    there is no spread beyond rounding."""
    differences = np.subtract(values, base)
    if len(differences) < 2 or np.ptp(differences) < 1e-9 * np.abs([values, base]).max():
        return None
    test, sd = paired_t(values, base), float(np.std(differences, ddof=1))
    interval = f"{test.low:+.{digits}f} to {test.high:+.{digits}f}"
    shown = [f"{test.difference:+.{digits}f}", f"{sd:.{digits}f}", interval]
    return [*shown, f"{test.t:.2f}", f"{test.p:.2g}"]


def how_it_was_run(outcome: dict, *, extra=()) -> Section:
    """The section of a report about its hardware and running time."""
    hardware, seconds = outcome["hardware"], outcome["seconds"]
    versions = ", ".join(f"{name} {version}" for name, version in outcome["versions"].items())
    machine = (
        f"{machine_of(outcome)}, {hardware['cores']} cores, {threads_of(outcome)}, "
        f"device {hardware['device']}; {duration(seconds['total'])} of stages; "
        f"{versions}."
    )
    table = Table(["stage", "seconds"], stage_seconds(seconds))
    return Section("How it was run", [Code(outcome["command"]), machine, table, *extra])


def duration(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


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
