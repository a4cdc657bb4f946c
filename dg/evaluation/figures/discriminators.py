"""How a discriminator learns, and what it says of real and of generated images."""

import math

import numpy as np

from dg.evaluation.figures.style import (
    INK,
    MARKERS,
    MUTED,
    REAL,
    SERIES,
    SIGMA,
    UNGUIDED,
    WIDTH,
    drawing,
    few_ticks,
    level,
    mark,
)
from dg.evaluation.reliability import histogram

DASHED = {"linewidth": 1.2, "linestyle": (0, (4, 3))}
PARTS = (("train", "training data", SERIES[0]), ("valid", "validation data", INK))
QUANTITIES = {
    "loss": ("binary cross-entropy [nats]", math.log(2)),
    "accuracy": ("share classified correctly", 0.5),
}  # with the value of chance


def training_curves(path, log, best_step=None, title="Discriminator: real or generated?"):
    """Loss and accuracy of a discriminator on training and validation data, with the chosen
    checkpoint and chance.

    log        list of dicts with `step` and any of train_loss, valid_loss, train_accuracy,
               valid_accuracy (losses in nats per image, accuracies in [0, 1]); None and missing
               values leave a gap; where all have valid_levels, a third panel shows the AUC by noise
               level
    best_step  step of the chosen checkpoint; default: the last entry's best_step, else the lowest
               valid_loss
    """
    if not log:
        raise ValueError("the training log is empty: nothing to draw")
    if best_step is None:
        best_step = _best_step(log)
    by_level = all(entry.get("valid_levels") for entry in log)
    with drawing(path, WIDTH, 8.6 if by_level else 5.8, title) as figure:
        top, bottom, *rest = figure.subplots(2 + by_level, sharex=True)
        for axes, quantity in ((top, "loss"), (bottom, "accuracy")):
            _curves(axes, log, quantity, best_step)
            axes.set_ylabel(QUANTITIES[quantity][0])
        if best_step is not None:
            mark(top, best_step, f"chosen: step {best_step:,}")
        for axes in rest:
            _auc_by_level(axes, log)
        (rest or [bottom])[-1].set_xlabel("training step")
        if top.get_legend_handles_labels()[1]:
            shown = top.get_legend_handles_labels()
            figure.legend(*shown, loc="outside lower center", ncols=2, handlelength=1.4)


def denoising_curves(path, log, title="Denoising error on real images"):
    """Loss of a score difference on training and validation data, and of the network alone.

    log  list of dicts with `step` and any of train_loss, valid_loss, train_network_loss,
         valid_network_loss
    """
    with drawing(path, WIDTH, 3.6, title) as figure:
        axes = figure.subplots()
        for part, name, colour in PARTS:
            for quantity, whose, look in (
                ("loss", "corrected", {}),
                ("network_loss", "network alone", DASHED),
            ):
                steps, values = _series(log, f"{part}_{quantity}")
                if steps:
                    look = {"marker": "o" if len(steps) < 3 else None} | look
                    label = f"{name.removesuffix(' data')}, {whose}"
                    axes.plot(steps, values, color=colour, label=label, **look)
        axes.set_xlabel("training step")
        axes.set_ylabel("mean square error, scaled")
        figure.legend(loc="outside lower center", ncols=2, handlelength=1.4)


def all_training_curves(path, trainings, title="Loss and accuracy of the discriminators"):
    """The same of several discriminators in one figure, a row for each.

    trainings  {name: (log, step of the chosen checkpoint)}
    """
    with drawing(path, WIDTH, 1.2 + 1.7 * len(trainings), title) as figure:
        rows = figure.subplots(len(trainings), 2, squeeze=False)
        for row, (name, (log, step)) in zip(rows, trainings.items(), strict=True):
            for axes, quantity in zip(row, QUANTITIES, strict=True):
                _curves(axes, log, quantity, step)
                axes.set_title(f"{name}: {quantity}", fontsize=10.5, pad=5)
                axes.tick_params(labelsize=9)
        for axes in rows[-1]:
            axes.set_xlabel("training step")
        shown = rows[0][0].get_legend_handles_labels()
        figure.legend(*shown, loc="outside lower center", ncols=2, handlelength=1.4)


def _best_step(log):
    """Step of the chosen checkpoint by the log alone; None where nothing was validated."""
    if log[-1].get("best_step") is not None:
        return log[-1]["best_step"]
    steps, losses = _series(log, "valid_loss")
    return steps[int(np.argmin(losses))] if steps else None


def _curves(axes, log, quantity, chosen):
    """One quantity on training and validation data, chance, and the chosen checkpoint."""
    axes.axhline(QUANTITIES[quantity][1], color=MUTED, **DASHED)
    for part, name, colour in PARTS:
        steps, values = _series(log, f"{part}_{quantity}")
        if steps:
            few = "o" if len(steps) < 3 else None
            axes.plot(steps, values, color=colour, label=name, marker=few)
        if part == "valid" and chosen in steps:
            style = dict(markersize=9, markeredgecolor="white", markeredgewidth=1.5, zorder=5)
            axes.plot(chosen, values[steps.index(chosen)], "o", color=INK, **style)


def _auc_by_level(axes, log):
    """Validation AUC over the training, one line per noise level, the darker the less noise."""
    import matplotlib

    levels = {}
    for entry in log:
        for one in entry["valid_levels"]:
            if one.get("auc") is not None:
                levels.setdefault(tuple(one["sigma"]), []).append((entry["step"], one["auc"]))
    for i, ((low, high), points) in enumerate(sorted(levels.items(), key=lambda item: item[0][0])):
        name = (
            f"{SIGMA} > {low:g}"
            if high is None
            else f"{SIGMA} < {high:g}"
            if not low
            else f"{low:g} to {high:g}"
        )
        axes.plot(
            *zip(*points, strict=True),
            color=matplotlib.colormaps["viridis"](0.9 * i / max(len(levels) - 1, 1)),
            label=name,
            linewidth=1.6,
            marker="o" if len(points) < 3 else None,
        )
    level(axes, 0.5, "chance", MUTED, **DASHED)
    axes.set_ylabel("validation AUC by noise level")
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=3,
        fontsize=9,
        handlelength=1.2,
        columnspacing=1,
        borderaxespad=0.2,
    )
    low, high = axes.get_ylim()
    axes.set_ylim(low, min(high, 1))


def ratio_errors(path, sigmas, errors, title="Relative error (1: no better than zero)"):
    """Relative error of a learned log ratio and of its gradient by noise level, one line per loss.

    sigmas  [K]   noise levels, image units
    errors  {panel title: {"ratio" or "gradient": {loss name: [K]}}}, root mean square, 1 = as wrong
            as zero
    """
    names = dict.fromkeys(name for panel in errors.values() for name in panel["ratio"])
    looks = dict(zip(names, zip(SERIES, MARKERS, strict=False), strict=False))
    with drawing(path, WIDTH, 1.3 + 1.9 * len(errors), title) as figure:
        panels = figure.subplots(len(errors), 2, squeeze=False, sharex=True, sharey="row")
        for row, (name, panel) in zip(panels, errors.items(), strict=True):
            for axes, quantity in zip(row, ("ratio", "gradient"), strict=True):
                axes.axhline(1, color=MUTED, **DASHED)
                for loss, values in panel[quantity].items():
                    colour, marker = looks[loss]
                    look = dict(color=colour, marker=marker, markersize=4)
                    axes.plot(sigmas, values, label=loss, **look)
                axes.set_xscale("log")
                axes.set_xticks(sigmas, [f"{float(sigma):g}" for sigma in sigmas], fontsize=9)
                axes.minorticks_off()
            row[0].set_title(name)
            row[0].set_ylabel("log ratio")
            row[1].set_ylabel("gradient")
            row[0].set_ylim(
                0,
                1.05
                * max(1, *(max(values) for lines in panel.values() for values in lines.values())),
            )
        for axes in panels[-1]:
            axes.set_xlabel(f"noise level {SIGMA}")
        figure.legend(
            *panels[0, 0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=4,
            handlelength=1.2,
        )


def ratio_scatter(path, sigmas, truth, learned, title="Learned against true log ratio"):
    """Learned over true log ratio of single noisy images: one row per loss, one column per noise
    level.

    truth    {noise level index: [n]}, learned  {loss: {noise level index: [n]}}, in nats
    """
    with drawing(path, WIDTH, 0.8 + 1.5 * len(learned), title) as figure:
        panels = figure.subplots(
            len(learned), len(truth), squeeze=False, sharex="col", sharey="col"
        )
        for row, (loss, values) in zip(panels, learned.items(), strict=True):
            for axes, (index, exact) in zip(row, truth.items(), strict=True):
                axes.plot(exact, values[index], ".", color=SERIES[0], markersize=2, alpha=0.5)
                axes.axline((0, 0), slope=1, color=MUTED, linewidth=1.2)
            row[0].set_ylabel(loss)
        for axes, index in zip(panels[0], truth, strict=True):
            axes.set_title(f"{SIGMA} = {float(sigmas[index]):.2g}", weight="normal")
            few_ticks(axes.xaxis, 3)
        figure.supxlabel("true log ratio [nats]", fontsize=11)
        figure.supylabel("learned log ratio [nats]", fontsize=11)


def log_ratio_histograms(path, sigmas, real, generated, title="Log ratio by noise level"):
    """Histograms of the log density ratio on real and on generated images, one panel per noise
    level.

    sigmas           [K]               noise levels, image units
    real, generated  K arrays each     log ratios in nats, of any length
    """
    if not len(sigmas) == len(real) == len(generated):
        raise ValueError(
            f"{len(sigmas)} noise levels, but {len(real)} real and {len(generated)} arrays of log "
            "ratios"
        )
    pairs = [(np.ravel(a), np.ravel(b)) for a, b in zip(real, generated, strict=True)]
    levels = [
        {"sigma": sigma, "histogram": histogram(*pair), "auc": {"value": _auc(*pair)}}
        for sigma, pair in zip(sigmas, pairs, strict=True)
    ]
    counted_log_ratios(path, levels, title)


def counted_log_ratios(path, levels, title="Log ratio by noise level"):
    """The same from `levels` of `dg.evaluation.diagnosis.diagnose`, which hold sigma, histogram and
    auc.

    The number in a panel is the AUC: the chance that a real image gets the larger ratio (0.5:
    indistinguishable).
    """
    rows = math.ceil(len(levels) / 2)
    with drawing(path, WIDTH, 1.0 + 2.1 * rows, title) as figure:
        panels = figure.subplots(rows, 2, squeeze=False).ravel()
        figure.get_layout_engine().set(wspace=0.08)  # between the ends of two scales
        for axes in panels[len(levels) :]:
            axes.remove()
        for axes, one in zip(panels, levels, strict=False):
            edges = one["histogram"]["edges"]
            for kind, name, colour in (
                ("real", "real", REAL),
                ("fake", "generated", UNGUIDED),
            ):
                axes.hist(
                    edges[:-1],
                    edges,
                    weights=one["histogram"][kind],
                    density=True,
                    histtype="stepfilled",
                    facecolor=(colour, 0.35),
                    edgecolor=colour,
                    linewidth=1.4,
                    label=name,
                )
            axes.axvline(0, color=MUTED, linewidth=1)
            axes.set_title(
                f"{SIGMA} = {float(one['sigma']):.3g}     AUC {one['auc']['value']:.2f}",
                pad=5,
                weight="normal",
            )
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            axes.grid(False)
        figure.legend(
            *panels[0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=2,
            handlelength=1.2,
        )
        for axes in panels[max(len(levels) - 2, 0) : len(levels)]:
            axes.set_xlabel("log ratio [nats]")


def _series(log, key):
    """Steps and values of the entries that have the value `key`."""
    pairs = [(entry["step"], entry[key]) for entry in log if entry.get(key) is not None]
    return [step for step, _ in pairs], [value for _, value in pairs]


def _auc(larger, smaller):
    """Chance that a value of `larger` exceeds one of `smaller`, ties counting half."""
    smaller = np.sort(smaller)
    below = np.searchsorted(smaller, larger, "left") + np.searchsorted(smaller, larger, "right")
    return below.mean() / (2 * len(smaller))
