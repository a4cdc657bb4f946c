"""The VGG with random weights: whose architecture, which weights, and what its features tell."""

import numpy as np
import pytest
import torch
from torch.nn import functional
from torchvision.models import vgg16

from dg.data.datasets import load_images
from dg.evaluation import random_vgg
from dg.evaluation.features import load_extractor
from dg.evaluation.metrics import feature_distance, statistics


@pytest.fixture(scope="module")
def extractor():
    return load_extractor("random-vgg")


@pytest.fixture(scope="module")
def digits(extractor):
    """200 digits and their features."""
    images = load_images("digits").images[:200]
    return images, features(extractor, images)


def features(extractor, images):
    return extractor(np.asarray(images, np.uint8))["features"].numpy()


def test_features_are_those_of_torchvisions_vgg16_with_the_drawn_weights(extractor):
    with torch.device("meta"):
        convolutions = vgg16(weights=None).features.eval()
    convolutions = convolutions.to_empty(device="cpu").requires_grad_(False)
    rng = np.random.RandomState(0)

    def draw(*shape):
        sd = np.sqrt(2 / np.prod(shape[1:]))
        return torch.from_numpy((rng.standard_normal(shape) * sd).astype(np.float32))

    for parameter in convolutions.parameters():
        parameter.copy_(draw(*parameter.shape) if parameter.ndim == 4 else torch.tensor(0.0))
    first, last = draw(4096, 512), draw(64, 4096)
    for side in (32, 20, 70):
        images = np.random.default_rng(side).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        if side != 32:
            x = functional.interpolate(x, (32, 32), mode="bilinear", antialias=True)
        expected = functional.relu(convolutions(x).flatten(1) @ first.T) @ last.T
        torch.testing.assert_close(extractor(images)["features"], expected, rtol=1e-4, atol=1e-4)


def test_it_is_the_same_for_everyone_and_draws_from_no_generator_of_torch(extractor):
    state = torch.get_rng_state()
    again = load_extractor("random-vgg")
    assert torch.equal(torch.get_rng_state(), state)
    assert extractor.describe() == {
        "name": "random-vgg",
        "sha256": "589dc667f7f66fd33a8c0f60c71ef8e2ec441390354b5b9fc79fe6abbc28dcb5",
        "published_weights": None,
    }
    grey = load_images("digits").images[:2]
    assert np.array_equal(features(again, grey), features(extractor, grey.repeat(3, axis=3)))
    assert features(again, grey).shape == (2, 64) and extractor.metric == "fd"


def test_other_weights_are_refused(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="random-vgg has no file of weights; leave the weights"):
        load_extractor("random-vgg", tmp_path / "any.pth")
    monkeypatch.setattr(random_vgg, "SEED", 1)
    with pytest.raises(ValueError, match=r"SHA-256 [0-9a-f]{64} on this machine, but 589d") as told:
        load_extractor("random-vgg")
    assert "\n" not in str(told.value)


def test_every_direction_of_the_features_stays_far_above_rounding(digits):
    _, found = digits
    variances = np.linalg.eigvalsh(statistics(found)[1])
    assert variances[0] > 1e-5 * variances[-1] and variances[-1] < 0.9 * variances.sum()


def test_the_distance_grows_with_noise_and_blur(extractor, digits):
    images, found = digits
    halves = feature_distance(found[:100], found[100:])
    noise = np.random.default_rng(0).normal(size=images[:100].shape)
    noisy = [
        feature_distance(features(extractor, np.clip(images[:100] + sd * noise, 0, 255)), found)
        for sd in (20, 60)
    ]
    x = torch.from_numpy(images[:100]).permute(0, 3, 1, 2).float()
    blurred = functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False).permute(0, 2, 3, 1)
    assert noisy[1] > 2 * max(noisy[0], halves)
    assert feature_distance(features(extractor, blurred), found) > 10 * halves
