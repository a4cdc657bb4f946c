"""The report of an experiment: one section after the other, as its study names them."""

from pathlib import Path

from dg.evaluation.report import Card, Document, Section, write_markdown, write_report
from dg.experiments import sections
from dg.experiments.context import Context, Paths
from dg.experiments.pictures import Source
from dg.experiments.tables import FLOOR, distance_name, pairs
from dg.runtime.files import write_json


def write(folder: Path, outcome: dict, context: Context, paths: Paths) -> None:
    """Write results.json, the pictures, report.html and report.md to `folder`."""
    write_results(folder, outcome, describe(Source(folder, outcome, context, paths)))


def write_results(folder: Path, outcome: dict, document: Document) -> None:
    """Write results.json, report.html and report.md to `folder`."""
    write_json(folder / "results.json", outcome)
    write_report(folder / "report.html", document)
    write_markdown(folder / "report.md", document)


def describe(source: Source) -> Document:
    """The report as plain data; draws its pictures."""
    outcome, found = source.outcome, {}
    for name in outcome["sections"]:
        title, make = sections.SECTIONS[name]
        if items := [*outcome["texts"].get(name, ()), *make(source)]:
            found.setdefault(title, []).extend(items)
    settings, selection = outcome["settings"], outcome["selection"]
    lead = f"{outcome['question']} {outcome['setting']}; "
    lead += f"first-order weight {selection['chosen']:g}; " if selection else ""
    lead += f"budget: {settings['budget']}; " if settings["budget"] else ""
    lead += f"mean and sd over {settings['num_sets']} sets of {settings['num_images']:,} images, "
    lead += "the same seeds for every system."
    title = outcome["title"]
    if outcome["study"] != outcome["setting_name"]:
        title += f": {outcome['setting']}"
    parts = [Section(name, items) for name, items in found.items()]
    return Document(title, lead, cards(outcome), parts)


def cards(outcome: dict) -> list[Card]:
    """The key results."""
    metrics, systems, distance = outcome["metrics"], outcome["systems"], distance_name(outcome)
    shown, found = pairs(outcome), []

    def change(guided, metric):
        return f"{100 * (outcome['comparison'][guided][metric]['ratio'] - 1):+.0f}%"

    for base, guided in shown.items():
        before, after = (metrics[name]["fd"]["mean"] for name in (base, guided))
        titles = [systems[name]["title"] for name in (base, guided)]
        label = distance if len(shown) == 1 else f"{distance}, {titles[0]}"
        note = f"{' → '.join(titles)}: {change(guided, 'fd')}"
        found.append(Card(label, f"{before:.2f} → {after:.2f}", note))
    if len(shown) == 1:
        (guided,) = shown.values()
        compared = outcome["comparison"][guided]
        if "fd_heldout" in compared:
            note = f"of the {distance}; images that nothing was trained on"
            found.append(Card("against held-out images", change(guided, "fd_heldout"), note))
        found.append(Card("KID", change(guided, "kid"), "same features, another distance"))
        recall = f"{compared['recall']['difference']:+.3f}"
        found.append(Card("recall", recall, "diversity: should not fall"))
    best = min(systems, key=lambda name: metrics[name]["fd"]["mean"])
    least = f"{metrics[best]['fd']['mean']:.2f}"
    found.append(Card(f"least {distance}", least, systems[best]["title"]))
    if "costs" in outcome["sections"]:
        fastest = min(costs["seconds_per_1000"] for costs in outcome["costs"].values())
        found.append(Card("fastest sampling", f"{fastest:.1f} s", "for 1,000 images"))
    floor, images = metrics["floor"]["fd"]["mean"], outcome["floor_images"]
    return [*found, Card(FLOOR, f"{floor:.2f}", f"{images:,} images")]
