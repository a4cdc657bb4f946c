"""Costs per image: counts that are known, and multiply-adds that add up."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dg.discriminator import LogRatio
from dg.guidance import Autoguidance
from dg.samplers.constants import Constants, RejectionSampling
from dg.samplers.cost import measured_cost
from dg.samplers.particles import ParticleSampling
from dg.samplers.restart import RestartSampling
from dg.sampling import Sampling, ScoreModel
from tests.dg.test_sampling import guidance, network

STEPS = dict(num_steps=3)


def counts(*args):
    found = measured_cost(*args)
    return list(found["evaluations per image"].values()), found["multiply-adds per image"]


def multiply_adds(net, n):
    with FlopCounterMode(display=False) as operations:
        net(torch.zeros(n, 1, 4, 4), torch.ones(n), torch.eye(3)[torch.zeros(n, dtype=int)])
    return operations.get_total_flops() / 2 / n


def test_evaluations_are_counted_apart():
    net = network()
    plain, alone = counts(net, Sampling(**STEPS))
    assert plain == [5, 0, 0, 0] and alone == pytest.approx(5 * multiply_adds(net, 4), rel=1e-3)
    steering = guidance(net, weights=(1, 0))
    guided, more = counts(net, Sampling(**STEPS), steering)
    assert guided == [5, 0, 2, 2] and more > alone, "the last step is outside of the window"
    auto = Autoguidance(network(salt="guide:"), 2.0)
    assert counts(net, Sampling(**STEPS), auto) == ([5, 5, 0, 0], pytest.approx(2 * alone))
    assert counts(net, Sampling(**STEPS), steering + auto)[0] == [5, 5, 2, 2]


def test_samplers_cost_what_they_say():
    net = network()
    model = ScoreModel(net, LogRatio(guidance(net).discriminator))
    restart = RestartSampling(restart=[3, 2, 0.5, 3.0], **STEPS)
    assert counts(net, restart)[0] == [restart.num_evaluations, 0, 0, 0] == [13, 0, 0, 0]
    particles = ParticleSampling(particles=2, resample_steps=[1], **STEPS)
    assert counts(model, particles)[0] == [particles.num_evaluations, 0, 4, 0]
    never = Constants([-1e9] * 4, [-1e9] * 4)
    rejection = RejectionSampling(constants=never, time_min=1e-5, **STEPS)
    assert counts(model, rejection)[0] == [5, 0, 3, 0]
