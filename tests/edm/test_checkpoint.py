"""Checkpoints: a network comes back as it was written, from both formats; whatever is wrong with a
file is one line."""

import io
import json
import math
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import edm
from edm.checkpoint import FORMAT
from edm.fingerprints import fingerprint
from edm.precond import PRECONDITIONERS
from tests import golden_fill
from tests.edm.nvidia_writer import write_network

COMMON = dict(
    img_resolution=8,
    img_channels=2,
    label_dim=3,
    num_blocks=1,
    channel_mult=[1, 2],
    attn_resolutions=[4],
)
UNETS = {
    "ddpmpp": dict(model_type="SongUNet", model_channels=8, augment_dim=9),
    "ncsnpp": dict(
        model_type="SongUNet",
        model_channels=8,
        embedding_type="fourier",
        encoder_type="residual",
        channel_mult_noise=2,
        resample_filter=[1, 3, 3, 1],
    ),
    "adm": dict(model_type="DhariwalUNet", model_channels=32, dropout=0.2),
}
OWN = {  # what each preconditioner takes beside its U-Net, none of it a default
    "EDMPrecond": dict(sigma_min=0.002, sigma_max=math.inf, sigma_data=0.7),
    "VPPrecond": dict(beta_d=18.0, beta_min=0.2, M=500, epsilon_t=1e-4),
    "VEPrecond": dict(sigma_min=0.03, sigma_max=90),
    "iDDPMPrecond": dict(C_1=0.002, C_2=0.01, M=20),
}


def network(class_name="EDMPrecond", unet="ddpmpp", **changes):
    """(network with weights that use every branch, the arguments it was made with)."""
    kwargs = COMMON | UNETS[unet] | OWN[class_name] | changes
    return golden_fill.fill(getattr(edm, class_name)(**kwargs)).eval().requires_grad_(False), kwargs


def images(net):
    """What a network makes of fixed noise at a low and a high noise level, with labels and
    without."""
    x = torch.randn(2, net.img_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.05, 20.0])
    return torch.stack([net(x, sigma, torch.eye(3)[[0, 2]]), net(x * 5, sigma.flip(0), None)])


def same(a, b):
    """Bit-equal images of some size, bit-equal tensors, the same noise levels."""
    seen, tensors, others = images(a), a.state_dict(), b.state_dict()
    assert torch.equal(seen, images(b)) and seen.abs().max() > 1e-3
    assert type(a) is type(b) and list(tensors) == list(others)
    assert all(torch.equal(tensor, others[name]) for name, tensor in tensors.items())
    levels = torch.linspace(0.1, 60, 7, dtype=torch.float64)
    assert (a.sigma_min, a.sigma_max) == (b.sigma_min, b.sigma_max)
    assert getattr(a, "sigma_data", None) == getattr(b, "sigma_data", None)
    assert torch.equal(a.round_sigma(levels), b.round_sigma(levels))


def frozen(net):
    return not any(module.training for module in net.modules()) and not any(
        p.requires_grad for p in net.parameters()
    )


@pytest.mark.parametrize("unet", UNETS)
@pytest.mark.parametrize("class_name", PRECONDITIONERS)
def test_a_network_survives_both_formats(class_name, unet, tmp_path):
    net, kwargs = network(class_name, unet)
    write_network(tmp_path / "nvidia.pkl", net, class_name, kwargs)
    nvidia = edm.load_network(tmp_path / "nvidia.pkl")
    same(nvidia, net)
    edm.save_network(tmp_path / "own.safetensors", nvidia)
    own = edm.load_network(tmp_path / "own.safetensors")
    same(own, net)
    assert own.init_kwargs == nvidia.init_kwargs == net.init_kwargs
    assert kwargs.items() <= own.init_kwargs.items(), "every argument is kept as it was given"
    assert frozen(nvidia) and frozen(own)


def test_positional_arguments_of_nvidias_files_are_read(tmp_path):
    net, kwargs = network()
    rest = dict(kwargs)
    args = tuple(rest.pop(name) for name in ("img_resolution", "img_channels", "label_dim"))
    write_network(tmp_path / "a.pkl", net, "EDMPrecond", rest, init_args=args)
    loaded = edm.load_network(tmp_path / "a.pkl")
    write_network(tmp_path / "b.pkl", net, "EDMPrecond", kwargs)
    same(loaded, net)
    assert fingerprint(loaded) == fingerprint(edm.load_network(tmp_path / "b.pkl"))
    for wrong in (args + tuple(range(9)), (*args[:2], [{"deep": [[[[1]]]]}])):
        write_network(tmp_path / "c.pkl", net, "EDMPrecond", rest, init_args=wrong)
        refused(tmp_path / "c.pkl", "arguments")


def test_a_folder_stands_for_its_network(tmp_path):
    edm.save_network(tmp_path / "network.safetensors", network()[0])
    same(edm.load_network(tmp_path), network()[0])


def test_the_state_of_edms_training_names_the_file_of_its_network(tmp_path):
    for name, beside in (("training-state-000512.pt", "000512"), ("else.pt", "*")):
        torch.save({"net": torch.ones(2), "optimizer_state": {}}, tmp_path / name)
        refused(tmp_path / name, f"network-snapshot-{beside}.pkl beside it")


BUILT_ON_META = """
import sys, torch, edm
from dg.heads import ScoreHead
from dg.models.ddpm import DDPM
from dg.models.vae import VAE
from guided_diffusion import create_classifier, create_unet
small = dict(model_channels=32, channel_mult=[1, 1], attn_resolutions=[8])
net = dict(model_channels=32, image_size=8, in_channels=1, channel_mult=[1], num_res_blocks=1)
filters = dict(resample_filter=[1, 3, 3, 1], embedding_type="fourier", encoder_type="residual")
with torch.device("meta"):
    edm.EDMPrecond(8, 1, 10, model_type="SongUNet", **small)
    edm.VEPrecond(8, 1, 0, model_type="SongUNet", **small, **filters)
    edm.EDMPrecond(8, 1, 10, model_type="DhariwalUNet", **small)
    create_classifier(condition=True)
    create_unet("64x64_diffusion")
    DDPM(dict(num_steps=5), net | dict(num_classes=3, num_head_channels=32))
    VAE(8, 1)
    ScoreHead(32, 128, num_classes=10)
assert "torch._dynamo" not in sys.modules
"""


def test_networks_without_weights_need_no_compiler():
    """torch._dynamo asks for the user's name, which in containers nobody knows."""
    subprocess.run([sys.executable, "-c", BUILT_ON_META], check=True)


def test_arguments_that_json_has_no_word_for_are_kept(tmp_path):
    net, _ = network(use_fp16=True, channel_mult=(1, 2))
    edm.save_network(tmp_path / "a", net)
    loaded = edm.load_network(tmp_path / "a")
    assert loaded.sigma_max == math.inf and loaded.use_fp16 is True
    same(loaded, net)


def test_the_content_decides_which_format_it_is_and_not_the_name(tmp_path):
    net, kwargs = network()
    edm.save_network(tmp_path / "own.pkl", net)
    write_network(tmp_path / "nvidia.safetensors", net, "EDMPrecond", kwargs)
    same(
        edm.load_network(tmp_path / "own.pkl"),
        edm.load_network(str(tmp_path / "nvidia.safetensors")),
    )


def test_a_network_in_training_is_written_as_it_is_and_comes_back_frozen(tmp_path):
    net, _ = network()
    net.train().requires_grad_(True)
    buffer = io.BytesIO()
    edm.save_network(buffer, net)
    assert net.training and next(net.parameters()).requires_grad
    (tmp_path / "a").write_bytes(buffer.getvalue())
    loaded = edm.load_network(tmp_path / "a")
    assert frozen(loaded)
    same(loaded, net.eval())


def test_equal_networks_are_equal_files(tmp_path):
    for count in range(8):  # unsorted metadata would differ in half of them
        edm.save_network(tmp_path / str(count), network()[0])
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_half_precision_weights_are_read_as_single(tmp_path):
    net, _ = network()
    edm.save_network(tmp_path / "a", net.half())
    loaded = edm.load_network(tmp_path / "a")
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}
    same(loaded, net.float())


def test_loading_leaves_the_global_random_numbers_alone(tmp_path):
    net, kwargs = network("VEPrecond", "ncsnpp")
    edm.save_network(tmp_path / "a", net)
    write_network(tmp_path / "b", net, "VEPrecond", kwargs)
    before = torch.get_rng_state()
    for name in "ab":
        edm.load_network(tmp_path / name)
    assert torch.equal(torch.get_rng_state(), before)


# Files that are no network.


def refused(path, *words):
    """Loading fails with one line that begins with the file's name and holds the words."""
    with pytest.raises(ValueError) as caught:
        edm.load_network(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and len(message.splitlines()) == 1, message
    assert all(word in message for word in words), message


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "net.safetensors"
    edm.save_network(path, network()[0])
    return path


def rewrite(path, change=lambda tensors: None, **metadata):
    """Write a good file again with changed tensors or metadata."""
    tensors = load_file(path)
    config = {"class_name": "EDMPrecond", "init_kwargs": network()[1]}
    change(tensors)
    save_file(tensors, path, {"format": FORMAT, "config": json.dumps(config)} | metadata)


def test_rewriting_unchanged_is_harmless(good):
    rewrite(good)
    same(edm.load_network(good), network()[0])


def test_files_of_another_kind_are_refused(tmp_path, good):
    refused(tmp_path / "absent.pkl", "no such network file")
    refused(tmp_path, "no such network file")
    for content in (
        b"",
        b"{",
        b"# Notes\n{and more}\n" * 20,
        b"12345678{",
        b"<!DOCTYPE html>\n<title>404</title>",
    ):
        (tmp_path / "text").write_bytes(content)
        refused(tmp_path / "text")
    torch.save(network()[0].state_dict(), tmp_path / "bare.pt")
    refused(tmp_path / "bare.pt", "give a network pickle")
    rewrite(good, format="discriminator-head")
    refused(good, f"is no {FORMAT}", "says discriminator-head")
    save_file({"weight": torch.ones(2)}, good)
    refused(good, f"is no {FORMAT}", "says nothing")


@pytest.mark.parametrize("part", [0.001, 0.1, 0.5, 0.999])
def test_a_truncated_file_is_refused(good, part):
    data = good.read_bytes()
    good.write_bytes(data[: int(len(data) * part)])
    refused(good)


def test_broken_metadata_is_refused(good):
    rewrite(good, config="{'class_name'")
    refused(good, "not a readable safetensors file")
    for config in ("{}", "[]", '{"class_name": "EDMPrecond"}', '{"init_kwargs": {}}'):
        rewrite(good, config=config)
        refused(good, "does not say class_name and init_kwargs")


def test_other_networks_are_refused(good):
    rewrite(good, config=json.dumps({"class_name": "Unheard", "init_kwargs": {}}))
    refused(good, "Unheard", "EDMPrecond")
    for changes, words in (
        ({"wings": 2}, "wings"),
        ({"model_type": "ResNet"}, "SongUNet"),
        ({"model_channels": 0}, "give positive sizes"),
        ({"img_resolution": 7}, "cannot be halved"),
        ({"model_channels": -8}, ""),
    ):
        rewrite(
            good,
            config=json.dumps({"class_name": "EDMPrecond", "init_kwargs": network()[1] | changes}),
        )
        refused(good, "EDMPrecond does not take", words)
    rewrite(good, config=json.dumps({"class_name": "EDMPrecond", "init_kwargs": {}}))
    refused(good, "img_resolution")


NAME = "model.enc.8x8_block0.conv0.weight"


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda tensors: tensors.pop(NAME), "is missing"),
        (
            lambda tensors: tensors.update({NAME: torch.ones(8, 8, 1, 1)}),
            "(8, 8, 1, 1) where the network needs (8, 8, 3, 3)",
        ),
        (lambda tensors: tensors.update({NAME: tensors[NAME].log()}), "NaN or infinity"),
        (lambda tensors: tensors[NAME].view(-1)[70].fill_(math.inf), "NaN or infinity"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(good, change, words):
    rewrite(good, change)
    refused(good, f"tensor {NAME} ", words)


def test_a_tensor_too_many_is_named(good):
    rewrite(good, lambda tensors: tensors.update({"model.extra": torch.ones(1)}))
    refused(good, "tensor model.extra is unknown")


@pytest.mark.parametrize("unet", UNETS)
def test_an_encoder_alone_is_no_network(tmp_path, unet):
    """It has the tensors of the whole network but for the decoder's, and cannot denoise."""
    whole, half = (
        edm.EDMPrecond(**COMMON, **UNETS[unet], **changes) for changes in ({}, dict(decoder=False))
    )
    kept = [name for name in whole.state_dict() if not name.startswith(("model.dec", "model.out_"))]
    assert list(half.state_dict()) == kept != list(whole.state_dict())
    edm.save_network(tmp_path / "half.safetensors", half)
    with pytest.raises(ValueError, match="holds an encoder alone"):
        edm.load_network(tmp_path / "half.safetensors")


def test_an_nvidia_file_that_does_not_fit_its_arguments_is_refused(tmp_path):
    net, kwargs = network()
    for changes, words in (
        ({"num_blocks": 2}, "tensor model.enc.8x8_block1"),
        ({"img_channels": 1}, "has shape"),
        ({"label_dim": 0}, "tensor model.map_label.weight is unknown"),
        ({"wings": 2}, "wings"),
    ):
        write_network(tmp_path / "net.pkl", net, "EDMPrecond", kwargs | changes)
        refused(tmp_path / "net.pkl", words)
