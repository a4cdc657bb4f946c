"""Half precision while sampling: where it is used, what it does to images, what it leaves alone."""

import numpy as np
import pytest
import torch

import edm
from dg.data.datasets import to_uint8
from dg.guidance import BOOSTING, DiscriminatorGuidance
from dg.precision import (
    DECIDING,
    MixedPrecisionGuidance,
    autocast,
    candidates,
    compile_networks,
    computable,
    has_bfloat16,
)
from dg.pretraining.presets import SCORE_PRESETS
from dg.sampling import Sampling, draw_images
from edm.guidance import Guidance
from tests import golden_fill
from tests.dg.test_guidance import stack
from tests.dg.test_sampling import Linear, guidance, network
from tests.edm.test_networks import build


class Spy(Guidance):
    """Keeps what networks compute in, by noise level, and the dtype of the sampler's state."""

    def __init__(self):
        self.seen = []

    def denoise(self, net, x, sigma, class_labels, step, order):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
        self.seen.append((float(sigma.max()), product.dtype, x.dtype))
        return super().denoise(net, x, sigma, class_labels, step, order)


def test_bfloat16_leaves_the_deciding_noise_levels_and_the_state_alone():
    spy, (low, high) = Spy(), DECIDING
    images, _ = draw_images(network(0), [1, 2], Sampling(), spy, precision="bfloat16")
    assert len(spy.seen) == 35 and images.dtype == torch.float64
    for sigma, computed, state in spy.seen:
        assert (
            computed == (torch.float32 if low <= sigma <= high else torch.bfloat16)
            and state == torch.float64
        )
    assert sum(computed == torch.float32 for _, computed, _ in spy.seen) == 8


@pytest.mark.parametrize(
    ("precision", "dtype"), [("float32", torch.float32), ("float16", torch.float16)]
)
def test_the_others_compute_alike_everywhere(precision, dtype):
    spy = Spy()
    draw_images(network(0), [1], Sampling(num_steps=5), spy, precision=precision)
    assert {computed for _, computed, _ in spy.seen} == {dtype}


def test_a_model_that_is_no_score_network_computes_as_it_is_told():
    spy = Spy()
    draw_images(Linear(), [1], Sampling(num_steps=5), spy, precision="bfloat16")
    assert {computed for _, computed, _ in spy.seen} == {torch.bfloat16}


def test_careful_passes_everything_on():
    net = network()
    steering, x = guidance(net, weights=(1.0, 0.0)), torch.randn(2, 1, 4, 4, dtype=torch.float64)
    careful = MixedPrecisionGuidance(steering)
    careful.begin(x)
    assert steering.last_log_ratio.isinf().all() and careful.churn(3.0, 1.0, 1) == (3.0, 1.0)
    for sigma in (torch.tensor(9.0), torch.tensor(1.0)):
        assert torch.equal(
            careful.denoise(net, x, sigma, None, 0, 1), steering.denoise(net, x, sigma, None, 0, 1)
        )
    assert not steering.last_log_ratio.isinf().any()
    steering.on_features = lambda encoder: steering
    assert careful.on_features(net) is None, "the encoder would not be careful"


def test_one_sample_at_a_deciding_level_makes_its_batch_exact():
    net, x = network(), torch.randn(2, 1, 4, 4, dtype=torch.float64)
    careful, between, above = (
        MixedPrecisionGuidance(),
        torch.tensor([DECIDING[1], 9.0]),
        torch.tensor([8.0, 9.0]),
    )
    with autocast("bfloat16", "cpu"):
        rounded = [careful.denoise(net, x, sigma, None, 0, 1) for sigma in (between, above)]
    exact = [careful.denoise(net, x, sigma, None, 0, 1) for sigma in (between, above)]
    assert torch.equal(rounded[0], exact[0]) and not torch.equal(rounded[1], exact[1])


# slow on CPUs without instructions for it, which no CPU has for float16
@pytest.mark.parametrize(
    ("precision", "case", "run"),
    [
        pytest.param(
            *("bfloat16", "e_dg_sampler_cond", "boost"),
            marks=[] if has_bfloat16("cpu") else pytest.mark.slow,
        ),
        pytest.param("float16", "e_dg_sampler_uncond", "first2", marks=pytest.mark.slow),
    ],
)
def test_images_stay_within_two_levels_of_the_reference_vectors(precision, case, run):
    """For 99.9% of their values; boosting takes the same decisions."""
    arrays, config = golden_fill.load(case)
    settings, net, discriminator = (
        config["runs"][run],
        build(config["net"], gain=0.6),
        stack(config["stack"]),
    )
    steered = DiscriminatorGuidance(
        discriminator,
        (settings["w1"], settings["w2"]),
        settings["time_min"],
        settings["time_max"],
        BOOSTING["authors"] if settings["boosting"] else None,
        clip=1e-5,
    )
    sampling = Sampling(
        settings["num_steps"], S_churn=settings["S_churn"], S_noise=settings["S_noise"]
    )
    images, _ = draw_images(net, config["seeds"], sampling, steered, precision=precision)
    difference = np.abs(to_uint8(images).astype(int) - arrays[f"{run}:uint8"])
    assert difference.max() > 0 and (difference > 2).mean() <= 1e-3


def test_half_precisions_are_candidates_where_there_are_instructions_and_enough_steps(monkeypatch):
    net, exact = network(), ("float32",)
    for supported, expected in ((True, ("float32", "bfloat16")), (False, exact)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: supported)  # noqa: B023
        assert candidates(net, "cpu") == expected and candidates(Linear(), "cpu") == exact
        assert candidates(net, "cpu", 8) == exact
    assert candidates(net, "cuda:0") == candidates(net, torch.device("cuda"), 9)
    assert candidates(net, "cuda") == ("float32", "float16")
    assert candidates(net, "cuda", 8) == candidates(net, "mps") == exact
    assert candidates(Linear(), "cuda") == exact


def test_gpus_say_whether_they_compute_in_bfloat16(monkeypatch):
    for answer in (True, False):
        monkeypatch.setattr(
            torch.cuda,
            "is_bf16_supported",
            lambda including_emulation=True: including_emulation or answer,  # noqa: B023
        )
        assert has_bfloat16("cuda:0") == answer
        asked = SCORE_PRESETS["cifar10-small"][1]
        expected = "bfloat16" if answer else "float32"
        assert asked.precision == "bfloat16" and computable(asked, "cuda").precision == expected
        assert computable(SCORE_PRESETS["mnist"][1], "cuda").precision == "float32"
    assert not has_bfloat16("mps")


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precision is 'int8'; use float32, bfloat16, float16"):
        autocast("int8", "cpu")


def test_frozen_networks_guide_without_gradients_of_weights_and_run_attention_once(monkeypatch):
    arrays, config = golden_fill.load("d_grad32_uncond")
    discriminator, calls = stack(config), []
    attend = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        "torch.nn.functional.scaled_dot_product_attention",
        lambda *args: calls.append(1) or attend(*args),
    )
    with torch.no_grad():
        discriminator(torch.from_numpy(arrays["image"]), torch.tensor(1.0))
    once = len(calls)
    DiscriminatorGuidance(discriminator).correction(
        torch.from_numpy(arrays["image"]), torch.tensor(1.0)
    )
    assert len(calls) == 2 * once > 0
    assert not any(p.requires_grad or p.grad is not None for p in discriminator.parameters())


def test_compiling_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match=r"torch.compile needs a C\+\+ compiler"):
        compile_networks([network()])


@pytest.mark.slow
def test_compiled_networks_give_the_same_images():
    net = network()
    steering = guidance(net)
    plain, _ = draw_images(net, [1, 2], Sampling(num_steps=3), steering)
    compile_networks([net, *steering.networks()])
    compiled, _ = draw_images(net, [1, 2], Sampling(num_steps=3), steering)
    assert (compiled - plain).abs().max() < 1e-4 * plain.abs().max()
    assert isinstance(net, edm.EDMPrecond) and candidates(net, "cpu")[0] == "float32"
