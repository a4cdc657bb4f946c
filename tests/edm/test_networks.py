"""Networks and preconditioning against reference vectors computed with the published code."""

import numpy as np
import pytest
import torch

import edm
from tests import golden_fill

SMALL = [
    "a_edm_ddpmpp_uncond",
    "a_edm_ddpmpp_cond",
    "a_edm_ncsnpp_uncond",
    "a_edm_adm_cond",
    "a_ve_ncsnpp_cond",
    "a_vp_ddpmpp_uncond",
    "a_iddpm_adm_uncond",
]
FULL = ["a_full_cifar10_ddpmpp_uncond"]


def build(config, arrays=None, gain=1.0, prefix=""):
    """The network of a reference case, filled with its synthetic weights; `prefix` finds its
    buffers among the arrays."""
    net = getattr(edm, config["class_name"])(**config["kwargs"])
    golden_fill.fill(net, config.get("salt", ""), config.get("gain", gain))
    prefix += "buffer:model."
    for name in [] if arrays is None else [n for n in arrays.files if n.startswith(prefix)]:
        net.get_buffer(name.split("buffer:")[1]).copy_(torch.from_numpy(arrays[name]))
    return net.eval().requires_grad_(False)


def close(actual, expected, rtol=2e-5):
    """Maximal error relative to the array's maximum, asserted below `rtol`."""
    expected = np.asarray(expected, np.float64)
    error = np.abs(np.asarray(actual, np.float64) - expected).max() / np.abs(expected).max()
    assert error <= rtol, error
    return error


def arguments(arrays):
    labels = torch.from_numpy(arrays["class_labels"]) if "class_labels" in arrays.files else None
    return torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["sigma"]), labels


@pytest.mark.parametrize("case", SMALL + FULL)
def test_denoised_images(case):
    arrays, config = golden_fill.load(case)
    net = build(config, arrays)
    assert sum(p.numel() for p in net.parameters()) == config["n_params"]
    x, sigma, labels = arguments(arrays)
    close(net(x, sigma, labels), arrays["denoised"])
    if "scalar_sigma" in arrays.files:
        close(
            net(x, torch.from_numpy(arrays["scalar_sigma"]), labels),
            arrays["denoised_scalar_sigma"],
        )
    if labels is not None:
        close(net(x, sigma, None), arrays["denoised_no_labels"])
    if "model_in" in arrays.files:
        inner = net.model(
            *(torch.from_numpy(arrays[k]) for k in ("model_in", "c_noise")),
            None if labels is None else labels,
        )
        close(inner, arrays["model_out"])


@pytest.mark.parametrize("case", SMALL)
def test_noise_levels(case):
    arrays, config = golden_fill.load(case)
    net = build(config, arrays)
    np.testing.assert_array_equal(
        net.round_sigma(torch.from_numpy(arrays["round_sigma_in"])), arrays["round_sigma_out"]
    )
    np.testing.assert_allclose([net.sigma_min, net.sigma_max], arrays["sigma_min_max"], rtol=1e-12)
    if "round_sigma_index" in arrays.files:
        index = net.round_sigma(torch.from_numpy(arrays["round_sigma_in"]), return_index=True)
        np.testing.assert_array_equal(index, arrays["round_sigma_index"])
    if "vp_t" in arrays.files:
        np.testing.assert_allclose(
            net.sigma(torch.from_numpy(arrays["vp_t"])), arrays["vp_sigma_of_t"], rtol=1e-12
        )
        inverse = net.sigma_inv(torch.from_numpy(arrays["round_sigma_in"]))
        np.testing.assert_allclose(inverse, arrays["vp_sigma_inv_of_sigma"], rtol=1e-12)


PUBLISHED = [name for name, layout in golden_fill.layouts().items() if "class_name" in layout]


@pytest.mark.parametrize("name", PUBLISHED)
def test_state_dict_layout(name):
    layout = golden_fill.layouts()[name]
    with torch.device("meta"):
        net = getattr(edm, layout["class_name"])(**layout["kwargs"])
    parameters = dict(net.named_parameters())
    entries = [
        [n, list(t.shape), "param" if n in parameters else "buffer"]
        for n, t in net.state_dict().items()
    ]
    assert entries == layout["entries"]
    for block, facts in layout["blocks"].items():
        module = net.get_submodule(block)
        assert (module.num_heads, module.adaptive_scale) == (
            facts["num_heads"],
            facts["adaptive_scale"],
        )
        assert module.skip_scale == pytest.approx(facts["skip_scale"])
        assert [module.norm0.num_groups, module.norm1.num_groups] == facts["groups"]
        assert module.norm0.eps == facts["eps"]


def test_encoder_and_skip_decoder_variants_run_and_use_their_branches():
    kwargs = dict(
        img_resolution=8,
        in_channels=1,
        out_channels=1,
        model_channels=8,
        channel_mult=[1, 2],
        num_blocks=1,
    )
    x, t = torch.randn(2, 1, 8, 8), torch.randn(2)
    for encoder, decoder in (("skip", "skip"), ("residual", "skip"), ("skip", "standard")):
        net = golden_fill.fill(
            edm.SongUNet(encoder_type=encoder, decoder_type=decoder, **kwargs)
        ).eval()
        out = net(x, t, None)
        assert out.shape == x.shape
        name = next(
            n for n in net.state_dict() if "aux" in n and n.endswith("weight") and "norm" not in n
        )
        net.get_parameter(name).data.mul_(2)
        assert not torch.equal(net(x, t, None), out)


def test_sharing_the_encoder_changes_nothing():
    _, config = golden_fill.load("a_edm_ddpmpp_cond")
    net = build(config)
    x = torch.randn(2, 3, config["kwargs"]["img_resolution"], config["kwargs"]["img_resolution"])
    sigma, labels = torch.tensor([0.3, 4.0]), torch.eye(10)[[1, 7]]
    encoding = net.encode(x, sigma, labels)
    assert torch.equal(net.decode(encoding), net(x, sigma, labels))
    assert torch.equal(net.decode(encoding), net(x, sigma, labels)), (
        "decoding must not consume the skip tensors"
    )


def test_label_dropout_acts_in_training_only():
    net = edm.EDMPrecond(
        8,
        1,
        label_dim=3,
        model_type="SongUNet",
        model_channels=8,
        channel_mult=[1],
        num_blocks=1,
        attn_resolutions=[],
        label_dropout=1.0,
        dropout=0,
    )
    golden_fill.fill(net)
    x, sigma, labels = torch.randn(2, 1, 8, 8), torch.tensor(1.0), torch.eye(3)[[0, 2]]
    assert torch.equal(net.train()(x, sigma, labels), net(x, sigma, None))
    assert not torch.equal(net.eval()(x, sigma, labels), net(x, sigma, None))


@pytest.mark.parametrize(
    "kwargs, words",
    [
        (dict(model_type="ResNet"), "model_type"),
        (dict(model_type="SongUNet", encoder_type="wavy"), "encoder_type"),
        (dict(model_type="SongUNet", model_channels=130), "channels"),
        (dict(img_resolution=6), "images of 6 pixels"),
    ],
)
def test_impossible_networks_are_refused(kwargs, words):
    with pytest.raises(ValueError, match=words):
        edm.EDMPrecond(**dict(img_resolution=8, img_channels=1) | kwargs)
