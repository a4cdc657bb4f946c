import pickle

import numpy as np
import pytest
import scipy.linalg
import torch

import dg.evaluation
from dg.evaluation import feature_matrices as matrices
from dg.evaluation.manifolds import precision_recall
from dg.evaluation.metrics import (
    FeatureStatistics,
    frechet_distance,
    inception_score,
    kernel_distance,
    kernel_distance_subsets,
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
        return mu, np.cov(
            golden[f"d{dim}_{case}:features{suffix}"].astype(np.float64), rowvar=False
        )

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
    features = gaussian(0, mean=3)
    whole, left, right = (
        FeatureStatistics().update(part) for part in (features, features[:70], features[70:])
    )
    left.merge(pickle.loads(pickle.dumps(right))).merge(FeatureStatistics())  # as processes send it
    assert left.num_x == 200
    for got in (left, FeatureStatistics().merge(whole)):
        assert np.allclose(got.mu, whole.mu, rtol=1e-14) and np.allclose(
            got.sigma, whole.sigma, rtol=0, atol=1e-14
        )
    assert right.num_x == 130 and np.array_equal(
        right.mu, FeatureStatistics().update(features[70:]).mu
    )
    left.mu[:] = 0
    assert np.allclose(left.mu, whole.mu, rtol=1e-14)


@pytest.mark.parametrize("elements", [1, 100, 10**6])
def test_statistics_keep_their_digits_where_the_mean_is_far_from_zero(monkeypatch, elements):
    monkeypatch.setattr(matrices, "BLOCK_ELEMENTS", elements)
    features = gaussian(0)
    streamed = FeatureStatistics()
    for start in range(0, 200, 30):
        streamed.update(features[start : start + 30] + 1e6)
    # plain sums are off by 2e-3
    assert np.abs(streamed.sigma - np.cov(features, rowvar=False)).max() < 1e-8
    assert np.abs(streamed.mu - 1e6 - features.mean(0)).max() < 1e-9


def test_frechet_distance_of_known_gaussians():
    root = gaussian(1, 8, 8)
    sigma, shift = root @ root.T, gaussian(2, 1, 8)[0]
    assert frechet_distance(shift, sigma, np.zeros(8), sigma) == pytest.approx(
        shift @ shift, rel=1e-10
    )
    # Covariances that commute: sum of (s - s_ref)^2 over the standard deviations s.
    s, s_ref = np.array([3, 2, 1, 1, 0, 0, 1e-3, 5]), np.array([1, 2, 0, 2, 1, 0, 1, 4.0])
    basis = np.linalg.qr(root)[0]
    got = frechet_distance(shift, basis * s**2 @ basis.T, shift, basis * s_ref**2 @ basis.T)
    assert got == pytest.approx(((s - s_ref) ** 2).sum(), rel=1e-9)


def test_frechet_distance_equals_the_matrix_root():
    x, y = gaussian(0) @ gaussian(5, 6), gaussian(1, 150, mean=0.4)
    (mu, sigma), (mu_ref, sigma_ref) = statistics(x), statistics(y)
    root = scipy.linalg.sqrtm(sigma @ sigma_ref).real
    expected = ((mu - mu_ref) ** 2).sum() + np.trace(sigma + sigma_ref - 2 * root)
    assert frechet_distance(mu, sigma, mu_ref, sigma_ref) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("count", [300, 20])
def test_frechet_distance_of_a_set_to_itself_in_any_order(count):
    x = 10 + 5 * gaussian(0, count, 32)  # 20 features in 32 dimensions have a singular covariance
    shuffled = x[np.random.default_rng(1).permutation(count)]
    assert abs(frechet_distance(*statistics(x), *statistics(x))) < 1e-6
    assert abs(frechet_distance(*statistics(x), *statistics(shuffled))) < 1e-6


def test_metrics_equal_those_of_torch_fidelity():
    from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc

    x, y = (torch.from_numpy(gaussian(seed, 120, 16, mean=0.2 * seed)) for seed in (0, 1))
    theirs = metric_fid.fid_statistics_to_metric(
        *(metric_fid.fid_features_to_statistics(z) for z in (x, y)), verbose=False
    )
    assert frechet_distance(*statistics(x), *statistics(y)) == pytest.approx(
        *theirs.values(), rel=1e-6
    )
    theirs = metric_kid.kid_features_to_metric(
        x, y, kid_subsets=1, kid_subset_size=120, verbose=False
    )
    assert kernel_distance(x, y) == pytest.approx(
        theirs["kernel_inception_distance_mean"], rel=1e-6
    )
    theirs = metric_prc.prc_features_to_metric(x, y, verbose=False)
    assert precision_recall(x, y) == pytest.approx(
        (theirs["precision"], theirs["recall"]), rel=1e-6
    )
    logits, order = 3 * x, np.random.default_rng(7).permutation(120)
    theirs = metric_isc.isc_features_to_metric(logits[order], splits=7, shuffle=False)
    assert inception_score(logits, splits=7, seed=7) == pytest.approx(
        tuple(theirs.values()), rel=1e-6
    )


def test_inception_score_of_known_predictions():
    sure = 1000 * np.eye(4)[np.arange(200) % 4]  # every image certain, four classes equally often
    assert inception_score(sure, splits=1) == pytest.approx((4, 0))
    assert inception_score(sure[::4], splits=5) == pytest.approx((1, 0))  # one class only
    assert inception_score(np.tile(gaussian(0, 1), (50, 1))) == pytest.approx((1, 0))  # all alike
    p = np.array([[0.7, 0.3], [0.2, 0.8]])
    expected = np.exp((p * np.log(p / p.mean(0))).sum(1).mean())
    assert inception_score(np.log(p), splits=1) == pytest.approx((expected, 0), rel=1e-12)
    logits = 3 * gaussian(0)
    assert inception_score(logits) == inception_score(logits) != inception_score(logits, seed=1)
    assert inception_score(logits)[1] > 0


def test_everything_exported_is_there():
    assert all(callable(getattr(dg.evaluation, name)) for name in dg.evaluation.__all__)
    with pytest.raises(AttributeError, match="no attribute 'frechet'"):
        _ = dg.evaluation.frechet


def test_kernel_distance_is_unbiased():
    draws = [kernel_distance(gaussian(2 * i, 50), gaussian(2 * i + 1, 70)) for i in range(200)]
    assert abs(np.mean(draws)) < 3 * np.std(draws) / np.sqrt(len(draws))
    assert min(draws) < 0 < max(draws)


def test_kernel_distance_equals_the_double_sum():
    x, y = gaussian(0, 5, 3), gaussian(1, 4, 3, mean=1)

    def mean_kernel(a, b, same):
        values = [
            (p @ q / 3 + 1) ** 3
            for i, p in enumerate(a)
            for j, q in enumerate(b)
            if not (same and i == j)
        ]
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


def test_order_of_samples_does_not_matter():
    x, y = gaussian(0), gaussian(1, 150, mean=0.3)
    p, q = x[::-1], y[np.random.default_rng(0).permutation(len(y))]
    assert kernel_distance(p, q) == pytest.approx(kernel_distance(x, y), abs=1e-12)
    assert frechet_distance(*statistics(p), *statistics(q)) == pytest.approx(
        frechet_distance(*statistics(x), *statistics(y)), abs=1e-12
    )


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


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x: FeatureStatistics().mu, "at least 1"),
        (lambda x: statistics(x[:1]), "1 features; give at least 2"),
        (lambda x: statistics(x[0]), r"the shape \[6\]; give \[N, D\]"),
        (lambda x: statistics(NAN), "NaN or infinite values in 6 of 6 rows"),
        (
            lambda x: FeatureStatistics().update(x).update(x[:, :5]),
            "have 5 dimensions, the ones before 6",
        ),
        (
            lambda x: kernel_distance(x, x[:, :5]),
            "generated features have 6 dimensions, reference features 5",
        ),
        (lambda x: kernel_distance(x[:1], x), "at least 2"),
        (lambda x: kernel_distance(NAN, x), "generated features hold NaN"),
        (lambda x: kernel_distance(x, x, subset_size=1), "subset_size"),
        (
            lambda x: FeatureStatistics().update(x).merge(FeatureStatistics().update(x[:, :5])),
            "have 5 dimensions",
        ),
        (lambda x: inception_score(x[:9]), "9 images cannot be cut into 10 splits"),
        (lambda x: inception_score(x, splits=0), "into 0 splits"),
        (lambda x: inception_score(NAN), "logits hold NaN"),
        (
            lambda x: frechet_distance(np.zeros(6), np.eye(5), np.zeros(5), np.eye(5)),
            "generated statistics are mu",
        ),
        (
            lambda x: frechet_distance(np.zeros(6), np.eye(6), np.zeros(5), np.eye(5)),
            "6 dim.*, reference statistics 5",
        ),
        (
            lambda x: frechet_distance(np.zeros(6), NAN, np.zeros(6), np.eye(6)),
            "generated statistics hold NaN",
        ),
        (
            lambda x: frechet_distance(
                np.zeros(6), np.triu(np.ones((6, 6))), np.zeros(6), np.eye(6)
            ),
            "not symmetric",
        ),
    ],
)
def test_errors_are_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call(gaussian(0))
    assert "\n" not in str(error.value)
