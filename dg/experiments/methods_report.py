"""The report of methods at equal compute, from the results file alone."""

import numpy as np

from dg.evaluation import figures
from dg.evaluation.figures.style import GUIDED, INK, SERIES, UNGUIDED
from dg.evaluation.report import Note, Table
from dg.evaluation.tables import paired_test
from dg.experiments import methods as lines
from dg.experiments.pictures import Source, fair_floor
from dg.experiments.tables import FLOOR, TITLES, cell, distance_name
from dg.samplers.cost import BACKWARD, FORWARD, NETWORK

BASE = "unguided"  # an image of this system is the unit of compute
BUDGETS = (0.5, 1.0, 1.5, 2.0, 3.0)
SLACK = 1.15  # a system belongs to a budget that it exceeds by no more
DISTANCES = ("fd", "fd_random_vgg")
LOOKS = {
    lines.UNGUIDED: (UNGUIDED, "-"),
    lines.RESTART: (SERIES[1], "-"),
    lines.REJECTION: (INK, "-"),
    lines.PARTICLES: (SERIES[0], "-"),
    lines.KEPT: (SERIES[3], "-"),
    lines.GUIDED: (GUIDED, "-"),
    lines.GUIDED_SHORT: (GUIDED, "--"),
    lines.GUIDED_SPARSE: (GUIDED, ":"),
    lines.GUIDED_RESTART: (SERIES[1], "--"),
    lines.BOTH: (INK, "--"),
}


def multiply_adds(outcome: dict, name: str) -> float:
    """Of an image of a system, all networks together."""
    return sum(outcome["costs"][name]["compute"]["multiply-adds"].values())


def compute(outcome: dict, name: str) -> float:
    """The same in images of the unguided system."""
    return multiply_adds(outcome, name) / multiply_adds(outcome, BASE)


def title(outcome: dict, name: str) -> str:
    """A system with the settings that were chosen for it."""
    system = outcome["systems"][name]
    if not system["options"]:
        return system["title"]
    index = outcome["choices"][system["choice"]]["index"]
    return f"{system['line']}, {system['options'][index]['title']}"


def training(outcome: dict, name: str) -> float:
    """Compute of the trainings of a system's discriminators, in unguided images."""
    heads = {head["training"] for head in outcome["systems"][name]["heads"]}
    found = sum(outcome["training_compute"][head]["multiply-adds"] for head in heads)
    return found / multiply_adds(outcome, BASE)


def ordered(outcome: dict) -> list[str]:
    """The systems line by line, by compute."""
    place, systems = list(LOOKS), outcome["systems"]
    return sorted(systems, key=lambda n: (place.index(systems[n]["line"]), compute(outcome, n)))


def best(outcome: dict, budget: float, line: str | None = None) -> str | None:
    """The system of least distance that keeps to a budget; of one line where it is given."""
    found = [
        name
        for name, system in outcome["systems"].items()
        if compute(outcome, name) <= SLACK * budget and line in (None, system["line"])
    ]
    means = {name: outcome["metrics"][name]["fd"]["mean"] for name in found}
    return min(means, key=means.get) if means else None


def verdict(outcome: dict) -> str:
    """The answer in two sentences: the best at one and at three times the compute of an unguided
    image, and what the discriminator takes."""
    steps, metrics = outcome["systems"][BASE]["num_steps"], outcome["metrics"]
    said = f"With the compute of {steps} unguided steps {_best_told(outcome, 1.0)}; with at most "
    said += f"three times as much {_best_told(outcome, 3.0)}."
    dear = max(outcome["systems"], key=lambda name: training(outcome, name))
    said += f" The discriminator takes the compute of {training(outcome, dear):,.0f} unguided "
    said += "images to train"
    if fair_floor(outcome):
        said += f", and real images against real ones have {metrics['floor']['fd']['mean']:.2f}"
    return f"{said}."


def _best_told(outcome: dict, budget: float) -> str:
    """A clause about the best system of a budget."""
    name, plain = best(outcome, budget), best(outcome, budget, lines.UNGUIDED)
    first, second = (outcome["metrics"][system]["fd"] for system in (name, plain))
    if name == plain:
        return f"no method beats unguided sampling ({distance_name(outcome)} {second['mean']:.2f})"
    change = f"{100 * (first['mean'] / second['mean'] - 1):+.0f}%"
    test = paired_test(first["values"], second["values"])
    chance = f"; p = {test[-1]} over {first['n']} sets" if test else ""
    other = [outcome["metrics"][system].get("fd_random_vgg") for system in (name, plain)]
    if None not in other:
        random = " against ".join(f"{entry['mean']:.4f}" for entry in other)
        chance += f"; {TITLES['fd_random_vgg']} {random}"
    return (
        f"“{outcome['systems'][name]['line']}” is best, at {compute(outcome, name):.2f} times: "
        f"{distance_name(outcome)} "
        f"{first['mean']:.2f} against {second['mean']:.2f} unguided ({change}{chance})"
    )


def methods(source: Source) -> list:
    """Who is best at which compute, the picture, all systems, and how they were counted."""
    outcome = source.outcome
    return [
        *_budgets(outcome),
        *_picture(source),
        *_all_systems(outcome),
        *_trainings(outcome),
        *_details(outcome),
    ]


def _budgets(outcome: dict) -> list:
    name_of, rows = distance_name(outcome), []
    for budget in BUDGETS:
        name, plain = best(outcome, budget), best(outcome, budget, lines.UNGUIDED)
        if name is None or plain is None:
            continue
        fd = [outcome["metrics"][system]["fd"] for system in (name, plain)]
        found = [] if name == plain else paired_test(*(entry["values"] for entry in fd))
        difference, sd, _, _, p = found or [""] * 5
        cells = [cell(outcome, "fd", entry) for entry in fd]
        rows.append([f"{budget:g} ×", title(outcome, name), *cells, difference, sd, p])
    caption = (
        f"The best system that takes no more than {SLACK:g} times the budget, against the best "
        "unguided one that does. p is of a paired t test, two-sided; the best of many is named, so "
        "it is too small."
    )
    columns = ["compute", "best", name_of, "best unguided", "difference", "sd", "p"]
    return [Table(columns, rows, align="llrrrrr", caption=caption)]


def _picture(source: Source) -> list:
    outcome, panels, looks = source.outcome, {}, {}
    for metric in DISTANCES:
        if metric not in outcome["metrics"][BASE]:
            continue
        base, found = outcome["metrics"][BASE][metric]["values"], {}
        for name in ordered(outcome):
            entry = outcome["metrics"][name][metric]
            apart = np.subtract(entry["values"], base)
            sd = float(np.std(apart, ddof=1)) if len(apart) > 1 else 0.0
            line = outcome["systems"][name]["line"]
            found.setdefault(line, []).append((compute(outcome, name), entry["mean"], sd))
            once = training(outcome, name)
            told = f" (training {rounded(once)} ×)" if once else ""
            looks[line] = (*LOOKS[line], f"{line}{told}")
        floor = outcome["metrics"]["floor"].get(metric, {}).get("mean")
        titles = TITLES | {"fd": distance_name(outcome)}
        panels[titles[metric]] = {
            "floor": floor if fair_floor(outcome) else None,
            "lines": found,
        }
    steps, unit = outcome["systems"][BASE]["num_steps"], multiply_adds(outcome, BASE)
    xlabel = f"compute per image; 1 × is {_engineered(unit)} multiply-adds"
    caption = (
        f"Compute is counted in multiply-adds of all networks, in units of {steps} unguided steps, "
        "both axes are logarithmic. The "
        "thin lines are one sd of the paired difference to 1 × unguided. The training of the "
        "discriminator, its generated images included, stands in the same unit beside the name."
    )
    shown = (figures.quality_against_compute, panels, looks, xlabel)
    return source.draw("compute", caption, *shown)


def _all_systems(outcome: dict) -> list:
    metrics, rows = outcome["metrics"], []
    measured = [metric for metric in DISTANCES if metric in metrics[BASE]]
    titles = TITLES | {"fd": distance_name(outcome)}
    columns = ["", "compute"]
    for metric in measured:
        columns += [titles[metric], "difference", "sd", "p"]
    for name in ordered(outcome):
        row = [title(outcome, name), f"{compute(outcome, name):.2f} ×"]
        for metric in measured:
            row += [
                cell(outcome, metric, metrics[name][metric]),
                *_against_base(outcome, name, metric),
            ]
        rows.append(row)
    floor = [cell(outcome, metric, metrics["floor"].get(metric)) for metric in measured]
    rows.append(["real against real", "", *(c for one in floor for c in (one, "", "", ""))])
    caption = (
        f"Mean ± sd over {outcome['settings']['num_sets']} sets; difference to the system of 1 × "
        "unguided, paired by sets of equal seeds, its sd, and p of a two-sided t test, not "
        "corrected for many systems. Seeds give equal latents; particles draw further ones, and of "
        "finished images a half and more come from other seeds."
    )
    return [Table(columns, rows, caption=caption)]


def _against_base(outcome: dict, name: str, metric: str) -> list[str]:
    """Difference to the unguided system, its sd, and p."""
    values, base = (outcome["metrics"][which][metric]["values"] for which in (name, BASE))
    test = paired_test(values, base, digits=4 if metric == "fd_random_vgg" else 3)
    return ["", "", ""] if test is None else [test[0], test[1], test[-1]]


def _trainings(outcome: dict) -> list:
    rows = [
        [
            name,
            f"{entry['images seen']:,}",
            _engineered(entry["training"]),
            _engineered(entry["generated images"]),
            _engineered(entry["multiply-adds"]),
        ]
        for name, entry in outcome["training_compute"].items()
    ]
    counted = []
    for name in ordered(outcome):
        of = outcome["costs"][name]["compute"]["multiply-adds"]
        asked = outcome["costs"][name]["compute"]["evaluations"]
        cells = [f"{asked.get(part, 0):.1f}" for part in (NETWORK, FORWARD, BACKWARD)]
        cells += [f"{of.get(part, 0) / 1e6:,.1f}" for part in (NETWORK, FORWARD, BACKWARD)]
        counted.append([title(outcome, name), *cells])
    columns = ["discriminator", "images seen", "training", "generated images", "multiply-adds"]
    caption = "The frozen network under a discriminator is given; its training is not counted."
    of_networks = ["", "score", "forward", "backward", "score, M", "forward, M", "backward, M"]
    about = (
        "Per image: evaluations of the score network, and of the discriminator forward and "
        "backward, then their multiply-adds in millions."
    )
    return [Table(columns, rows, caption=caption), Table(of_networks, counted, caption=about)]


def _details(outcome: dict) -> list:
    text = (
        "Compute was counted on the calls that are made, in matrix products, convolutions and "
        "attention. What rejection throws away counts: its evaluations are those of all measured "
        "images, and of finished images those that were not kept are in the count. The warm-up of "
        "rejection is not. "
    )
    text += f"Features: {outcome['extractor']['name']}. "
    if outcome["extractor"]["name"] != "inception":
        text += "No Inception FID: compare within this table only. "
    floor = f"Real against real: {outcome['floor_images']:,} images per set."
    note = (
        "Restart and longer unguided sampling need no discriminator. Rejection, particles and "
        "guidance use the same one. Distances of so few images have a bias that all systems share."
    )
    return [text + floor, Note(note)]


def against_unguided(
    outcome: dict, told: dict[str, list[str]], columns: list[str], reading: str
) -> Table:
    """Every system and real images: distances, and their differences to unguided sampling.

    told     by system: its title, and cells of the other `columns` before the distances
    reading  what these cells are
    """
    metrics, titles, rows = outcome["metrics"], TITLES | {"fd": distance_name(outcome)}, []
    measured = [name for name in DISTANCES if name in metrics[BASE]]
    for name, row in told.items():
        row = row + [cell(outcome, metric, metrics[name][metric]) for metric in measured]
        test = paired_test(*(metrics[which]["fd"]["values"] for which in (name, BASE)))
        rows.append([*row, *([test[0], test[1], test[-1]] if test else [""] * 3)])
    floor = [cell(outcome, metric, metrics["floor"].get(metric)) for metric in measured]
    rows.append([FLOOR, *[""] * len(columns), *floor, "", "", ""])
    caption = (
        f"Mean ± sd over {outcome['settings']['num_sets']} sets; difference to unguided sampling, "
        "paired by sets of equal seeds, its sd, and p of a two-sided t test, not corrected for "
        f"many systems. {reading} Features: {outcome['extractor']['name']}."
    )
    names = ["", *columns, *(titles[metric] for metric in measured), "difference", "sd", "p"]
    return Table(names, rows, caption=caption)


def choices(source: Source) -> list:
    """What was chosen for every method, and among what."""
    outcome, rows = source.outcome, []
    if not outcome["choices"]:
        return []
    for name, choice in outcome["choices"].items():
        line = outcome["systems"][name]["line"] or outcome["systems"][name]["title"]
        for place, (option, fd) in enumerate(choice["fd"]):
            chosen = "chosen" if place == choice["index"] else ""
            rows.append([line, option, f"{fd:.3f}", chosen])
    settings = outcome["settings"]
    text = (
        f"Settings were chosen by the distance of {settings['num_selection']} images, of seeds "
        "that serve nothing else, to real images that nothing here is measured by."
    )
    if len({system["x"] for system in outcome["systems"].values()} - {None}) > 1:
        text += (
            " They were chosen once, at about twice the compute of unguided sampling; other "
            "amounts of compute take what was chosen. Options of one method differ in compute "
            "where they reject differently."
        )
    columns = ["method", "option", distance_name(outcome), ""]
    return [text, Table(columns, rows, align="llrl")]


def rounded(number: float) -> str:
    """Two digits, with commas."""
    digits = max(len(f"{number:.0f}") - 2, 0)
    return f"{round(number, -digits):,.0f}"


def _engineered(number: float) -> str:
    """A number with its unit of thousands."""
    for size, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g}"
