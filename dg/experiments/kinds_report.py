"""The report of kinds of discriminators at equal training compute, from the results file alone."""

import itertools

from dg.evaluation import figures
from dg.evaluation.figures.style import GUIDED, SERIES, UNGUIDED
from dg.evaluation.report import Table
from dg.evaluation.tables import paired_test
from dg.experiments.kinds import FIRST, REFERENCE
from dg.experiments.methods_report import (
    BASE,
    DISTANCES,
    against_unguided,
    compute,
    multiply_adds,
    rounded,
)
from dg.experiments.pictures import Source, fair_floor
from dg.experiments.tables import TITLES, distance_name

ORDINALS = {2: "second", 3: "third"}
TRAINED = ("training", "generated images")  # entries of the count of a training


def kinds_of(outcome: dict) -> list[str]:
    """The systems of one discriminator, that of the reference first."""
    return [name for name, system in outcome["systems"].items() if len(system["heads"]) == 1]


def rounds_of(outcome: dict) -> list[str]:
    """The systems of the rounds, the first one first."""
    further = [name for name, system in outcome["systems"].items() if len(system["heads"]) > 1]
    return [FIRST, *further]


def weight(outcome: dict, name: str) -> float:
    """The first-order weight that was chosen for a system."""
    system = outcome["systems"][name]
    return system["options"][outcome["choices"][system["choice"]]["index"]]["weights"][0]


def newest(outcome: dict, name: str) -> str:
    """The training of the discriminator that a system has and the round before has not."""
    return outcome["systems"][name]["heads"][-1]["training"]


def trained(outcome: dict, training: str, what: str) -> float:
    """Compute of a training in unguided images: `what` is an entry of its count."""
    return outcome["training_compute"][training][what] / multiply_adds(outcome, BASE)


def verdict(outcome: dict) -> str:
    """The answer: the best kind, against the reference, and what further rounds change."""
    metrics, distance = outcome["metrics"], distance_name(outcome)
    best = min(kinds_of(outcome), key=lambda name: metrics[name]["fd"]["mean"])
    told = rounded(trained(outcome, REFERENCE, "training"))
    text = f"For a training of the compute of {told} unguided images “{_line(outcome, best)}” is "
    text += f"the best kind: it moves {distance} from {_moved(outcome, BASE, best)}"
    if best != FIRST:
        text += f", and “{_line(outcome, FIRST)}” to {_to(outcome, BASE, FIRST)}"
    text += f". {_by_round(outcome)}"
    if fair_floor(outcome):
        text += f" Real images against real ones have {metrics['floor']['fd']['mean']:.2f}."
    return text


def _line(outcome: dict, name: str) -> str:
    return outcome["systems"][name]["line"]


def _moved(outcome: dict, base: str, name: str) -> str:
    """The distances of two systems, and p of their difference."""
    return f"{outcome['metrics'][base]['fd']['mean']:.2f} to {_to(outcome, base, name)}"


def _to(outcome: dict, base: str, name: str) -> str:
    """The distance of a system, and p of its difference to another."""
    before, after = (outcome["metrics"][one]["fd"] for one in (base, name))
    test = paired_test(after["values"], before["values"])
    chance = f" (p = {test[-1]} over {after['n']} sets)" if test else ""
    return f"{after['mean']:.2f}{chance}"


def _by_round(outcome: dict) -> str:
    """What each further round changes."""
    names, distance = rounds_of(outcome), distance_name(outcome)
    told = [
        f"the {ORDINALS[number]} from {_moved(outcome, before, name)}"
        for number, (before, name) in enumerate(itertools.pairwise(names), 2)
    ]
    return f"Further rounds move {distance} so: {'; '.join(told)}."


def kinds(source: Source) -> list:
    """All kinds, the picture, what they have learnt, and the rounds."""
    outcome = source.outcome
    return [*_systems(outcome), *_picture(source), *_learnt(outcome), _rounds(outcome)]


def _systems(outcome: dict) -> list:
    told = {}
    for name, system in outcome["systems"].items():
        told[name] = [system["title"], "" if name == BASE else f"{weight(outcome, name):g}"]
        told[name].append(f"{compute(outcome, name):.2f} ×")
    reading = (
        "Compute of an image is in multiply-adds of all networks, relative to an unguided image. "
        "The weight is that of the first order; it was chosen for each system on other images."
    )
    return [against_unguided(outcome, told, ["weight", "compute"], reading)]


def _picture(source: Source) -> list:
    outcome, further = source.outcome, rounds_of(source.outcome)
    lines = {"unguided": [BASE], "head on the classifier, round by round": further}
    lines |= {_line(outcome, name): [name] for name in kinds_of(outcome) if name != FIRST}
    colours = [UNGUIDED, GUIDED, *SERIES, GUIDED]
    looks = {line: (colour, "-", line) for line, colour in zip(lines, itertools.cycle(colours))}
    titles, panels = TITLES | {"fd": distance_name(outcome)}, {}
    for metric in (one for one in DISTANCES if one in outcome["metrics"][BASE]):
        floor = outcome["metrics"]["floor"].get(metric, {}).get("mean")
        panels[titles[metric]] = {
            "floor": floor if fair_floor(outcome) else None,
            "lines": {
                line: [(compute(outcome, name), *_spread(outcome, name, metric)) for name in names]
                for line, names in lines.items()
            },
        }
    caption = (
        "Both axes are logarithmic. The thin lines are one sd of the paired difference to unguided "
        "sampling. All kinds were trained with equal compute; every further round takes as much "
        "again."
    )
    shown = (figures.quality_against_compute, panels, looks, "compute per image")
    return source.draw("kinds", caption, *shown)


def _spread(outcome: dict, name: str, metric: str) -> tuple[float, float]:
    """Mean of a metric, and the sd of its paired difference to the unguided system."""
    values, base = (outcome["metrics"][one][metric]["values"] for one in (name, BASE))
    test = paired_test(values, base, digits=6)
    return outcome["metrics"][name][metric]["mean"], float(test[1]) if test else 0.0


def _learnt(outcome: dict) -> list:
    rows, said = [], []
    for name in dict.fromkeys((*kinds_of(outcome), *rounds_of(outcome))):
        training = newest(outcome, name)
        log, unseen = outcome["trainings"][training]["log"], outcome["heldout"][training]
        told = [f"{rounded(trained(outcome, training, what))} ×" for what in TRAINED]
        auc = unseen.get("auc")
        row = [_line(outcome, name), f"{log[-1]['epoch']:,}"]
        row += [f"{outcome['trainings'][training]['best_epoch']:,}", *told]
        rows.append([*row, "" if auc is None else f"{auc:.3f}"])
        if "network_loss" in unseen:
            said.append(
                f"“{_line(outcome, name)}” gives no log ratio and so no AUC. Its denoising error "
                f"on test images is {unseen['loss']:.4f}, that of the network alone "
                f"{unseen['network_loss']:.4f}."
            )
    caption = (
        "Epochs of the newest discriminator of a system, and the epoch of lowest validation loss, "
        f"which guides. The epochs are those that take the compute of “{_line(outcome, FIRST)}”, "
        "rounded, and at least one. Training and the generated images that it takes are in "
        "multiply-adds, relative to an unguided image; those of the rounds before come on top. "
        "AUC: on test images and generated ones that no training has seen, the generated ones of a "
        "further round from the round before. The frozen network under a discriminator is given."
    )
    columns = ["", "epochs", "best", "training", "generated images", "AUC, unseen"]
    return [Table(columns, rows, caption=caption), *said]


def _rounds(outcome: dict) -> str:
    """The distance and what is left to see, round by round."""
    names, distance, metrics = rounds_of(outcome), distance_name(outcome), outcome["metrics"]
    fd = [f"{metrics[name]['fd']['mean']:.2f}" for name in (BASE, *names)]
    aucs = [outcome["heldout"][newest(outcome, name)]["auc"] for name in names]
    left = [f"{auc:.3f}" for auc in aucs if auc is not None]
    return (
        f"{distance} from no round to {len(names)}: {', '.join(fd)}. {_by_round(outcome)} Rounds "
        "converge where the newest discriminator has nothing left to see, at an AUC of 0.5; round "
        f"by round it has {', '.join(left)}. A system of several rounds has been trained for "
        "several times as long, and so the rounds are no comparison at equal compute."
    )
