"""The noise-aware classifier."""

import numpy as np
import pytest
import torch

from dg.discriminator import build_discriminator
from dg.noisy_classifier import NoisyClassifierTraining, train_noisy_classifier
from dg.runtime.datasets import ImageSet

SMALL = dict(channel_mult=(1, 2), attention_resolutions=())
SETTINGS = NoisyClassifierTraining(steps=16, batch_size=16, lr=3e-3, **SMALL)


def bright_or_dark(n=64):
    labels = np.arange(n) % 2
    images = np.ones([n, 8, 8, 1], np.uint8) * (labels * 200 + 20).astype(np.uint8)[:, None, None, None]
    return ImageSet(images, labels, "two")


def test_it_learns_and_depends_on_its_seed_alone():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    model, _ = train_noisy_classifier(bright_or_dark(), SETTINGS)
    assert torch.equal(before, torch.random.get_rng_state())
    again, _ = train_noisy_classifier(bright_or_dark(), SETTINGS)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    x = torch.cat([torch.full([4, 1, 8, 8], -0.8), torch.full([4, 1, 8, 8], 0.7)])
    assert model(x, torch.full([8], 0.01)).argmax(1).tolist() == [0] * 4 + [1] * 4
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_its_file_serves_as_extractor(tmp_path):
    model, _ = train_noisy_classifier(bright_or_dark(), NoisyClassifierTraining(steps=1, batch_size=4, **SMALL))
    torch.save(model.state_dict(), tmp_path / "classifier.pt")
    discriminator = build_discriminator("classifier", bright_or_dark(), classifier_path=tmp_path / "classifier.pt", width=64)
    assert discriminator(torch.randn(2, 1, 8, 8), torch.tensor([0.3, 2.0])).shape == (2,)


def test_labels_are_needed():
    with pytest.raises(ValueError, match="no labels"):
        train_noisy_classifier(ImageSet(bright_or_dark().images, None, "two"), SETTINGS)
