"""Features, metrics from features, figures and reports."""

from importlib import import_module

_HOME = {"FeatureStatistics": "metrics", "frechet_distance": "metrics", "kernel_distance": "metrics",
         "precision_recall": "metrics", "statistics": "metrics", "measure": "measure"}
__all__ = sorted(_HOME)


def __getattr__(name):
    """Import on first use, as in `dg`."""
    if name not in _HOME:
        raise AttributeError(f"module 'dg.evaluation' has no attribute {name!r}")
    return getattr(import_module(f"dg.evaluation.{_HOME[name]}"), name)
