"""The report of an experiment: one section after the other, as its study names them."""

from pathlib import Path

from dg.evaluation.report import Card, Document, Section, write_markdown, write_report
from dg.experiments import pictures, sections
from dg.experiments.context import Context, Paths
from dg.experiments.tables import FLOOR, distance_name, pairs


def write(folder: Path, outcome: dict, context: Context, paths: Paths) -> None:
    """Write the pictures, report.html and report.md to `folder`."""
    source = pictures.Source(folder, outcome, context, paths)
    document = describe(source)
    write_report(folder / "report.html", document)
    write_markdown(folder / "report.md", document)


def describe(source: pictures.Source) -> Document:
    """The report as plain data; draws its pictures."""
    outcome, found = source.outcome, []
    for name in outcome["sections"]:
        title, make = sections.SECTIONS[name]
        if items := [*outcome["texts"].get(name, ()), *make(source)]:
            if found and found[-1].title == title:
                found[-1] = Section(title, [*found[-1].items, *items])
            else:
                found.append(Section(title, items))
    settings, selection = outcome["settings"], outcome["selection"]
    lead = f"{outcome['question']} {outcome['setting']}; "
    lead += f"first-order weight {selection['chosen']:g}; " if selection else ""
    lead += f"budget: {settings['budget']}; " if settings["budget"] else ""
    lead += (
        f"mean and sd over {settings['num_sets']} sets of {settings['num_images']:,} images, the "
        "same seeds for every "
        "system."
    )
    title = outcome["title"]
    if outcome["study"] != outcome["setting_name"]:
        title += f": {outcome['setting']}"
    return Document(title, lead, cards(outcome), found)


def cards(outcome: dict) -> list[Card]:
    """The key results."""
    metrics, systems, distance = outcome["metrics"], outcome["systems"], distance_name(outcome)
    shown, found = pairs(outcome), []
    for base, guided in shown.items():
        before, after = (metrics[name]["fd"]["mean"] for name in (base, guided))
        change = 100 * (outcome["comparison"][guided]["fd"]["ratio"] - 1)
        label = distance if len(shown) == 1 else f"{distance}, {systems[base]['title']}"
        note = f"{systems[base]['title']} → {systems[guided]['title']}: {change:+.0f}%"
        found.append(Card(label, f"{before:.2f} → {after:.2f}", note))
    if len(shown) == 1:
        compared = outcome["comparison"][next(iter(shown.values()))]
        if "fd_heldout" in compared:
            change = f"{100 * (compared['fd_heldout']['ratio'] - 1):+.0f}%"
            note = f"of the {distance}; images that nothing was trained on"
            found.append(Card("against held-out images", change, note))
        change = f"{100 * (compared['kid']['ratio'] - 1):+.0f}%"
        found.append(Card("KID", change, "same features, another distance"))
        recall = f"{compared['recall']['difference']:+.3f}"
        found.append(Card("recall", recall, "diversity: should not fall"))
    best = min(systems, key=lambda name: metrics[name]["fd"]["mean"])
    least = f"{metrics[best]['fd']['mean']:.2f}"
    found.append(Card(f"least {distance}", least, systems[best]["title"]))
    if "costs" in outcome["sections"]:
        fastest = min(costs["seconds_per_1000"] for costs in outcome["costs"].values())
        found.append(Card("fastest sampling", f"{fastest:.1f} s", "for 1,000 images"))
    floor, images = metrics["floor"]["fd"]["mean"], outcome["floor_images"]
    found.append(Card(FLOOR, f"{floor:.2f}", f"{images:,} images"))
    return found
