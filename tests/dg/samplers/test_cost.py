"""Costs per image: counts that are known, and multiply-adds that add up."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dg.data.images import ImageSet
from dg.discriminator import LogRatio, build_difference, build_discriminator
from dg.guidance import Autoguidance
from dg.losses import NoisyBatch
from dg.recipes import DiscriminatorTraining
from dg.samplers.constants import Constants, RejectionSampling
from dg.samplers.cost import (
    MultiplyAdds,
    measured_cost,
    ratio_multiply_adds,
    training_multiply_adds,
)
from dg.samplers.particles import ParticleSampling
from dg.samplers.restart import RestartSampling
from dg.sampling import Sampling, ScoreModel
from dg.training import Trainer
from tests.dg.test_sampling import guidance, network

STEPS = dict(num_steps=3)


def counts(*args):
    found = measured_cost(*args)
    return list(found["evaluations per image"].values()), found["multiply-adds per image"]


def test_multiply_adds_are_told_apart_and_add_up():
    """Guidance on a classifier, which torch's own counter cannot differentiate."""
    from dg.checkpoints import load_discriminator
    from dg.guidance import DiscriminatorGuidance
    from dg.models.loading import load_model
    from dg.runtime.pretrained import pretrained_file

    classifier, head = (
        pretrained_file(f"mnist-14-{name}") for name in ("noisy-classifier", "disc")
    )
    net = load_model(pretrained_file("mnist-14"))
    discriminator = load_discriminator(classifier, head, net)
    plain = measured_cost(net, Sampling(**STEPS), seeds=range(2))
    found = measured_cost(
        net, Sampling(**STEPS), DiscriminatorGuidance(discriminator), seeds=range(2)
    )
    of, each = found["of these"], found["evaluations per image"]
    assert of["network"] == plain["multiply-adds per image"] == plain["of these"]["network"]
    assert sum(of.values()) == found["multiply-adds per image"]
    forward = ratio_multiply_adds(discriminator, torch.zeros(2, 1, 14, 14))
    # a batch at one noise level shares the embedding of it
    expected = each["discriminator forward"] * forward
    assert of["discriminator forward"] == pytest.approx(expected, rel=0.01)
    # every product of the forward pass has one in the gradient of the input
    assert forward * 0.9 < of["discriminator backward"] / each["discriminator backward"]
    trained = training_multiply_adds(discriminator, torch.zeros(2, 1, 14, 14))
    assert forward < trained < 3 * forward, "the extractor is frozen, the head has two gradients"
    assert not any(p.requires_grad or p.grad is not None for p in discriminator.parameters())


def test_attention_counts_on_a_cpu():
    q = torch.zeros(1, 2, 5, 8)
    with MultiplyAdds() as found:
        torch.nn.functional.scaled_dot_product_attention(q, q, q)
    assert sum(found.of.values()) == 2 * 2 * 5 * 5 * 8


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
    half, less = counts(net, Sampling(**STEPS), guidance(net, weights=(1, 0), every=2))
    assert half == [5, 0, 1, 1] and less - alone == pytest.approx((more - alone) / 2, rel=1e-2)
    auto = Autoguidance(network(salt="guide:"), 2.0)
    assert counts(net, Sampling(**STEPS), auto) == ([5, 5, 0, 0], pytest.approx(2 * alone))
    assert counts(net, Sampling(**STEPS), steering + auto)[0] == [5, 5, 2, 2]
    sparse = guidance(net, weights=(1, 0), every=2)
    assert counts(net, Sampling(**STEPS), auto + sparse)[0] == [5, 5, 1, 1]


def test_an_encoder_of_its_own_is_counted_with_the_discriminator():
    """Shared with the denoising, the encoder counts as the network's."""
    from dg.discriminator import build_discriminator
    from dg.guidance import DiscriminatorGuidance
    from dg.lora import add_lora, merge_lora

    net = network()
    encoder = FlopCounterMode(display=False)
    with encoder:
        net.encode(torch.zeros(4, 1, 4, 4), torch.ones(()), torch.eye(3)[[0, 1, 2, 0]])
    shared, tuned, adapted = (
        build_discriminator(kind, None, net, conditional=True)
        for kind in ("score", "finetuned", "score")
    )
    add_lora(adapted.extractor.own_network(), 1)
    merge_lora(adapted.extractor.frozen)
    found = [
        measured_cost(net, Sampling(**STEPS), DiscriminatorGuidance(one, (1, 0)))
        for one in (shared, tuned, adapted)
    ]
    forward = [one["of these"]["discriminator forward"] for one in found]
    own = 2 * encoder.get_total_flops() / 2 / 4  # two stages in the window, four images
    assert forward[1:] == [pytest.approx(forward[0] + own, rel=0.01)] * 2
    assert len({one["of these"]["network"] for one in found}) == 1
    assert {one["evaluations per image"]["discriminator forward"] for one in found} == {2}


def test_an_encoder_that_classifier_and_discriminator_share_counts_once():
    from dg.models.discrete_sampling import DDPMSampling
    from tests.dg.models.test_discrete_sampling import classifier, led, on_classifier

    encoder = classifier()
    sampling = DDPMSampling(num_steps=4, classifier_scale=1.0, dg_time="step")
    one, two = on_classifier(encoder), on_classifier(encoder)
    two.on_features = lambda encoder: None
    found = [measured_cost(led(encoder), sampling, steer) for steer in (one, two)]
    with FlopCounterMode(display=False) as forward:
        encoder(torch.zeros(4, 1, 4, 4), torch.ones(4), feature=True)
    times, each = 3, forward.get_total_flops() / 2 / 4
    shared, apart = (cost["of these"] for cost in found)
    evaluations = [cost["evaluations per image"]["discriminator forward"] for cost in found]
    assert evaluations == [times, times], "the last step, t = 0, is outside of the window"
    assert shared["network"] == apart["network"]
    saved = {name: apart[name] - shared[name] for name in shared}
    assert saved["discriminator forward"] == pytest.approx(times * each, rel=0.01)
    # every product of the forward pass has one in the gradient of the input
    assert saved["discriminator backward"] == pytest.approx(times * each, rel=0.05)


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


def built(kind, net, settings):
    data = ImageSet(np.zeros((4, 8, 8, 1), np.uint8))
    if settings.loss == "difference":
        return build_difference(net, data, width=8)
    return build_discriminator(kind, data, net, width=8 if kind != "none" else 32)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("score", {}),
        ("score", dict(lora_rank=2)),
        ("score", dict(loss="matching")),
        ("score", dict(loss="difference")),
        ("finetuned", {}),
        ("none", dict(loss="sobolev")),
    ],
)
def test_a_training_step_is_counted_as_it_is_made(kind, changes):
    """Against the step of the training itself, of which the optimiser multiplies nothing here."""
    net = network(label_dim=0, img_resolution=8, img_channels=1)
    settings = DiscriminatorTraining(batch_size=4, **changes)
    images = torch.zeros(4, 1, 8, 8)
    discriminator = built(kind, net, settings)
    before = {name: p.requires_grad for name, p in discriminator.named_parameters()}
    each = training_multiply_adds(discriminator, images, settings, net)
    assert before == {name: p.requires_grad for name, p in discriminator.named_parameters()}
    trainer = Trainer(discriminator, settings, net)
    sigma = torch.full((4,), 0.5, dtype=torch.float64)
    batch = NoisyBatch(images, images + 0.5, sigma, None, torch.tensor([1.0, 1.0, 0.0, 0.0]))
    with MultiplyAdds() as operations:
        trainer.step(batch)
    assert each == sum(operations.of.values()) / 4 > 0
