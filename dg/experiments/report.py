"""The report of an experiment: one section after the other, as its study names them."""

from pathlib import Path

from dg.evaluation.report import Document, Section, write_markdown, write_report
from dg.evaluation.significance import paired_t
from dg.experiments import (
    cost_report,
    failures_report,
    gains_report,
    kinds_report,
    methods_report,
    sections,
)
from dg.experiments.context import Context, Paths
from dg.experiments.pictures import Source, fair_floor
from dg.experiments.tables import distance_name, pairs, role
from dg.runtime.files import write_json

VERDICTS = {  # by a section of the report
    "methods": methods_report.verdict,
    "failures": failures_report.verdict,
    "gain": cost_report.verdict,
    "gains": gains_report.verdict,
    "kinds": kinds_report.verdict,
}


def write(folder: Path, outcome: dict, context: Context, paths: Paths) -> None:
    """Write results.json, the pictures, report.html and report.md to `folder`."""
    write_results(folder, outcome, describe(Source(folder, outcome, context, paths)))


def write_results(folder: Path, outcome: dict, document: Document) -> None:
    """Write results.json, report.html and report.md to `folder`."""
    write_json(folder / "results.json", outcome)
    write_pages(folder, document)


def write_pages(folder: Path, document: Document) -> None:
    """Write report.html and report.md to `folder`."""
    write_report(folder / "report.html", document)
    write_markdown(folder / "report.md", document)


def describe(source: Source) -> Document:
    """The report as plain data; draws its pictures."""
    outcome, found = source.outcome, {}
    for name in outcome["sections"]:
        title, make = sections.SECTIONS[name]
        if items := [*outcome["texts"].get(name, ()), *make(source)]:
            found.setdefault(title, []).extend(items)
    title = outcome["title"]
    if outcome["study"] != outcome["setting_name"]:
        title += f": {outcome['setting']}"
    parts = [Section(name, items) for name, items in found.items()]
    answers = [VERDICTS[name] for name in outcome["sections"] if name in VERDICTS]
    return Document(title, (answers or [verdict])[0](outcome), about(outcome), parts)


def about(outcome: dict) -> str:
    """The question, and the size of the measurement."""
    settings, selection = outcome["settings"], outcome["selection"]
    text = f"{outcome['question']} {outcome['setting']}; "
    text += f"first-order weight {selection['chosen']:g}; " if selection else ""
    text += _guidance(outcome)
    text += f"budget: {settings['budget']}; " if settings["budget"] else ""
    text += f"mean and sd over {settings['num_sets']} sets of {settings['num_images']:,} images, "
    return f"{text}the same seeds for every system."


def _guidance(outcome: dict) -> str:
    """The setting's weights and window, where they are those of a system that guides."""
    systems = [
        option for one in outcome["systems"].values() for option in one.get("options") or [one]
    ]
    apart = ([0.0, 0.0], "suggested")  # no guidance, or a window of its own
    guided = [one for one in systems if one["heads"] and one["weights"] not in apart]
    (first, second), window = (outcome["settings"].get(name) for name in ("weights", "window"))
    text = ""
    if any(not one["weights"] for one in guided):
        text += f"weights ({first:g}, {second:g}); "
    if any(not one["window"] for one in guided):
        text += f"VP times {window[0]:g} to {window[1]:g}; "
    return text


def verdict(outcome: dict) -> str:
    """The answer in a few sentences: what guidance changed, and whether chance can do that."""
    metrics, distance, shown = outcome["metrics"], distance_name(outcome), pairs(outcome)
    systems, sets = outcome["systems"], outcome["settings"]["num_sets"]
    said = []
    for base, guided in shown.items():
        rivals = sum(role(outcome, name) == "guided" for name in systems) // len(shown)
        before, after = (metrics[name]["fd"] for name in (base, guided))
        verb = "lowers" if after["mean"] < before["mean"] else "raises"
        change = f"{100 * (after['mean'] / before['mean'] - 1):+.0f}%"
        subject = "Guidance" if len(shown) == 1 else f"On {systems[base]['title']} guidance"
        if systems[base].get("x") is not None:
            subject = f"At {systems[base]['x']:g} {outcome['xlabel']} guidance"
        if rivals > 1:
            subject = f"“{systems[guided]['title']}” is the best of {rivals} guided systems. It"
            if guided == "guided" and guided != _nearest(outcome, base):
                subject = f"Guidance by “{systems[guided]['title']}”"
        text = f"{subject} {verb} {distance} from {before['mean']:.2f} to {after['mean']:.2f} "
        said.append(f"{text}({change}{_chance(before['values'], after['values'], sets)}).")
    for name in systems:
        if shown and role(outcome, name) == "longer":
            said.append(
                f"Longer training of the network gives {metrics[name]['fd']['mean']:.2f} instead."
            )
    if fair_floor(outcome):
        said.append(f"Real images against real ones have {metrics['floor']['fd']['mean']:.2f}.")
    return " ".join(said)


def _nearest(outcome: dict, base: str) -> str:
    """The guided system of the least distance among those that are compared with `base`."""
    compared = [n for n, s in outcome["systems"].items() if s["heads"] and s["against"] == base]
    return min(compared, key=lambda name: outcome["metrics"][name]["fd"]["mean"])


def _chance(before, after, sets: int) -> str:
    """What a paired t test over the sets says of a difference; nothing where there is no spread."""
    differences = {b - a for b, a in zip(before, after, strict=True)}
    if len(differences) < 2:
        return ""
    p = paired_t(after, before).p
    told = f"; p = {p:.2g} over {sets} sets"
    return told if p < 0.05 else f"{told}: chance can do this"
