"""Figures of a run: plain arrays in, one PNG out."""

from dg.evaluation.figures.discriminators import (
    all_training_curves,
    counted_log_ratios,
    denoising_curves,
    log_ratio_histograms,
    ratio_errors,
    ratio_scatter,
    training_curves,
)
from dg.evaluation.figures.distances import (
    distance_against_number,
    distance_against_size,
    distance_sweep,
    metric_bars,
    precision_recall_scatter,
    with_and_without,
)
from dg.evaluation.figures.models import (
    bound_curves,
    convergence,
    gain_against_cost,
    loss_curves,
    quality_against_compute,
    quality_against_cost,
)
from dg.evaluation.figures.pictures import (
    by_change,
    denoising_strips,
    image_grid,
    is_grid,
    neighbour_sheet,
    paired_grid,
)

__all__ = [
    "all_training_curves",
    "bound_curves",
    "by_change",
    "convergence",
    "counted_log_ratios",
    "denoising_curves",
    "denoising_strips",
    "distance_against_number",
    "distance_against_size",
    "distance_sweep",
    "gain_against_cost",
    "image_grid",
    "is_grid",
    "log_ratio_histograms",
    "loss_curves",
    "metric_bars",
    "neighbour_sheet",
    "paired_grid",
    "precision_recall_scatter",
    "quality_against_compute",
    "quality_against_cost",
    "ratio_errors",
    "ratio_scatter",
    "training_curves",
    "with_and_without",
]
