"""The report of the study of failures, from the results file alone."""

from dg.evaluation import figures
from dg.evaluation.figures.style import REAL, SERIES, UNGUIDED
from dg.evaluation.report import Table
from dg.evaluation.significance import rank_correlation
from dg.evaluation.tables import paired_test
from dg.experiments.failures import BASE
from dg.experiments.methods_report import LOOKS
from dg.experiments.pictures import Source, fair_floor
from dg.experiments.tables import cell, distance_name

KINDS = {"real": ("real", "fake"), "fake": ("generated", "real")}  # its name, what stays


def numbers(outcome: dict) -> dict[str, dict[str, int]]:
    """Real and generated images that each discriminator has seen, with its validation."""
    return {name: entry["images"] for name, entry in outcome["heldout"].items()}


def lines(outcome: dict, kind: str) -> dict[str, dict[int, str]]:
    """The systems by method and number of images of a kind, from many to few."""
    seen, found = numbers(outcome), {}
    _, fixed = KINDS[kind]
    for name, system in outcome["systems"].items():
        for head in system["heads"]:
            images = seen[head["training"]]
            if images[fixed] == seen[BASE][fixed]:
                found.setdefault(system["line"], {})[images[kind]] = name
    return {line: dict(sorted(systems.items(), reverse=True)) for line, systems in found.items()}


def verdict(outcome: dict) -> str:
    """The answer in a sentence for each kind of images: which method is the first that is no
    better than its control; or, of one discriminator, what each method changes."""
    if len(numbers(outcome)) == 1:
        told = [
            f"“{outcome['systems'][n]['line']}” has {_against(outcome, n)}"
            for n in _ordered(outcome)
        ]
        return f"{'; '.join(told)}."
    return " ".join(_first_to_fail(outcome, kind) for kind in KINDS)


def _first_to_fail(outcome: dict, kind: str) -> str:
    lost, kept, least = [], [], 0
    for line, systems in lines(outcome, kind).items():
        least = min(systems)
        worse = [pair for pair in systems.items() if _change(outcome, pair[1]) >= 0]
        if worse:
            lost.append((*worse[0], line))
        else:
            kept.append(line)
    name, _ = KINDS[kind]
    if not lost:
        return f"With fewer {name} images every method keeps its gain, down to {least:,}."
    told = [
        f"“{line}” {'at' if place else 'loses its gain at'} {number:,} ({_against(outcome, one)})"
        for place, (number, one, line) in enumerate(sorted(lost, key=lambda found: -found[0]))
    ]
    rest = f"; {_named(kept)} {'keeps' if len(kept) == 1 else 'keep'} it" if kept else ""
    return f"With fewer {name} images {', '.join(told)}{rest}."


def _against(outcome: dict, name: str) -> str:
    """The distance of a system and of its control."""
    names = (name, outcome["systems"][name]["against"])
    values = [f"{outcome['metrics'][one]['fd']['mean']:.2f}" for one in names]
    return f"{distance_name(outcome)} {' against '.join(values)}"


def _named(names: list[str]) -> str:
    quoted = [f"“{name}”" for name in names]
    return " and ".join(filter(None, [", ".join(quoted[:-1]), quoted[-1]]))


def _change(outcome: dict, name: str) -> float:
    return outcome["comparison"][name]["fd"]["difference"]


def failures(source: Source) -> list:
    """The picture, the table, and what the discriminators have learnt."""
    outcome = source.outcome
    return [*_picture(source), *_table(outcome), *_learnt(outcome), *_predicted(outcome)]


def _picture(source: Source) -> list:
    outcome, panels, base = source.outcome, {}, numbers(source.outcome)[BASE]
    if len(numbers(outcome)) == 1:
        return []
    metrics, distance = outcome["metrics"], distance_name(outcome)
    for kind, (name, fixed) in KINDS.items():
        other, _ = KINDS[fixed]
        panels[f"{name} images ({base[fixed]:,} {other} ones)"] = {
            line: [
                (n, metrics[one]["fd"]["mean"], outcome["comparison"][one]["fd"]["sd"])
                for n, one in systems.items()
            ]
            for line, systems in lines(outcome, kind).items()
        }
    controls = {"unguided": ("unguided", UNGUIDED), "restart": ("Restart", SERIES[1])}
    controls |= {"floor": ("real against real", REAL)} if fair_floor(outcome) else {}
    levels = {
        title: (metrics[name]["fd"]["mean"], metrics[name]["fd"]["sd"], colour)
        for name, (title, colour) in controls.items()
    }
    caption = (
        "Both axes are logarithmic. The thin lines are one sd of the paired difference to the "
        "control, the bands one sd over the sets."
    )
    shown = (figures.distance_against_number, panels, LOOKS, levels, distance)
    return source.draw("failures", caption, *shown)


def _table(outcome: dict) -> list:
    metrics, systems, rows = outcome["metrics"], outcome["systems"], []
    for control in ("unguided", "restart"):
        title = systems[control]["title"]
        rows.append([title, "", "", cell(outcome, "fd", metrics[control]["fd"]), "", "", ""])
    for name in _ordered(outcome):
        values, base = (metrics[one]["fd"]["values"] for one in (name, systems[name]["against"]))
        test = paired_test(values, base) or [""] * 5
        counts = [f"{number:,}" for number in _seen(outcome, name)]
        fd = cell(outcome, "fd", metrics[name]["fd"])
        rows.append([systems[name]["line"], *counts, fd, test[0], test[1], test[-1]])
    rows.append(["real against real", "", "", cell(outcome, "fd", metrics["floor"]["fd"]), *"   "])
    caption = (
        f"Mean ± sd over {outcome['settings']['num_sets']} sets; difference to the control, paired "
        "by sets of equal seeds, its sd, and p of a two-sided t test, not corrected for many "
        "systems. The control of guidance with Restart is Restart alone, that of all others the "
        "unguided system. A gain counts as lost where the mean distance is not below that of the "
        "control. Half of the finished images that are chosen from come from other seeds. The "
        f"methods differ in compute. Features: {outcome['extractor']['name']}."
    )
    columns = ["", "real", "generated", distance_name(outcome), "difference", "sd", "p"]
    return [Table(columns, rows, align="lrrrrrr", caption=caption)]


def _seen(outcome: dict, name: str) -> list[int]:
    """Real and generated images that the discriminator of a system has seen."""
    (head,) = outcome["systems"][name]["heads"]
    return [numbers(outcome)[head["training"]][kind] for kind in KINDS]


def _ordered(outcome: dict) -> list[str]:
    """The systems with a discriminator, method by method and by numbers of images."""
    systems, place = outcome["systems"], list(lines(outcome, "real"))
    found = [name for name, system in systems.items() if system["heads"]]
    return sorted(found, key=lambda n: (place.index(systems[n]["line"]), _seen(outcome, n)))


def _learnt(outcome: dict) -> list:
    rows = []
    for name, entry in outcome["heldout"].items():
        last = outcome["trainings"][name]["log"][-1]
        values = (last["train_loss"], entry["loss"], last["train_auc"], entry["auc"])
        counts = [f"{entry['images'][kind]:,}" for kind in KINDS]
        rows.append([name, *counts, *(f"{value:.3f}" for value in values)])
    caption = (
        "Cross-entropy (0.693 knows nothing) and AUC (0.5) of the last checkpoint, which samples: "
        "on the images that it was trained on, and on test images and generated ones that no "
        "training has seen. The farther the two are apart, the more it has learnt by heart."
    )
    columns = ["discriminator", "real", "generated", "loss", "loss, unseen", "AUC", "AUC, unseen"]
    return [Table(columns, rows, align="lrrrrrr", caption=caption)]


def _predicted(outcome: dict) -> list:
    """How closely the distance of each method goes with what the discriminators have learnt."""
    if len(numbers(outcome)) < 3:
        return []
    rows = []
    for line in lines(outcome, "real"):
        ones = [n for n in _ordered(outcome) if outcome["systems"][n]["line"] == line]
        heads = [outcome["systems"][n]["heads"][0]["training"] for n in ones]
        fd = [outcome["metrics"][n]["fd"]["mean"] for n in ones]
        cells = []
        for measure in ("loss", "auc"):
            values = [outcome["heldout"][head][measure] for head in heads]
            if min(len(set(values)), len(set(fd))) < 2:
                cells.append("")  # of equal values there is none
                continue
            found = rank_correlation(values, fd)
            cells.append(f"{found.value:+.2f} ({found.low:+.2f} to {found.high:+.2f})")
        rows.append([line, *cells])
    caption = (
        f"Spearman's rank correlation of the {distance_name(outcome)} with the cross-entropy and "
        f"with the AUC on unseen images, over the {len(numbers(outcome))} discriminators; 95% "
        "interval of a bootstrap over them. Few discriminators leave wide intervals."
    )
    columns = ["", "with the loss, unseen", "with the AUC, unseen"]
    return [Table(columns, rows, align="lrr", caption=caption)]
