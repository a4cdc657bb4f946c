"""VP time against reference vectors computed with the authors' code."""

import numpy as np
import pytest
import torch

from dg import vp
from tests import golden_fill

ARRAYS, _ = golden_fill.load("c_vpsde")


def tensor(name):
    return torch.from_numpy(ARRAYS[name])


def test_maps_in_float64():
    tau, scale = vp.from_sigma(tensor("sigma"))
    for actual, name in ((tau, "tau"), (scale, "mean_vp"), (vp.std(tau), "std_vp")):
        # log1p is the more accurate side
        np.testing.assert_allclose(actual, ARRAYS[f"{name}_f64"], rtol=1e-9)
    t = tensor("t_grid")
    for actual, name in (
        (vp.mean(t), "marginal_mean"),
        (vp.std(t), "marginal_std"),
        (vp.cosine_time(t), "t_cos"),
        (vp.integral_beta(t), "integral_beta"),
        (vp.importance_antiderivative(t), "antiderivative"),
    ):
        np.testing.assert_allclose(actual, ARRAYS[f"{name}_f64"], rtol=1e-9, atol=1e-12)


def test_sigma_and_time_are_inverse():
    sigma = torch.logspace(-3, 2, 50, dtype=torch.float64)
    tau, scale = vp.from_sigma(sigma)
    torch.testing.assert_close(vp.to_sigma(tau), sigma, rtol=1e-9, atol=0)
    torch.testing.assert_close(vp.mean(tau), scale, rtol=1e-12, atol=0)
    assert vp.from_sigma(torch.tensor(80.0, dtype=torch.float64))[0].item() == pytest.approx(
        0.9335, abs=1e-4
    )


@pytest.mark.parametrize("tau_min", ["1e-5", "1e-3", "1e-2"])
def test_importance_sampled_times(tau_min):
    u, expected = tensor("u"), ARRAYS[f"difftime_t_min_{tau_min}"]
    times, normalizer = vp.importance_time(u, float(tau_min))
    np.testing.assert_allclose(times, expected, rtol=2e-6)  # the same float32 operations
    key = next(k for k in ARRAYS.files if k.startswith("difftime_Z") and k.endswith(tau_min))
    assert float(normalizer) == pytest.approx(float(ARRAYS[key]), rel=1e-6)
    exact, _ = vp.importance_time(u.double(), float(tau_min))
    assert np.abs(exact.numpy() - expected).max() < 5e-4  # what float32 costs


def test_importance_density():
    """The histogram of the times is beta / std^2, normalised."""
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    times, normalizer = vp.importance_time(u, 0.01)
    counts, edges = np.histogram(times, bins=40)
    middle = torch.from_numpy((edges[1:] + edges[:-1]) / 2)
    density = (vp.BETA_MIN + vp.SLOPE * middle) / vp.std(middle) ** 2 / normalizer
    np.testing.assert_allclose(counts[1:] / 200_000 / np.diff(edges)[1:], density[1:], rtol=0.05)


def test_uniform_times():
    np.testing.assert_allclose(
        vp.uniform_time(tensor("u"), 1e-5).min(), ARRAYS["u"].min() * (1 - 1e-5) + 1e-5, rtol=1e-5
    )
    key = next(k for k in ARRAYS.files if k.startswith("difftime_uniform") and k.endswith("1e-5"))
    np.testing.assert_allclose(vp.uniform_time(tensor("u"), 1e-5), ARRAYS[key], rtol=1e-6)
