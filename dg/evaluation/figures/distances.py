"""Metrics of sets of images: tables as bars, sweeps of a setting, precision against recall."""

import itertools
import math
from textwrap import fill

import numpy as np

from dg.evaluation.figures.style import (
    GUIDED,
    INK,
    MUTED,
    OTHER,
    REAL,
    UNGUIDED,
    WIDTH,
    drawing,
    mean_sd,
    note,
)

LABEL = 26  # letters in a line of a bar's label


def distance_sweep(
    path,
    settings,
    mean,
    sd,
    baseline=None,
    floor=None,
    chosen=None,
    xlabel="guidance weight",
    ylabel="Fréchet distance",
    title="Distance against guidance weight",
):
    """A distance against a number that was varied, with error bars, the unguided model and the
    real-against-real floor.

    settings, mean, sd  [K]         sd over repetitions
    baseline, floor     (mean, sd)  of the unguided model and of real against real images, None for
                                    none
    chosen              the setting that was chosen, None for none
    """
    order = np.argsort(settings)
    settings, mean, sd = (np.asarray(values, dtype=float)[order] for values in (settings, mean, sd))
    with drawing(path, WIDTH, 4.2, title) as figure:
        axes = figure.subplots()
        for level, name, colour, place in (
            (floor, "real against real", REAL, -4),
            (baseline, "unguided", UNGUIDED, 4),
        ):
            if level is None:
                continue
            axes.axhspan(
                level[0] - level[1], level[0] + level[1], color=colour, alpha=0.18, linewidth=0
            )
            axes.axhline(level[0], color=colour, linewidth=1.5)
            axes.annotate(
                name,
                (1, level[0] + math.copysign(level[1], place)),
                (-2, place),
                color=colour,
                ha="right",
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                weight="bold",
                va="bottom" if place > 0 else "top",
            )
        axes.errorbar(
            settings, mean, sd, color=GUIDED, marker="o", markersize=6, capsize=3, elinewidth=1.2
        )
        if chosen is not None:
            axes.axvline(chosen, color=GUIDED, linewidth=1, alpha=0.5)
            note(axes, chosen, f"chosen: {chosen:g}")
        axes.margins(y=0.14)
        axes.set(xlabel=xlabel, ylabel=f"{ylabel}  (lower is better)")


def metric_bars(
    path, metrics, names, floor="floor", title="Mean and standard deviation over repetitions"
):
    """Bars of several systems, one panel per metric, with the real-against-real floor as a line.

    metrics  {system: {metric: {"mean": float, "sd": float}}}, as in results.json; the system
             `floor` becomes the line
    names    {metric: panel title}, which chooses and orders the metrics, such as {"fd": "FD (lower
             is better)"}
    """
    systems = {
        metric: [name for name in metrics if name != floor and metric in metrics[name]]
        for metric in names
    }
    line, heights = None, [0.75 + 0.36 * len(systems[metric]) for metric in names]
    with drawing(path, WIDTH, 1 + sum(heights), title) as figure:
        panels = figure.subplots(len(names), 1, squeeze=False, height_ratios=heights).ravel()
        for axes, (metric, name) in zip(panels, names.items(), strict=True):
            for row, system in enumerate(systems[metric]):
                mean, sd = metrics[system][metric]["mean"], metrics[system][metric].get("sd") or 0
                colour = {"unguided": UNGUIDED, "guided": GUIDED}.get(system, OTHER)
                axes.barh(
                    row,
                    mean,
                    0.66,
                    color=colour,
                    xerr=sd or None,
                    error_kw={"ecolor": INK, "elinewidth": 1.3},
                )
                axes.annotate(
                    mean_sd(mean, sd),
                    (max(mean + sd, 0), row),
                    (6, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=10,
                )
            if metric in metrics.get(floor, {}):
                line = axes.axvline(metrics[floor][metric]["mean"], color=REAL, linewidth=2.2)
            axes.set_yticks(
                range(len(systems[metric])), [fill(system, LABEL) for system in systems[metric]]
            )
            axes.set_ylim(len(systems[metric]) - 0.5, -0.5)
            axes.margins(x=0.42)
            axes.locator_params(axis="x", nbins=6)
            axes.set_title(name)
            axes.grid(axis="y", visible=False)
            axes.tick_params(axis="y", length=0)
        if line:
            figure.legend(
                [line], ["real against real images"], loc="outside lower right", handlelength=1.2
            )


def precision_recall_scatter(
    path, systems, names=("precision", "recall"), floor="floor", title="Precision against recall"
):
    """One point per system with its 95% interval in both directions; the upper right corner is
    best.

    systems  {system: {metric: {"value", "low", "high"}}}  the system `floor` (real against real) is
                                                           drawn green
    names    of the metrics on the horizontal axis (faithful images) and on the vertical one (all
             kinds of images)
    """
    across, up = names
    with drawing(path, WIDTH, 4.6, title) as figure:
        axes = figure.subplots()
        others = iter((UNGUIDED, GUIDED, OTHER, INK, "#8e44ad", "#b03a5b"))
        for system, metrics in systems.items():
            colour = {"unguided": UNGUIDED, "guided": GUIDED, floor: REAL}.get(system) or next(
                others, MUTED
            )
            (x, *reach_x), (y, *reach_y) = (_with_reach(metrics[name]) for name in names)
            axes.errorbar(
                x,
                y,
                np.transpose([reach_y]),
                np.transpose([reach_x]),
                color=colour,
                marker="o",
                markersize=8,
                capsize=3,
                elinewidth=1.3,
                linestyle="none",
                label="real against real" if system == floor else system,
            )
        axes.margins(0.12)
        axes.set(
            xlabel=f"{across}  (higher: more faithful images)",
            ylabel=f"{up}  (higher: more of the real variety)",
        )
        figure.legend(
            loc="outside lower center",
            ncols=1 if any(len(name) > 24 for name in systems) else 2,
            handlelength=1,
        )


def _with_reach(estimate):
    value = estimate["value"]
    # rounding may leave an end inside
    return (
        value,
        max(value - estimate["low"], 0),
        max(estimate["high"] - value, 0),
    )


def distance_against_size(
    path, curves, ylabel="Fréchet distance", title="Distance against number of images"
):
    """Distances of subsets over 1 / n with the line whose intercept is the distance of infinitely
    many images.

    curves  {system: {"sizes": [K], "values": [K], "intercept": float, "slope": float,
            "standard_error": float}}
    """
    sizes = sorted({int(n) for curve in curves.values() for n in curve["sizes"]})
    shown = sorted({sizes[0], sizes[len(sizes) // 8], sizes[len(sizes) // 3], sizes[-1]})
    with drawing(path, WIDTH, 4.4, title) as figure:
        axes = figure.subplots()
        for (system, curve), colour in zip(
            curves.items(), itertools.cycle((UNGUIDED, GUIDED, OTHER, INK)), strict=False
        ):
            colour = {"unguided": UNGUIDED, "guided": GUIDED}.get(system, colour)
            inverse = 1 / np.asarray(curve["sizes"], dtype=float)
            axes.plot(
                inverse,
                curve["values"],
                "o",
                color=colour,
                markersize=5,
                label=f"{system}: {mean_sd(curve['intercept'], curve['standard_error'])} at ∞",
            )
            ends = np.array([0, inverse.max()])
            axes.plot(ends, curve["intercept"] + curve["slope"] * ends, color=colour, linewidth=1.3)
            axes.errorbar(
                0,
                curve["intercept"],
                curve["standard_error"],
                color=colour,
                marker="D",
                markersize=6,
                capsize=3,
            )
        axes.set_xticks([0, *(1 / n for n in shown)], ["∞", *(f"{n:,}" for n in shown)])
        axes.set(
            xlabel="number of generated images (axis: 1 / n)", ylabel=f"{ylabel}  (lower is better)"
        )
        figure.legend(loc="outside lower center", handlelength=1)
