import numpy as np
import pytest
import torch

from dg.evaluation import metrics
from dg.evaluation.metrics import (
    FeatureStatistics,
    frechet_distance,
    kernel_distance,
    kernel_distance_subsets,
    precision_recall,
    statistics,
)
from tests.golden_fill import load


def gaussian(seed, n=200, dim=6, mean=0.0, scale=1.0):
    return mean + scale * np.random.default_rng(seed).standard_normal((n, dim))


# Reference vectors were computed with the code published with the papers.

@pytest.mark.parametrize("dim", [64, 256])
@pytest.mark.parametrize("case", ["regular", "decay", "nearsingular", "both_singular"])
def test_frechet_distance_equals_reference_vectors(dim, case):
    golden, _ = load("g_fid")

    def moments(suffix):
        mu = golden[f"d{dim}_{case}:mu{suffix}"]
        if f"d{dim}_{case}:sigma{suffix}" in golden:
            return mu, golden[f"d{dim}_{case}:sigma{suffix}"]
        return mu, np.cov(golden[f"d{dim}_{case}:features{suffix}"].astype(np.float64), rowvar=False)

    got = frechet_distance(*moments(""), *moments("_ref"))
    singular = "singular" in case
    assert got == pytest.approx(float(golden[f"d{dim}_{case}:fid"]), rel=1e-5 if singular else 1e-6)
    assert got == pytest.approx(float(golden[f"d{dim}_{case}:fid_eigen"]), rel=1e-7)
    for suffix in ("", "_ref"):
        assert abs(frechet_distance(*moments(suffix), *moments(suffix))) < 1e-6


def test_streaming_statistics_equal_reference_vectors():
    golden, _ = load("g_fid")
    features = golden["acc:features"]
    streamed = FeatureStatistics()
    for start in range(0, len(features), 64):
        streamed.update(torch.from_numpy(features[start : start + 64]))
    mu, sigma = statistics(features)
    assert streamed.num_x == len(features)
    for got in ((streamed.mu, streamed.sigma), (mu, sigma)):
        assert np.abs(got[0] - golden["acc:mu"]).max() < 1e-12
        assert np.abs(got[1] - golden["acc:sigma"]).max() < 1e-12
    assert np.abs(sigma - np.cov(features.astype(np.float64), rowvar=False)).max() < 1e-12


def test_statistics_of_processes_add_up():
    features = gaussian(0)
    whole, left, right = (FeatureStatistics().update(part) for part in (features, features[:70], features[70:]))
    left.num_x, left.sum, left.outer = left.num_x + right.num_x, left.sum + right.sum, left.outer + right.outer
    assert np.allclose(left.mu, whole.mu, atol=1e-14)
    assert np.allclose(left.sigma, whole.sigma, atol=1e-14)


def test_frechet_distance_of_known_gaussians():
    root = gaussian(1, 8, 8)
    sigma, shift = root @ root.T, gaussian(2, 1, 8)[0]
    assert frechet_distance(shift, sigma, np.zeros(8), sigma) == pytest.approx(shift @ shift, rel=1e-10)
    # Covariances that commute: sum of (s - s_ref)^2 over the standard deviations s.
    s, s_ref = np.array([3, 2, 1, 1, 0, 0, 1e-3, 5]), np.array([1, 2, 0, 2, 1, 0, 1, 4.0])
    basis = np.linalg.qr(root)[0]
    got = frechet_distance(shift, basis * s**2 @ basis.T, shift, basis * s_ref**2 @ basis.T)
    assert got == pytest.approx(((s - s_ref) ** 2).sum(), rel=1e-9)


def test_kernel_distance_is_unbiased():
    draws = [kernel_distance(gaussian(2 * i, 50), gaussian(2 * i + 1, 70)) for i in range(200)]
    assert abs(np.mean(draws)) < 4 * np.std(draws) / np.sqrt(len(draws))
    assert min(draws) < 0 < max(draws)


def test_kernel_distance_equals_the_double_sum():
    x, y = gaussian(0, 5, 3), gaussian(1, 4, 3, mean=1)

    def mean_kernel(a, b, same):
        values = [(p @ q / 3 + 1) ** 3 for i, p in enumerate(a) for j, q in enumerate(b) if not (same and i == j)]
        return np.mean(values)

    expected = mean_kernel(x, x, True) + mean_kernel(y, y, True) - 2 * mean_kernel(x, y, False)
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-12)
    assert isinstance(kernel_distance(x, y), float)


def test_kernel_distance_by_subsets():
    x, y = gaussian(0, 400, mean=0.5), gaussian(1, 300)
    assert kernel_distance_subsets(x, y, 10, 400).shape == (1,)
    values = kernel_distance_subsets(x, y, 50, 100, seed=3)
    assert values.shape == (50,) and values.std() > 0
    assert np.array_equal(values, kernel_distance_subsets(x, y, 50, 100, seed=3))
    assert not np.array_equal(values, kernel_distance_subsets(x, y, 50, 100, seed=4))
    assert values.mean() == pytest.approx(kernel_distance(x, y), abs=4 * values.std() / np.sqrt(50))


def test_precision_comes_first():
    real = gaussian(0, 500)
    narrow, wide = gaussian(1, 500, scale=0.02), gaussian(2, 500, scale=6)
    precision, recall = precision_recall(narrow, real)
    assert precision > 0.97 and recall < 0.02
    precision, recall = precision_recall(wide, real)
    assert precision < 0.1 and recall > 0.9
    assert precision_recall(narrow, real) == precision_recall(real, narrow)[::-1]
    assert precision_recall(real, real) == (1, 1)


def test_precision_recall_equals_the_definition_for_any_block_size(monkeypatch):
    x, y, k = gaussian(0, 40, 3), gaussian(1, 50, 3, mean=0.7), 3

    def inside(points, manifold):
        own = np.linalg.norm(manifold[:, None] - manifold, axis=2)
        radius = np.sort(own, axis=1)[:, k]
        return (np.linalg.norm(points[:, None] - manifold, axis=2) <= radius).any(1).mean()

    for elements in (1, 333, 10**6):
        monkeypatch.setattr(metrics, "BLOCK_ELEMENTS", elements)
        assert precision_recall(x, y, k) == pytest.approx((inside(x, y), inside(y, x)))


def test_order_of_samples_does_not_matter():
    x, y = gaussian(0), gaussian(1, 150, mean=0.3)
    p, q = x[::-1], y[np.random.default_rng(0).permutation(len(y))]
    assert precision_recall(p, q) == precision_recall(x, y)
    assert kernel_distance(p, q) == pytest.approx(kernel_distance(x, y), abs=1e-12)
    assert frechet_distance(*statistics(p), *statistics(q)) == pytest.approx(
        frechet_distance(*statistics(x), *statistics(y)), abs=1e-12)


def test_any_float_type_is_read_and_arguments_stay_unchanged():
    x, y = gaussian(0).astype(np.float16), gaussian(1).astype(np.float16)
    kept = x.copy()
    x.flags.writeable = False
    expected = kernel_distance(x.astype(np.float64), y), precision_recall(x.astype(np.float64), y)
    assert (kernel_distance(x, y), precision_recall(x, y)) == expected
    a, b = torch.tensor(kept, requires_grad=True), torch.from_numpy(y)
    assert (kernel_distance(a, b), precision_recall(a, b)) == expected
    assert np.array_equal(x, kept)


NAN = np.where(np.eye(6) > 0, np.nan, 0.0)


@pytest.mark.parametrize("call, message", [
    (lambda x: FeatureStatistics().mu, "at least 1"),
    (lambda x: statistics(x[:1]), "at least 2 features, got 1"),
    (lambda x: statistics(x[0]), r"must be \[N, D\], got shape \[6\]"),
    (lambda x: statistics(NAN), "NaN or infinite values in 6 of 6 rows"),
    (lambda x: FeatureStatistics().update(x).update(x[:, :5]), "have 5 dimensions, the ones before had 6"),
    (lambda x: kernel_distance(x, x[:, :5]), "generated features have 6 dimensions, reference features 5"),
    (lambda x: kernel_distance(x[:1], x), "at least 2"),
    (lambda x: kernel_distance(NAN, x), "generated features hold NaN"),
    (lambda x: kernel_distance(x, x, subset_size=1), "subset_size"),
    (lambda x: precision_recall(x, x[:, :5]), "reference features 5"),
    (lambda x: precision_recall(x, x[:3]), "at least 4 generated and 4 reference features, got 200 and 3"),
    (lambda x: precision_recall(x, NAN), "reference features hold NaN"),
    (lambda x: precision_recall(x, x, k=0), "k must be at least 1"),
    (lambda x: frechet_distance(np.zeros(6), np.eye(5), np.zeros(5), np.eye(5)), "generated statistics need mu"),
    (lambda x: frechet_distance(np.zeros(6), np.eye(6), np.zeros(5), np.eye(5)), "6 dim.*, reference statistics 5"),
    (lambda x: frechet_distance(np.zeros(6), NAN, np.zeros(6), np.eye(6)), "generated statistics hold NaN"),
    (lambda x: frechet_distance(np.zeros(6), np.triu(np.ones((6, 6))), np.zeros(6), np.eye(6)), "not symmetric"),
])
def test_errors_are_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call(gaussian(0))
    assert "\n" not in str(error.value)
