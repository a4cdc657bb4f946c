"""The look that all figures share, and how a figure becomes a file: written completely or not at
all.

One colour means one thing throughout: green is real data, vermillion the unguided model, blue the
guided one, purple the unguided model after more training. The colours are those of Okabe and Ito,
which colour-blind readers tell apart. Curves are drawn narrow with large type, so that a phone
shows them legibly.
"""

import itertools
import math
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path

from dg.runtime.files import atomic_write

REAL, UNGUIDED, GUIDED, LONGER = "#009e73", "#d55e00", "#0072b2", "#cc79a7"
ROLES = {"real": REAL, "unguided": UNGUIDED, "guided": GUIDED, "longer": LONGER}
INK, MUTED, GRID = "#20262e", "#6b7480", "#e4e7eb"
SERIES = ("#56b4e9", "#e69f00", INK, "#8a8f98")  # lines that are no system, and unknown systems
MARKERS = "osD^v<>"
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
        for axes in figure.axes:
            _round_ticks(axes)
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


def few_ticks(axis, number: int):
    """At most so many ticks and one, where labels have little room."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(number))


def logarithmic_ticks(axis):
    """Ticks at 1, 2 and 5 times powers of ten, written as plain numbers; at each digit where the
    axis spans less than a factor of four."""
    from matplotlib.ticker import LogLocator

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high >= 4 * low else range(1, 10)))
    axis.set_major_formatter("{x:g}")


def _round_ticks(axes):
    """Ticks in steps of 1, 2 or 5 times a power of ten, where matplotlib chooses them."""
    from matplotlib.ticker import AutoLocator, MaxNLocator

    for axis in (axes.xaxis, axes.yaxis):
        if isinstance(axis.get_major_locator(), AutoLocator):
            axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))


def colours(names: Iterable[str], roles: dict[str, str] | None = None) -> dict[str, str]:
    """A colour for each system: that of its role, or else the next one of SERIES.

    roles  {system: "real", "unguided", "guided" or "longer"}; a system that has none may be named
           by its role
    """
    found, others = {}, itertools.cycle(SERIES)
    for name in names:
        found[name] = ROLES.get((roles or {}).get(name, name)) or next(others)
    return found


def mark(axes, x, text):
    """A vertical line at x with `text` above the axes, where no curve is."""
    axes.axvline(x, color=INK, linewidth=1, linestyle=(0, (1, 2)))
    low, high = axes.get_xlim()
    place = (x - low) / (high - low)
    axes.annotate(
        text,
        (x, 1),
        (0, 3),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="left" if place < 0.2 else "right" if place > 0.8 else "center",
        va="bottom",
        fontsize=10,
    )


def level(axes, y, text, colour, **line):
    """A horizontal line at y with `text` right of the axes, where no curve is."""
    axes.axhline(y, color=colour, **line)
    axes.annotate(
        text,
        (1, y),
        (5, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="left",
        va="center",
        color=colour,
        fontsize=10,
        annotation_clip=False,
    )


def mean_sd(mean, sd, digits=None):
    """A mean as far as its standard deviation lets it be known (0.19 and 0.2 are written so), else
    to four digits.

    digits  after the point, as of a whole column; None: by this sd
    """
    if not sd and digits is None:
        return f"{mean:.4g}"
    digits = decimals([sd]) if digits is None else digits
    mean = round(mean, digits) + 0.0  # never -0.00
    return f"{mean:.{digits}f} ± {sd:.{digits}f}" if sd else f"{mean:.{digits}f}"


def decimals(sds) -> int | None:
    """Digits after the point of a column: those that the median of its standard deviations lets be
    known, or one more where the smallest would be shown as 0; None without any."""
    known = sorted(sd for sd in sds if sd)
    if not known:
        return None
    digits = max(-math.floor(math.log10(known[len(known) // 2] / 2)), 0)
    return digits + (round(known[0], digits) == 0)


def short_names(rows):
    """The rows under the last parts of their paths, as many as tell them apart."""
    for count in range(1, 9):
        short = ["/".join(Path(source).parts[-count:]) for source in rows]
        if len(set(short)) == len(rows):
            return dict(zip(short, rows.values(), strict=True))
    return rows
