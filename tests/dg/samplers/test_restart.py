"""Restart sampling: published counts, an exact model's law, every step by hand."""

import pytest
import torch

import edm
from benchmarks.original_samplers import RESTARTS
from dg.samplers.restart import RestartSampling, restart_sampler, restarts_of
from dg.sampling import Sampling, draw_images
from tests.dg.test_sampling import Linear, guidance, network
from tests.edm.test_samplers import GaussianDenoiser

IMAGENET = RESTARTS["ImageNet-64, 36 steps"]["restart"]


class Counted(Linear):
    img_channels, label_dim = 1, 0

    def __init__(self):
        super().__init__()


@pytest.mark.parametrize(
    ("num_steps", "restart", "evaluations"),
    [(36, IMAGENET, 203), (18, [3, 2, 0.14, 0.30], 43), (18, [], 35)],
)
def test_evaluations_are_the_published_counts(num_steps, restart, evaluations):
    sampling, net = RestartSampling(num_steps=num_steps, restart=restart), Counted()
    assert sampling.num_evaluations == evaluations
    draw_images(net, [0], sampling)
    assert len(net.seen) == evaluations


@pytest.mark.parametrize("guided", [False, True])
def test_without_entries_the_images_are_edms_to_the_bit(guided):
    net = network()
    steering, how = guidance(net) if guided else None, dict(num_steps=4, S_churn=3, S_noise=1.01)
    plain, _ = draw_images(net, [1, 2], Sampling(**how), steering)
    assert torch.equal(
        draw_images(net, [1, 2], RestartSampling(restart=[], **how), steering)[0], plain
    )
    again = RestartSampling(restart=[3, 1, 0.5, 20], **how)
    assert not torch.equal(draw_images(net, [1, 2], again, steering)[0], plain)


def test_an_exact_model_keeps_its_law():
    """The law after restarts is the data's, within the error of the samplers' steps."""
    net, n = GaussianDenoiser(0.3, 0.6), 100_000
    draw = torch.Generator().manual_seed(0)

    def randn_like(x):
        return torch.randn(x.shape, dtype=x.dtype, generator=draw)

    latents = randn_like(torch.zeros(n, 1, 1, 1, dtype=torch.float64))
    how = dict(num_steps=40, restart=[[10, 3, 0.1, 0.6], [6, 2, 1.0, 2.0]])
    x = restart_sampler(net, latents, randn_like=randn_like, **how)
    assert abs(x.mean() - 0.3) < 4 * 0.6 / n**0.5 + 1e-3
    assert abs(x.var() - 0.36) < 4 * 0.36 * (2 / n) ** 0.5 + 2e-3


def test_what_a_restart_does_step_by_step():
    """One restart over two levels, by hand: noise up to t_max, then one Heun step."""
    net, noises = Linear(), []
    generator = torch.Generator().manual_seed(0)

    def randn_like(x):
        noises.append(torch.randn(x.shape, dtype=x.dtype, generator=generator))
        return noises[-1]

    latents = torch.ones(1, 2, 4, 4, dtype=torch.float64)
    how = dict(num_steps=2, sigma_min=1.0, sigma_max=4.0)
    x = restart_sampler(
        net,
        latents,
        randn_like=randn_like,
        restart=[2, 1, 1.1, 3.0],
        restart_gamma=0,
        S_noise=1.5,
        **how,
    )

    def heun(x, sigma, sigma_next):
        return edm.sampler.heun_step(net, x, *map(torch.tensor, (sigma, sigma_next)))

    state = heun(4 * latents, 4.0, 1.0) + 1.5 * 8**0.5 * noises[1]
    state = heun(state, 3.0, 1.0)
    torch.testing.assert_close(x, state / 2, rtol=1e-6, atol=1e-6)
    assert len(noises) == 4


def test_entries_in_all_forms_and_impossible_ones():
    assert restarts_of([3, 2, 0.14, 0.3]) == restarts_of({"0": [3, 2, 0.14, 0.3]})
    assert len(restarts_of(IMAGENET)) == 5
    for wrong in (
        [1, 2, 0.1, 0.2],
        [3, 0, 0.1, 0.2],
        [3, 2, 0.3, 0.2],
        [3, 2],
        ["a"],
        [[3, 2.5, 1, 2]],
    ):
        with pytest.raises(ValueError, match=r"is none; give \[levels, repeats, t_min, t_max\]"):
            restarts_of(wrong)
    for wrong in ([3, 2, 1e-9, 0.3], [3, 2, 75, 90], [[3, 1, 0.14, 0.3], [3, 1, 0.141, 0.3]]):
        with pytest.raises(ValueError, match="would begin at the noise level"):
            draw_images(Counted(), [0], RestartSampling(restart=wrong))
