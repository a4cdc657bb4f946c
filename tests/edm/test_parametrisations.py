"""One score for every parametrisation: what a guidance adds to a prediction, against two known
Gaussians."""

import pytest
import torch

import edm
from edm.parametrisations import coefficients, denoised, noise_level
from tests.dg.test_guidance import DATA, MODEL, guidance
from tests.edm.test_samplers import GaussianDenoiser


def shaped(value):
    return value.reshape(-1, 1, 1, 1)


def predicted(net: GaussianDenoiser, x, scale, std, prediction_type):
    """What a network predicts that knows its Gaussian exactly; scale and std of x = scale x_0 + std
    z."""
    sigma = std / scale
    image = net(x / shaped(scale), sigma)
    noise = (x - shaped(scale) * image) / shaped(std)
    length = (scale**2 + std**2).sqrt()
    return {
        "score": lambda: -(x - shaped(scale) * net.mean) / shaped(scale**2 * net.sd**2 + std**2),
        "denoised": lambda: image,
        "sample": lambda: image,
        "epsilon": lambda: noise,
        "v_prediction": lambda: shaped(scale / length) * noise - shaped(std / length) * image,
        "flow_prediction": lambda: noise - image,
        # (D - c_skip x) / c_out of Karras et al. 2022, table 1, with sigma_data 0.5
        "edm": lambda: (image - shaped(0.25 / (sigma**2 + 0.25)) * x / shaped(scale))
        / shaped(sigma * 0.5 / (sigma**2 + 0.25).sqrt()),
    }[prediction_type]()


LEVELS = torch.tensor([0.05, 0.4, 0.9, 0.99], dtype=torch.float64)
PROCESSES = {
    "sigma": lambda level: (torch.ones_like(level), level),
    "alpha_bar": lambda level: (level.sqrt(), (1 - level).sqrt()),
    "flow_time": lambda level: (1 - level, level),
}


@pytest.mark.parametrize("prediction_type", edm.PREDICTIONS)
@pytest.mark.parametrize("process", PROCESSES)
def test_the_exact_ratio_turns_one_models_prediction_into_the_others(process, prediction_type):
    scale, std = PROCESSES[process](LEVELS)
    x = torch.randn(4, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = predicted(MODEL, x, scale, std, prediction_type) + guidance((1, 0)).score(
        x, **{process: LEVELS}, prediction_type=prediction_type
    )
    expected = predicted(DATA, x, scale, std, prediction_type)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    level = noise_level(**{process: LEVELS})
    own = denoised(expected, x, *level, prediction_type)
    torch.testing.assert_close(own, DATA(x / shaped(scale), std / scale), rtol=1e-9, atol=1e-11)


class Towards(edm.Guidance):
    """Its denoised image is that of another network."""

    def denoise(self, net, x, sigma, class_labels, step, order):
        return 2 * net(x, sigma, class_labels) - MODEL(x, sigma)


def test_a_guidance_of_the_networks_own_image_asks_for_the_network():
    x, bar = torch.ones(2, 1, 2, 2, dtype=torch.float64), 0.3
    with pytest.raises(ValueError, match="pass the network as net"):
        Towards().score(x, alpha_bar=bar)
    change = Towards().score(x, alpha_bar=bar, net=DATA, prediction_type="denoised")
    sigma = torch.tensor((0.7 / 0.3) ** 0.5, dtype=torch.float64)
    at_edm = x / 0.3**0.5
    torch.testing.assert_close(change, DATA(at_edm, sigma) - MODEL(at_edm, sigma))


def test_numbers_are_levels_and_levels_are_given_once():
    x, steer = torch.ones(2, 1, 2, 2, dtype=torch.float64), guidance((1, 0))
    expected = steer.score(x, torch.tensor([1.0, 1.0], dtype=torch.float64))
    for level in (1, 1.0, torch.tensor(1), torch.tensor(1.0)):
        torch.testing.assert_close(steer.score(x, level), expected, rtol=1e-6, atol=0)
    assert not steer.score(x, alpha_bar=1.0).any(), "there is no noise to correct"
    assert not guidance((0, 1)).score(x, 1.0).any()
    for wrong in ({}, dict(sigma=1.0, alpha_bar=0.5)):
        with pytest.raises(ValueError, match="give one of sigma, alpha_bar and flow_time"):
            steer.score(x, **wrong)
    for wrong in (dict(sigma=-1.0), dict(alpha_bar=1.5), dict(flow_time=float("nan"))):
        with pytest.raises(ValueError, match="give numbers"):
            steer.score(x, **wrong)
    with pytest.raises(ValueError, match="prediction_type is 'noise'; use score or denoised"):
        steer.score(x, 1.0, prediction_type="noise")


def test_levels_without_an_image_stay_finite():
    x = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    for level in (dict(alpha_bar=0.0), dict(flow_time=1.0)):
        sigma, scale = noise_level(**level)
        for kind in edm.PREDICTIONS:
            assert all(value.isfinite().all() for value in coefficients(kind, sigma))
        assert guidance((1, 0)).score(x, **level, prediction_type="v_prediction").isfinite().all()
        kind = "v_prediction" if "alpha_bar" in level else "flow_prediction"
        image = denoised(torch.full_like(x, -1.0), x, sigma, scale, kind)
        torch.testing.assert_close(image, x if kind[0] == "v" else 2 * x)
