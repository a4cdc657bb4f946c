"""The encoder against reference vectors computed with the authors' code, and what must hold for any
weights."""

import numpy as np
import pytest
import torch

from guided_diffusion import EncoderUNetModel, create_classifier
from tests.golden_fill import fill, load

FORWARD, GRADIENT = 2e-5, 1e-4  # of the array's maximum: other operator order, fused attention
UNCONDITIONAL = [
    "b_clf32_w64_d1",
    "b_clf32_w64_d2",
    "b_clf64_w64_d1",
    "b_disc8_w64_d2_uncond",
    "b_full_clf32_w128_d4",
    "b_full_disc8_w128_d2_uncond",
]
CONDITIONAL = [
    f"{name}:{form}"
    for name in ("b_disc8_w64_d2_cond", "b_full_disc8_w128_d2_cond")
    for form in ("int", "onehot")
]


def assert_near(found, expected, tolerance):
    found = found.detach().numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def frozen(kwargs, salt="", gain=1.0):
    return fill(create_classifier(**kwargs), salt, gain).eval().requires_grad_(False)


@pytest.mark.parametrize("case", UNCONDITIONAL + CONDITIONAL)
def test_reference_vectors(case):
    name, _, form = case.partition(":")
    arrays, config = load(name)
    suffix = f"_{form}" if form else ""
    encoder = frozen(config["create_classifier_kwargs"], config["salt"], config["gain"])
    x = torch.from_numpy(arrays["x"]).requires_grad_()
    inputs = dict(
        timesteps=torch.from_numpy(arrays["timesteps"]),
        condition=torch.from_numpy(arrays[f"labels_{form}"]) if form else None,
    )

    feature = encoder(x, feature=True, **inputs)
    assert_near(
        feature[:, :: config["feature_channel_stride"]], arrays["feature" + suffix], FORWARD
    )
    assert_near(feature.mean((2, 3)), arrays["feature_mean" + suffix], FORWARD)
    assert_near(feature.std((2, 3), correction=0), arrays["feature_std" + suffix], FORWARD)

    logits = encoder(x, **inputs)
    assert_near(logits, arrays["logits" + suffix], FORWARD)
    assert_near(logits.sigmoid(), arrays["sigmoid" + suffix], FORWARD)
    weights = torch.from_numpy(np.cos(np.arange(logits.numel()))).float().view_as(logits)
    (grad,) = torch.autograd.grad((logits * weights).sum(), x)
    assert_near(grad[:, :: grad.shape[1] // arrays["grad_x"].shape[1]], arrays["grad_x"], GRADIENT)
    assert_near(grad.double().flatten(1).norm(dim=1), arrays["grad_x_norm"], GRADIENT)


def test_reference_vectors_of_the_latent_stack():
    arrays, config = load("b_imagenet_latent_stack")
    classifier = frozen(
        config["classifier_kwargs"] | {"channel_mult": config["channel_mult_32"]},
        config["classifier_salt"],
    )
    discriminator = frozen(config["discriminator_kwargs"], config["discriminator_salt"])
    discriminator.out[2].c_proj.weight *= config["out_scale"]
    discriminator.out[2].c_proj.bias.fill_(config["out_bias"])
    x = torch.from_numpy(arrays["x"]).requires_grad_()
    time = torch.from_numpy(arrays["t"]) / 999

    features = classifier(x, time, feature=True)
    logits = discriminator(features, time, condition=torch.from_numpy(arrays["labels"]))[:, 0]
    assert_near(features[:, ::4], arrays["features"], FORWARD)
    assert_near(logits.sigmoid(), arrays["prediction"], FORWARD)
    # the clip is inactive here
    assert np.abs(logits.detach().numpy() - arrays["log_ratio"]).max() <= 2e-5
    assert_near(torch.autograd.grad(logits.sum(), x)[0], arrays["grad"], GRADIENT)
    assert_near(classifier(x, time), arrays["logits_classifier"], FORWARD)


SMALL = dict(
    image_size=16,
    in_channels=3,
    out_channels=5,
    model_channels=32,
    num_res_blocks=1,
    channel_mult=(1, 2),
    attention_resolutions=(8,),
    num_head_channels=32,
)


def small(**changes):
    return fill(EncoderUNetModel(**SMALL | changes)).eval()


def images(count=3, size=16, channels=3):
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1))


HEADS = {
    "attention": [
        "0.weight",
        "0.bias",
        "2.positional_embedding",
        "2.qkv_proj.weight",
        "2.qkv_proj.bias",
        "2.c_proj.weight",
        "2.c_proj.bias",
    ],
    "adaptive": ["0.weight", "0.bias", "3.weight", "3.bias"],
    "spatial": ["0.weight", "0.bias", "2.weight", "2.bias"],
    "spatial_v2": ["0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"],
}


@pytest.mark.parametrize("resblock_updown", [True, False])
@pytest.mark.parametrize("use_scale_shift_norm", [True, False])
@pytest.mark.parametrize("pool", HEADS)
def test_every_variant_gives_logits_and_gradients(pool, use_scale_shift_norm, resblock_updown):
    encoder = small(
        pool=pool, use_scale_shift_norm=use_scale_shift_norm, resblock_updown=resblock_updown
    )
    x = images().requires_grad_()
    logits = encoder(x, torch.tensor([0.1, 0.5, 0.9]))
    assert logits.shape == (3, 5)
    (grad,) = torch.autograd.grad(logits.sum(), x)
    assert grad.isfinite().all() and (grad.flatten(1).norm(dim=1) > 0).all()
    assert list(encoder.out.state_dict()) == HEADS[pool]
    assert ("input_blocks.2.0.op.weight" in encoder.state_dict()) is not resblock_updown


def test_spatial_pool_reads_the_average_of_every_block():
    encoder = small(pool="spatial")
    # stem, block, downsampling, block, middle
    assert encoder.out[0].in_features == 32 + 32 + 32 + 64 + 64


def test_time_may_be_shared_and_of_any_precision():
    encoder, x = small(), images()
    each = encoder(x, torch.full((3,), 0.3))
    torch.testing.assert_close(encoder(x, torch.tensor(0.3)), each)
    torch.testing.assert_close(
        encoder(x.double(), torch.tensor(0.3, dtype=torch.float64)), each, rtol=1e-4, atol=1e-4
    )
    assert (encoder(x, torch.tensor(0.4)) - each).abs().max() > 1e-3


def test_permuting_the_batch_permutes_the_output():
    encoder, x, time = small(num_classes=4), images(), torch.tensor([0.1, 0.5, 0.9])
    condition, order = torch.tensor([0, 3, 1]), torch.tensor([2, 0, 1])
    permuted = encoder(x[order], time[order], condition=condition[order])
    torch.testing.assert_close(
        permuted, encoder(x, time, condition=condition)[order], rtol=1e-5, atol=1e-5
    )


def test_freezing_the_weights_keeps_the_input_gradient():
    encoder, x = small(), images().requires_grad_()
    (trainable,) = torch.autograd.grad(encoder(x, torch.tensor(0.3)).sum(), x)
    encoder.requires_grad_(False)
    assert torch.equal(torch.autograd.grad(encoder(x, torch.tensor(0.3)).sum(), x)[0], trainable)


def test_gradient_matches_finite_differences():
    encoder = small(num_classes=4).double().requires_grad_(False)
    x = images(1).double().requires_grad_()
    forward = lambda x: encoder(x, torch.tensor(0.3), condition=torch.tensor([2]))  # noqa: E731
    assert torch.autograd.gradcheck(forward, x, fast_mode=True)


def test_bfloat16_by_autocast_stays_near_and_returns_float32_logits():
    encoder, x, time = small(), images(), torch.tensor([0.1, 0.5, 0.9])
    with torch.autocast("cpu", torch.bfloat16):
        logits, feature = encoder(x, time), encoder(x, time, feature=True)
    assert logits.dtype == torch.float32 and feature.dtype == torch.bfloat16
    assert (logits - encoder(x, time)).abs().max() < 0.05 * logits.abs().max()


def test_features_describe_themselves():
    encoder = small(image_size=28, channel_mult=(1, 2, 2))
    assert encoder(images(size=28), torch.tensor(0.5), feature=True).shape == (
        3,
        encoder.feature_channels,
        encoder.feature_size,
        encoder.feature_size,
    )
    assert (encoder.feature_channels, encoder.feature_size) == (64, 7)


@pytest.mark.parametrize("pool", ["attention", "adaptive", "spatial"])
def test_the_head_takes_features_unless_it_sees_every_block(pool):
    encoder, x, time = small(pool=pool), images(), torch.tensor(0.5)
    features = encoder(x, time, feature=True)
    assert encoder.head_takes_features is (pool != "spatial")
    if encoder.head_takes_features:
        assert torch.equal(encoder.logits(features), encoder(x, time))


def test_one_hot_and_integer_conditions_agree():
    encoder, x, time = small(num_classes=4), images(), torch.tensor(0.5)
    numbers = torch.tensor([3, 0, 1])
    expected = encoder(x, time, condition=numbers)
    assert torch.equal(encoder(x, time, condition=torch.eye(4)[numbers]), expected)
    assert torch.equal(encoder(x, time, condition=numbers.to(torch.uint8)), expected)
    assert (encoder(x, time, condition=numbers.flip(0))[0] - expected[0]).abs().max() > 1e-3


@pytest.mark.parametrize(
    "condition, message",
    [
        (None, "conditional; give class numbers"),
        (torch.eye(5)[:3], r"torch.float32 \[3, 5\]; give .* with K <= 4"),
        (torch.zeros(3), "give integers"),
    ],
)
def test_bad_condition(condition, message):
    with pytest.raises(ValueError, match=message):
        small(num_classes=4)(images(), torch.tensor(0.5), condition=condition)


def test_wrong_number_of_channels():
    with pytest.raises(ValueError, match=r"\[3, 1, 16, 16\]; give \[N, 3, H, W\]"):
        small()(images(channels=1), torch.tensor(0.5))


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            dict(image_size=18, channel_mult=(1, 2, 2)),
            "images of 18 pixels cannot be halved 2 times",
        ),
        (dict(model_channels=40), "positive multiples of 32"),
        (dict(channel_mult=()), "positive multiples of 32"),
        (dict(num_head_channels=48), "do not divide into attention heads of 48"),
        (dict(pool="max"), "pool is 'max'; use attention"),
    ],
)
def test_impossible_settings(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        EncoderUNetModel(**SMALL | changes)
    assert "\n" not in str(error.value)
