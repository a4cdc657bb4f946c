"""The look that all figures share, and how a figure becomes a file: written completely or not at
all.

One colour means one thing throughout: green is real data, orange the unguided model, blue the
guided one. Curves are drawn narrow with large type, so that a phone shows them legibly.
"""

import math
from contextlib import contextmanager

from dg.runtime.files import atomic_write

REAL, UNGUIDED, GUIDED = "#1f8a70", "#dd7a1f", "#2b66b1"
OTHER, INK, MUTED, GRID = "#9aa5b1", "#20262e", "#6b7480", "#e4e7eb"
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "figure.titlesize": 13,
    "figure.titleweight": "bold",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "lines.linewidth": 2,
    "legend.frameon": False,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
WIDTH, DPI = 5.4, 220  # inches, of every figure with axes
SIGMA, TIMES = "\N{GREEK SMALL LETTER SIGMA}", "\N{MULTIPLICATION SIGN}"


@contextmanager
def drawing(path, width, height, title=None, dpi=DPI, layout="constrained"):
    """Yield a matplotlib figure of the house style (inches) and write it as PNG. No pyplot: no
    global state."""
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
def canvas(path, width, height, top):
    """Yield picture(array, x, y) and label(text, x, y, size), in pixels from the corner below a
    margin of `top`.

    Pictures land on whole pixels and are not resampled, which axes would do.
    """
    dpi, edge = 100, round(0.02 * width) + 4
    total = [round(width) + 2 * edge, round(height + top) + 2 * edge]
    with drawing(path, total[0] / dpi, total[1] / dpi, dpi=dpi, layout=None) as figure:

        def up(y):
            return total[1] - edge - round(top) - y

        def picture(array, x, y):
            figure.figimage(array, xo=edge + x, yo=up(y + len(array)), origin="upper")

        def label(text, x, y, size, ha="center", **style):
            figure.text(
                (edge + x) / total[0],
                up(y) / total[1],
                text,
                fontsize=size * 72 / dpi,
                ha=ha,
                va="baseline",
                **style,
            )

        yield picture, label


def note(axes, x, text):
    """Write `text` at the top of the axes beside x, on the side that has room."""
    low, high = axes.get_xlim()
    right = x > (low + high) / 2
    axes.annotate(
        text,
        (x, 1),
        (-5 if right else 5, -2),
        xycoords=("data", "axes fraction"),
        color=GUIDED,
        va="top",
        textcoords="offset points",
        ha="right" if right else "left",
        weight="bold",
    )


def mean_sd(mean, sd):
    """A mean as far as its standard deviation lets it be known (0.19 and 0.2 are written so), else
    to four digits."""
    if not sd:
        return f"{mean:.4g}"
    digits = max(-math.floor(math.log10(sd / 2)), 0)
    return f"{mean:.{digits}f} ± {sd:.{digits}f}"
