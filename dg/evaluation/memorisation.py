"""Memorisation: whether generated images lie nearer to the training images than unseen real images
do.

Both metrics look at the distance from a generated image to its nearest training image. They hold
the training images fixed, and so do their intervals. Neither depends on the number of generated or
of reference images.

Memory is bounded as in `dg.evaluation.manifolds`. Time grows like (2 N + M) T D, for N generated, M
reference and T training images.
"""

import numpy as np
import torch
from torch import Tensor

from dg.evaluation.feature_matrices import center_of, distance2_blocks, pair, row_blocks
from dg.evaluation.uncertainty import Estimate, mann_whitney_estimate, proportion_estimate

MEMORISATION = ("authenticity", "memorised")
# Distances up to this part of a feature's length count as 0: float32 features of one image differ
# by as much between batches.
ROUNDING = 1e-5


def memorisation_estimates(
    features, features_ref, features_train, metrics=MEMORISATION
) -> dict[str, Estimate]:
    """The metrics by name, with standard errors and 95% intervals.

    features        [N, D]  generated
    features_ref    [M, D]  real images that the generator has not seen; authenticity takes None
    features_train  [T, D]  real images that it was trained on

    authenticity  share of the generated images that lie farther from their nearest training image
                  than that one lies from its own nearest other training image (Alaa et al. 2022,
                  How Faithful is your Synthetic Data?). A tie is not authentic: copies of an image
                  that the training set holds twice are ties. A perfect generator has no fixed
                  value; unseen real images have the value to compare with.
    memorised     probability that a random generated image is nearer to its nearest training image
                  than a random reference image is to its own; ties count half. It is 0.5 where
                  generated images are as near as unseen real ones, 1 for copies, and below 0.5
                  where they are farther. No threshold is chosen: this is the Mann-Whitney statistic
                  of Meehan et al. 2020, A Non-Parametric Test to Detect Data-Copying in Generative
                  Models, with one cell. A generator that keeps to the commonest images comes near
                  to training images without any copy.

    ValueError for fewer than 2 images of a set and for unequal dimensions.
    """
    x, train = pair(features, features_train, at_least=2, names=("generated", "training"))
    distance2, nearest = map(torch.flatten, _nearest(x, train))
    estimates = {}
    if "authenticity" in metrics:
        chosen, place = nearest.unique(return_inverse=True)
        spacing2 = _nearest(train[chosen], train, itself=chosen)[0].flatten()
        authentic = distance2 > spacing2[place]
        estimates["authenticity"] = proportion_estimate(authentic.cpu().numpy())
    if "memorised" in metrics:
        y, _ = pair(features_ref, train, at_least=2, names=("reference", "training"))
        unseen2 = _nearest(y, train)[0].flatten()
        estimates["memorised"] = mann_whitney_estimate(
            distance2.cpu().numpy(), unseen2.cpu().numpy()
        )
    return estimates


def count_known(features_ref, features_train) -> int:
    """Number of reference images [M, D] that are among the training images [T, D], up to the
    rounding of float32 features."""
    y, train = pair(features_ref, features_train, at_least=1, names=("reference", "training"))
    distance2 = _nearest(y, train)[0].flatten()
    length2 = torch.cat([y[rows].double().square().sum(1) for rows in row_blocks(y, y.shape[1])])
    return int((distance2 <= ROUNDING**2 * length2).sum())


def nearest_training(features, features_train, k: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Distances [N, k] of generated images to their k nearest training images, and the indices of
    these [N, k]; the nearest first, of equal ones the first in the set.

    features        [N, D]  generated
    features_train  [T, D]  real images that the generator was trained on

    ValueError for fewer than k training images and for unequal dimensions.
    """
    x, train = pair(features, features_train, at_least=1, names=("generated", "training"))
    if not 1 <= k <= len(train):
        raise ValueError(f"{k} nearest of {len(train)} training images; ask for 1 to {len(train)}")
    distance2, index = _nearest(x, train, k=k)
    return distance2.sqrt().cpu().numpy(), index.cpu().numpy()


def _nearest(
    x: Tensor, train: Tensor, itself: Tensor | None = None, k: int = 1
) -> tuple[Tensor, Tensor]:
    """Squared distances [N, k] of each x [N, D] to its k nearest rows of train [T, D], and the
    indices of these rows [N, k].

    itself  [N]  index of the row of train that each x is, which does not count

    The distances are those of differences, so a copy is at 0 exactly.
    """
    indices = []
    for rows, distance2 in distance2_blocks(x, train, center_of(train)):
        if itself is not None:
            distance2.scatter_(1, itself[rows, None], torch.inf)
        found = []
        for _ in range(k):
            found.append(distance2.argmin(1, keepdim=True))
            distance2.scatter_(1, found[-1], torch.inf)
        indices.append(torch.cat(found, 1))
    index = torch.cat(indices)
    exact = [
        (x[rows, None].double() - train[index[rows]].double()).square().sum(2)
        for rows in row_blocks(x, k * x.shape[1])
    ]
    return torch.cat(exact), index
