"""Particles: the exact-ratio oracle, one particle alone, and what an image depends on."""

import pytest
import torch

from dg.discriminator import LogRatio
from dg.guidance import BOOSTING
from dg.samplers.particles import ParticleSampling, drawn, particle_sampler
from dg.sampling import Sampling, ScoreModel, draw_images
from tests.dg.samplers.gaussians import HOW, MODEL, ExactRatio, assert_law
from tests.dg.test_sampling import Linear, guidance, network


def sampled(groups, particles, ratio, **kwargs):
    generator = torch.Generator().manual_seed(0)

    def randn_like(x):
        return torch.randn(x.shape, dtype=x.dtype, generator=generator)

    latents = torch.zeros(groups, 1, 1, 1, dtype=torch.float64)
    how = dict(particles=particles, select="draw", time_min=0.0, **HOW)
    return particle_sampler(
        MODEL, randn_like(latents), randn_like=randn_like, log_ratio=ratio, **how | kwargs
    )


def test_with_more_particles_the_model_becomes_the_data():
    """The bias falls with the number of particles."""
    ratio = ExactRatio(churned=(2, 4))
    goal, errors = ratio.data[0][-1], [abs(ratio.model[0][-1] - ratio.data[0][-1])]
    for particles, groups in ((4, 20_000), (64, 20_000)):
        x = sampled(groups, particles, ratio, resample_steps=(2, 4))
        errors.append(abs(float(x.mean()) - goal))
    assert errors[1] < errors[0] / 2 and errors[2] < errors[0] / 10
    assert_law(x, ratio.data, bias=0.005)


@pytest.mark.slow
def test_many_particles_are_the_data():
    """128 particles at n = 100,000, without an allowance for their bias."""
    ratio = ExactRatio(churned=(2, 4))
    assert_law(sampled(100_000, 128, ratio, resample_steps=(2, 4)), ratio.data)


def test_one_particle_is_edms_sampler_to_the_bit():
    how = dict(num_steps=4, S_churn=3, S_noise=1.01)
    for net in (Linear(10), network()):
        expected, _ = draw_images(net, [3, 7], Sampling(**how))
        model = ScoreModel(net, lambda x, sigma, labels: 1 / 0)
        sampling = ParticleSampling(particles=1, resample_steps=(1, 2), **how)
        assert torch.equal(draw_images(model, [3, 7], sampling)[0], expected)


@pytest.mark.parametrize("guided", [False, True])
def test_a_group_depends_on_its_seed_alone(guided):
    net = network()
    model = ScoreModel(net, guidance(net, salt="ratio:").log_ratio)
    sampling = ParticleSampling(num_steps=4, particles=3, resample_steps=(1, 2), time_min=1e-5)
    steering = guidance(net) if guided else None
    together, classes = draw_images(model, [3, 7, 11], sampling, steering)
    for index, seed in enumerate([3, 7, 11]):
        alone, label = draw_images(model, [seed], sampling, steering)
        error = (alone[0] - together[index]).abs().max()
        assert error < 1e-4 * together.abs().max() and label == classes[index]


def test_the_particle_of_the_largest_ratio_is_kept():
    def brightness(x, sigma, class_labels):
        return x.mean(dim=(1, 2, 3))

    x = sampled(50, 8, brightness, select="largest")
    every = sampled(50, 8, brightness, select="draw")
    assert x.mean() > every.mean()


def test_draws_are_in_proportion_to_the_weights():
    generator = torch.Generator().manual_seed(0)
    weights = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64).log().expand(20_000, 3)
    chosen = drawn(weights, lambda x: torch.randn(x.shape, dtype=x.dtype, generator=generator))
    shares = torch.bincount(chosen.flatten()) / chosen.numel()
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.3, 0.2]), rtol=0, atol=0.01)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="0 particles; give at least 1"):
        ParticleSampling(particles=0)
    with pytest.raises(ValueError, match="before step 18 of 18; give steps from 1 to 17"):
        ParticleSampling(resample_steps=[18])
    net = network()
    for steering in (guidance(net, boosting=BOOSTING["authors"]), guidance(net, every=2)):
        with pytest.raises(ValueError, match="replaces particles by others; leave them out"):
            how = ParticleSampling(num_steps=4, resample_steps=(1, 2), time_min=1e-5)
            draw_images(ScoreModel(net, LogRatio(steering.discriminator)), [1], how, steering)
    with pytest.raises(ValueError, match="outside of the time window"):
        sampled(2, 2, None, resample_steps=[1], time_max=0.2)
    with pytest.raises(ValueError, match="no noise level to select by"):
        sampled(2, 2, None, time_min=0.999)
