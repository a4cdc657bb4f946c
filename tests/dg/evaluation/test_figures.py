import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text
from PIL import Image

from dg.evaluation import figures
from dg.evaluation.figures.discriminators import _auc
from dg.evaluation.figures.pictures import GAP
from dg.evaluation.figures.style import (
    GUIDED,
    LONGER,
    SERIES,
    UNGUIDED,
    colours,
    decimals,
    mean_sd,
)

RNG = np.random.default_rng(0)
LOG = [
    {
        "step": 10 * i,
        "train_loss": 0.7 - 0.05 * i,
        "valid_loss": 0.7 - 0.04 * i + 0.006 * i**2,
        "train_accuracy": 0.5 + 0.04 * i,
        "valid_accuracy": 0.5 + 0.02 * i,
    }
    for i in range(9)
]
METRICS = {
    "unguided": {"fd": {"mean": 4.0, "sd": 0.1}, "kid": {"mean": 0.012, "sd": 0.001}},
    "guided": {"fd": {"mean": 3.1, "sd": 0.1}, "kid": {"mean": 0.007, "sd": 0.001}},
    "ensemble": {"fd": {"mean": 3.0, "sd": None}},
    "floor": {"fd": {"mean": 1.1, "sd": 0.1}},
}


def images(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


@pytest.fixture
def drawn(monkeypatch):
    """The matplotlib figure that was written last."""
    from matplotlib.figure import Figure

    written, savefig = [], Figure.savefig
    monkeypatch.setattr(
        Figure,
        "savefig",
        lambda self, *args, **kw: (written.append(self), savefig(self, *args, **kw)),
    )
    return written


def test_image_grid_enlarges_by_whole_pixels(tmp_path):
    for channels in (1, 3):
        batch = images(5, 4, 6, channels)
        figures.image_grid(tmp_path / "grid.png", batch, columns=3, scale=2)
        grid = pixels(tmp_path / "grid.png")
        assert grid.shape == (2 * 8 + GAP, 3 * 12 + 2 * GAP, 3)
        second = grid[:8, 12 + GAP :][:, :12]
        assert (second == batch[1].repeat(2, 0).repeat(2, 1)).all()
        assert (grid[8 + GAP :, 2 * (12 + GAP) :] == 255).all()
    figures.image_grid(tmp_path / "grid.png", batch)
    assert pixels(tmp_path / "grid.png").shape[1] == 3 * 6 * 16 + 2 * GAP


def find(picture, block):
    """Whether `block` stands in `picture` pixel by pixel."""
    windows = np.lib.stride_tricks.sliding_window_view(picture[..., 0], block.shape[:2])
    return bool((windows == block[..., 0]).all((2, 3)).any())


def test_paired_grid_shows_the_chosen_pairs(tmp_path, drawn):
    before = images(6, 4, 4, 3)
    after = before.copy()
    after[2, :2] = 255 - after[2, :2]
    panels = {"Much": [2, 1], "Little": [0, 3]}
    figures.paired_grid(tmp_path / "pairs.png", before, after, panels, "plain", "better", scale=8)
    texts = [text.get_text() for text in drawn[-1].texts]
    assert texts[:4] == ["Much", "plain", "better", texts[3]] and texts[3].startswith("difference")
    assert texts[4] == "Little" and len(texts) == 8
    shown = pixels(tmp_path / "pairs.png")
    for image in (before[2], after[2], before[0], after[3]):
        assert find(shown, image.repeat(8, 0).repeat(8, 1))
    assert not find(shown, before[5].repeat(8, 0).repeat(8, 1))
    figures.paired_grid(
        tmp_path / "two.png", before, after, {"All": range(6)}, difference=False, scale=8
    )
    assert len(drawn[-1].texts) == 3


def test_neighbours_stand_beside_their_image(tmp_path, drawn):
    batch, others = images(7, 4, 4, 1), images(7, 2, 4, 4, 1)
    figures.neighbour_sheet(tmp_path / "n.png", batch, others)
    texts = [text.get_text() for text in drawn[-1].texts]
    assert texts == ["generated", "nearest training images"]
    shown = pixels(tmp_path / "n.png")
    gaps = [np.full((1, width, 1), 255, np.uint8) for width in (GAP + (64 + GAP) // 6, GAP, 0)]
    for image, (first, second) in zip(batch, others, strict=True):
        lines = [one[:1].repeat(16, 1) for one in (image, first, second)]
        assert find(shown, np.concatenate([*itertools.chain(*zip(lines, gaps, strict=True))], 1))


def test_difference_is_amplified_around_grey(tmp_path, drawn):
    before = np.full((1, 4, 4, 1), 100, np.uint8)
    figures.paired_grid(tmp_path / "d.png", before, before + np.uint8(10), {"All": [0]}, scale=8)
    assert drawn[-1].texts[-1].get_text() == "difference \N{MULTIPLICATION SIGN}12"
    assert find(pixels(tmp_path / "d.png"), np.full((32, 32, 1), 128 + 120, np.uint8))


def test_a_baseline_that_varies_is_a_line(tmp_path, drawn):
    swept = ([9, 5], [1.0, 2.0], [0.1, 0.2], ([3.0, 4.0], [0.3, 0.4]))
    figures.distance_sweep(tmp_path / "s.png", *swept)
    lines = {one.get_label(): one.lines[0] for one in drawn[-1].axes[0].containers}
    assert lines["guided"].get_xydata().tolist() == [[5, 2], [9, 1]]
    assert lines["unguided"].get_xydata().tolist() == [[5, 4], [9, 3]]
    assert to_hex(lines["unguided"].get_color()) == UNGUIDED
    assert [text.get_text() for text in drawn[-1].legends[0].get_texts()] == ["unguided", "guided"]


def test_denoising_strips(tmp_path, drawn):
    strips = images(2, 3, 8, 8, 1)
    figures.denoising_strips(
        tmp_path / "s.png", strips, [20000, 1.25, 0], ["seed 0", "seed 1"], scale=4
    )
    texts = [text.get_text() for text in drawn[-1].texts]
    assert texts == [
        "From noise to image; noise level \N{GREEK SMALL LETTER SIGMA}:",
        "20,000",
        "1.2",
        "0",
        "seed 0",
        "seed 1",
    ]
    shown = pixels(tmp_path / "s.png")
    assert all(find(shown, image.repeat(4, 0).repeat(4, 1)) for row in strips for image in row)


def curve_figures(folder):
    weights = [2.0, 0.0, 1.0]
    ratios = [RNG.standard_normal(200) + shift for shift in (1.0, 0.5, 0.1)]
    return {
        "training": (2, lambda: figures.training_curves(folder / "f.png", LOG)),
        "training, sparse": (
            2,
            lambda: figures.training_curves(folder / "f.png", [{"step": 0, "train_loss": 0.7}]),
        ),
        "sweep": (
            1,
            lambda: figures.distance_sweep(
                folder / "f.png",
                weights,
                [3.1, 4.0, 3.5],
                [0.1, 0.1, 0.2],
                (4.0, 0.1),
                (1.1, 0.05),
                2.0,
            ),
        ),
        "histograms": (
            3,
            lambda: figures.log_ratio_histograms(
                folder / "f.png", [0.1, 1, 10], ratios, [-r[:150] for r in ratios]
            ),
        ),
        "numbers": (
            2,
            lambda: figures.distance_against_number(
                folder / "f.png",
                {f"{kind} images": {"guided": [(9, 3.0, 0.1), (3, 5.0, 0.2)]} for kind in "ab"},
                {"guided": (GUIDED, "-")},
                {"unguided": (4.0, 0.1, UNGUIDED)},
            ),
        ),
        "bars": (
            2,
            lambda: figures.metric_bars(folder / "f.png", METRICS, {"fd": "FD", "kid": "KID"}),
        ),
    }


@pytest.mark.parametrize("name", curve_figures(None))
def test_curves_are_written_whole_with_their_panels(tmp_path, drawn, name):
    panels, draw = curve_figures(tmp_path)[name]
    draw()
    assert len(drawn[-1].axes) == panels
    assert all(axes.get_title("left") or axes.get_ylabel() for axes in drawn[-1].axes)
    shown = pixels(tmp_path / "f.png")
    assert 1000 < shown.shape[1] < 1400 and 400 < shown.shape[0] < 3000
    assert (shown < 200).any()
    assert [p.name for p in tmp_path.iterdir()] == ["f.png"]
    first = (tmp_path / "f.png").read_bytes()
    draw()
    assert (tmp_path / "f.png").read_bytes() == first


def labels(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_chosen_checkpoint_is_marked(tmp_path, drawn):
    figures.training_curves(tmp_path / "f.png", LOG)  # lowest validation loss
    assert "chosen: step 30" in labels(drawn[-1])
    figures.training_curves(tmp_path / "f.png", [*LOG[:-1], {**LOG[-1], "best_step": 50}])
    assert "chosen: step 50" in labels(drawn[-1])
    figures.training_curves(tmp_path / "f.png", LOG, best_step=20)
    assert "chosen: step 20" in labels(drawn[-1])


def test_numbers_fill_the_axes(tmp_path, drawn):
    curve_figures(tmp_path)["numbers"][1]()
    for axes in drawn[-1].axes:
        (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
        assert 2 < left < 3 < 9 < right < 14 and 2 < low < 2.9 < 5.2 < high < 8
        assert [text.get_text() for text in axes.get_xticklabels()] == ["3", "9"]


def test_bars_show_only_what_was_measured(tmp_path, drawn):
    figures.metric_bars(tmp_path / "f.png", METRICS, {"fd": "FD", "kid": "KID"})
    assert [len(axes.patches) for axes in drawn[-1].axes] == [3, 2]
    assert "4.00 \N{PLUS-MINUS SIGN} 0.10" in labels(drawn[-1]) and "3.00" in labels(drawn[-1])


def test_a_system_has_one_colour_in_every_figure(tmp_path, drawn):
    names = {"plain": "unguided", "better": "guided", "more steps": "longer"}
    metrics = {name: {"fd": {"mean": 2.0, "sd": 0.1}} for name in (*names, "unknown")}
    figures.metric_bars(tmp_path / "f.png", metrics, {"fd": "FD"}, roles=names)
    bars = [to_hex(patch.get_facecolor()) for patch in drawn[-1].axes[0].patches]
    assert bars == [UNGUIDED, GUIDED, LONGER, SERIES[0]]
    points = {name: dict(seconds=1.0, mean=2.0, sd=0.1) for name in names}
    figures.quality_against_cost(tmp_path / "f.png", points, roles=names)
    assert [line.get_color() for line in drawn[-1].axes[0].lines[::3]] == bars[:3]
    assert colours(["unguided", "guided"]) == {"unguided": UNGUIDED, "guided": GUIDED}
    figures.distance_sweep(tmp_path / "f.png", [1, 2], [3.0, 2.0], [0.1, 0.1], (4.0, 0.1))
    assert {line.get_color() for line in drawn[-1].axes[0].lines} == {UNGUIDED, GUIDED}


def test_an_axis_ends_where_its_metric_does(tmp_path, drawn):
    recall = {"recall": {"mean": 0.95, "sd": 0.2}, "fd": {"mean": 9.5, "sd": 2.0}}
    titles = {"recall": "recall", "fd": "FD"}
    figures.metric_bars(tmp_path / "f.png", {"guided": recall}, titles)
    share, distance = drawn[-1].axes
    assert share.get_xlim() == (0, 1) and distance.get_xlim()[1] > 11.5
    metrics = {"guided": recall, "floor": {"fd": {"mean": -0.5, "sd": 0.1}}}
    figures.metric_bars(tmp_path / "f.png", metrics, {"fd": "FD"})
    assert drawn[-1].axes[0].get_xlim()[0] < -0.5  # the line of the floor is seen
    sure = dict(value=0.98, low=0.95, high=1.0)
    figures.precision_recall_scatter(
        tmp_path / "f.png", {"guided": dict(precision=sure, recall=sure)}
    )
    assert drawn[-1].axes[0].get_xlim()[1] <= 1.01 and drawn[-1].axes[0].get_ylim()[1] <= 1.01
    levels = [dict(sigma=[0.0, 1.0], auc=0.99), dict(sigma=[1.0, None], auc=0.5)]
    log = [entry | {"valid_levels": levels} for entry in LOG]
    figures.training_curves(tmp_path / "f.png", log)
    assert drawn[-1].axes[2].get_ylim()[1] <= 1


def test_ticks_are_round(tmp_path, drawn):
    for high in (9.0, 11.3, 0.023):
        figures.distance_sweep(tmp_path / "f.png", [0, 1, 3.5], [high / 3, high, 0], [0, 0, 0])
        ticks = drawn[-1].axes[0].get_yticks()
        step = (ticks[1] - ticks[0]) / 10.0 ** np.floor(np.log10(ticks[1] - ticks[0]) + 1e-9)
        assert min(abs(step - round_step) for round_step in (1, 2, 5)) < 1e-6


def overlapping(figure):
    """Pairs of texts that cover each other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(figure).get_renderer()
    unseen = set()  # labels of ticks outside the axes, which are not drawn
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        ticks = axis.get_major_ticks()
        unseen |= {tick.label1 for tick in ticks if not low <= tick.get_loc() <= high}
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    texts = [text for text in texts if text not in unseen]
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts]
    pairs = itertools.combinations([box for box in boxes if box[1].width > 1], 2)
    return [
        (a, b)
        for (a, first), (b, second) in pairs
        if min(first.x1, second.x1) - max(first.x0, second.x0) > 1
        and min(first.y1, second.y1) - max(first.y0, second.y0) > 1
    ]


@pytest.mark.parametrize(
    "name", ["sweep", "cost", "gain", "both", "histograms", "training", "bars"]
)
def test_no_text_covers_another(tmp_path, drawn, name):
    path = tmp_path / "f.png"
    if name == "sweep":  # the chosen setting is the last one, beside the name of the line
        line = (3.3, 0.0)
        figures.distance_sweep(path, [1, 2, 4], [3.0, 2.8, 2.5], [0, 0, 0], line, chosen=4.0)
    elif name == "cost":
        points = {
            "EDM": dict(seconds=54, mean=12.3, sd=0.2),
            "EDM, guided": dict(seconds=60, mean=12.4, sd=0.2),
        }
        figures.quality_against_cost(path, points)
    elif name == "gain":
        ways = {f"{part}, every second step": [(3.1, 1.0, 0.3), (1.1, -0.2, 0.1)] for part in "abc"}
        figures.gain_against_cost(path, ways, (1.15, 0.95))
        assert drawn[-1].axes[0].get_legend_handles_labels()[1] == ["target", *ways]
    elif name == "both":
        rows = {"Neon and guidance": [(3.4, 0.4), (3.1, 0.3)]}
        rows["Neon and guidance, new discriminator"] = [(3.4, 0.4), (3.6, 0.3)]
        levels = {"unguided": 3.9, "guidance": 3.4, "real against real": 1.2}
        figures.with_and_without(path, rows, levels, "FD")
        shown = drawn[-1].axes[0]
        assert [line.get_xdata()[0] for line in shown.lines[:3]] == [3.9, 3.4, 1.2]
        assert shown.get_legend_handles_labels()[1][3:] == ["the method alone", "with guidance"]
    else:
        curve_figures(tmp_path)[name][1]()
    assert not overlapping(drawn[-1])


def test_training_curves_of_several_discriminators_share_a_figure(tmp_path, drawn):
    figures.all_training_curves(tmp_path / "f.png", {"a": (LOG, 30), "b": (LOG[:4], None)})
    titles = [axes.get_title("left") for axes in drawn[-1].axes]
    assert titles == ["a: loss", "a: accuracy", "b: loss", "b: accuracy"]
    chosen = drawn[-1].axes[0].lines[-1]
    assert list(chosen.get_xdata()) == [30]
    assert list(chosen.get_ydata()) == pytest.approx([0.7 - 0.12 + 0.054])


def test_pairs_are_sorted_by_their_change_and_none_is_left_out():
    before = np.full((5, 2, 2, 1), 100, np.uint8)
    after = before + np.array([9, 3, 0, 7, 200], np.uint8)[:, None, None, None]
    assert figures.by_change(before, after, 4) == [2, 1, 3, 0]
    assert figures.by_change(before[:2], after[:2], 4) == [1, 0]


@pytest.mark.parametrize(
    "sds, digits",
    [([0.5], 1), ([0.19, 0.21, 0.9], 1), ([0.014, 0.03, 0.002], 3), ([3.0, 4.0], 0), ([], None)],
)
def test_a_column_has_one_number_of_digits(sds, digits):
    assert decimals(sds) == digits


def test_a_mean_is_never_minus_zero():
    assert mean_sd(-0.001, 0.05, 2) == "0.00 ± 0.05" and mean_sd(-0.06, 0.05) == "-0.06 ± 0.05"


def test_auc_counts_ties_half():
    assert _auc([2, 3], [0, 1]) == 1
    assert _auc([0, 1], [1, 2]) == pytest.approx(0.5 / 4)
    assert _auc([1, 1], [1]) == 0.5


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda path: figures.image_grid(path, images(4, 4, 3)), "images must be uint8"),
        (lambda path: figures.image_grid(path, np.zeros((1, 4, 4, 3))), "float64"),
        (lambda path: figures.image_grid(path, images(0, 4, 4, 3)), "images must be uint8"),
        (
            lambda path: figures.paired_grid(
                path, images(2, 4, 4, 3), images(3, 4, 4, 3), {"a": [0]}
            ),
            "one shape",
        ),
        (
            lambda path: figures.neighbour_sheet(path, images(2, 4, 4, 3), images(3, 1, 4, 4, 3)),
            "for 2 images",
        ),
        (lambda path: figures.denoising_strips(path, images(2, 3, 4, 4, 1), [1, 0]), "2 sigmas"),
        (
            lambda path: figures.denoising_strips(path, images(2, 2, 4, 4, 1), [1, 0], ["a"]),
            "2 rows of images, but 1",
        ),
        (lambda path: figures.training_curves(path, []), "empty"),
        (lambda path: figures.log_ratio_histograms(path, [1, 2], [[1]], [[1]]), "2 noise levels"),
    ],
)
def test_errors_are_one_line_and_leave_no_file(tmp_path, call, message):
    with pytest.raises(ValueError, match=message) as error:
        call(tmp_path / "f.png")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_import_does_not_load_matplotlib():
    code = "import sys, dg.evaluation.figures; sys.exit('matplotlib' in sys.modules)"
    root = Path(figures.__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


def test_new_kinds_of_figures_show_what_they_are_given(tmp_path, drawn):
    log = [
        {"step": 50 * i, "loss": 1 / (i + 1)} | ({"test_loss": 0.5} if i % 5 == 4 else {})
        for i in range(20)
    ]
    figures.loss_curves(
        tmp_path / "a.png",
        {"EDM": {"ylabel": "loss", "log": log}, "VAE": {"ylabel": "bits/dim", "log": log}},
    )
    assert [axes.get_title(loc="left") for axes in drawn[-1].axes] == ["EDM", "VAE"]
    assert [len(line.get_xdata()) for line in drawn[-1].axes[0].lines] == [20, 4]
    figures.quality_against_cost(
        tmp_path / "b.png",
        {
            "EDM": dict(seconds=10, mean=3.0, sd=0.1),
            "EDM, guided": dict(seconds=15, mean=2.0, sd=0.1),
        },
    )
    assert drawn[-1].axes[0].get_legend_handles_labels()[1] == ["EDM", "EDM, guided"]
    estimate = dict(value=0.5, low=0.4, high=0.6)
    figures.precision_recall_scatter(
        tmp_path / "c.png", {"floor": dict(precision=estimate, recall=estimate | {"value": 0.4})}
    )
    assert drawn[-1].axes[0].get_legend_handles_labels()[1] == ["real against real"]
    curve = dict(
        sizes=[100, 200, 400],
        values=[3.0, 2.5, 2.2],
        intercept=2.0,
        slope=100.0,
        standard_error=0.1,
    )
    figures.distance_against_size(tmp_path / "d.png", {"unguided": curve}, "FID")
    assert "2.00 ± 0.10 at ∞" in drawn[-1].axes[0].get_legend_handles_labels()[1][0]
    for name in "abcd":
        assert pixels(tmp_path / f"{name}.png").std() > 1


def test_points_of_a_line_are_joined_from_the_cheapest_on(tmp_path, drawn):
    points = {name: dict(seconds=9.0, mean=2.0, sd=0.1) for name in ("EDM", "VAE")}
    line = [dict(seconds=s, mean=m, sd=0.1) for s, m in ((1000, 2.5), (250, 3.0), (50, 8.0))]
    lines = {"DDPM, ancestral: 50, 250, 1,000 steps": line, "DDPM, DDIM: 50 steps": line[2:]}
    roles = dict.fromkeys(points, "unguided")
    figures.quality_against_cost(tmp_path / "a.png", points, roles=roles, lines=lines)
    (axes,) = drawn[-1].axes
    handles, labels = axes.get_legend_handles_labels()
    assert labels == [*points, *lines]
    shown = handles[2][0]
    assert (list(shown.get_xdata()), list(shown.get_ydata())) == ([50, 250, 1000], [8.0, 3.0, 2.5])
    assert not overlapping(drawn[-1])


def test_bounds_of_models_share_one_scale(tmp_path, drawn):
    def bound(mean):
        return {"mean": mean, "standard_error": 0.05, "n": 256}

    def entries(first):
        steps = (94, 188, 375, 750, 1500)
        return [
            {"step": step, "training": bound(first / place), "test": bound(first / place + 0.1)}
            for place, step in enumerate(steps, start=1)
        ]

    figures.bound_curves(tmp_path / "a.png", {"DDPM": entries(4.0), "VAE": entries(3.0)})
    (axes,) = drawn[-1].axes
    lines = {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    kinds = [
        f"{model}, {which} images" for model in ("DDPM", "VAE") for which in ("training", "test")
    ]
    assert list(lines) == kinds and axes.get_ylabel() == "−ELBO [bits/dim]"
    shown = lines["DDPM, test images"][0]
    assert list(shown.get_xdata()) == [94, 188, 375, 750, 1500]
    assert list(shown.get_ydata()) == pytest.approx([4.1, 2.1, 4 / 3 + 0.1, 1.1, 0.9])
    assert not overlapping(drawn[-1])
