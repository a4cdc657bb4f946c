"""Figures of a run: plain arrays in, one PNG out, written completely or not at all.

One colour means one thing throughout: green is real data, orange the unguided model, blue the guided one. Curves are
drawn narrow with large type, so that a phone shows them legibly; pictures are enlarged by whole pixels only.
"""

import math
from contextlib import contextmanager

import numpy as np

from dg.runtime.files import atomic_write

REAL, UNGUIDED, GUIDED = "#1f8a70", "#dd7a1f", "#2b66b1"
OTHER, INK, MUTED, GRID = "#9aa5b1", "#20262e", "#6b7480", "#e4e7eb"
STYLE = {
    "font.family": "DejaVu Sans", "font.size": 11, "axes.titlesize": 12, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "axes.titlepad": 10, "figure.titlesize": 13, "figure.titleweight": "bold",
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.8, "axes.axisbelow": True, "lines.linewidth": 2,
    "legend.frameon": False, "figure.constrained_layout.h_pad": 0.08, "figure.constrained_layout.w_pad": 0.08,
    "figure.facecolor": "white", "savefig.facecolor": "white",
}
WIDTH, DPI = 5.4, 220  # inches, of every figure with axes
GAP = 2                # pixels between enlarged images
SIGMA, TIMES = "\N{GREEK SMALL LETTER SIGMA}", "\N{MULTIPLICATION SIGN}"


# Pictures -------------------------------------------------------------------------------------------------------------

def image_grid(path, images, columns=None, scale=None):
    """Images beside each other, row by row, without text.

    images   uint8 [N, H, W, C]  C = 1 or 3
    columns  default: a square
    scale    whole-number enlargement, nearest neighbour; default: short sides of about 64 pixels
    """
    from PIL import Image

    images = _images(images, "images")
    columns = columns or math.ceil(math.sqrt(len(images)))
    with atomic_write(path) as file:
        Image.fromarray(_tile(images, columns, scale or _scale(images, 64))).save(file, "png")


def paired_grid(path, before, after, panels, title_before="unguided", title_after="guided", difference=True,
                scale=None):
    """Pairs from the same seeds, one pair per row, in panels side by side.

    before, after  uint8 [N, H, W, C]  C = 1 or 3, image i of both from the same seed
    panels         {title: indices}    the rows of each panel, such as {"Most changed": [...], "Random": [...]}
    difference     add a third column, after - before on grey, amplified by the factor in its heading
    """
    before, after = _images(before, "before"), _images(after, "after")
    if before.shape != after.shape:
        raise ValueError(f"before and after must have one shape, got {before.shape} and {after.shape}")
    columns, headings = [before, after], [title_before, title_after]
    if difference:
        signed = after.astype(np.int16) - before
        shown = [signed[np.asarray(indices)] for indices in panels.values()]
        largest = max(np.percentile(np.abs(part), 99.5) for part in shown)
        gain = int(np.clip(127 // max(largest, 1), 1, 16))
        columns.append(np.clip(128 + gain * signed.astype(np.int32), 0, 255).astype(np.uint8))
        headings.append("difference" if gain == 1 else f"difference {TIMES}{gain}")
    scale = scale or _scale(before, 128)
    blocks = {title: _tile(np.stack([c[np.asarray(indices)] for c in columns], 1).reshape(-1, *before.shape[1:]),
                           len(columns), scale) for title, indices in panels.items()}

    cell = before.shape[2] * scale + GAP
    between = cell // 4
    width = sum(block.shape[1] for block in blocks.values()) + between * (len(blocks) - 1)
    text = min(width / 38, 1.6 * cell / max(map(len, headings)))    # a share of the width: legible at any scale
    with _canvas(path, width, max(len(block) for block in blocks.values()), top=4.2 * text) as (picture, label):
        left = 0
        for title, block in blocks.items():
            picture(block, left, 0)
            label(title, left, -2.6 * text, 1.25 * text, weight="bold", ha="left")
            for i, heading in enumerate(headings):
                label(heading, left + (i + 0.5) * cell, -0.8 * text, text)
            left += block.shape[1] + between


def denoising_strips(path, strips, sigmas, row_labels=None, title="From noise to image", scale=None):
    """One row of images per sample along its sampling trajectory, the noise level above each column.

    strips      uint8 [R, T, H, W, C]  C = 1 or 3
    sigmas      [T]                    noise levels, image units (data in [-1, 1])
    row_labels  R strings above the rows, None for none
    """
    strips = np.asarray(strips)
    if strips.ndim != 5 or len(sigmas) != strips.shape[1]:
        raise ValueError(f"strips must be [R, {len(sigmas)}, H, W, C] for {len(sigmas)} sigmas, got {strips.shape}")
    if row_labels is not None and len(row_labels) != len(strips):
        raise ValueError(f"{len(strips)} rows of images, but {len(row_labels)} row labels")
    rows = [_images(row, "strips") for row in strips]
    scale = scale or _scale(rows[0], 112)
    tiles = [_tile(row, len(row), scale) for row in rows]
    cell, (height, width) = rows[0].shape[2] * scale + GAP, tiles[0].shape[:2]
    text = min(width / 36, cell / 4)
    pitch = height + round(text * (2.2 if row_labels is not None else 0.4))
    first = pitch - height
    with _canvas(path, width, pitch * len(rows), top=4.2 * text) as (picture, label):
        label(title, 0, -2.6 * text, 1.25 * text, weight="bold", ha="left")
        for i, sigma in enumerate(sigmas):
            number = f"{float(sigma):.2g}"
            label(f"{SIGMA} = {number}" if i == 0 else number, (i + 0.5) * cell, -0.5 * text, text, color=MUTED)
        for r, tile in enumerate(tiles):
            picture(tile, 0, first + r * pitch)
            if row_labels is not None:
                label(row_labels[r], 0, first + r * pitch - 0.5 * text, text, ha="left")


# Curves ---------------------------------------------------------------------------------------------------------------

def training_curves(path, log, best_step=None, title="Discriminator: real or generated?"):
    """Loss and accuracy of a discriminator on training and validation data, with the chosen checkpoint and chance.

    log        list of dicts with `step` and any of train_loss, valid_loss, train_accuracy, valid_accuracy
               (losses in nats per image, accuracies in [0, 1]); None and missing values leave a gap; where all have
               valid_levels, a third panel shows the AUC by noise level
    best_step  step of the chosen checkpoint; default: the last entry's best_step, else the lowest valid_loss
    """
    if not log:
        raise ValueError("the training log is empty: nothing to draw")
    if best_step is None:
        best_step = log[-1].get("best_step")
    if best_step is None and (steps := _series(log, "valid_loss")[0]):
        best_step = steps[int(np.argmin(_series(log, "valid_loss")[1]))]
    by_level = all(entry.get("valid_levels") for entry in log)
    with _figure(path, WIDTH, 9.2 if by_level else 6.4, title) as figure:
        top, bottom, *rest = figure.subplots(2 + by_level, sharex=True)
        for axes, quantity, label in ((top, "loss", "binary cross-entropy [nats]"),
                                      (bottom, "accuracy", "share classified correctly")):
            _chance(axes, math.log(2) if quantity == "loss" else 0.5)
            for part, name, colour in (("train", "training data", MUTED), ("valid", "validation data", GUIDED)):
                steps, values = _series(log, f"{part}_{quantity}")
                if steps:
                    axes.plot(steps, values, color=colour, label=name, marker="o" if len(steps) < 3 else None)
                if part == "valid" and best_step in steps:
                    axes.plot(best_step, values[steps.index(best_step)], "o", color=GUIDED, markersize=9,
                              markeredgecolor="white", markeredgewidth=1.5, zorder=5)
            if best_step is not None:
                axes.axvline(best_step, color=GUIDED, linewidth=1, alpha=0.5)
            axes.set_ylabel(label)
        if best_step is not None:
            low, high = top.get_ylim()
            top.set_ylim(low, high + 0.16 * (high - low))  # room for the note above the chance level
            _note(top, best_step, f"chosen: step {best_step:,}")
        if top.get_legend_handles_labels()[1]:
            top.legend(loc="lower left", bbox_to_anchor=(0, 1.07), ncols=2, borderaxespad=0, handlelength=1.4)
        for axes in rest:
            _auc_by_level(axes, log)
        (rest or [bottom])[-1].set_xlabel("training step")


def _chance(axes, level):
    axes.axhline(level, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.annotate("chance", (1, level), (-2, 3), xycoords=("axes fraction", "data"), textcoords="offset points",
                  ha="right", color=MUTED, fontsize=10)


def _auc_by_level(axes, log):
    """Validation AUC over the training, one line per noise level, the darker the less noise."""
    import matplotlib

    levels = {}
    for entry in log:
        for level in entry["valid_levels"]:
            if level.get("auc") is not None:
                levels.setdefault(tuple(level["sigma"]), []).append((entry["step"], level["auc"]))
    for i, ((low, high), points) in enumerate(sorted(levels.items(), key=lambda item: item[0][0])):
        name = f"{SIGMA} > {low:g}" if high is None else f"{SIGMA} < {high:g}" if not low else f"{low:g} to {high:g}"
        axes.plot(*zip(*points, strict=True), color=matplotlib.colormaps["viridis"](0.9 * i / max(len(levels) - 1, 1)),
                  label=name, linewidth=1.6, marker="o" if len(points) < 3 else None)
    _chance(axes, 0.5)
    axes.set_ylabel("validation AUC by noise level")
    axes.legend(loc="upper left", ncols=3, fontsize=9, handlelength=1.2, columnspacing=1)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.3 * (high - low))  # room for the legend


def ratio_errors(path, sigmas, errors, title="Log ratio and its gradient against the truth"):
    """Relative error of a learned log ratio and of its gradient by noise level, one line per loss.

    sigmas  [K]   noise levels, image units
    errors  {panel title: {"ratio" or "gradient": {loss name: [K]}}}, root mean square, 1 = as wrong as zero
    """
    colours = dict(zip(dict.fromkeys(name for panel in errors.values() for name in panel["ratio"]),
                       (UNGUIDED, GUIDED, REAL, OTHER), strict=False))
    with _figure(path, WIDTH, 1.4 + 2.3 * len(errors), title) as figure:
        panels = figure.subplots(len(errors), 2, squeeze=False, sharex=True, sharey="row")
        for row, (name, panel) in zip(panels, errors.items(), strict=True):
            for axes, quantity in zip(row, ("ratio", "gradient"), strict=True):
                axes.axhline(1, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
                for loss, values in panel[quantity].items():
                    axes.plot(sigmas, values, color=colours[loss], label=loss, marker="o", markersize=4)
                axes.set(xscale="log", ylabel={"ratio": "log ratio", "gradient": "gradient"}[quantity])
                axes.set_xticks(sigmas, [f"{float(sigma):g}" for sigma in sigmas], fontsize=9)
                axes.minorticks_off()
            row[0].set_title(name)
            row[0].set_ylim(0, 1.05 * max(1, *(max(values) for lines in panel.values() for values in lines.values())))
        for axes in panels[-1]:
            axes.set_xlabel(f"noise level {SIGMA}")
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, handlelength=1.2)
        figure.supylabel("relative error (1: no better than zero)", fontsize=11)


def ratio_scatter(path, sigmas, truth, learned, title="Learned against true log ratio"):
    """Learned over true log ratio of single noisy images: one row per loss, one column per noise level.

    truth    {noise level index: [n]}, learned  {loss: {noise level index: [n]}}, in nats
    """
    with _figure(path, WIDTH, 0.8 + 1.75 * len(learned), title) as figure:
        panels = figure.subplots(len(learned), len(truth), squeeze=False, sharex="col", sharey="col")
        for row, (loss, values) in zip(panels, learned.items(), strict=True):
            for axes, (index, exact) in zip(row, truth.items(), strict=True):
                axes.plot(exact, values[index], ".", color=GUIDED, markersize=2, alpha=0.4)
                axes.axline((0, 0), slope=1, color=MUTED, linewidth=1.2)
            row[0].set_ylabel(loss)
        for axes, index in zip(panels[0], truth, strict=True):
            axes.set_title(f"{SIGMA} = {float(sigmas[index]):.2g}", weight="normal")
        figure.supxlabel("true log ratio [nats]", fontsize=11)


def weight_sweep(path, weights, mean, sd, baseline=None, floor=None, chosen=None, ylabel="Fréchet distance",
                 title="Distance against guidance weight"):
    """A distance against the guidance weight, with error bars, the unguided model and the real-against-real floor.

    weights, mean, sd  [K]         sd over repetitions
    baseline, floor    (mean, sd)  of the unguided model and of real against real images, None for none
    chosen             the weight that was chosen, None for none
    """
    order = np.argsort(weights)
    weights, mean, sd = (np.asarray(values, dtype=float)[order] for values in (weights, mean, sd))
    with _figure(path, WIDTH, 4.2, title) as figure:
        axes = figure.subplots()
        for level, name, colour, place in ((floor, "real against real", REAL, -4), (baseline, "unguided", UNGUIDED, 4)):
            if level is None:
                continue
            axes.axhspan(level[0] - level[1], level[0] + level[1], color=colour, alpha=0.18, linewidth=0)
            axes.axhline(level[0], color=colour, linewidth=1.5)
            axes.annotate(name, (1, level[0] + math.copysign(level[1], place)), (-2, place), color=colour, ha="right",
                          xycoords=("axes fraction", "data"), textcoords="offset points", weight="bold",
                          va="bottom" if place > 0 else "top")
        axes.errorbar(weights, mean, sd, color=GUIDED, marker="o", markersize=6, capsize=3, elinewidth=1.2)
        if chosen is not None:
            axes.axvline(chosen, color=GUIDED, linewidth=1, alpha=0.5)
            _note(axes, chosen, f"chosen: {chosen:g}")
        axes.margins(y=0.14)
        axes.set(xlabel="guidance weight", ylabel=f"{ylabel}  (lower is better)")


def log_ratio_histograms(path, sigmas, real, generated, title="Log ratio by noise level"):
    """Histograms of the log density ratio on real and on generated images, one panel per noise level.

    sigmas           [K]               noise levels, image units
    real, generated  K arrays each     log ratios in nats, of any length
    The number in a panel is the AUC: the chance that a real image gets the larger ratio (0.5: indistinguishable).
    """
    if not len(sigmas) == len(real) == len(generated):
        raise ValueError(f"{len(sigmas)} noise levels, but {len(real)} real and {len(generated)} arrays of log ratios")
    rows = math.ceil(len(sigmas) / 2)
    with _figure(path, WIDTH, 1.0 + 2.1 * rows, title) as figure:
        panels = figure.subplots(rows, 2, squeeze=False).ravel()
        for axes in panels[len(sigmas):]:
            axes.remove()
        for axes, sigma, of_real, of_generated in zip(panels, sigmas, real, generated, strict=False):
            of_real, of_generated = np.ravel(of_real), np.ravel(of_generated)
            low, high = np.percentile(np.concatenate([of_real, of_generated]), [0.5, 99.5])
            edges = np.linspace(low, high if high > low else low + 1, 36)
            for values, name, colour in ((of_real, "real", REAL), (of_generated, "generated", UNGUIDED)):
                axes.hist(values, edges, density=True, histtype="stepfilled", facecolor=(colour, 0.35),
                          edgecolor=colour, linewidth=1.4, label=name)
            axes.axvline(0, color=MUTED, linewidth=1)
            axes.set_title(f"{SIGMA} = {float(sigma):.3g}     AUC {_auc(of_real, of_generated):.2f}", pad=5,
                           weight="normal")
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            axes.grid(False)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, handlelength=1.2)
        figure.supxlabel("log density ratio [nats]   ←  generated  |  real  →", fontsize=11)


def metric_bars(path, metrics, names, floor="floor", title="Mean and standard deviation over repetitions"):
    """Bars of several systems, one panel per metric, with the real-against-real floor as a line.

    metrics  {system: {metric: {"mean": float, "sd": float}}}, as in results.json; the system `floor` becomes the line
    names    {metric: panel title}, which chooses and orders the metrics, such as {"fd": "FD (lower is better)"}
    """
    systems = {metric: [name for name in metrics if name != floor and metric in metrics[name]] for metric in names}
    line, heights = None, [0.75 + 0.36 * len(systems[metric]) for metric in names]
    with _figure(path, WIDTH, 1 + sum(heights), title) as figure:
        panels = figure.subplots(len(names), 1, squeeze=False, height_ratios=heights).ravel()
        for axes, (metric, name) in zip(panels, names.items(), strict=True):
            for row, system in enumerate(systems[metric]):
                mean, sd = metrics[system][metric]["mean"], metrics[system][metric].get("sd") or 0
                colour = {"unguided": UNGUIDED, "guided": GUIDED}.get(system, OTHER)
                axes.barh(row, mean, 0.66, color=colour, xerr=sd or None, error_kw={"ecolor": INK, "elinewidth": 1.3})
                axes.annotate(_mean_sd(mean, sd), (max(mean + sd, 0), row), (6, 0), textcoords="offset points",
                              va="center", fontsize=10)
            if metric in metrics.get(floor, {}):
                line = axes.axvline(metrics[floor][metric]["mean"], color=REAL, linewidth=2.2)
            axes.set_yticks(range(len(systems[metric])), systems[metric])
            axes.set_ylim(len(systems[metric]) - 0.5, -0.5)
            axes.margins(x=0.42)
            axes.locator_params(axis="x", nbins=6)
            axes.set_title(name)
            axes.grid(axis="y", visible=False)
            axes.tick_params(axis="y", length=0)
        if line:
            figure.legend([line], ["real against real images"], loc="outside lower right", handlelength=1.2)


# Shared parts ---------------------------------------------------------------------------------------------------------

@contextmanager
def _figure(path, width, height, title=None, dpi=DPI, layout="constrained"):
    """Yield a matplotlib figure of the house style (inches) and write it as PNG. No pyplot: no global state."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure((width, height), dpi=dpi, layout=layout)
        if title:
            figure.suptitle(title, x=0.01, ha="left")
        yield figure
        with atomic_write(path) as file:
            figure.savefig(file, format="png", metadata={"Software": None})


@contextmanager
def _canvas(path, width, height, top):
    """Yield picture(array, x, y) and label(text, x, y, size), in pixels from the corner below a margin of `top`.

    Pictures land on whole pixels and are not resampled, which axes would do.
    """
    dpi, edge = 100, round(0.02 * width) + 4
    total = [round(width) + 2 * edge, round(height + top) + 2 * edge]
    with _figure(path, total[0] / dpi, total[1] / dpi, dpi=dpi, layout=None) as figure:

        def up(y):
            return total[1] - edge - round(top) - y

        def picture(array, x, y):
            figure.figimage(array, xo=edge + x, yo=up(y + len(array)), origin="upper")

        def label(text, x, y, size, ha="center", **style):
            figure.text((edge + x) / total[0], up(y) / total[1], text, fontsize=size * 72 / dpi, ha=ha, va="baseline",
                        **style)

        yield picture, label


def _images(images, name):
    """Checked images uint8 [N, H, W, 3]."""
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[3] not in (1, 3) or images.dtype != np.uint8 or not len(images):
        raise ValueError(f"{name} must be uint8 [N, H, W, 1 or 3], got {images.dtype} {list(images.shape)}")
    return images if images.shape[3] == 3 else images.repeat(3, axis=3)


def _scale(images, pixels):
    return max(1, round(pixels / min(images.shape[1:3])))


def _tile(images, columns, scale):
    """Enlarged images uint8 [N, H, W, 3] on white, `columns` to a row; every cell ends in a gap of GAP pixels."""
    count, height, width, _ = images.shape
    rows, cell = math.ceil(count / columns), (height * scale + GAP, width * scale + GAP)
    canvas = np.full((rows * cell[0], columns * cell[1], 3), 255, dtype=np.uint8)
    for i, image in enumerate(images.repeat(scale, axis=1).repeat(scale, axis=2)):
        y, x = i // columns * cell[0], i % columns * cell[1]
        canvas[y : y + height * scale, x : x + width * scale] = image
    return canvas[: -GAP, : -GAP]


def _series(log, key):
    """Steps and values of the entries that have the value `key`."""
    pairs = [(entry["step"], entry[key]) for entry in log if entry.get(key) is not None]
    return [step for step, _ in pairs], [value for _, value in pairs]


def _note(axes, x, text):
    """Write `text` at the top of the axes beside x, on the side that has room."""
    low, high = axes.get_xlim()
    right = x > (low + high) / 2
    axes.annotate(text, (x, 1), (-5 if right else 5, -2), xycoords=("data", "axes fraction"), color=GUIDED, va="top",
                  textcoords="offset points", ha="right" if right else "left", weight="bold")


def _auc(larger, smaller):
    """Chance that a value of `larger` exceeds one of `smaller`, ties counting half."""
    smaller = np.sort(smaller)
    below = np.searchsorted(smaller, larger, "left") + np.searchsorted(smaller, larger, "right")
    return below.mean() / (2 * len(smaller))


def _mean_sd(mean, sd):
    """A mean as far as its standard deviation lets it be known (0.19 and 0.2 are written so), else to four digits."""
    if not sd:
        return f"{mean:.4g}"
    digits = max(-math.floor(math.log10(sd / 2)), 0)
    return f"{mean:.{digits}f} ± {sd:.{digits}f}"
