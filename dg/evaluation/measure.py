"""All metrics of one set of features against another, in two tables.

`metric_values` gives four plain numbers of two arrays of features; KID is that of all pairs.
`metric_estimates` takes two feature sets, perhaps statistics alone, and gives every metric that
they allow with its standard error and interval. The two agree to rounding where both give a value.
"""

from dataclasses import asdict

import numpy as np

from dg.evaluation.feature_sets import FeatureSet
from dg.evaluation.manifolds import neighbour_indicators, precision_recall
from dg.evaluation.memorisation import MEMORISATION, memorisation_estimates
from dg.evaluation.metrics import frechet_distance, inception_score, kernel_distance, statistics
from dg.evaluation.uncertainty import kernel_distance_estimate

# Metric: (its title, whether it needs every single feature). fd is called FID where the features
# are Inception's.
METRICS = {
    "fd": ("FD", False),
    "sfid": ("sFID", False),
    "kid": ("KID", True),
    "precision": ("precision", True),
    "recall": ("recall", True),
    "density": ("density", True),
    "coverage": ("coverage", True),
    "authenticity": ("authenticity", True),
    "memorised": ("memorised", True),
    "is": ("IS", False),
}
NEIGHBOURS = ("precision", "recall", "density", "coverage")


def metric_values(features: np.ndarray, features_ref: np.ndarray) -> dict[str, float]:
    """Fréchet distance, KID, precision and recall of features [N, D] against features_ref [M, D],
    plain values.

    `metric_estimates` gives their uncertainty as well.
    """
    precision, recall = precision_recall(features, features_ref)
    return {
        "fd": frechet_distance(*statistics(features), *statistics(features_ref)),
        "kid": kernel_distance(features, features_ref),
        "precision": precision,
        "recall": recall,
    }


def available(
    generated: FeatureSet, reference: FeatureSet, training: FeatureSet | None = None
) -> list[str]:
    """The metrics that the sets allow, in the order of METRICS."""
    both = generated.features is not None and reference.features is not None
    seen = training is not None and training.features is not None
    has = {
        "sfid": generated.spatial and reference.spatial,
        "is": generated.logits is not None,
        "authenticity": seen and generated.features is not None,
        "memorised": seen and both,
    }
    return [name for name, (_, single) in METRICS.items() if has.get(name, both or not single)]


def metric_estimates(
    generated: FeatureSet,
    reference: FeatureSet,
    metrics=None,
    training: FeatureSet | None = None,
) -> dict[str, dict]:
    """Every metric with its uncertainty,
    {metric: {"value", "standard_error", "low", "high"}}; the last three (95% interval) only where
    they are valid.

    metrics   names from METRICS; default: all that the sets allow. ValueError for one that they do
              not.
    training  features of the generator's training images, for authenticity and memorised; the
              reference then holds images that it has not seen

    The Fréchet distance of a single set has no interval (see `dg.evaluation.uncertainty`). The
    Inception Score has the sd over its ten splits instead, as is customary, and no interval.
    """
    possible = available(generated, reference, training)
    metrics = possible if metrics is None else list(metrics)
    if missing := [name for name in metrics if name not in possible]:
        raise ValueError(
            f"{', '.join(missing)}: not possible for {generated.name} against "
            f"{reference.name} in these features; ask for {', '.join(possible)}"
        )
    table = {}
    if "fd" in metrics:
        table["fd"] = {"value": generated.distance(reference)}
    if "sfid" in metrics:
        table["sfid"] = {"value": frechet_distance(*generated.spatial, *reference.spatial)}
    if "kid" in metrics:
        table["kid"] = asdict(kernel_distance_estimate(generated.features, reference.features))
    if wanted := [name for name in NEIGHBOURS if name in metrics]:
        pair, radii2 = (generated.features, reference.features), reference.ball_radii2
        estimates = neighbour_indicators(*pair, radii2_ref=radii2).estimates()
        table |= {name: asdict(estimates[name]) for name in wanted}
    if wanted := [name for name in MEMORISATION if name in metrics]:
        arrays = (generated.features, reference.features, training.features)
        estimates = memorisation_estimates(*arrays, wanted)
        table |= {name: asdict(estimates[name]) for name in wanted}
    if "is" in metrics:
        value, sd = inception_score(generated.logits)
        table["is"] = {"value": value, "sd_of_splits": sd}
    return table
