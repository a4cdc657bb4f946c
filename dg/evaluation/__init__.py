"""Features, metrics from features, figures and reports."""

from importlib import import_module

_HOME = {
    "FeatureSet": "feature_sets",
    "features_of": "feature_sets",
    "load_extractor": "features",
    "metric_estimates": "measure",
    "metric_values": "measure",
    "FeatureStatistics": "metrics",
    "frechet_distance": "metrics",
    "inception_score": "metrics",
    "kernel_distance": "metrics",
    "kernel_distance_subsets": "metrics",
    "statistics": "metrics",
    "NeighbourIndicators": "manifolds",
    "density_coverage": "manifolds",
    "neighbour_indicators": "manifolds",
    "precision_recall": "manifolds",
    "memorisation_estimates": "memorisation",
    "TTest": "significance",
    "one_sample_t": "significance",
    "one_sample_t_from_summary": "significance",
    "paired_t": "significance",
    "power": "significance",
    "smallest_detectable_difference": "significance",
    "welch_t": "significance",
    "Estimate": "uncertainty",
    "FidInfinity": "uncertainty",
    "KernelDistanceEstimate": "uncertainty",
    "fid_infinity": "uncertainty",
    "kernel_distance_estimate": "uncertainty",
    "mann_whitney_estimate": "uncertainty",
    "mean_estimate": "uncertainty",
    "proportion_estimate": "uncertainty",
    "summarise_repeats": "uncertainty",
}
__all__ = sorted(_HOME)


def __getattr__(name):
    """Import on first use, as in `dg`."""
    if name not in _HOME:
        raise AttributeError(f"module 'dg.evaluation' has no attribute {name!r}")
    return getattr(import_module(f"dg.evaluation.{_HOME[name]}"), name)
