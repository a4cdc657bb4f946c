"""What a diagnosis measured, by noise level."""

import math

from dg.evaluation.figures.style import INK, MARKERS, MUTED, SERIES, SIGMA, WIDTH, drawing

DASHED = {"linewidth": 1.2, "linestyle": (0, (4, 3))}
CHANCE = math.log(2)


def diagnosis_panels(path, heads: dict, title="Diagnosis on held-out images"):
    """Six panels against the noise level, one line per discriminator, ± one standard error.

    heads  {name: a head of `dg.evaluation.diagnosis.diagnose`}; AUC on training images (dashed) and
           of visited states (dotted) are drawn where they were measured
    """
    colours = (INK, *SERIES)
    looks = {
        name: dict(color=colours[i % len(colours)], marker=MARKERS[i % len(MARKERS)], markersize=4)
        for i, name in enumerate(heads)
    }
    with drawing(path, 1.5 * WIDTH, 9.6, title) as figure:
        panels = figure.subplots(3, 2, sharex=True).flatten()
        shown = (*PANELS, COSINE if len(heads) > 1 else BETWEEN)
        for axes, (label, chance, _) in zip(panels, shown, strict=True):
            axes.set_ylabel(label)
            axes.set_xscale("log")
            axes.axhline(chance, color=MUTED, **DASHED)
        for name, head in heads.items():
            for axes, (_, _, value) in zip(panels, shown, strict=True):
                _line(axes, head["levels"], value, label=name, **looks[name])
            for key, style in (("train_auc", "--"), ("visited", ":")):
                if key in head["levels"][0]:
                    look = dict(color=looks[name]["color"], linestyle=style, linewidth=1.4)
                    _line(panels[0], head["levels"], _auc_of(key), **look)
            if head["window"]:
                for axes in panels:
                    axes.axvspan(*head["sigmas"], color=looks[name]["color"], alpha=0.06)
        for axes in panels[-2:]:
            axes.set_xlabel(f"noise level {SIGMA}")
        named = panels[0].get_legend_handles_labels()
        figure.legend(*named, loc="outside lower center", ncols=2, handlelength=1.4)


def relative_change(level: dict) -> dict:
    """Change of the denoising error in percent of it, at the weight nearest to 1."""
    change = min(level["change"], key=lambda one: abs(one["weight"] - 1))
    error = level["error"]["value"]
    return {name: 100 * change[name] / error if error else 0.0 for name in ("value", "se")}


def _auc_of(key):
    return lambda level: level[key]["auc"] if key == "visited" else level[key]


def _line(axes, levels, value, **look):
    found = [(level["sigma"], value(level)) for level in levels]
    found = [pair for pair in found if pair[1] is not None]
    if not found:
        return
    sigmas, values, errors = zip(
        *((sigma, one["value"], one["se"]) for sigma, one in found), strict=True
    )
    axes.errorbar(sigmas, values, yerr=errors, capsize=2, elinewidth=1, **look)


# (label, value of no effect, value and standard error of a level)
PANELS = (
    ("AUC (-- training, ·· visited)", 0.5, lambda level: level["auc"]),
    (
        "cross-entropy less ln 2 [nats]",
        0.0,
        lambda level: level["loss"] | {"value": level["loss"]["value"] - CHANCE},
    ),
    ("slope (1: calibrated)", 1.0, lambda level: level["slope"]),
    ("correction / score", 0.0, lambda level: level["correction"]),
    ("change of denoising error [%]", 0.0, relative_change),
)
COSINE = ("cosine with the first head", 0.0, lambda level: level["cosine"])
BETWEEN = ("between (1: the true gradient)", 1.0, lambda level: level["between"])
