"""The U-Net of ShuffleNet units: the unit is that of the paper, the network keeps the contract of
ADM's, and a DDPM on it survives its file."""

import numpy as np
import pytest
import torch

from dg.data.images import ImageSet
from dg.models.ddpm import DDPM, load_ddpm, save_ddpm
from dg.models.discrete_sampling import DDPMSampling
from dg.models.shuffle_unet import ShuffleUNet, ShuffleUnit
from dg.pretraining.ddpm import build_ddpm
from dg.pretraining.presets import DDPM_PRESETS
from dg.sampling import draw_images
from tests import golden_fill
from tests.dg.pretraining.test_score import equal

TINY = dict(architecture="shuffle", model_channels=16, channel_mult=[2], num_units=2)
PROCESS = dict(schedule="cosine", num_steps=20, variance="fixed_small", mean="epsilon")


def tiny(num_classes=0, **process):
    network = TINY | dict(image_size=4, in_channels=1, num_classes=num_classes)
    with torch.no_grad():
        return golden_fill.fill(DDPM(PROCESS | process, network), gain=0.6).eval()


def noisy(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_half_of_the_channels_pass_a_unit_and_are_interleaved_with_the_others():
    x, unit = noisy(3, 32, 6, 6), ShuffleUnit(32, 32)
    first, second = unit(x)[:, 0::2], unit(x)[:, 1::2]
    assert torch.equal(first, x[:, :16]) and not torch.equal(second, x[:, 16:])
    # 16 channels through 1x1, depthwise 3x3 and 1x1, each with its normalisation
    assert sum(p.numel() for p in unit.parameters()) == 2 * 16 * 16 + 9 * 16 + 3 * 2 * 16
    changed = x.clone()
    changed[:, :16] += 1
    assert torch.equal(unit(changed)[:, 1::2], second)


def test_a_unit_that_changes_its_shape_sees_all_channels_in_both_branches():
    x, unit = noisy(2, 32, 6, 6), ShuffleUnit(32, 64, stride=2)
    assert unit(x).shape == (2, 64, 3, 3) and ShuffleUnit(32, 64)(x).shape == (2, 64, 6, 6)
    for channel in (0, 31):
        changed = x.clone()
        changed[:, channel] += torch.arange(6.0)
        difference = (unit(changed) - unit(x)).abs()
        assert difference[:, 0::2].max() > 1e-3 and difference[:, 1::2].max() > 1e-3


def test_the_preset_has_the_widths_and_the_recipe_of_mnistdiffusion():
    network, settings = DDPM_PRESETS["mnist-ddpm-shuffle"]
    data = ImageSet(np.zeros([2, 28, 28, 1], np.uint8), np.arange(2), "meta", 2)
    with torch.device("meta"):
        model = build_ddpm(data, network, settings)
    net = model.net
    assert [halve.beside[0].in_channels for halve in net.halve] == [64, 128]
    assert net.middle.emb[1].out_features == 256 and net.out[2].in_channels == 64
    assert all(len(level.units) == 4 for level in (*net.down, net.middle, *net.up))
    # 100 epochs of 60,000 images, 469 steps each
    assert (settings.steps, settings.batch_size, settings.lr) == (100 * 469, 128, 1e-3)
    betas = model.diffusion.schedule.betas
    assert len(betas) == 1000 and betas[-1] == 0.999
    angles = (np.array([1 / 1000, 0]) + 0.008) / 1.008 * np.pi / 2
    assert betas[0] == pytest.approx(1 - np.divide(*np.cos(angles) ** 2))
    assert model.diffusion.mean == "epsilon" and not model.diffusion.learns_variance
    # the average keeps 0.936 of itself every tenth step
    assert 0.5 ** (10 * 128 / settings.ema_halflife) == pytest.approx(0.936, abs=1e-3)


@pytest.mark.parametrize(("num_classes", "variance"), [(0, "fixed_small"), (3, "learned_range")])
def test_a_model_survives_its_file_and_draws_the_same_images(tmp_path, num_classes, variance):
    model = tiny(num_classes, variance=variance)
    save_ddpm(tmp_path / "ddpm.safetensors", model)
    loaded = load_ddpm(tmp_path / "ddpm.safetensors")
    assert loaded.init_kwargs == model.init_kwargs and equal(model, loaded)
    how = DDPMSampling("ancestral", num_steps=5)
    (images, _), (again, _) = (draw_images(net, [3, 7], how) for net in (model, loaded))
    assert torch.equal(images, again) and images.shape == (2, 1, 4, 4)
    alone, _ = draw_images(loaded, [7], how)
    torch.testing.assert_close(alone, images[1:], rtol=0, atol=1e-4)  # the network's rounding


def test_the_network_knows_time_and_class():
    net = tiny(num_classes=3).net
    x, t, y = noisy(4, 1, 4, 4), torch.tensor([1, 5, 9, 13]), torch.tensor([0, 1, 2, 0])
    found = net(x, t, y)
    assert found.dtype == torch.float32 and found.shape == x.shape
    assert not torch.allclose(net(x, t + 1, y), found)
    assert not torch.allclose(net(x, t, (y + 1) % 3), found)
    found.square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_what_does_not_fit_is_one_line():
    with pytest.raises(ValueError, match="can be halved 2 times"):
        ShuffleUNet(image_size=10)
    with pytest.raises(ValueError, match="multiples of 16"):
        ShuffleUNet(image_size=8, model_channels=24)
    with pytest.raises(ValueError, match="the architecture is 'dense'; use adm or shuffle"):
        DDPM(PROCESS, dict(architecture="dense", image_size=4, in_channels=1))
    with pytest.raises(ValueError, match="no y if there are none"):
        tiny().net(torch.zeros(1, 1, 4, 4), torch.tensor(0), torch.tensor([0]))
