"""How generative models learn, and how they compare."""

import itertools

from dg.evaluation.figures.style import (
    GUIDED,
    INK,
    MARKERS,
    REAL,
    SERIES,
    WIDTH,
    colours,
    drawing,
    logarithmic_ticks,
)

BOUND = ("mean", "standard_error")  # of a bound, by their names


def loss_curves(path, curves, title="Loss on training and on test images"):
    """One panel per model: training loss as it was logged, test loss of the averaged network where
    it was looked at.

    curves  {model: {"ylabel": str, "log": [{"step": int, "loss": float, "test_loss": float (some
            entries)}]}}
    """
    with drawing(path, WIDTH, 0.8 + 2.3 * len(curves), title) as figure:
        panels = figure.subplots(len(curves), 1, squeeze=False).ravel()
        for axes, (model, curve) in zip(panels, curves.items(), strict=True):
            log = curve["log"]
            axes.plot(
                [entry["step"] for entry in log],
                [entry["loss"] for entry in log],
                color=SERIES[0],
                linewidth=1.4,
                label="training",
            )
            looked = [entry for entry in log if "test_loss" in entry]
            axes.plot(
                [entry["step"] for entry in looked],
                [entry["test_loss"] for entry in looked],
                color=INK,
                marker="o",
                markersize=4,
                label="test, averaged weights",
            )
            values = sorted(
                [entry["loss"] for entry in log[len(log) // 20 :]]
                + [entry["test_loss"] for entry in looked]
            )
            # the first steps would hide the rest
            low, high = (
                values[0],
                values[int(0.98 * (len(values) - 1))],
            )
            if high > low:
                axes.set_ylim(low - 0.06 * (high - low), high + 0.12 * (high - low))
            axes.set_title(model)
            axes.set_ylabel(curve["ylabel"])
        panels[-1].set_xlabel("training steps")
        figure.legend(
            *panels[0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=2,
            handlelength=1.4,
        )


def bound_curves(path, curves, title="Bound along the training"):
    """Bits/dim over training steps (logarithmic), a colour per model; dashed on training images.

    curves  {model: [{"step": int, "training": bound, "test": bound}]} with bound {"mean": float,
            "standard_error": float}
    """
    steps = {entry["step"] for entries in curves.values() for entry in entries}
    with drawing(path, WIDTH, 4.0, title) as figure:
        axes = figure.subplots()
        looks = zip(itertools.cycle((INK, *SERIES[:2])), itertools.cycle(MARKERS), strict=False)
        for (model, entries), (colour, marker) in zip(curves.items(), looks, strict=False):
            look = dict(color=colour, marker=marker, markersize=5, linewidth=1.4, elinewidth=0.6)
            for which, line in (("training", "--"), ("test", "-")):
                values = [[entry[which][key] for entry in entries] for key in BOUND]
                at, label = [entry["step"] for entry in entries], f"{model}, {which} images"
                axes.errorbar(at, *values, linestyle=line, label=label, **look)
        ticks = _apart(steps)
        axes.set(xscale="log", xlabel="training steps (logarithmic)", ylabel="−ELBO [bits/dim]")
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
        figure.legend(loc="outside lower center", ncols=2, handlelength=2.4)


def quality_against_cost(
    path,
    systems,
    ylabel="Fréchet distance",
    title="Quality against sampling time",
    roles=None,
    lines=None,
):
    """Fréchet distance over seconds per 1,000 images (logarithmic), one point per system.

    systems  {system: {"seconds": float, "mean": float, "sd": float}}
    roles    {system: role} of its colour: see `style.colours`
    lines    {line: [as of a system]}, points that belong together
    """
    coloured, lines = colours(systems, roles), lines or {}
    with drawing(path, WIDTH, 4.4 + 0.4 * len(lines), title) as figure:
        axes = figure.subplots()
        for i, (name, entry) in enumerate(systems.items()):
            axes.errorbar(
                entry["seconds"],
                entry["mean"],
                entry["sd"],
                color=coloured[name],
                marker=MARKERS[i % len(MARKERS)],
                markersize=8,
                capsize=3,
                linestyle="none",
                label=name,
            )
        for (name, points), colour in zip(lines.items(), itertools.cycle(SERIES), strict=False):
            points = sorted(points, key=lambda point: point["seconds"])
            values = [[point[key] for point in points] for key in ("seconds", "mean", "sd")]
            look = dict(color=colour, marker=".", markersize=9, linewidth=1.4, capsize=3)
            axes.errorbar(*values, label=name, **look)
        axes.set(
            xscale="log",
            xlabel="seconds per 1,000 images (logarithmic)",
            ylabel=f"{ylabel} (lower is better)",
        )
        axes.margins(0.12)
        means = [point["mean"] for point in (*systems.values(), *itertools.chain(*lines.values()))]
        if max(means) > 4 * min(means) > 0:  # one far off would press the others together
            axes.set_yscale("log")
            logarithmic_ticks(axes.yaxis)
        else:
            axes.set_ylim(bottom=0)
        low, high = axes.get_xlim()
        ticks = [value * 10**power for power in range(-3, 7) for value in (1, 3)]
        ticks = [tick for tick in ticks if low <= tick <= high]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        columns = 1 if lines else min(len(systems), 3)  # the names of lines are long
        figure.legend(loc="outside lower center", ncols=columns, handlelength=1)


def quality_against_compute(path, panels, looks, xlabel, title="Distance against compute"):
    """Distances over compute per image, both logarithmic, one line per method and one panel per
    distance.

    panels  {name of the distance: {"floor": float or None, "lines": {method: [(compute, mean,
            sd)]}}}
    looks   {method: (colour, line style, label)}
    """
    with drawing(path, WIDTH, 3.4 + 2.9 * len(panels), title) as figure:
        heights = [1.5] + [1] * (len(panels) - 1)
        axes_of = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights).ravel()
        for axes, (name, panel) in zip(axes_of, panels.items(), strict=True):
            markers = dict(zip(panel["lines"], itertools.cycle(MARKERS), strict=False))
            for method, points in panel["lines"].items():
                colour, style, label = looks[method]
                compute, mean, sd = zip(*sorted(points), strict=True)
                look = dict(color=colour, linestyle=style, marker=markers[method], label=label)
                small = dict(markersize=5, linewidth=1.4, elinewidth=0.6, capsize=0)
                axes.errorbar(compute, mean, sd, **look, **small)
            axes.set(xscale="log", yscale="log", ylabel=name)
            _fit_to_means(axes, panel)
            logarithmic_ticks(axes.yaxis)
            low, high = axes.get_xlim()
            ticks = [tick for tick in (0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8) if low <= tick <= high]
            axes.set_xticks(ticks, [f"{tick:g} ×" for tick in ticks])
            axes.minorticks_off()
        axes_of[-1].set_xlabel(xlabel)
        found = [axes.get_legend_handles_labels() for axes in axes_of]
        named = {label: line for lines in found for line, label in zip(*lines, strict=True)}
        look = dict(ncols=1, handlelength=2.4, fontsize=9)
        figure.legend(named.values(), named.keys(), loc="outside lower center", **look)


def _fit_to_means(axes, panel):
    """Limits of a logarithmic panel by its means, and the floor: a line, or a note where it lies so
    far below that the methods would be drawn on top of each other."""
    means = [mean for points in panel["lines"].values() for _, mean, _ in points]
    low, high, floor = min(means), max(means), panel["floor"]
    if floor is not None and 2 * floor >= low:
        axes.axhline(floor, color=REAL, linestyle="--", linewidth=1.4, label="real against real")
        low = min(low, floor)
    elif floor is not None:
        told = f"real against real, further below: {floor:.3g}"
        axes.set_title(told, loc="right", color=REAL, fontsize=9, fontweight="normal")
    room = max(high / low, 1.1) ** 0.08
    axes.set_ylim(low / room, high * room)


def gain_against_cost(path, lines, target, title="Gain against cost"):
    """Shares of the gain of full guidance over the cost of an image, one line per way to save.

    lines   {way: [(cost in unguided images, share, its sd)]}
    target  (cost, share): the most and the least that is aimed at
    """
    with drawing(path, WIDTH, 5.4, title) as figure:
        axes = figure.subplots()
        looks = itertools.product(("-", "--"), (GUIDED, *SERIES))
        for way, marker, (style, colour) in zip(lines, itertools.cycle(MARKERS), looks):
            cost, share, sd = zip(*sorted(lines[way]), strict=True)
            look = dict(color=colour, linestyle=style, linewidth=1.4, marker=marker, markersize=6)
            axes.errorbar(cost, share, sd, label=way, elinewidth=0.6, **look)
        aim = dict(color=INK, linewidth=1, linestyle=(0, (1, 2)))
        axes.axvline(target[0], label="target", **aim)
        axes.axhline(target[1], **aim)
        axes.set(xlabel="cost of an image, × unguided", ylabel="share of the full gain")
        axes.yaxis.set_major_formatter("{x:.0%}")
        figure.legend(loc="outside lower center", ncols=1, handlelength=2.4, fontsize=9)


def convergence(path, curves, title="Distance to the training images along the training"):
    """Fréchet distance over the training images seen (logarithmic), one line per network.

    curves  {network: [{"images": int, "fd": float}]}
    """
    with drawing(path, WIDTH, 3.4, title) as figure:
        axes = figure.subplots()
        looks = zip(itertools.cycle((INK, *SERIES[:2])), itertools.cycle(MARKERS), strict=False)
        for (name, points), (colour, marker) in zip(curves.items(), looks, strict=False):
            images, distances = ([one[key] for one in points] for key in ("images", "fd"))
            look = dict(color=colour, marker=marker, markersize=5, linewidth=1.4)
            axes.plot(images, distances, label=name, **look)
        ticks = _apart({one["images"] for points in curves.values() for one in points})
        axes.set(xscale="log", xlabel="training images seen (logarithmic)", ylabel="FD")
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        figure.legend(loc="outside lower center", ncols=3, handlelength=1.4)


def _apart(numbers, factor=1.6):
    """The numbers from the last one down, each at least `factor` below the one before."""
    kept = []
    for number in sorted(numbers, reverse=True):
        if not kept or number * factor <= kept[-1]:
            kept.append(number)
    return kept
