"""Metrics of sets of images: bars, sweeps of a setting, precision against recall."""

import itertools
from textwrap import fill

import numpy as np

from dg.evaluation.figures.style import (
    GUIDED,
    INK,
    MARKERS,
    MUTED,
    REAL,
    UNGUIDED,
    WIDTH,
    colours,
    decimals,
    drawing,
    level,
    logarithmic_ticks,
    mark,
    mean_sd,
)

LABEL = 28  # letters in a line of a bar's label
SHARES = ("precision", "recall", "authenticity", "memorised", "agreement")  # metrics from 0 to 1


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
                                    none; the baseline [K] each where it varies too
    chosen              the setting that was chosen, None for none

    The axis is logarithmic where the largest distance is more than five times the smallest.
    """
    order = np.argsort(settings)

    def ordered(values):
        return np.asarray(values, dtype=float)[order]

    settings, mean, sd = map(ordered, (settings, mean, sd))
    look = dict(marker="o", markersize=6, capsize=3, elinewidth=1.2)
    with drawing(path, WIDTH, 3.6, title) as figure:
        axes = figure.subplots()
        for known, name, colour in (
            (floor, "real", REAL),
            (baseline, "unguided", UNGUIDED),
        ):
            if known is None:
                continue
            middle, spread = known
            if np.ndim(middle):
                axes.errorbar(settings, *map(ordered, known), color=colour, label=name, **look)
                continue
            axes.axhspan(middle - spread, middle + spread, color=colour, alpha=0.18, linewidth=0)
            level(axes, middle, name, colour, linewidth=1.5)
        axes.errorbar(settings, mean, sd, color=GUIDED, label="guided", **look)
        handles, names = axes.get_legend_handles_labels()
        if len(names) > 1:
            figure.legend(handles, names, loc="outside lower center", ncols=2)
        axes.margins(y=0.14)
        if mean.min() > 0 and mean.max() > 5 * mean.min():
            axes.set_yscale("log")
            logarithmic_ticks(axes.yaxis)
        if len(settings) < 9 and np.diff(settings).min() > 0.08 * np.ptp(settings):
            axes.set_xticks(settings, [f"{setting:g}" for setting in settings])
        if chosen is not None:
            mark(axes, chosen, f"chosen: {chosen:g}")
        axes.set(xlabel=xlabel, ylabel=f"{ylabel} (lower is better)")


def distance_against_number(
    path, panels, looks, levels, ylabel="Fréchet distance", title="Distance against images seen"
):
    """Distances over a number of images, both logarithmic, one line per method and one panel per
    kind of images, with systems that take no such images as horizontal lines.

    panels  {name of the horizontal axis: {method: [(number, mean, sd)]}}
    looks   {method: (colour, line style)}
    levels  {name: (mean, sd, colour)}
    """
    with drawing(path, WIDTH, 1.6 + 2.9 * len(panels), title) as figure:
        axes_of = figure.subplots(len(panels), 1, squeeze=False).ravel()
        for axes, (name, lines) in zip(axes_of, panels.items(), strict=True):
            for (method, points), marker in zip(lines.items(), MARKERS, strict=False):
                number, mean, sd = zip(*sorted(points), strict=True)
                colour, style = looks[method]
                look = dict(color=colour, linestyle=style, marker=marker, label=method)
                small = dict(markersize=5, linewidth=1.4, elinewidth=0.6, capsize=0)
                axes.errorbar(number, mean, sd, **look, **small)
            axes.set(xscale="log", yscale="log", xlabel=name, ylabel=f"{ylabel} (lower is better)")
            ends = axes.get_xlim()
            for known, (mean, sd, colour) in levels.items():
                look = dict(color=colour, linewidth=1.4, linestyle=":", label=known)
                axes.plot(ends, [mean, mean], **look)
                axes.fill_between(ends, mean - sd, mean + sd, color=colour, alpha=0.15, linewidth=0)
            axes.set_xlim(ends)
            logarithmic_ticks(axes.yaxis)
            ticks = sorted({point[0] for points in lines.values() for point in points})
            axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
            axes.minorticks_off()
        found = axes_of[0].get_legend_handles_labels()
        figure.legend(*found, loc="outside lower center", ncols=2, handlelength=2.4, fontsize=9)


def metric_bars(path, metrics, names, floor="floor", title="Mean ± sd", roles=None):
    """Bars of several systems, one panel per metric, with the real-against-real floor as a line.

    metrics  {system: {metric: {"mean": float, "sd": float}}}, as in results.json; the system
             `floor` becomes the line
    names    {metric: panel title}, which chooses and orders the metrics, such as {"fd": "FD (lower
             is better)"}
    roles    {system: role} of its colour: see `style.colours`
    """
    systems = {
        metric: [name for name in metrics if name != floor and metric in metrics[name]]
        for metric in names
    }
    coloured = colours((name for name in metrics if name != floor), roles)
    pitch = 0.4 if any(len(name) > LABEL for name in coloured) else 0.3
    line, heights = None, [0.7 + pitch * len(systems[metric]) for metric in names]
    with drawing(path, WIDTH, 0.7 + sum(heights), title) as figure:
        panels = figure.subplots(len(names), 1, squeeze=False, height_ratios=heights).ravel()
        for axes, (metric, name) in zip(panels, names.items(), strict=True):
            shown = {system: metrics[system][metric] for system in systems[metric]}
            real = metrics.get(floor, {}).get(metric)
            if real:
                line = axes.axvline(real["mean"], color=REAL, linewidth=2.2)
            _bars(axes, shown, coloured, metric in SHARES, real["mean"] if real else 0.0)
            axes.set_title(name)
        if line:
            figure.legend([line], ["real against real"], loc="outside lower right")


def _bars(axes, shown, coloured, share, floor):
    """A bar for each of {system: {"mean", "sd"}}, the numbers in a column right of the axes, which
    reach to the floor."""
    digits = decimals(entry.get("sd") for entry in shown.values())
    ends = [0.0, floor]
    for row, (system, entry) in enumerate(shown.items()):
        mean, sd = entry["mean"], entry.get("sd") or 0
        style = {"ecolor": INK, "elinewidth": 1.3}
        axes.barh(row, mean, 0.66, color=coloured[system], xerr=sd or None, error_kw=style)
        ends += [mean - sd, mean + sd]
        axes.annotate(
            mean_sd(mean, sd, digits),
            (1, row),
            (6, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            fontsize=10,
            annotation_clip=False,
        )
    low, high = min(ends), max(ends)
    room = 0.05 * (high - low)
    axes.set_xlim(low - room * (low < 0), min(high + room, 1) if share else high + room or 1)
    labels = [fill(system, LABEL) for system in shown]
    axes.set_yticks(range(len(shown)), labels, fontsize=10, linespacing=1.0)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


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
    coloured = colours(systems, {floor: "real"})
    with drawing(path, WIDTH, 4.6, title) as figure:
        axes = figure.subplots()
        for i, (system, metrics) in enumerate(systems.items()):
            (x, *reach_x), (y, *reach_y) = (_with_reach(metrics[name]) for name in names)
            axes.errorbar(
                x,
                y,
                np.transpose([reach_y]),
                np.transpose([reach_x]),
                color=coloured[system],
                marker=MARKERS[i % len(MARKERS)],
                markersize=8,
                capsize=3,
                elinewidth=1.3,
                linestyle="none",
                label="real against real" if system == floor else system,
            )
        axes.margins(0.12)
        axes.set(
            xlim=_within_share(axes.get_xlim()),
            ylim=_within_share(axes.get_ylim()),
            xlabel=f"{across} (more faithful images)",
            ylabel=f"{up} (more of the real variety)",
        )
        figure.legend(
            loc="outside lower center",
            ncols=1 if any(len(name) > 24 for name in systems) else 2,
            handlelength=1,
        )


def _within_share(limits):
    """Limits of an axis whose values lie between 0 and 1; a marker at the end stays whole."""
    return max(limits[0], -0.01), min(limits[1], 1.01)


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
        coloured = colours(curves)
        for (system, curve), marker in zip(curves.items(), itertools.cycle(MARKERS), strict=False):
            colour = coloured[system]
            inverse = 1 / np.asarray(curve["sizes"], dtype=float)
            axes.plot(
                inverse,
                curve["values"],
                marker,
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
            xlabel="number of generated images (axis: 1 / n)", ylabel=f"{ylabel} (lower is better)"
        )
        figure.legend(loc="outside lower center", handlelength=1)


def with_and_without(path, rows, levels, xlabel, title="Methods alone and with guidance"):
    """Distances of methods alone and of the same with guidance, one row per method.

    rows    {method: [(distance alone, its sd), (distance with guidance, its sd)]}
    levels  {name: distance}: vertical lines; "real against real", "unguided", "guidance"
    """
    colours = {"real against real": REAL, "unguided": UNGUIDED, "guidance": GUIDED}
    with drawing(path, WIDTH, 1.9 + 0.5 * len(rows), title) as figure:
        axes = figure.subplots()
        for name, value in levels.items():
            look = dict(color=colours[name], linewidth=1.2, linestyle=(0, (4, 2)))
            axes.axvline(value, label=name, **look)
        labels = ("the method alone", "with guidance")
        for place, points in enumerate(rows.values()):
            (before, after), sds = zip(*points, strict=True)
            axes.plot([before, after], [place, place], color=MUTED, linewidth=2, zorder=2)
            for x, sd, colour, label in zip(
                (before, after), sds, (INK, GUIDED), labels, strict=True
            ):
                look = dict(fmt="o", color=colour, elinewidth=0.8, zorder=3)
                axes.errorbar(x, place, xerr=sd, label=None if place else label, **look)
        axes.set_yticks(range(len(rows)), [fill(name, 20) for name in rows])
        axes.invert_yaxis()
        axes.set_xlabel(xlabel)
        axes.set_xlim(left=0)
        figure.legend(loc="outside lower center", ncols=2, handlelength=1.6, fontsize=9)
