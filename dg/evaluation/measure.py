"""All metrics of one set of features against another."""

import numpy as np

from dg.evaluation.metrics import frechet_distance, kernel_distance, precision_recall, statistics


def measure(features: np.ndarray, features_ref: np.ndarray) -> dict[str, float]:
    """Fréchet distance, KID, precision and recall of features [N, D] against features_ref [M, D]."""
    precision, recall = precision_recall(features, features_ref)
    return {"fd": frechet_distance(*statistics(features), *statistics(features_ref)),
            "kid": kernel_distance(features, features_ref), "precision": precision, "recall": recall}
