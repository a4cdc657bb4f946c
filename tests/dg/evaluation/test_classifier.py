"""The feature classifier: learns, depends on its seed alone, comes back from its file, refuses what
does not fit."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import edm
from dg.data.datasets import ImageSet, load_images, to_float
from dg.evaluation.classifier import (
    ClassifierTraining,
    FeatureClassifier,
    _shifted,
    accuracy,
    extract_features,
    load_classifier,
    save_classifier,
    train_classifier,
)
from edm.checkpoint import write_safetensors

QUICK = ClassifierTraining(epochs=1, batch_size=16)


def bars(n=48, labels=True):
    """Images of a bar that lies (class 0) or stands (class 1), on noise."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 80, [n, 8, 8, 1], dtype=np.uint8)
    for index, image in enumerate(images):
        place = rng.integers(1, 6)
        (image[place : place + 2] if index % 2 else image[:, place : place + 2])[...] = 220
    return ImageSet(images, np.arange(n) % 2 if labels else None, "bars")


@pytest.fixture(scope="module")
def digits():
    """A classifier of digits after few epochs, with the set that it has not seen."""
    return train_classifier(load_images("digits:train"), ClassifierTraining(epochs=3)), load_images(
        "digits:heldout"
    )


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return list(a) == list(b) and all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def test_it_learns_to_name_unseen_digits(digits):
    model, heldout = digits
    assert accuracy(model, heldout) > 0.9
    logits = model(to_float(heldout.images))
    assert accuracy(model, heldout) == np.mean(logits.argmax(1).numpy() == heldout.labels)
    assert not model.training and not any(
        parameter.requires_grad for parameter in model.parameters()
    )


def test_features_are_the_activations_before_the_logits(digits):
    model, heldout = digits
    features = extract_features(model, heldout)
    assert features.shape == (len(heldout), 64) and features.dtype == np.float64
    logits = torch.from_numpy(features).float() @ model.logits.weight.T + model.logits.bias
    torch.testing.assert_close(logits, model(to_float(heldout.images)), rtol=1e-4, atol=1e-4)
    turned = heldout.subset(np.arange(len(heldout))[::-1])
    np.testing.assert_allclose(extract_features(model, turned)[::-1], features, atol=1e-5)


def test_features_tell_classes_apart(digits):
    model, heldout = digits
    features = extract_features(model, heldout)
    means = np.stack([features[heldout.labels == digit].mean(0) for digit in range(10)])
    nearest = np.linalg.norm(features[:, None] - means, axis=2).argmin(1)
    assert (nearest == heldout.labels).mean() > 0.9


def test_the_seed_decides_and_the_global_random_numbers_are_left_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = train_classifier(bars(), QUICK)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(train_classifier(bars(), QUICK), first)
    assert not same(train_classifier(bars(), replace(QUICK, seed=1)), first)


def test_progress_counts_epochs():
    seen = []

    def progress(iterable, **kwargs):
        for epoch in iterable:
            seen.append(epoch)
            yield epoch

    train_classifier(bars(), replace(QUICK, epochs=2), progress)
    assert seen == [0, 1]


def test_an_image_is_translated_by_up_to_the_limit_and_its_border_is_background():
    image = torch.arange(1.0, 51.0).reshape(1, 2, 5, 5) / 50  # no pixel is background
    shifted = _shifted(image.expand(400, -1, -1, -1), 2, torch.Generator().manual_seed(0))
    possible = {}
    for down in range(-2, 3):
        for right in range(-2, 3):
            moved = torch.full_like(image[0], -1.0)
            moved[:, max(down, 0) : 5 + min(down, 0), max(right, 0) : 5 + min(right, 0)] = image[
                0, :, max(-down, 0) : 5 + min(-down, 0), max(-right, 0) : 5 + min(-right, 0)
            ]
            possible[down, right] = moved
    found = [
        next(key for key, moved in possible.items() if torch.equal(moved, one)) for one in shifted
    ]
    assert set(found) == set(possible), "every shift occurs, in both directions, and nothing else"
    assert max(found.count(key) for key in possible) < 40  # 16 expected, standard deviation 4


def test_a_limit_of_zero_changes_nothing():
    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(_shifted(x, 0, torch.Generator().manual_seed(0)), x)


def test_a_classifier_comes_back_as_it_was_saved(tmp_path, digits):
    model, heldout = digits
    save_classifier(tmp_path / "classifier.safetensors", model)
    before = torch.get_rng_state()
    loaded = load_classifier(tmp_path / "classifier.safetensors")
    assert torch.equal(torch.get_rng_state(), before)
    assert same(loaded, model) and loaded.config == model.config
    assert np.array_equal(extract_features(loaded, heldout), extract_features(model, heldout))
    assert not loaded.training and not any(
        parameter.requires_grad for parameter in loaded.parameters()
    )


@pytest.mark.parametrize("resolution, channels", [(8, 3), (28, 1), (33, 1)])
def test_other_sizes_and_channels(resolution, channels):
    model = FeatureClassifier(resolution, channels, 4, width=8, feature_dim=6)
    x = torch.randn(2, channels, resolution, resolution, generator=torch.Generator().manual_seed(0))
    assert model.features(x).shape == (2, 6) and model(x).shape == (2, 4)


def refused(words, call):
    with pytest.raises(ValueError, match=words) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1


def test_images_and_labels_that_do_not_fit_are_refused(digits):
    model, _ = digits
    grey = np.zeros([2, 16, 16, 1], np.uint8)
    refused(
        "big: images of 16 pixels and 1 channels, but the feature classifier takes 8 pixels and 1 "
        "channels",
        lambda: extract_features(model, ImageSet(grey, None, "big")),
    )
    refused(
        "colour: images of 8 pixels and 3 channels",
        lambda: extract_features(model, ImageSet(np.zeros([2, 8, 8, 3], np.uint8), None, "colour")),
    )
    refused(
        "colour: images of 8 pixels and 3 channels",
        lambda: accuracy(
            model, ImageSet(np.zeros([2, 8, 8, 3], np.uint8), np.array([0, 1]), "colour")
        ),
    )
    refused("bars: has no labels", lambda: accuracy(model, bars(labels=False)))
    refused("bars: has no labels", lambda: train_classifier(bars(labels=False), QUICK))
    refused(
        "tall: images are 8x4",
        lambda: train_classifier(
            ImageSet(np.zeros([2, 8, 4, 1], np.uint8), np.array([0, 1]), "tall"), QUICK
        ),
    )


def test_files_that_are_no_classifier_are_refused(tmp_path):
    path = tmp_path / "classifier.safetensors"
    refused(f"{path}: no such classifier", lambda: load_classifier(path))
    refused("no such classifier", lambda: load_classifier(tmp_path))
    edm.save_network(
        path, edm.EDMPrecond(8, 1, model_type="SongUNet", model_channels=8, num_blocks=1)
    )
    refused("is no feature-classifier", lambda: load_classifier(path))
    model = FeatureClassifier(8, 1, 2, width=8, feature_dim=4)
    save_classifier(path, model)
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    refused(f"{path}: not a readable safetensors file", lambda: load_classifier(path))
    with torch.no_grad():
        model.logits.bias[1] = math.nan
    save_classifier(path, model)
    refused(f"{path}: tensor logits.bias holds NaN", lambda: load_classifier(path))
    tensors = {
        name: tensor for name, tensor in model.state_dict().items() if name != "logits.weight"
    }
    write_safetensors(path, tensors, "feature-classifier", model.config)
    refused(f"{path}: tensor logits.weight is missing", lambda: load_classifier(path))
    write_safetensors(path, tensors, "feature-classifier", {"width": 8})
    refused(f"{path}: its metadata does not say img_resolution", lambda: load_classifier(path))
