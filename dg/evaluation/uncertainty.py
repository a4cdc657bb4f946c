"""Uncertainty of measured values: repeats, standard errors and 95% intervals that are valid for
each metric.

Frechet distance. No bootstrap: images drawn with replacement repeat each other, which shrinks the
covariance and leaves
    only 63% of the images, and the distance has a bias of its own that grows as the number of
    images falls (as 1/n). The resampled distances lie beside the measured one, not around it: 1,000
    draws of N(0, I) in 16 dimensions measure 0.087 against N(0, I), their bootstrap values are
    0.171 on average, and none is as low as the measured one. Instead, repeat the measurement over
    disjoint seed ranges: `summarise_repeats`, `mean_estimate`. All repeats share the bias of their
    n; `fid_infinity` extrapolates it away.
Kernel distance. Unbiased at every n and a mean over pairs, so the jackknife holds:
`kernel_distance_estimate`. Precision, recall, density, coverage. No bootstrap either: a repeated
point has a neighbour at distance 0, so the radii of
    the manifold collapse. `NeighbourIndicators.estimates` holds the manifolds fixed and takes each
    sample's indicator as the draw. Such an interval is conditional: precision and density vary over
    generated images given the reference manifold, recall and coverage over reference images given
    the manifolds. It leaves out that the manifolds vary too: between normal samples of 500 in 8
    dimensions these standard errors are 0.6 to 0.9 of the sd over fresh samples.
Authenticity, memorised. Given the training images they are a share and a Mann-Whitney statistic:
    `proportion_estimate`, `mann_whitney_estimate`.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch

from dg.evaluation.feature_matrices import matrix, pair, row_blocks
from dg.evaluation.metrics import frechet_distance, polynomial_kernel, statistics
from dg.evaluation.significance import mean_interval

Z95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Estimate:
    """A value, its standard error (the sd of the value, were it measured again) and its 95%
    interval."""

    value: float
    standard_error: float
    low: float
    high: float


@dataclass(frozen=True)
class KernelDistanceEstimate(Estimate):
    """Kernel distance; `generated` and `reference` are the shares of the standard error, which add
    up in squares.

    Two generators measured against one reference set differ by their `generated` shares only,
    nearly.
    """

    generated: float
    reference: float


@dataclass(frozen=True)
class FidInfinity:
    """Line value = intercept + slope / size through Frechet distances of subsets; the intercept is
    the distance at n -> inf.

    standard_error  of the intercept, from the residuals of the line
    """

    sizes: np.ndarray
    values: np.ndarray
    intercept: float
    slope: float
    standard_error: float

    @property
    def estimate(self) -> Estimate:
        low, high = mean_interval(self.intercept, self.standard_error, len(self.sizes) - 2)
        return Estimate(self.intercept, self.standard_error, low, high)


def summarise_repeats(values) -> dict:
    """Mean, sd (denominator n - 1; 0 for a single value), n, minimum and values of one measurement
    over disjoint seeds.

    The minimum is the best of n draws and falls with n: published tables that print it compare only
    at equal n.
    """
    values = [float(value) for value in values]
    if not values:
        raise ValueError("there are no values to summarise; give at least one")
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {
        "mean": float(np.mean(values)),
        "sd": sd,
        "n": len(values),
        "min": min(values),
        "values": values,
    }


def summarise(rows: list[dict]) -> dict:
    """`summarise_repeats` of every metric, from one dict of metrics for each repetition."""
    return {name: summarise_repeats([row[name] for row in rows]) for name in rows[0]}


def compare(guided: dict, unguided: dict) -> dict:
    """Two summaries on the same seeds, metric by metric: ratio of the means, and mean and sd of the
    paired differences."""
    table = {}
    for name in guided:
        after, before = (np.array(metrics[name]["values"]) for metrics in (guided, unguided))
        sd = float((after - before).std(ddof=1)) if len(after) > 1 else 0.0
        ratio = float(after.mean() / before.mean()) if before.mean() else float("nan")
        table[name] = {"ratio": ratio, "difference": float((after - before).mean()), "sd": sd}
    return table


def mean_estimate(values) -> Estimate:
    """Mean of independent values [n], n at least 2, with Student's t interval."""
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) < 2:
        raise ValueError(f"values have the shape {list(x.shape)}; give a list of at least 2")
    standard_error = float(x.std(ddof=1) / np.sqrt(len(x)))
    return Estimate(
        float(x.mean()), standard_error, *mean_interval(x.mean(), standard_error, len(x) - 1)
    )


def proportion_estimate(indicators) -> Estimate:
    """Share of ones among independent indicators [n], with Wilson's interval, which holds at shares
    of 0 and 1 as well."""
    x = np.asarray(indicators, dtype=np.float64)
    if x.ndim != 1 or not len(x):
        raise ValueError(f"indicators have the shape {list(x.shape)}; give a list")
    n, share = len(x), float(x.mean())
    return Estimate(share, float(np.sqrt(share * (1 - share) / n)), *_wilson(share, n))


def mann_whitney_estimate(values, values_ref) -> Estimate:
    """Probability that a random one of `values` [N] is smaller than a random one of `values_ref`
    [M], ties half.

    The standard error takes both sets as independent draws (DeLong et al. 1988). The interval is
    Wilson's for as many independent pairs as give that standard error; at 0 and 1, where it
    vanishes, for as many as the smaller set has. ValueError for fewer than 2 values.
    """
    x, y = (np.sort(np.asarray(a, dtype=np.float64)) for a in (values, values_ref))
    if x.ndim != 1 or y.ndim != 1 or min(len(x), len(y)) < 2:
        raise ValueError(
            f"values have the shapes {list(x.shape)} and {list(y.shape)}; give two lists of "
            "at least 2"
        )
    below_x, below_y = _twice_below(y, x), _twice_below(x, y)  # [N], [M]
    value = float(below_y.sum() / (2 * len(x) * len(y)))
    variances = (below_x / (2 * len(y))).var(ddof=1), (below_y / (2 * len(x))).var(ddof=1)
    variance = float(variances[0] / len(x) + variances[1] / len(y))
    if 0 < value < 1:
        pairs = value * (1 - value) / variance if variance else np.inf
    else:
        pairs = min(len(x), len(y))
    return Estimate(value, float(np.sqrt(variance)), *_wilson(value, pairs))


def _twice_below(values, points):
    """Twice the number of the sorted `values` below each of the points, ties half."""
    return sum(np.searchsorted(values, points, side) for side in ("left", "right"))


def _wilson(share, n):
    """Wilson's 95% interval of a share of n independent draws."""
    middle = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    reach = Z95 / (1 + Z95**2 / n) * np.sqrt(share * (1 - share) / n + (Z95 / (2 * n)) ** 2)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def kernel_distance_estimate(
    features, features_ref, part_size=5000, seed=0
) -> KernelDistanceEstimate:
    """Kernel distance (KID) of all the features, with its jackknife standard error.

    features      [N, D]  generated
    features_ref  [M, D]  reference
    part_size     sets beyond this size, shuffled by `seed`, are cut into equally many disjoint
                  parts, and the value is the mean over the parts: every image counts once, and time
                  grows like part_size * (N + M) * D

    Leaving out one image at a time costs nothing beyond the row sums of the kernel matrices
    (two-sample jackknife of a U-statistic, Arvesen 1969). Where the two sets have the same
    distribution the standard error is too large, by up to sqrt(2), and an interval errs on the safe
    side. ValueError for fewer than 3 images, or parts of fewer than 3.
    """
    x, y = pair(features, features_ref, at_least=3)
    if part_size < 3:
        raise ValueError(f"part_size is {part_size}; give at least 3")
    num_parts = -(-max(len(x), len(y)) // part_size)
    if min(len(x), len(y)) < 3 * num_parts:
        raise ValueError(
            f"{len(x)} generated and {len(y)} reference features do not make {num_parts} "
            "parts of at least 3; raise part_size"
        )
    rng = np.random.default_rng(seed)
    parts = zip(_parts(x, num_parts, rng), _parts(y, num_parts, rng), strict=True)
    values, variances_x, variances_y = np.transpose([_jackknife_mmd2(*part) for part in parts])
    value = float(values.mean())
    generated, reference = (float(np.sqrt(v.sum()) / num_parts) for v in (variances_x, variances_y))
    error = float(np.hypot(generated, reference))
    return KernelDistanceEstimate(
        value, error, value - Z95 * error, value + Z95 * error, generated, reference
    )


def fid_infinity(features, mu_ref, sigma_ref, num_points=15, seed=0) -> FidInfinity:
    """Frechet distance extrapolated to infinitely many generated images.

    features   [N, D]  generated, N at least 4 D
    mu_ref     [D]     reference statistics; sigma_ref [D, D]
    num_points         sizes from max(N / 10, 2 D) to N, each with a subset of its own, drawn
                       without replacement

    Chong & Forsyth 2020, Effectively Unbiased FID: at large n the bias is proportional to 1/n, so
    the least-squares line in 1/n is read off at 0. Fewer than 2 D images have (nearly) singular
    covariances, where that does not hold yet. The bias of the reference statistics remains. The
    standard error is that of the line through this set of images, whose subsets overlap; over fresh
    sets of images the intercept varies by about twice as much. ValueError for too few images or
    points.
    """
    x = matrix(features, "generated features")
    count, dim = x.shape
    if num_points < 3:
        raise ValueError(f"num_points is {num_points}; give at least 3")
    if count < 4 * dim:
        raise ValueError(
            f"{count} images; FID-infinity of {dim}-dimensional features needs at least {4 * dim}"
        )
    rng = np.random.default_rng(seed)
    sizes = np.linspace(max(count // 10, 2 * dim), count, num_points).astype(int)
    subsets = (x[torch.from_numpy(rng.permutation(count)[:size]).to(x.device)] for size in sizes)
    values = np.array(
        [frechet_distance(*statistics(subset), mu_ref, sigma_ref) for subset in subsets]
    )
    inverse = 1 / sizes
    centered = inverse - inverse.mean()
    slope = centered @ values / (centered @ centered)
    intercept = values.mean() - slope * inverse.mean()
    residuals = values - intercept - slope * inverse
    variance = residuals @ residuals / (num_points - 2)
    error = np.sqrt(variance * (1 / num_points + inverse.mean() ** 2 / (centered @ centered)))
    return FidInfinity(sizes, values, float(intercept), float(slope), float(error))


# Jackknife ----------------------------------------------------------------------------------------


def _parts(x, num_parts, rng):
    """Disjoint parts of x in float64, nearly equal in size."""
    order = torch.from_numpy(rng.permutation(len(x))).to(x.device)
    return (x[rows].double() for rows in order.tensor_split(num_parts))


def _jackknife_mmd2(x, y):
    """Unbiased squared MMD of x [m, D] and y [n, D], and its jackknife variances over x and over
    y."""
    m, n = len(x), len(y)
    # less the diagonal
    rows_x, rows_y = (_kernel_sums(a, a)[0] - (a.square().mean(1) + 1) ** 3 for a in (x, y))
    cross_x, cross_y = _kernel_sums(x, y)
    within_x, within_y, between = (
        rows_x.sum() / (m * (m - 1)),
        rows_y.sum() / (n * (n - 1)),
        cross_x.sum() / (m * n),
    )

    def variance(rows, cross, size, other):
        # A sum over pairs loses twice the row of the image that is left out, a sum across the sets
        # loses its row.
        without = (rows.sum() - 2 * rows) / ((size - 1) * (size - 2)) - 2 * (
            cross.sum() - cross
        ) / ((size - 1) * other)
        return (size - 1) * without.var(correction=0).item()

    value = within_x + within_y - 2 * between
    return value.item(), variance(rows_x, cross_x, m, n), variance(rows_y, cross_y, n, m)


def _kernel_sums(x, y):
    """Row sums [m] and column sums [n] of the kernel matrix of x [m, D] and y [n, D]."""
    row_sums, column_sums = [], torch.zeros_like(y[:, 0])
    for rows in row_blocks(x, len(y)):
        kernel = polynomial_kernel(x[rows], y)
        row_sums.append(kernel.sum(1))
        column_sums += kernel.sum(0)
    return torch.cat(row_sums), column_sums
