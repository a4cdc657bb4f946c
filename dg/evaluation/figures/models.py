"""How generative models learn, and how they compare."""

from dg.evaluation.figures.style import GUIDED, MUTED, UNGUIDED, WIDTH, drawing


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
                color=MUTED,
                linewidth=1.4,
                label="training",
            )
            looked = [entry for entry in log if "test_loss" in entry]
            axes.plot(
                [entry["step"] for entry in looked],
                [entry["test_loss"] for entry in looked],
                color=GUIDED,
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


def quality_against_cost(
    path, systems, ylabel="Fréchet distance", title="Quality against sampling cost"
):
    """Fréchet distance over seconds per 1,000 images (logarithmic), one labelled point per system.

    systems  {system: {"seconds": float, "mean": float, "sd": float}}
    """
    with drawing(path, WIDTH, 4.2, title) as figure:
        axes = figure.subplots()
        for name, entry in systems.items():
            colour = GUIDED if "guided" in name and "unguided" not in name else UNGUIDED
            axes.errorbar(
                entry["seconds"],
                entry["mean"],
                entry["sd"],
                color=colour,
                marker="o",
                markersize=7,
                capsize=3,
            )
            axes.annotate(
                name,
                (entry["seconds"], entry["mean"]),
                (7, 5),
                textcoords="offset points",
                fontsize=10,
            )
        axes.set(
            xscale="log",
            xlabel="seconds per 1,000 images (logarithmic)",
            ylabel=f"{ylabel}  (lower is better)",
        )
        axes.margins(0.25)
        axes.set_ylim(bottom=0)
        low, high = (
            min(entry["seconds"] for entry in systems.values()),
            max(entry["seconds"] for entry in systems.values()),
        )
        ticks = [
            value * 10**power
            for power in range(-3, 7)
            for value in (1, 3)
            if low / 2 < value * 10**power < 2 * high
        ]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()


def convergence(path, curves, title="Distance to the training images along the training"):
    """Fréchet distance over the training images seen (logarithmic), one line per network.

    curves  {network: [{"images": int, "fd": float}]}
    """
    with drawing(path, WIDTH, 3.6, title) as figure:
        axes = figure.subplots()
        for (name, points), marker in zip(curves.items(), "osD^v<>" * 9, strict=False):
            images, distances = ([one[key] for one in points] for key in ("images", "fd"))
            axes.plot(images, distances, marker=marker, markersize=5, linewidth=1.4, label=name)
        ticks = sorted({one["images"] for points in curves.values() for one in points})
        axes.set(xscale="log", xlabel="training images seen (logarithmic)", ylabel="FD")
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.legend()
