"""Networks of every kind as safetensors, with and without rounding."""

import pytest
import torch
from safetensors import safe_open

import edm
from dg.checkpoints import load_discriminator, save_head
from dg.extractors import build_extractor
from dg.models.conversion import convert, is_score_network, share_within
from guided_diffusion import load_encoder
from tests.edm.test_score_sde import checkpoint_of
from tests.golden_fill import fill
from tests.guided_diffusion.test_loading import small


@pytest.fixture
def net(tmp_path):
    net = edm.EDMPrecond(img_resolution=8, img_channels=1, model_channels=8, channel_mult=[1, 2])
    edm.save_network(tmp_path / "net.safetensors", fill(net))
    return tmp_path / "net.safetensors"


def test_a_network_keeps_its_kind_and_its_bytes(net, tmp_path):
    size = convert(net, tmp_path / "out.safetensors")
    assert (tmp_path / "out.safetensors").read_bytes() == net.read_bytes()
    assert size == sum(p.numel() for p in edm.load_network(net).state_dict().values())


def test_a_checkpoint_of_score_sde_becomes_a_network(tmp_path):
    path, out, lines = tmp_path / "checkpoint_8.pth", tmp_path / "out.safetensors", []
    torch.save(checkpoint_of("ve_ncsnpp"), path)
    convert(path, out, notify=lines.append)
    assert len(lines) == 1 and "does not say it: VE" in lines[0]
    assert is_score_network(out) and share_within(path, out, levels=0, seeds=2) == 1
    convert(path, out, image_size=64)
    assert edm.load_network(out).img_resolution == 64
    torch.save({"a": torch.zeros(2)}, tmp_path / "weights.pt")
    for other in (out, tmp_path / "weights.pt"):
        with pytest.raises(ValueError, match="holds image_size itself; leave that out"):
            convert(other, tmp_path / "again.safetensors", image_size=64)


def test_rounded_weights_are_the_nearest_float16(net, tmp_path):
    out = tmp_path / "out.safetensors"
    convert(net, out, half=True)
    assert out.stat().st_size < 0.6 * net.stat().st_size
    kept, rounded = (edm.load_network(path).state_dict() for path in (net, out))
    for name, tensor in rounded.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, kept[name].half().float())


def test_images_of_rounded_weights_are_compared(net, tmp_path):
    convert(net, tmp_path / "out.safetensors", half=True)
    assert share_within(net, net, levels=0, seeds=2) == 1
    assert share_within(net, tmp_path / "out.safetensors", seeds=2) > 0.99
    assert is_score_network(net)


def test_the_state_of_a_classifier_is_read_from_safetensors(tmp_path):
    classifier = small()
    torch.save(classifier.state_dict(), tmp_path / "classifier.pt")
    convert(tmp_path / "classifier.pt", tmp_path / "classifier.safetensors")
    loaded = load_encoder(tmp_path / "classifier.safetensors").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in classifier.state_dict().items())


def test_a_head_becomes_the_state_dict_that_the_authors_code_reads(net, tmp_path):
    head, out = small(), tmp_path / "discriminator_60.pt"
    save_head(tmp_path / "last.safetensors", head, build_extractor("none"))
    convert(tmp_path / "last.safetensors", out, bare=True)
    state = torch.load(out, weights_only=True)
    assert set(state) == set(head.state_dict())
    assert all(torch.equal(state[name], value) for name, value in head.state_dict().items())
    assert load_discriminator(head_path=out).extractor.kind == "none"
    with pytest.raises(ValueError, match=r"net\.safetensors: is not read without its settings"):
        convert(net, out, bare=True)


def test_hugging_face_finds_its_format(net):
    with safe_open(str(net), framework="pt") as file:
        assert file.metadata()["format"] == "pt"


def test_values_beyond_float16_are_refused(tmp_path):
    torch.save({"weight": torch.tensor([1e6])}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt: tensor weight has values beyond float16"):
        convert(tmp_path / "a.pt", tmp_path / "b.safetensors", half=True)
    with pytest.raises(ValueError, match="holds a int, not a state dict"):
        torch.save(1, tmp_path / "a.pt")
        convert(tmp_path / "a.pt", tmp_path / "b.safetensors")
