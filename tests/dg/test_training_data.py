"""Latents as what a discriminator is trained on; images are looked at in test_training.py."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dg.checkpoints import load_discriminator
from dg.data.images import ImageSet
from dg.data.latents import LatentSet, LatentStore, Rows
from dg.data.sample_store import SampleStore
from dg.discriminator import Discriminator, build_discriminator
from dg.extractors import PixelExtractor
from dg.recipes import PRESETS, DiscriminatorTraining
from dg.runtime.randomness import step_generator
from dg.training import train_discriminator
from dg.training_data import (
    check_discriminator,
    check_sets,
    doubts,
    epoch_order,
    images_per_epoch,
    noisy_batch,
    random_subset,
    split_sets,
)
from dg.training_metrics import evaluate
from guided_diffusion import create_classifier
from tests.golden_fill import fill

SHORT = DiscriminatorTraining(
    epochs=3, batch_size=16, lr=1e-2, ema_halflife=64, eval_images=40, conditional=True
)


def latents(n=80, name="real", spread=1.0, dtype="float32", size=8, **how):
    values = np.random.default_rng([n, len(name)]).standard_normal([n, 4, size, size]) * spread
    return LatentSet(values.astype(dtype), np.arange(n) % 3, name, 3, how or None)


REAL, FAKE = latents(), latents(name="fake", spread=0.7)


class TinyHead(torch.nn.Module):
    """Enough to learn that generated latents vary less."""

    num_classes = 3

    def __init__(self):
        super().__init__()
        self.leave = torch.nn.Linear(2, 1)

    def forward(self, features, time, condition=None):
        return self.leave(
            torch.stack([features.std(dim=(1, 2, 3)), time.to(features.dtype)], dim=1)
        )


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_batches_are_the_latents_as_they_are(dtype):
    real, fake = latents(50, dtype=dtype), latents(70, "fake", dtype=dtype)
    splits = split_sets(real, fake, replace(SHORT, split=(0.5, 0.3, 0.2), unequal=True))
    assert [(split.num_real, split.num_fake) for split in splits] == [(25, 35), (15, 21), (10, 14)]
    found = []
    for split in splits:
        index = torch.randperm(len(split.images), generator=torch.Generator().manual_seed(0))
        batch, labels, targets = split.batch(index)
        assert (
            batch.dtype == torch.float32
            and targets.tolist() == (index < split.num_real).float().tolist()
        )
        for latent, label, target in zip(
            batch.numpy(), labels.argmax(1).tolist(), targets.tolist(), strict=True
        ):
            data = real if target else fake
            (place,) = np.flatnonzero((data.latents == latent.astype(dtype)).all(axis=(1, 2, 3)))
            assert data.labels[place] == label
            found.append((target, place))
    assert len(set(found)) == 120, "disjoint and complete"


def test_no_second_copy_is_made():
    rows = split_sets(REAL, FAKE, SHORT)[0].images
    assert isinstance(rows, Rows) and [latent.data_ptr() for latent in rows.latents] == [
        data.latents.ctypes.data for data in (REAL, FAKE)
    ]
    assert rows.device == torch.device("cpu") and rows[
        torch.tensor([], dtype=torch.long)
    ].shape == (0, 4, 8, 8)
    assert random_subset(REAL, 30, 0).latents.shape[0] == 30


def test_noise_is_that_of_images_and_data_are_not_rescaled():
    split = split_sets(REAL, FAKE, SHORT)[0]
    batch = noisy_batch(split, epoch_order(split, SHORT, 0)[0], SHORT, step_generator(0, "test", 0))
    z = (batch.x - batch.clean) / batch.sigma.float().reshape(-1, 1, 1, 1)
    assert z.std() == pytest.approx(1, abs=0.05) and batch.clean.abs().max() > 2
    assert batch.targets.tolist() == [1.0] * 8 + [0.0] * 8


def test_a_discriminator_learns_on_latents(tmp_path):
    discriminator = Discriminator(PixelExtractor(), [TinyHead()])
    log = train_discriminator(
        discriminator,
        REAL,
        FAKE,
        replace(SHORT, epochs=6, P_mean=-3.0, ema_halflife=0, lr=0.1),
        tmp_path,
    )
    assert log[-1]["valid_auc"] > 0.9
    again = evaluate(discriminator, split_sets(REAL, FAKE, SHORT)[1], SHORT)
    assert np.isfinite(again["loss"])
    with pytest.raises(ValueError, match="other generated images"):
        train_discriminator(
            discriminator,
            REAL,
            latents(name="fake", spread=0.6),
            replace(SHORT, epochs=6, P_mean=-3.0, ema_halflife=0, lr=0.1),
            tmp_path,
        )


def test_the_published_recipe_for_latents():
    settings = PRESETS["imagenet-latent"]
    assert (settings.epochs, settings.batch_size, settings.batches, settings.conditional) == (
        7,
        1024,
        "balanced",
        True,
    )
    assert (settings.lr, settings.weight_decay, settings.time_sampling, settings.time_min) == (
        3e-4,
        1e-7,
        "importance",
        1e-5,
    )
    small = replace(settings, batch_size=16)
    split = split_sets(latents(40), latents(70, "fake"), small)[0]
    order = epoch_order(split, small, 0)
    assert ((order < 40).sum(dim=1) == 8).all() and order.shape == (8, 16)


def test_the_published_recipe_on_a_latent_classifier(tmp_path):
    """On 192 x 8 x 8 features: a classifier half as wide and half as deep stands in for the
    published one."""
    encoder = fill(
        create_classifier(
            image_size=32,
            in_channels=4,
            classifier_width=64,
            classifier_depth=1,
            classifier_attention_resolutions="8",
            channel_mult=(1, 2, 3),
            out_channels=3,
        )
    )
    torch.save(encoder.state_dict(), tmp_path / "classifier.pt")
    data = latents(4, size=32)
    discriminator = build_discriminator(
        "classifier", data, None, tmp_path / "classifier.pt", conditional=True, width=64
    )
    assert discriminator.heads[0].in_channels == 192
    settings = replace(PRESETS["imagenet-latent"], epochs=1, batch_size=4, eval_images=2)
    check_discriminator(discriminator, data, settings)
    train_discriminator(
        discriminator, data, latents(4, "fake", size=32), settings, tmp_path / "disc"
    )
    loaded = load_discriminator(tmp_path / "classifier.pt", tmp_path / "disc" / "last.safetensors")
    x, sigma, classes = torch.randn(2, 4, 32, 32), torch.tensor([0.2, 0.7]), torch.tensor([0, 2])
    torch.testing.assert_close(loaded(x, sigma, classes), discriminator.eval()(x, sigma, classes))
    with pytest.raises(
        ValueError,
        match="real: latents of 8 pixels and 4 channels, but the classifier takes 32 pixels",
    ):
        check_discriminator(discriminator, REAL, settings)


PICTURES = ImageSet(np.zeros([80, 8, 8, 3], np.uint8), np.arange(80) % 3, "pictures")


@pytest.mark.parametrize(
    ("real", "fake", "changes", "match"),
    [
        (PICTURES, FAKE, {}, "fake: holds latents, but pictures holds images; encode the images"),
        (REAL, PICTURES, {}, "pictures: holds images, but real holds latents"),
        (REAL, FAKE, dict(flip=True), "mirror none here, and encode mirrored copies"),
        (
            REAL,
            latents(name="fake", size=16),
            {},
            "fake: latents of 16 pixels and 4 channels, but real",
        ),
        (REAL, latents(60, name="fake"), {}, "real has 80 latents and fake has 60"),
        (
            REAL,
            latents(name="fake", dtype="float16"),
            {},
            "encoded with precision float16, but real with float32; encode both alike",
        ),
        (
            latents(sample=True),
            latents(name="fake", sample=False),
            {},
            "encoded with sample False, but real with True",
        ),
        (
            latents(vae="a"),
            latents(name="fake", vae="b"),
            {},
            "encoded with vae b, but real with a",
        ),
        (latents(6), latents(6, "fake"), {}, "training latents are fewer than half a batch"),
    ],
)
def test_sets_that_do_not_fit_are_refused(real, fake, changes, match):
    with pytest.raises(ValueError, match=match) as error:
        check_sets(real, fake, replace(SHORT, **changes))
    assert "\n" not in str(error.value)


def test_latents_of_unknown_making_fit_any():
    check_sets(latents(sample=True, vae="a"), FAKE, SHORT)


def test_sets_of_other_class_folders_are_refused():
    array, labels = np.zeros([80, 8, 8, 1], np.uint8), np.arange(80) % 2
    real, fake = (
        ImageSet(array, labels, name, class_names=classes)
        for name, classes in (("real", ("cat", "dog")), ("fake", ("cat", "owl")))
    )
    with pytest.raises(ValueError, match="fake: class 1 is owl, but in real it is dog; give sets"):
        check_sets(real, fake, SHORT)
    check_sets(real, fake, replace(SHORT, conditional=False))
    check_sets(real, replace(fake, class_names=None), SHORT)


def test_doubts_about_real_and_generated_data(tmp_path):
    rng = np.random.default_rng(0)
    real, fake = (
        ImageSet(rng.integers(0, 256, [50, 8, 8, 1], dtype=np.uint8), None, name)
        for name in ("real", "fake")
    )
    store = SampleStore(tmp_path / "made", {"network": "abc"}, range(50), 50)
    store.write(0, fake.images)
    made, mine = store.outdir, tmp_path
    assert doubts(real, fake, mine, made) == [] == doubts(real, fake, "digits", "nowhere")
    (line,) = doubts(fake, real, made, mine)
    assert line.endswith("manifest.json says; are real and generated data swapped?")
    (line,) = doubts(fake, real, made / "samples_000000-000049.npz", made)
    assert line.endswith("was generated, as its manifest.json says")
    (line,) = doubts(real, real.subset(rng.permutation(50)[:40]), mine, made)
    assert line.startswith("40 of 40 generated images are also real ones")
    (line,) = doubts(REAL, REAL, mine, mine)
    assert line.startswith("80 of 80 generated latents")
    LatentStore(tmp_path / "latents", {"vae": "abc", "images": "def"}, range(2), 2)
    assert doubts(REAL, FAKE, tmp_path / "latents", made) == []


@pytest.mark.parametrize("batches", ["balanced", "mixed"])
@pytest.mark.parametrize(
    "sizes", [(100,), (100, 100), (57, 90), (90, 57), (41, 41)], ids=lambda sizes: str(sizes)
)
def test_images_of_an_epoch_are_known_from_the_sizes_of_the_sets(sizes, batches):
    settings = DiscriminatorTraining(
        batch_size=16,
        batches=batches,
        unequal=True,
        loss="bce" if len(sizes) == 2 else "difference",
    )
    sets = [ImageSet(np.zeros((n, 4, 4, 1), np.uint8)) for n in sizes]
    train, *_ = split_sets(sets[0], sets[1] if len(sets) == 2 else None, settings)
    assert images_per_epoch(sizes, settings) == epoch_order(train, settings, 0).numel() > 0
