"""EDM's loss against closed forms: data and denoisers simple enough that its value is known."""

import math

import pytest
import torch

import edm


class Recorder:
    """A denoiser given as a function of (x, sigma) that keeps what it is called with."""

    def __init__(self, function):
        self.function, self.calls = function, []

    def __call__(self, x, sigma, class_labels=None, augment_labels=None):
        self.calls.append((x, sigma, class_labels, augment_labels))
        return self.function(x, sigma.reshape(-1, 1, 1, 1))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def constant(value, n=4096):
    return torch.full([n, 1, 2, 2], value)


def test_the_denoiser_that_knows_the_data_has_no_loss():
    loss = edm.EDMLoss()(
        Recorder(lambda x, sigma: torch.full_like(x, 0.3)), constant(0.3), generator=generator()
    )
    assert loss.shape == (4096, 1, 2, 2) and loss.dtype == torch.float32 and (loss == 0).all()


@pytest.mark.parametrize("sigma_data", [0.5, 0.75])
def test_the_weight_of_a_squared_error(sigma_data):
    # off by one everywhere: the loss is the weight alone
    net = Recorder(lambda x, sigma: torch.full_like(x, 1.3))
    loss = edm.EDMLoss(sigma_data=sigma_data)(net, constant(0.3), generator=generator())
    sigma = net.calls[0][1].reshape(-1, 1, 1, 1)
    weight = 1 / sigma**2 + 1 / sigma_data**2
    torch.testing.assert_close(loss, weight.expand_as(loss))


def test_the_images_are_perturbed_by_lognormal_noise_levels():
    net = Recorder(lambda x, sigma: x)
    edm.EDMLoss(P_mean=-0.4, P_std=1.7)(net, constant(0.3), generator=generator())
    ((x, sigma, _, _),) = net.calls
    assert sigma.shape == (4096,)
    z = (sigma.log() + 0.4) / 1.7
    noise = (x - 0.3) / sigma.reshape(-1, 1, 1, 1)
    for draws in (z, noise):  # 4 standard errors
        assert abs(draws.mean()) < 4 / math.sqrt(draws.numel())
        assert abs(draws.var() - 1) < 4 * math.sqrt(2 / draws.numel())
    assert abs((noise.mean(dim=(1, 2, 3)) * 2 * z).mean()) < 4 / math.sqrt(4096), (
        "the noise knows nothing of its level"
    )


@pytest.mark.parametrize("sd", [0.5, 0.2])
def test_the_exact_denoiser_of_a_gaussian_reaches_the_posterior_variance(sd):
    """The least possible loss: weight times sd^2 sigma^2 / (sd^2 + sigma^2), which is 1 where sd is
    sigma_data."""
    images = 0.1 + sd * torch.randn(8192, 1, 4, 4, generator=generator(1))
    net = Recorder(lambda x, sigma: (sd**2 * x + sigma**2 * 0.1) / (sd**2 + sigma**2))
    loss = edm.EDMLoss(sigma_data=0.5)(net, images, generator=generator())
    sigma = net.calls[0][1].reshape(-1, 1, 1, 1)
    expected = (1 / sigma**2 + 1 / 0.5**2) * sd**2 * sigma**2 / (sd**2 + sigma**2)
    ratio = loss / expected
    assert abs(ratio.mean() - 1) < 4 * math.sqrt(2 / ratio.numel())
    if sd == 0.5:
        torch.testing.assert_close(expected, torch.ones_like(expected))


@pytest.mark.parametrize(
    "model", [dict(model_type="SongUNet", model_channels=8), dict(model_channels=32)]
)
@pytest.mark.parametrize("sigma_data", [0.5, 0.75])
def test_an_untrained_network_starts_at_unit_loss(sigma_data, model):
    """Karras et al. 2022, appendix B.6: F = 0 leaves c_skip x, and the weight makes its error 1 at
    every noise level."""
    net = edm.EDMPrecond(
        4, 1, sigma_data=sigma_data, channel_mult=[1], num_blocks=1, attn_resolutions=[], **model
    )
    recorder = Recorder(lambda x, sigma: net(x, sigma.flatten()))
    images = sigma_data * torch.randn(2048, 1, 4, 4, generator=generator(1))
    with torch.no_grad():
        loss = edm.EDMLoss(sigma_data=sigma_data)(recorder, images, generator=generator())
    by_level = loss[recorder.calls[0][1].argsort()].flatten()
    for part in by_level.chunk(4):  # not an average of high and low ones
        assert abs(part.mean() - 1) < 4 * math.sqrt(2 / part.numel())


def test_labels_reach_the_network():
    net, labels, augment = Recorder(lambda x, sigma: x), torch.eye(3)[[0, 2]], torch.ones(2, 9)
    loss = edm.EDMLoss()
    loss(net, constant(0.0, 2), labels, augment, generator())
    loss(net, constant(0.0, 2), generator=generator())
    assert net.calls[0][2] is labels and net.calls[0][3] is augment
    assert net.calls[1][2] is None and net.calls[1][3] is None


def test_the_generator_decides_and_the_global_one_is_left_alone():
    def value(seed):
        return edm.EDMLoss()(
            Recorder(lambda x, sigma: 0.9 * x), constant(0.3, 8), generator=generator(seed)
        )

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = value(5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(value(5), first) and not torch.equal(value(6), first)


@pytest.mark.parametrize(
    "loss", [edm.VPLoss(), edm.VELoss(), edm.VPLoss(5.0, 0.2, 1e-3), edm.VELoss(0.1, 10)]
)
def test_losses_of_the_older_models_weigh_by_the_inverse_variance(loss):
    net = Recorder(lambda x, sigma: torch.full_like(x, 1.3))
    value = loss(net, constant(0.3), generator=generator())
    sigma = net.calls[0][1].reshape(-1, 1, 1, 1)
    torch.testing.assert_close(value, (1 / sigma**2).expand_as(value))


@pytest.mark.parametrize("arguments", [{}, {"beta_d": 5.0, "beta_min": 0.2, "epsilon_t": 1e-3}])
def test_noise_levels_of_vp_are_uniform_in_time(arguments):
    """Times from the noise levels by the inverse in the network's preconditioning."""
    net = edm.VPPrecond(
        4, 1, model_channels=8, channel_mult=[1], num_blocks=1, attn_resolutions=[], **arguments
    )
    sigma, _ = edm.VPLoss(**arguments).draw([20_000, 1, 1, 1], generator=generator())
    assert (
        sigma.shape == (20_000, 1, 1, 1)
        and net.sigma_min * 0.9 < sigma.min()
        and sigma.max() <= net.sigma_max * (1 + 1e-5)
    )
    uniform(net.sigma_inv(sigma.double()), arguments.get("epsilon_t", 1e-5), 1)


@pytest.mark.parametrize(("least", "most"), [(0.02, 100), (0.1, 10)])
def test_noise_levels_of_ve_are_uniform_in_the_logarithm(least, most):
    sigma, _ = edm.VELoss(least, most).draw([20_000, 1, 1, 1], generator=generator())
    uniform(sigma.log(), math.log(least), math.log(most))


def uniform(draws, least, most):
    quantiles = torch.quantile(
        draws.flatten(), torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=draws.dtype)
    )
    expected = torch.linspace(least, most, 5, dtype=draws.dtype)
    assert (quantiles - expected).abs().max() < 0.02 * (most - least)


@pytest.mark.parametrize("loss", [edm.EDMLoss(), edm.VPLoss(), edm.VELoss()])
def test_noise_may_be_drawn_first_and_used_in_parts(loss):
    images, labels = torch.linspace(-1, 1, 8).reshape(8, 1, 1, 1).expand(8, 1, 2, 2), torch.eye(8)
    whole = loss(Recorder(lambda x, sigma: 0.9 * x), images, labels, generator=generator())
    sigma, noise = loss.draw(images.shape, generator=generator())
    net = Recorder(lambda x, sigma: 0.9 * x)
    parts = [
        loss.error(net, images[part], sigma[part], noise[part], labels[part])
        for part in (slice(0, 3), slice(3, 8))
    ]
    assert torch.equal(torch.cat(parts), whole) and torch.equal(net.calls[1][2], labels[3:])
