"""Extractors: what they take, what they give, which weights they accept."""

import importlib
import pickle

import numpy as np
import pytest
import torch

from benchmarks.random_weights import write_random_weights
from dg.data.datasets import load_images
from dg.evaluation.classifier import FeatureClassifier, extract_features, save_classifier
from dg.evaluation.features import FIDELITY, load_extractor
from dg.runtime.catalogue import CATALOGUE


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    write_random_weights(path, seed=1)
    return path


@pytest.fixture(scope="module")
def inception(weights):
    return load_extractor("inception", weights, unpublished_weights=True)


def images(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_inception_gives_features_logits_and_spatial_ones(inception):
    named = inception(images(2, 32, 32, 3))
    assert {name: tuple(value.shape) for name, value in named.items()} == {
        "features": (2, 2048),
        "logits": (2, 1008),
        "spatial": (2, 17 * 17 * 7),
    }
    assert all(value.dtype == torch.float32 for value in named.values())
    assert (
        inception.metric == "fid"
        and inception.published is False
        and not inception.network.training
    )


def test_inception_is_torch_fidelitys_own(inception, weights):
    module = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    direct = module.FeatureExtractorInceptionV3(
        "inception", ["2048", "logits_unbiased"], str(weights)
    )
    batch = images(2, 20, 20, 3)
    features, logits = direct(torch.from_numpy(batch).permute(0, 3, 1, 2))
    named = inception(batch)
    torch.testing.assert_close(named["features"], features)
    torch.testing.assert_close(named["logits"], logits)


def test_grey_is_repeated(inception):
    grey = images(1, 16, 16, 1)
    torch.testing.assert_close(
        inception(grey)["features"], inception(grey.repeat(3, axis=3))["features"]
    )


def test_other_weights_than_the_published_are_refused(weights):
    with pytest.raises(ValueError, match=r"SHA-256 [0-9a-f]{64}, the published weights 6726825d"):
        load_extractor("inception", weights)


def test_pickles_are_not_executed(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "touched"), "w"))

    (tmp_path / "hostile.pth").write_bytes(pickle.dumps(Hostile()))
    torch.save({"a": Hostile()}, tmp_path / "zipped.pth")
    for name in ("hostile.pth", "zipped.pth"):
        with pytest.raises(ValueError, match="cannot be used"):
            load_extractor("inception", tmp_path / name, unpublished_weights=True)
    with pytest.raises(ValueError, match="not executed"):
        load_extractor(str(tmp_path / "inception-2015-12-05.pkl"))
    assert not (tmp_path / "touched").exists()


def test_names_stand_for_what_torch_fidelity_has():
    for name, (module, class_name, feature, short) in FIDELITY.items():
        cls = getattr(importlib.import_module(f"torch_fidelity.{module}"), class_name)
        assert feature in cls.get_provided_features_list()
        if hasattr(importlib.import_module(f"torch_fidelity.{module}"), "MODEL_METADATA"):
            assert name in importlib.import_module(f"torch_fidelity.{module}").MODEL_METADATA
        assert short is None or short in CATALOGUE


def test_clip_addresses_are_torch_fidelitys():
    from torch_fidelity.feature_extractor_clip import MODEL_URLS

    for name in ("clip-vit-b-32", "clip-vit-l-14"):
        assert (
            CATALOGUE[name].url == MODEL_URLS[name] and CATALOGUE[name].sha256 in MODEL_URLS[name]
        )


def test_dinov2_takes_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"torch\.hub"):
        load_extractor("dinov2-vit-b-14", tmp_path / "any.pth")


def test_a_classifier_is_an_extractor(tmp_path):
    torch.manual_seed(0)
    model = FeatureClassifier(8, 1, 10).eval().requires_grad_(False)
    save_classifier(tmp_path / "c.safetensors", model)
    extractor, digits = load_extractor(str(tmp_path / "c.safetensors")), load_images("digits", 20)
    np.testing.assert_allclose(
        extractor(digits.images)["features"], extract_features(model, digits), rtol=1e-5, atol=1e-6
    )
    assert extractor.metric == "fd"
    with pytest.raises(ValueError, match="16x16 pixels"):
        extractor.check("a", (16, 16, 1))
    with pytest.raises(ValueError, match="3 channels"):
        extractor.check("a", (8, 8, 3))


def test_pixels_are_the_images_at_edm_scale():
    batch = images(3, 4, 5, 3)
    found = load_extractor("pixels")(batch)["features"].numpy()
    np.testing.assert_allclose(
        found, batch.transpose(0, 3, 1, 2).reshape(3, -1) / 127.5 - 1, atol=1e-6
    )
    with pytest.raises(ValueError, match="12288 values"):
        load_extractor("pixels").check("a", (64, 64, 3))
