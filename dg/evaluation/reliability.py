"""Whether the logits of a discriminator mean what they say: cross-entropy, calibration, AUC, each
with its standard error over images.

Every function takes the logits of real images [N] and of generated images [M]. A standard error
counts images; both kinds weigh one half.
"""

import math

import numpy as np

from dg.evaluation.uncertainty import mann_whitney_estimate
from dg.training_metrics import BINS

NEWTON_STEPS = 50
BARS = 35  # of a histogram


def measured(value, se) -> dict[str, float]:
    """A value and its standard error, as plain data."""
    return {"value": float(value), "se": float(se)}


def mean_of(values: np.ndarray) -> dict[str, float]:
    """Mean over images [N] with its standard error."""
    return measured(values.mean(), standard_error(values))


def standard_error(values: np.ndarray) -> float:
    """Standard error of the mean of values [N]."""
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def auc(real: np.ndarray, fake: np.ndarray) -> dict[str, float]:
    """Probability that a real image has the larger logit."""
    found = mann_whitney_estimate(fake, real)
    return measured(found.value, found.standard_error)


def histogram(real: np.ndarray, fake: np.ndarray) -> dict[str, list]:
    """Counts of logits in BARS equal bins, {"edges", "real", "fake"} as plain data.

    The bins hold all logits of both kinds but the 0.5% at either end.
    """
    low, high = np.percentile(np.concatenate([real, fake]), [0.5, 99.5])
    edges = np.linspace(low, high if high > low else low + 1, BARS + 1)
    counts = {"real": np.histogram(real, edges)[0], "fake": np.histogram(fake, edges)[0]}
    return {name: values.tolist() for name, values in ({"edges": edges} | counts).items()}


def cross_entropy(real: np.ndarray, fake: np.ndarray) -> dict[str, float]:
    """Binary cross-entropy [nats]; ln 2 is that of a discriminator that knows nothing."""
    return _halves(np.logaddexp(0, -real), np.logaddexp(0, fake))


def accuracy(real: np.ndarray, fake: np.ndarray) -> dict[str, float]:
    """Share of images on the right side of 0."""
    return _halves((real > 0).astype(float), (fake <= 0).astype(float))


def calibration_error(real: np.ndarray, fake: np.ndarray) -> dict[str, float]:
    """Expected calibration error over bins of equally many images; equal logits share a bin.

    `expected` is the value of a calibrated discriminator, which few images lift above 0. The
    standard error takes the bins' signs as known.
    """
    logits = np.concatenate([real, fake])
    target = np.repeat([1.0, 0.0], [len(real), len(fake)])
    weight = np.where(target, 0.5 / len(real), 0.5 / len(fake))
    probability = _sigmoid(logits)
    place = np.searchsorted(np.quantile(logits, np.linspace(0, 1, BINS + 1)[1:-1]), logits)
    value = np.abs(np.bincount(place, weight * (target - probability))).sum()
    variance = np.bincount(place, weight**2 * probability * (1 - probability))
    expected = np.sqrt(2 / math.pi * variance).sum()
    se = np.sqrt((weight**2 * (target - probability) ** 2).sum())
    return measured(value, se) | {"expected": float(expected)}


def calibration_slope(real: np.ndarray, fake: np.ndarray) -> dict[str, float]:
    """Slope of the logistic regression of the target on the logit, with an intercept: 1 for a
    calibrated discriminator, 1/k where logits are k times too large.

    The slope has a normal prior of mean 1 and standard deviation 1, so that it stays finite where
    the logits separate the images, and near 1 where they say nothing.
    """
    logits = np.concatenate([real, fake])
    target = np.repeat([1.0, 0.0], [len(real), len(fake)])
    weight = np.where(target, 0.5 / len(real), 0.5 / len(fake)) * len(logits)
    columns, found = np.stack([np.ones_like(logits), logits], axis=1), np.array([0.0, 1.0])
    prior = np.array([1e-9, 1.0])

    def objective(point):
        eta = columns @ point
        data = (weight * (np.logaddexp(0, eta) - target * eta)).sum()
        return data + 0.5 * (prior * (point - [0, 1]) ** 2).sum()

    for _ in range(NEWTON_STEPS):
        probability = _sigmoid(columns @ found)
        gradient = columns.T @ (weight * (probability - target)) + prior * (found - [0, 1])
        curvature = weight * probability * (1 - probability)
        hessian = (columns * curvature[:, None]).T @ columns + np.diag(prior)
        step, length = np.linalg.solve(hessian, gradient), 1.0
        while objective(found - length * step) > objective(found) and length > 1e-6:
            length /= 2
        found = found - length * step
        if np.abs(length * step).max() < 1e-10:
            break
    return measured(found[1], np.sqrt(np.linalg.inv(hessian)[1, 1]))


def root_mean_ratio(above: np.ndarray, below: np.ndarray) -> dict[str, float]:
    """Root of the ratio of two means over the same images [N]: sqrt(E above / E below)."""
    if not above.mean():
        return measured(0.0, 0.0)
    ratio = math.sqrt(above.mean() / below.mean())
    spread = standard_error(above / above.mean() - below / below.mean())
    return measured(ratio, ratio * spread / 2)


def ratio_of_means(above: np.ndarray, below: np.ndarray) -> dict[str, float] | None:
    """E above / E below over the same images [N]; None where there is nothing below."""
    if not below.mean():
        return None
    ratio = above.mean() / below.mean()
    return measured(ratio, standard_error((above - ratio * below) / below.mean()))


def ratio_of_differences(along: tuple, size: tuple) -> dict[str, float] | None:
    """(E_1 a - E_2 a) / mean of (E_1 s, E_2 s) over two sets of images; None where s is 0.

    along, size  (values of the first set [N], values of the second set [M])
    """
    below = (size[0].mean() + size[1].mean()) / 2
    if not below:
        return None
    ratio = (along[0].mean() - along[1].mean()) / below
    parts = along[0] - ratio * size[0] / 2, -along[1] - ratio * size[1] / 2
    return measured(ratio, math.hypot(*map(standard_error, parts)) / below)


def _halves(real: np.ndarray, fake: np.ndarray) -> dict[str, float]:
    value = (real.mean() + fake.mean()) / 2
    return measured(value, math.hypot(standard_error(real), standard_error(fake)) / 2)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
