"""Distances between two sets of image features: Frechet distance, kernel distance, precision and recall.

Every function takes the generated set first and the reference (real) set second. Features are [N, D] arrays or tensors
of any float type; all arithmetic is float64, on the device of the generated features.
"""

import numpy as np
import scipy.linalg
import torch

# Largest block of a distance matrix that is held at once, in float64 elements (128 MiB).
BLOCK_ELEMENTS = 2**24


class FeatureStatistics:
    """Mean and covariance of features that arrive in batches, in memory O(D^2) however many arrive.

    num_x      number of features so far
    sum        [D]     float64, sum of the features
    outer      [D, D]  float64, sum of their outer products

    The three are plain sums: those of several processes add up to those of all the data.
    """

    def __init__(self):
        self.num_x = 0
        self.sum = None
        self.outer = None

    def update(self, features):
        """Count features [N, D]. ValueError for another width than before, or for NaN and infinite values."""
        x = _matrix(features, "features")
        if self.sum is None:
            self.sum = x.new_zeros(x.shape[1])
            self.outer = x.new_zeros(x.shape[1], x.shape[1])
        if x.shape[1] != len(self.sum):
            raise ValueError(f"features have {x.shape[1]} dimensions, the ones before had {len(self.sum)}")
        x = x.to(self.sum.device)
        self.num_x += len(x)
        self.sum += x.sum(0)
        self.outer += x.T @ x
        return self

    @property
    def mu(self):
        """Mean, float64 numpy [D]."""
        self._require(1)
        return (self.sum / self.num_x).cpu().numpy()

    @property
    def sigma(self):
        """Covariance with denominator N - 1, float64 numpy [D, D]."""
        self._require(2)
        mu = self.sum / self.num_x
        return ((self.outer - self.num_x * torch.outer(mu, mu)) / (self.num_x - 1)).cpu().numpy()

    def _require(self, count):
        if self.num_x < count:
            raise ValueError(f"statistics need at least {count} features, got {self.num_x}")


def statistics(features):
    """Mean [D] and covariance [D, D] (denominator N - 1) of features [N, D], both float64 numpy."""
    accumulated = FeatureStatistics().update(features)
    return accumulated.mu, accumulated.sigma


def frechet_distance(mu, sigma, mu_ref, sigma_ref):
    """Frechet distance |mu - mu_ref|^2 + Tr(sigma + sigma_ref - 2 (sigma sigma_ref)^(1/2)) of two Gaussians.

    mu, mu_ref        [D]     means, of the generated and of the reference features
    sigma, sigma_ref  [D, D]  covariances, singular ones included
    returns           float   0 for equal arguments up to rounding, which may leave it slightly negative

    Heusel et al. 2017 (FID). ValueError for shapes that do not match and for arrays that are no mean or covariance.
    """
    mu, sigma = _moments(mu, sigma, "generated")
    mu_ref, sigma_ref = _moments(mu_ref, sigma_ref, "reference")
    if len(mu) != len(mu_ref):
        raise ValueError(f"generated statistics have {len(mu)} dimensions, reference statistics {len(mu_ref)}")
    # With factors sigma = A A^T, sigma_ref = B B^T the eigenvalues of sigma sigma_ref are the squared singular values
    # of A^T B, so the trace of the root is their sum. Singular values carry an error of eps; eigenvalues of the product
    # carry the same error but are rooted afterwards, which leaves sqrt(eps) for each singular direction (and takes
    # complex arithmetic, because the product is not symmetric).
    trace_root = scipy.linalg.svdvals(_factor(sigma).T @ _factor(sigma_ref)).sum()
    difference = mu - mu_ref
    return float(difference @ difference + np.trace(sigma) + np.trace(sigma_ref) - 2 * trace_root)


def kernel_distance(features, features_ref, num_subsets=100, subset_size=1000, seed=0):
    """Kernel distance (KID): squared MMD under the polynomial kernel (x.y / D + 1)^3, unbiased, so it may be negative.

    features      [N, D]  generated
    features_ref  [M, D]  reference
    returns       float   mean of `kernel_distance_subsets`, which also tells the spread

    Binkowski et al. 2018, Demystifying MMD GANs. ValueError for fewer than 2 features or unequal dimensions.
    """
    return float(kernel_distance_subsets(features, features_ref, num_subsets, subset_size, seed).mean())


def kernel_distance_subsets(features, features_ref, num_subsets=100, subset_size=1000, seed=0):
    """The estimates that `kernel_distance` averages, one per pair of random subsets, float64 numpy [num_subsets].

    A set no larger than `subset_size` is used whole; if both are, there is a single estimate, from all the data. Each
    estimate is unbiased. Their standard deviation is that of one subset's estimate (what papers print behind KID), not
    the standard error of the mean: the subsets overlap.
    """
    x, y = _pair(features, features_ref)
    _require_samples(x, y, 2)
    if num_subsets < 1 or subset_size < 2:
        raise ValueError(f"need num_subsets >= 1 and subset_size >= 2, got {num_subsets} and {subset_size}")
    if max(len(x), len(y)) <= subset_size:
        num_subsets = 1
    rng = np.random.default_rng(seed)
    return np.array([_mmd2(_subset(x, subset_size, rng), _subset(y, subset_size, rng)) for _ in range(num_subsets)])


def precision_recall(features, features_ref, k=3):
    """Fraction of generated features inside the real manifold, and of real features inside the generated manifold.

    features      [N, D]  generated
    features_ref  [M, D]  reference
    k             a set's manifold is the union of balls around its points, each reaching to the k-th nearest neighbour
    returns       (precision, recall), floats in [0, 1]

    Kynkaanniemi et al. 2019, Improved Precision and Recall Metric, Eqs. 1-2. Both depend on N and M: compare only at
    equal counts. Memory is bounded, time grows like (N + M)^2 D. ValueError unless both sets have more than k points.
    """
    x, y = _pair(features, features_ref)
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    _require_samples(x, y, k + 1)
    center = y.mean(0)                            # distances stay, rounding of |x|^2 - 2 x.y + |y|^2 shrinks
    x, y = x - center, y - center
    radius_x, radius_y = _radius2(x, k), _radius2(y, k)
    inside_y, inside_x = [], torch.zeros(len(y), dtype=torch.bool, device=y.device)
    for rows, distance2 in _distance2_blocks(x, y):
        inside_y.append((distance2 <= radius_y).any(1))
        inside_x |= (distance2 <= radius_x[rows, None]).any(0)
    return torch.cat(inside_y).double().mean().item(), inside_x.double().mean().item()


# Frechet distance -----------------------------------------------------------------------------------------------------

def _moments(mu, sigma, name):
    mu, sigma = np.asarray(mu, dtype=np.float64), np.asarray(sigma, dtype=np.float64)
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
        raise ValueError(f"{name} statistics need mu [D] and sigma [D, D], got {mu.shape} and {sigma.shape}")
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise ValueError(f"{name} statistics hold NaN or infinite values")
    if not np.allclose(sigma, sigma.T, rtol=1e-4, atol=1e-6 * np.abs(sigma).max(initial=0)):
        raise ValueError(f"{name} sigma is no covariance matrix: it is not symmetric")
    return mu, (sigma + sigma.T) / 2


def _factor(sigma):
    """A [D, rank] with A A^T = sigma. Directions whose variance is below the error of the eigenvalues are left out."""
    values, vectors = scipy.linalg.eigh(sigma)
    kept = values > len(sigma) * np.finfo(np.float64).eps * np.abs(values).max(initial=0)
    return vectors[:, kept] * np.sqrt(values[kept])


# Kernel distance ------------------------------------------------------------------------------------------------------

def _subset(x, size, rng):
    return x if len(x) <= size else x[torch.from_numpy(rng.choice(len(x), size, replace=False)).to(x.device)]


def _mmd2(x, y):
    """Unbiased estimate of the squared MMD from x [m, D] and y [n, D]: no point is compared with itself."""
    kernel_xx, kernel_yy, kernel_xy = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    m, n = len(x), len(y)
    within_x = (kernel_xx.sum() - kernel_xx.trace()) / (m * (m - 1))
    within_y = (kernel_yy.sum() - kernel_yy.trace()) / (n * (n - 1))
    return (within_x + within_y - 2 * kernel_xy.mean()).item()


# Precision and recall -------------------------------------------------------------------------------------------------

def _distance2_blocks(x, y):
    """Yield (slice of rows of x, squared distances [rows, len(y)]), a bounded block at a time."""
    norm_x, norm_y = (x * x).sum(1), (y * y).sum(1)
    size = max(1, BLOCK_ELEMENTS // len(y))
    for start in range(0, len(x), size):
        rows = slice(start, start + size)
        product = x[rows] @ y.T                   # [rows, M]
        yield rows, product.mul_(-2).add_(norm_x[rows, None]).add_(norm_y).clamp_(min=0)


def _radius2(x, k):
    """Squared distance of each point of x [N, D] to its k-th nearest neighbour, [N]; the nearest of all is itself."""
    return torch.cat([block.kthvalue(k + 1, dim=1).values for _, block in _distance2_blocks(x, x)])


# Input ----------------------------------------------------------------------------------------------------------------

def _matrix(features, name):
    """Float64 tensor [N, D], on the features' own device where that can do float64."""
    if isinstance(features, torch.Tensor):
        x = features.detach()
        x = (x.cpu() if x.device.type == "mps" else x).double()
    else:
        x = torch.from_numpy(np.array(features, dtype=np.float64))
    if x.ndim != 2:
        raise ValueError(f"{name} must be [N, D], got shape {list(x.shape)}")
    broken = int((~torch.isfinite(x)).any(1).sum())
    if broken:
        raise ValueError(f"{name} hold NaN or infinite values in {broken} of {len(x)} rows")
    return x


def _pair(features, features_ref):
    x, y = _matrix(features, "generated features"), _matrix(features_ref, "reference features")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"generated features have {x.shape[1]} dimensions, reference features {y.shape[1]}")
    return x, y.to(x.device)


def _require_samples(x, y, count):
    if min(len(x), len(y)) < count:
        raise ValueError(f"need at least {count} generated and {count} reference features, got {len(x)} and {len(y)}")
