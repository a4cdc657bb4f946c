"""Distances between two sets of image features: Frechet distance and kernel distance; and the
inception score of one set.

Every function takes the generated set first and the reference (real) set second. Features are [N,
D] arrays or tensors of any float type; all arithmetic is float64, on the device of the generated
features.
"""

from itertools import pairwise

import numpy as np
import scipy.linalg
import torch

from dg.evaluation.feature_matrices import float64_blocks, matrix, pair

ROUNDING = 1e-6  # of a covariance's norm: what rounding to float32 makes of its zero variances


class FeatureStatistics:
    """Mean and covariance of features that arrive in batches, in memory O(D^2) however many arrive.

    num_x    number of features so far
    mean     [D]     float64
    scatter  [D, D]  float64, sum of the outer products of the features less their mean

    Centred sums keep their digits where the mean is far larger than the spread; plain sums of outer
    products lose as many as (mean / sd)^2 has. Several parts, also of other processes, join by
    `merge` (Chan, Golub, LeVeque 1979).
    """

    def __init__(self):
        self.num_x = 0
        self.mean = None
        self.scatter = None

    def update(self, features):
        """Count features [N, D]. ValueError for another width than before, or for NaN and infinite
        values."""
        for x in float64_blocks(self._fitting(matrix(features))):
            mean = x.mean(0)
            x -= mean
            self._join(len(x), mean)
            self.scatter.addmm_(x.T, x)
        return self

    def merge(self, other):
        """Count all that `other` has counted."""
        if other.num_x:
            self._join(other.num_x, self._fitting(other.mean[None])[0].to(torch.float64, copy=True))
            self.scatter += other.scatter.to(self.scatter.device)
        return self

    @property
    def mu(self):
        """Mean, float64 numpy [D]."""
        self._require(1)
        return self.mean.cpu().numpy().copy()

    @property
    def sigma(self):
        """Covariance with denominator N - 1, float64 numpy [D, D]."""
        self._require(2)
        return (self.scatter / (self.num_x - 1)).cpu().numpy()

    def _fitting(self, x):
        """x [N, D] on the device of the sums, which start with the first x."""
        if self.mean is None:
            self.mean = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
            self.scatter = self.mean.new_zeros(x.shape[1], x.shape[1])
        if x.shape[1] != len(self.mean):
            raise ValueError(
                f"features have {x.shape[1]} dimensions, the ones before {len(self.mean)}; "
                "give features of one extractor"
            )
        return x.to(self.mean.device)

    def _join(self, count, mean):
        """Count `count` features that all equal `mean` [D], which is overwritten; their own scatter
        is for the caller."""
        shift = mean.sub_(self.mean)
        self.scatter.addr_(shift, shift, alpha=self.num_x * count / (self.num_x + count))
        self.num_x += count
        self.mean += shift * (count / self.num_x)

    def _require(self, count):
        if self.num_x < count:
            raise ValueError(f"{self.num_x} features; give at least {count}")


def statistics(features):
    """Mean [D] and covariance [D, D] (denominator N - 1) of features [N, D], both float64 numpy."""
    accumulated = FeatureStatistics().update(features)
    return accumulated.mu, accumulated.sigma


def frechet_distance(mu, sigma, mu_ref, sigma_ref):
    """Frechet distance |mu - mu_ref|^2 + Tr(sigma + sigma_ref - 2 (sigma sigma_ref)^(1/2)) of two
    Gaussians.

    mu, mu_ref        [D]     means, of the generated and of the reference features
    sigma, sigma_ref  [D, D]  covariances, singular ones included
    returns           float   0 for equal arguments up to rounding, which may leave it slightly
                              negative

    Heusel et al. 2017 (FID). ValueError for shapes that do not match and for arrays that are no
    mean or covariance.
    """
    mu, sigma = _moments(mu, sigma, "generated")
    mu_ref, sigma_ref = _moments(mu_ref, sigma_ref, "reference")
    if len(mu) != len(mu_ref):
        raise ValueError(
            f"generated statistics have {len(mu)} dimensions, reference statistics "
            f"{len(mu_ref)}; give statistics of one extractor"
        )
    # With factors sigma = A A^T, sigma_ref = B B^T the eigenvalues of sigma sigma_ref are the
    # squared singular values of A^T B, so the trace of the root is their sum. Singular values carry
    # an error of eps; eigenvalues of the product carry the same error but are rooted afterwards,
    # which leaves sqrt(eps) for each singular direction (and takes complex arithmetic, because the
    # product is not symmetric).
    trace_root = scipy.linalg.svdvals(_factor(sigma).T @ _factor(sigma_ref)).sum()
    difference = mu - mu_ref
    return float(difference @ difference + np.trace(sigma) + np.trace(sigma_ref) - 2 * trace_root)


def feature_distance(features, features_ref) -> float:
    """Fréchet distance of features [N, D] to features_ref [M, D]."""
    return frechet_distance(*statistics(features), *statistics(features_ref))


def polynomial_kernel(x, y):
    """Kernel matrix (x.y / D + 1)^3, [N, M], of float64 x [N, D] and y [M, D]; the kernel of
    KID."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def kernel_distance(features, features_ref, num_subsets=100, subset_size=1000, seed=0):
    """Kernel distance (KID): squared MMD under the polynomial kernel (x.y / D + 1)^3, unbiased, so
    it may be negative.

    features      [N, D]  generated
    features_ref  [M, D]  reference
    returns       float   mean of `kernel_distance_subsets`, which also tells the spread

    Binkowski et al. 2018, Demystifying MMD GANs. ValueError for fewer than 2 features or unequal
    dimensions.
    """
    return float(
        kernel_distance_subsets(features, features_ref, num_subsets, subset_size, seed).mean()
    )


def kernel_distance_subsets(features, features_ref, num_subsets=100, subset_size=1000, seed=0):
    """The estimates that `kernel_distance` averages, one per pair of random subsets, float64 numpy
    [num_subsets].

    A set no larger than `subset_size` is used whole; if both are, there is a single estimate, from
    all the data. Each estimate is unbiased. Their standard deviation is that of one subset's
    estimate (what papers print behind KID), not the standard error of the mean: the subsets
    overlap. `dg.evaluation.kernel_distance_estimate` has a standard error.
    """
    x, y = pair(features, features_ref, at_least=2)
    if num_subsets < 1 or subset_size < 2:
        raise ValueError(
            f"num_subsets is {num_subsets} and subset_size {subset_size}; give at least 1 and 2"
        )
    if max(len(x), len(y)) <= subset_size:
        num_subsets = 1
    rng = np.random.default_rng(seed)
    return np.array(
        [
            _mmd2(_subset(x, subset_size, rng), _subset(y, subset_size, rng))
            for _ in range(num_subsets)
        ]
    )


def inception_score(logits, splits=10, seed=0):
    """Inception score exp(E KL(p(class | image) || p(class))): mean and sd (denominator `splits`)
    over the splits.

    logits   [N, K]  before the softmax; logarithms of probabilities are as good
    splits           the images, shuffled by `seed`, are cut into so many sets, and p(class) is the
                     mean over one set
    returns          (mean, sd), floats; the mean is from 1 to K

    Salimans et al. 2016, Improved Techniques for Training GANs, section 4. It knows no reference
    images, and it grows with the number of images in a split: compare only at equal N and splits.
    ValueError for fewer images than splits.
    """
    x = matrix(logits, "logits")
    if not 1 <= splits <= len(x):
        raise ValueError(f"{len(x)} images cannot be cut into {splits} splits; give fewer splits")
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(x))).to(x.device)
    bounds = [index * len(x) // splits for index in range(splits + 1)]
    scores = [
        _class_information(x[order[start:stop]]).exp().item() for start, stop in pairwise(bounds)
    ]
    return float(np.mean(scores)), float(np.std(scores))


# Frechet distance ---------------------------------------------------------------------------------


def _moments(mu, sigma, name):
    mu, sigma = np.asarray(mu, dtype=np.float64), np.asarray(sigma, dtype=np.float64)
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
        raise ValueError(
            f"{name} statistics are mu {mu.shape} and sigma {sigma.shape}; give [D] and [D, D]"
        )
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise ValueError(f"{name} statistics hold NaN or infinite values; make them again")
    if fault := covariance_fault(sigma):
        raise ValueError(
            f"{name} sigma is no covariance matrix: {fault}; make the statistics again"
        )
    return mu, (sigma + sigma.T) / 2


def covariance_fault(sigma) -> str:
    """Why a finite matrix [D, D] is no covariance, beyond rounding to float32; nothing where it is
    one."""
    if not np.allclose(sigma, sigma.T, rtol=1e-4, atol=1e-6 * np.abs(sigma).max(initial=0)):
        return "it is not symmetric"
    with np.errstate(over="ignore"):
        slack = ROUNDING * np.linalg.norm(sigma) + np.finfo(np.float64).tiny
    if not np.isfinite(slack):
        return "its values are beyond computing"
    try:
        np.linalg.cholesky(sigma + slack * np.eye(len(sigma)))
    except np.linalg.LinAlgError:
        return "it has negative variances"
    return ""


def _factor(sigma):
    """A [D, rank] with A A^T = sigma. Directions whose variance is below the error of the
    eigenvalues are left out."""
    values, vectors = scipy.linalg.eigh(sigma)
    kept = values > len(sigma) * np.finfo(np.float64).eps * np.abs(values).max(initial=0)
    return vectors[:, kept] * np.sqrt(values[kept])


# Kernel distance and inception score --------------------------------------------------------------


def _subset(x, size, rng):
    """`size` rows of x in float64, without replacement; all rows if there are no more."""
    chosen = (
        x
        if len(x) <= size
        else x[torch.from_numpy(rng.choice(len(x), size, replace=False)).to(x.device)]
    )
    return chosen.double()


def _mmd2(x, y):
    """Unbiased estimate of the squared MMD from x [m, D] and y [n, D]: no point is compared with
    itself."""
    kernel_xx, kernel_yy, kernel_xy = (polynomial_kernel(a, b) for a, b in ((x, x), (y, y), (x, y)))
    m, n = len(x), len(y)
    within_x = (kernel_xx.sum() - kernel_xx.trace()) / (m * (m - 1))
    within_y = (kernel_yy.sum() - kernel_yy.trace()) / (n * (n - 1))
    return (within_x + within_y - 2 * kernel_xy.mean()).item()


def _class_information(logits):
    """Mean KL divergence of p(class | image) from its mean over the images, in nats: H(mean p) -
    mean H(p)."""
    log_p = logits.double().log_softmax(1)
    p = log_p.exp()
    mean_p = p.mean(0)
    return (p * log_p).sum(1).mean() - torch.special.xlogy(
        mean_p, mean_p
    ).sum()  # a class that nobody has adds 0
