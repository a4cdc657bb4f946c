"""The report of methods alone and together, from the results file alone."""

from collections.abc import Iterator

import numpy as np

from dg.evaluation import figures
from dg.evaluation.report import Table
from dg.evaluation.tables import paired_test
from dg.experiments import cost_report
from dg.experiments.methods_report import (
    BASE,
    against_unguided,
    compute,
    multiply_adds,
    rounded,
    title,
)
from dg.experiments.pictures import Source, fair_floor
from dg.experiments.tables import FLOOR, distance_name


def together(outcome: dict) -> list[str]:
    """The systems that are made of two others."""
    return [name for name, system in outcome["systems"].items() if system["parts"]]


def verdict(outcome: dict) -> str:
    """The answer: the best system, and what guidance adds to every other method."""
    systems, metrics, distance = outcome["systems"], outcome["metrics"], distance_name(outcome)
    means = {name: entry["fd"]["mean"] for name, entry in metrics.items()}
    best = min(systems, key=means.get)
    told = systems[best]["line"] or systems[best]["title"]
    text = f"{distance} is {means[BASE]:.2f} unguided and {means['guidance']:.2f} with guidance "
    text += f"alone. The best system is “{told}” with {means[best]:.2f}. On top of another method "
    text += f"guidance moves {distance} so: {'; '.join(_moved(outcome))}."
    if fair_floor(outcome):
        text += f" Real images against real ones have {means['floor']:.2f}."
    return text


def _moved(outcome: dict) -> Iterator[str]:
    """Method, its distance, the one with guidance, and p."""
    systems, metrics = outcome["systems"], outcome["metrics"]
    for name in together(outcome):
        before, after = (metrics[one]["fd"] for one in (systems[name]["parts"][1], name))
        test = paired_test(after["values"], before["values"])
        chance = f" (p = {test[-1]})" if test else ""
        yield f"{systems[name]['line']}, {before['mean']:.2f} to {after['mean']:.2f}{chance}"


def gains(source: Source) -> list:
    """All systems, what becomes of the gains of two methods together, and the picture."""
    return [*_systems(source.outcome), *_picture(source), *_sums(source.outcome)]


def training(outcome: dict, name: str) -> float:
    """Compute of the trainings of a system's discriminators and networks, in unguided images."""
    heads = {head["training"] for head in outcome["systems"][name]["heads"]}
    used = heads | set(_networks(outcome, name))
    found = sum(outcome["training_compute"][one]["multiply-adds"] for one in used)
    return found / multiply_adds(outcome, BASE)


def _networks(outcome: dict, name: str) -> Iterator[str]:
    """The networks that were trained on for a system."""
    system = outcome["systems"][name]
    if system["options"]:
        system = system["options"][outcome["choices"][system["choice"]]["index"]]
    for model in (system["model"], *(system["guide"] or ())[:1]):
        made = outcome["settings"]["models"][model]
        if "choice" in made:
            yield from _networks(outcome, made["choice"])
        elif model in outcome["training_compute"]:
            yield model
        elif "second" in made:
            yield made["second"]


def _systems(outcome: dict) -> list:
    told = {}
    for name in outcome["systems"]:
        once = training(outcome, name)
        told[name] = [title(outcome, name), f"{compute(outcome, name):.2f} ×"]
        told[name].append(f"{rounded(once)} ×" if once else "")
    reading = (
        "Compute is in multiply-adds of all networks, relative to an unguided image; so is "
        "training, with the generated images that it takes (a backward pass of the score network "
        "counts as two forward ones)."
    )
    return [against_unguided(outcome, told, ["compute", "training"], reading)]


def _sums(outcome: dict) -> list:
    """The gains of two methods, their sum, and the gain of both together."""
    rows, systems = [], outcome["systems"]
    for name in together(outcome):
        alone = [cost_report.gains(outcome, part) for part in systems[name]["parts"]]
        both, other = cost_report.gains(outcome, name), systems[name]["parts"][1]
        cells = [f"{found.mean():.2f}" for found in (*alone, sum(alone), both)]
        pairs = [outcome["metrics"][which]["fd"]["values"] for which in (name, other)]
        test = paired_test(*pairs)
        rows.append([systems[name]["line"], *cells, *([test[0], test[-1]] if test else ["", ""])])
    caption = (
        "Gains: by how much the mean distance falls below that of unguided sampling. The last two "
        "columns: difference of both together to the other method alone, and its p."
    )
    columns = ["", "guidance", "the other", "sum", "together", "difference", "p"]
    return [Table(columns, rows, caption=caption)]


def _picture(source: Source) -> list:
    outcome, rows = source.outcome, {}
    metrics = outcome["metrics"]
    for name in together(outcome):
        both = (outcome["systems"][name]["parts"][1], name)
        line = outcome["systems"][name]["line"]
        rows[line] = [(metrics[one]["fd"]["mean"], _sd(outcome, one)) for one in both]
    shown = {"unguided": BASE, "guidance": "guidance"}
    shown |= {FLOOR: "floor"} if fair_floor(outcome) else {}
    levels = {title: metrics[name]["fd"]["mean"] for title, name in shown.items()}
    caption = (
        "A row is a method alone and the same with guidance. The thin lines are one sd of the "
        "difference to unguided sampling, paired by sets of equal seeds."
    )
    drawn = (figures.with_and_without, rows, levels, distance_name(outcome))
    return source.draw("gains", caption, *drawn)


def _sd(outcome: dict, name: str) -> float:
    found = cost_report.gains(outcome, name)
    return float(np.std(found, ddof=1)) if len(found) > 1 else 0.0
