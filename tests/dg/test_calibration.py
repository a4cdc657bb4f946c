"""Temperatures of a head: on every path to its logits, in its file, and in the identity of
images."""

import numpy as np
import pytest
import torch

from dg import vp
from dg.adapters import cond_fn
from dg.calibration import Calibration
from dg.checkpoints import load_discriminator, save_calibrated, save_head
from dg.discriminator import Discriminator, LogRatio
from dg.extractors import PixelExtractor
from dg.guidance import DiscriminatorGuidance
from edm.checkpoint import read_safetensors
from guided_diffusion import create_classifier
from tests import golden_fill
from tests.dg.test_discriminator import network
from tests.dg.test_guidance import score_discriminator

FITTED = Calibration((0.05, 0.4), (2.0, 4.0))
SIGMA = torch.tensor([0.01, 0.8, 80.0])


@pytest.fixture
def scored():
    net = network(label_dim=0)
    return net, score_discriminator(net)


def with_temperatures(plain, *calibrations):
    return Discriminator(plain.extractor, plain.heads, plain.weights, calibrations=calibrations)


def images(n=3):
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_logits_are_divided_by_the_temperature_on_every_path(scored):
    net, plain = scored
    calibrated = with_temperatures(plain, FITTED)
    expected = plain(images(), SIGMA) / FITTED.temperature(SIGMA).float()
    assert (expected != 0).all()
    torch.testing.assert_close(calibrated(images(), SIGMA), expected)
    encoding = net.encode(images(), SIGMA, None)
    torch.testing.assert_close(calibrated.from_encoding(encoding), expected)
    one = torch.tensor(0.8)
    torch.testing.assert_close(
        calibrated(images(), one), plain(images(), one) / FITTED.temperature(one).float()
    )


def test_the_gradient_at_timesteps_is_divided_by_the_temperature_of_their_time():
    head = golden_fill.fill(
        create_classifier(
            8,
            in_channels=3,
            out_channels=1,
            classifier_width=64,
            classifier_depth=1,
            channel_mult=(1,),
        )
    )
    plain = Discriminator(PixelExtractor(), [head]).eval()
    steps = torch.tensor([10, 225, 899])
    found, raw = (
        cond_fn(one)(images(), steps) for one in (with_temperatures(plain, FITTED), plain)
    )
    assert raw.flatten(1).any(1).all()
    temperatures = FITTED.temperature(vp.to_sigma(steps.double() / 999))
    torch.testing.assert_close(found, raw / temperatures.to(raw).reshape(-1, 1, 1, 1))


def test_the_correction_is_divided_too_in_one_pass_and_in_two(scored):
    net, plain = scored
    guided, raw = (
        DiscriminatorGuidance(one, (1, 1), 0) for one in (with_temperatures(plain, FITTED), plain)
    )
    expected = raw.correction(images(), SIGMA) / FITTED.temperature(SIGMA).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(guided.correction(images(), SIGMA), expected.float())
    guided.begin(images())
    shared = guided.parts(net, images(), SIGMA, None, 0, 1)[1]
    torch.testing.assert_close(shared, expected.float(), rtol=1e-4, atol=1e-5)


def test_every_member_of_an_ensemble_has_its_own(scored):
    _, plain = scored
    both = Discriminator(
        plain.extractor, [plain.heads[0]] * 2, calibrations=[FITTED, Calibration((0, 1), (1, 1))]
    )
    logits = plain(images(), SIGMA)
    mean = (logits / FITTED.temperature(SIGMA).float() + logits) / 2
    torch.testing.assert_close(both(images(), SIGMA), mean)


def test_images_depend_on_the_temperatures_and_others_keep_their_identity(scored):
    _, plain = scored
    raw = DiscriminatorGuidance(plain).describe()
    found = DiscriminatorGuidance(with_temperatures(plain, FITTED)).describe()
    assert found.pop("calibrations") == [{"times": (0.05, 0.4), "temperatures": (2.0, 4.0)}]
    assert found == raw


def test_samplers_that_accept_and_select_take_the_calibrated_ratio(scored):
    _, plain = scored
    calibrated = LogRatio(with_temperatures(plain, FITTED))
    expected = LogRatio(plain)(images(), SIGMA) / FITTED.temperature(SIGMA).float()
    torch.testing.assert_close(calibrated(images(), SIGMA), expected)
    assert len(calibrated.describe()["calibrations"]) == 1


def test_a_head_keeps_its_temperatures_in_its_file(scored, tmp_path):
    net, plain = scored
    files = {name: tmp_path / f"{name}.safetensors" for name in ("head", "stored", "again")}
    save_head(files["head"], plain.heads[0], plain.extractor, {"epoch": 3})
    save_calibrated(files["stored"], files["head"], FITTED)
    save_calibrated(files["again"], files["stored"], Calibration((0, 1), (1, 5)))
    loaded = load_discriminator(None, files["stored"], net, calibrated=True)
    torch.testing.assert_close(
        loaded(images(), SIGMA), with_temperatures(plain, FITTED)(images(), SIGMA)
    )
    uncalibrated = load_discriminator(None, files["stored"], net)
    assert torch.equal(uncalibrated(images(), SIGMA), plain(images(), SIGMA))
    assert load_discriminator(None, files["again"], net, calibrated=True).calibrations == (
        Calibration((0, 1), (1, 5)),
    )
    config, _ = read_safetensors(files["stored"], "discriminator-head")
    assert config["training"] == {"epoch": 3} and config["fingerprint"]
    with pytest.raises(ValueError, match=r"head\.safetensors: holds no calibration"):
        load_discriminator(None, files["head"], net, calibrated=True)


@pytest.mark.parametrize(
    "broken",
    [
        {"times": [0, 1]},
        {"times": [1, 0], "temperatures": [1, 1]},
        {"times": "ab"},
        {"times": ["a", "b"], "temperatures": [1, 2]},
        {"x": 1},
    ],
)
def test_a_damaged_calibration_is_one_line(scored, tmp_path, broken, monkeypatch):
    net, plain = scored
    path = tmp_path / "head.safetensors"
    save_head(path, plain.heads[0], plain.extractor)
    monkeypatch.setattr("dg.checkpoints.asdict", lambda _: broken)
    save_calibrated(path, path, FITTED)
    with pytest.raises(ValueError, match=r"^[^\n]*head\.safetensors[^\n]*calibrate"):
        load_discriminator(None, path, net, calibrated=True)


def test_a_head_of_the_authors_form_can_be_calibrated(tmp_path):
    head = golden_fill.fill(
        create_classifier(
            8,
            in_channels=3,
            out_channels=1,
            classifier_width=64,
            classifier_depth=1,
            channel_mult=(1,),
        )
    )
    torch.save(head.state_dict(), tmp_path / "head.pt")
    save_calibrated(tmp_path / "stored.safetensors", tmp_path / "head.pt", FITTED)
    plain = load_discriminator(None, tmp_path / "head.pt")
    stored = load_discriminator(None, tmp_path / "stored.safetensors", calibrated=True)
    expected = plain(images(), SIGMA) / FITTED.temperature(SIGMA).float()
    np.testing.assert_allclose(stored(images(), SIGMA), expected, rtol=1e-5)
