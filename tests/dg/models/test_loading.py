"""Any model from its file: what is told by names of tensors, by metadata or by a folder, and what
is refused."""

import sys
from unittest import mock

import pytest
import torch

import edm
from dg.models.ddpm import DDPM, save_ddpm
from dg.models.discrete_sampling import DDPMSampling
from dg.models.loading import load_model
from tests import golden_fill
from tests.edm.nvidia_writer import STAND_INS
from tests.edm.test_score_sde import checkpoint_of
from tests.tiny_adm import TOLD, UNET, tiny_unet
from tests.tiny_dit import original_state, tiny_transformer

pytestmark = pytest.mark.diffusers


def unet(**kwargs):
    return golden_fill.fill(tiny_unet(**kwargs), gain=0.5)


@pytest.mark.parametrize(("prefix", "zipped"), [("", True), ("module.", True), ("", False)])
def test_files_of_guided_diffusion(tmp_path, prefix, zipped):
    """Those of torch before 1.6, too."""
    net = unet(num_classes=5)
    state = {prefix + name: tensor for name, tensor in net.state_dict().items()}
    torch.save(state, tmp_path / "adm.pt", _use_new_zipfile_serialization=zipped)
    model = load_model(tmp_path / "adm.pt", **TOLD)
    assert isinstance(model, DDPM) and model.label_dim == 5
    assert model.sampling() == DDPMSampling("ancestral", 250)
    assert model.sampling(num_steps=3) == DDPMSampling("ancestral", 3)
    x, t, y = torch.randn(2, 3, 8, 8), torch.tensor([3, 700]), torch.tensor([0, 4])
    with torch.no_grad():
        torch.testing.assert_close(model.net(x, t, y), net(x, t, y))


def test_a_ddpm_of_this_project_keeps_its_own_defaults(tmp_path):
    model = golden_fill.fill(
        DDPM(dict(schedule="cosine", num_steps=20, variance="learned_range"), UNET)
    )
    save_ddpm(tmp_path / "network.safetensors", model)
    loaded = load_model(tmp_path / "network.safetensors")
    assert loaded.sampling() == DDPMSampling()


def test_dits(tmp_path):
    from dg.models.dit import LatentDiffusion

    state = original_state()
    tiny_transformer().save_pretrained(tmp_path / "pipeline" / "transformer")
    for name in ("pipeline", "pipeline/transformer"):
        model = load_model(tmp_path / name)
        assert isinstance(model, LatentDiffusion)
        assert isinstance(model.sampling(), DDPMSampling) and model.sampling().LT_cfg == 1.5
    torch.save({"ema": state}, tmp_path / "dit.pt")
    with pytest.raises(ValueError, match=r"dit\.pt: .* attention heads; give num_heads$"):
        load_model(tmp_path / "dit.pt")
    lines = []
    assert isinstance(
        load_model(tmp_path / "dit.pt", "cpu", lines.append, num_heads=2), LatentDiffusion
    )
    assert lines == [
        f"{tmp_path}/dit.pt: of ema the weights under 'ema' are taken",
        f"{tmp_path}/dit.pt: 2 heads, linear schedule of 1000 steps, as DiT's own code has",
    ]
    size = 8 * model.img_resolution
    load_model(tmp_path / "dit.pt", num_heads=2, image_size=size)
    with pytest.raises(ValueError, match=f"makes images of {size} pixels, not 72; get another"):
        load_model(tmp_path / "dit.pt", num_heads=2, image_size=72)


def test_checkpoints_of_score_sde(tmp_path):
    torch.save(checkpoint_of("vp_ddpmpp"), tmp_path / "checkpoint_8.pth")
    lines = []
    net = load_model(tmp_path / "checkpoint_8.pth", "cpu", lines.append)
    assert isinstance(net, edm.Preconditioner) and net.img_resolution == 32
    assert len(lines) == 1 and "does not say it: VP" in lines[0]
    assert load_model(tmp_path / "checkpoint_8.pth", image_size=64).img_resolution == 64
    with pytest.raises(ValueError, match="holds num_heads itself; leave that out"):
        load_model(tmp_path / "checkpoint_8.pth", num_heads=2)


def test_what_is_no_generative_model(tmp_path):
    torch.save({"input_blocks.0.0.weight": torch.zeros(3)}, tmp_path / "classifier.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    for name in ("classifier.pt", "list.pt"):
        with pytest.raises(ValueError, match=f"{name}: a PyTorch file with neither"):
            load_model(tmp_path / name)
    torch.save({"weight": pytest.raises}, tmp_path / "unsafe.pt")
    with pytest.raises(
        ValueError,
        match=r"unsafe\.pt: holds a pickled '.*', refused because loading it could run code",
    ):
        load_model(tmp_path / "unsafe.pt")
    good = tmp_path / "good.pt"
    torch.save(unet().state_dict(), good)
    (tmp_path / "cut.pt").write_bytes(good.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"cut\.pt: damaged or truncated"):
        load_model(tmp_path / "cut.pt")
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ValueError, match="no such network file"):
            load_model(path)
    with pytest.raises(ValueError):
        edm.load_network(good)


def test_edms_training_state_and_a_folder(tmp_path):
    with mock.patch.dict(sys.modules, STAND_INS):
        from torch_utils.persistence import _reconstruct_persistent_obj as kept

        torch.save({"net": kept, "optimizer_state": {}}, tmp_path / "training-state-000512.pt")
    with pytest.raises(ValueError, match=r"network-snapshot-000512\.pkl beside it"):
        load_model(tmp_path / "training-state-000512.pt")
    save_ddpm(tmp_path / "network.safetensors", DDPM(dict(num_steps=20), UNET))
    assert isinstance(load_model(tmp_path), DDPM)
    with pytest.raises(ValueError, match="holds image_size and num_heads itself"):
        load_model(tmp_path, image_size=8, num_heads=2)
