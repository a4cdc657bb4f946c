"""Precision, recall, density and coverage: counts of the samples of one set that lie among the
nearest neighbours of the other.

The manifold of a set is the union of balls around its points, each reaching to the k-th nearest
neighbour in the set. All four metrics are means over samples, and `neighbour_indicators` returns
the contribution of each sample. Their intervals follow (`NeighbourIndicators.estimates`,
conditional on the manifolds: see `dg.evaluation.uncertainty`).

Beside the features this holds one set in float64 and blocks of at most 128 MiB: at 50,000 x 2048
less than 2 GiB. Time grows like (N + M)^2 D. All four depend on N and M: compare only at equal
counts.
"""

from dataclasses import dataclass

import numpy as np
import torch

from dg.evaluation.feature_matrices import center_of, distance2_blocks, matrix, pair
from dg.evaluation.uncertainty import Estimate, mean_estimate, proportion_estimate


@dataclass(frozen=True)
class NeighbourIndicators:
    """Contribution of each sample; a metric is the mean of its array.

    precision  [N]  bool     generated sample lies in the reference manifold
    recall     [M]  bool     reference sample lies in the generated manifold
    density    [N]  float64  number of reference balls around the generated sample, over k
    coverage   [M]  bool     the reference sample's ball holds a generated sample
    """

    precision: np.ndarray
    recall: np.ndarray
    density: np.ndarray
    coverage: np.ndarray

    def estimates(self) -> dict[str, Estimate]:
        """The four metrics by name, with standard errors and 95% intervals over the samples that
        each is a mean of."""
        shares = {
            name: proportion_estimate(getattr(self, name))
            for name in ("precision", "recall", "coverage")
        }
        return shares | {"density": mean_estimate(self.density)}


def neighbour_indicators(
    features, features_ref, k=3, k_density=5, radii2_ref=None
) -> NeighbourIndicators:
    """All four metrics from the same distances.

    features      [N, D]  generated
    features_ref  [M, D]  reference
    k             neighbours that make a ball for precision and recall; k_density for density and
                  coverage
    radii2_ref    [2, M]  `ball_radii2` of the reference where it is known: half of the time, if N
                  and M are equal, and nearly all of it for a small generated set

    Kynkaanniemi et al. 2019, Improved Precision and Recall Metric, Eqs. 1-2; Naeem et al. 2020,
    Reliable Fidelity and Diversity Metrics. Balls are closed. ValueError unless both sets have more
    than k and k_density points.
    """
    for name, value in (("k", k), ("k_density", k_density)):
        if value < 1:
            raise ValueError(f"{name} is {value}; give at least 1")
    x, y = pair(features, features_ref, at_least=max(k, k_density) + 1)
    center = center_of(y)
    (radius_x,) = _radii2(x, center, [k])
    if radii2_ref is None:
        radii2_ref = ball_radii2(y, k, k_density)
    radius_y, radius_y_density = torch.as_tensor(radii2_ref, device=y.device)
    precision, density = [], []
    recall, coverage = (torch.zeros(len(y), dtype=torch.bool, device=y.device) for _ in range(2))
    for rows, distance2 in distance2_blocks(x, y, center):
        precision.append((distance2 <= radius_y).any(1))
        recall |= (distance2 <= radius_x[rows, None]).any(0)
        inside = distance2 <= radius_y_density
        density.append(inside.sum(1).double() / k_density)
        coverage |= inside.any(0)
    arrays = (torch.cat(precision), recall, torch.cat(density), coverage)
    return NeighbourIndicators(*(array.cpu().numpy() for array in arrays))


def ball_radii2(features_ref, k=3, k_density=5) -> np.ndarray:
    """Squared radii [2, M] of the balls around reference features [M, D]: to the k-th and the
    k_density-th nearest neighbour, in float64. ValueError for too few of them."""
    y, least = matrix(features_ref, "reference features"), max(k, k_density) + 1
    if len(y) < least:
        raise ValueError(f"{len(y)} reference features; give at least {least}")
    return torch.stack(_radii2(y, center_of(y), [k, k_density])).cpu().numpy()


def precision_recall(features, features_ref, k=3):
    """Fraction of generated features inside the real manifold, and of real features inside the
    generated manifold.

    features      [N, D]  generated
    features_ref  [M, D]  reference
    returns       (precision, recall), floats in [0, 1]

    Kynkaanniemi et al. 2019. ValueError unless both sets have more than k points.
    """
    found = neighbour_indicators(features, features_ref, k, k)
    return float(found.precision.mean()), float(found.recall.mean())


def density_coverage(features, features_ref, k=5):
    """Mean number of real balls around a generated feature, over k, and fraction of real balls with
    one inside.

    features      [N, D]  generated
    features_ref  [M, D]  reference
    returns       (density, coverage), floats; density is 1 on average for equal distributions and
                  may exceed 1

    Naeem et al. 2020. ValueError unless both sets have more than k points.
    """
    found = neighbour_indicators(features, features_ref, k, k)
    return float(found.density.mean()), float(found.coverage.mean())


def _radii2(x, center, ks):
    """Squared distance of each point of x [N, D] to its k-th nearest neighbour, [N] for each k."""
    nearest = torch.cat(
        [
            block.topk(max(ks) + 1, largest=False).values  # ascending; the nearest of all is itself
            for _, block in distance2_blocks(x, x, center)
        ]
    )
    return [nearest[:, k] for k in ks]
