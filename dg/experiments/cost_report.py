"""The report of gain against cost, from the results file alone."""

import numpy as np

from dg.evaluation import figures
from dg.evaluation.report import Table
from dg.evaluation.tables import paired_test
from dg.experiments.methods_report import BASE, compute
from dg.experiments.pictures import Source
from dg.experiments.tables import TITLES, cell, distance_name
from dg.samplers.cost import FORWARD

FULL = "guided"  # the system whose gain is the unit
ENOUGH, TARGET = 0.95, 1.15  # share of that gain, and cost of an image in unguided ones


def gains(outcome: dict, name: str) -> np.ndarray:
    """By how much a system lowers the distance, set by set."""
    return np.subtract(*(outcome["metrics"][which]["fd"]["values"] for which in (BASE, name)))


def share(outcome: dict, name: str) -> tuple[float, float]:
    """The gain of a system as a share of what full guidance gains (or loses: then full guidance
    has -1) in the mean: (mean, sd over the sets)."""
    found = gains(outcome, name) / (abs(gains(outcome, FULL).mean()) or 1.0)
    return float(found.mean()), float(np.std(found, ddof=1)) if len(found) > 1 else 0.0


def guided(outcome: dict) -> list[str]:
    """The guided systems from the cheapest on."""
    found = [name for name in outcome["systems"] if name != BASE]
    return sorted(found, key=lambda name: compute(outcome, name))


def verdict(outcome: dict) -> str:
    """The answer: the cheapest system that keeps the gain, and whether that is cheap enough."""
    distance = distance_name(outcome)
    before, after = (outcome["metrics"][name]["fd"] for name in (BASE, FULL))
    moved = f"{distance} from {before['mean']:.2f} to {after['mean']:.2f}"
    test = paired_test(after["values"], before["values"])
    moved += f" (p = {test[-1]} over {after['n']} sets)" if test else ""
    if gains(outcome, FULL).mean() <= 0:
        return f"Full guidance moves {moved}: there is no gain to keep."
    kept = [name for name in guided(outcome) if share(outcome, name)[0] >= ENOUGH]
    least, cost = kept[0], compute(outcome, kept[0])
    return (
        f"Full guidance lowers {moved} at {compute(outcome, FULL):.2f} × the cost of unguided "
        f"sampling. The cheapest setting with at least {ENOUGH:.0%} of this gain is "
        f"“{outcome['systems'][least]['title']}”: {share(outcome, least)[0]:.0%} at {cost:.2f} ×. "
        f"The target, {ENOUGH:.0%} at no more than {TARGET:g} ×, is "
        f"{'hit' if cost <= TARGET else 'missed'}."
    )


def gain(source: Source) -> list:
    """The table of all systems, and gain against cost."""
    outcome = source.outcome
    metrics = [name for name in ("fd", "fd_random_vgg") if name in outcome["metrics"][BASE]]
    titles, rows = TITLES | {"fd": distance_name(outcome)}, []
    for name in (BASE, *guided(outcome)):
        asked = outcome["costs"][name]["compute"]["evaluations"].get(FORWARD, 0)
        row = [outcome["systems"][name]["title"], f"{asked:.1f}", f"{compute(outcome, name):.2f} ×"]
        row += [cell(outcome, metric, outcome["metrics"][name][metric]) for metric in metrics]
        test = paired_test(*(outcome["metrics"][which]["fd"]["values"] for which in (name, BASE)))
        row += [test[0], test[-1]] if test else ["", ""]
        rows.append([*row, "" if name == BASE else "{:.0%} ± {:.0%}".format(*share(outcome, name))])
    sets = outcome["settings"]["num_sets"]
    caption = (
        "Evaluations of the discriminator and cost are per image; the cost is in multiply-adds of "
        f"all networks, relative to unguided sampling. Mean ± sd over {sets} sets; difference to "
        "unguided, paired by sets of equal seeds, and p of a two-sided t test, not corrected for "
        f"many systems. Features: {outcome['extractor']['name']}."
    )
    columns = ["", "evaluations", "cost", *(titles[metric] for metric in metrics)]
    columns += ["difference", "p", "share of the full gain"]
    return [Table(columns, rows, caption=caption), *_picture(source)]


def _picture(source: Source) -> list:
    outcome, found = source.outcome, {}
    for name in (name for name in outcome["systems"] if name != BASE):
        point = (compute(outcome, name), *share(outcome, name))
        found.setdefault(outcome["systems"][name]["line"], []).append(point)
    caption = (
        "The gain in Fréchet distance as a share of the mean gain of full guidance, against the "
        "cost of an image; the thin lines are one sd over the sets. The target is the upper left "
        f"corner: {ENOUGH:.0%} of the gain at no more than {TARGET:g} times the cost."
    )
    return source.draw("gain", caption, figures.gain_against_cost, found, (TARGET, ENOUGH))
