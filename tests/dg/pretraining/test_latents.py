"""Images to latents: what a latent depends on, and stores that are interrupted, extended, shared
and damaged."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dg.data.image_stream import stream_of
from dg.data.images import ImageSet
from dg.data.latents import load_latents
from dg.data.reader import open_images
from dg.pretraining.latents import Encoding, encode, latent_store
from dg.runtime.files import sha256_of
from dg.runtime.progress import Stopped
from tests.tiny_vae import tiny_vae

pytestmark = pytest.mark.diffusers

SETTINGS = Encoding(resolution=8, seed=5)


@pytest.fixture(scope="module")
def vae():
    return tiny_vae().requires_grad_(False)


@pytest.fixture(scope="module")
def images():
    array = np.random.default_rng(0).integers(0, 256, [7, 8, 8, 3], dtype=np.uint8)
    return of_array(array, np.arange(7) % 3)


def of_array(array, labels=None):
    return stream_of(ImageSet(array, labels, "made up"))


def encoded(folder, vae, images, settings=SETTINGS, batch=3, **kwargs):
    store = latent_store(folder, images, vae, settings, batch)
    made = encode(vae, images, store, settings, **kwargs)
    return load_latents(folder), made


def contents(folder):
    return {
        str(path.relative_to(folder)): sha256_of(path)
        for path in folder.rglob("*")
        if path.is_file()
    }


def posterior(vae, images, mirrored=False):
    x = torch.from_numpy(images.fetch(np.arange(len(images)))).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        found = vae.encode(x.flip(-1) if mirrored else x).latent_dist
    return (found.mean * 0.18215).numpy(), (found.std * 0.18215).numpy()


def test_latents_are_the_scaled_mean_or_a_draw_around_it(tmp_path, vae, images):
    mean, std = posterior(vae, images)
    exact, made = encoded(tmp_path / "mean", vae, images, replace(SETTINGS, sample=False))
    np.testing.assert_allclose(exact.latents, mean, atol=1e-6)
    assert exact.latents.shape == (7, 4, 4, 4) and exact.latents.dtype == np.float32
    assert exact.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    drawn, _ = encoded(tmp_path / "drawn", vae, images)
    z = (drawn.latents - mean) / std
    assert (
        abs(z.mean()) < 0.2
        and z.std() == pytest.approx(1, abs=0.1)
        and len(np.unique(z.round(3))) > 400
    )
    assert made.latents == 7 and made.spread == pytest.approx(np.sqrt((std**2).mean()), rel=1e-4)
    assert made.rounding == pytest.approx(
        np.sqrt(((mean - mean.astype(np.float16)) ** 2).mean()), rel=1e-3
    )


def test_noise_depends_on_the_place_and_the_seed_alone(tmp_path, vae, images):
    first, _ = encoded(tmp_path / "a", vae, images)
    other_batches, _ = encoded(tmp_path / "b", vae, images, batch=2)
    np.testing.assert_allclose(other_batches.latents, first.latents, atol=1e-6)
    fewer, _ = encoded(tmp_path / "c", vae, of_array(images.fetch(np.arange(4))))
    np.testing.assert_allclose(fewer.latents, first.latents[:4], atol=1e-6)
    other_seed, _ = encoded(tmp_path / "d", vae, images, replace(SETTINGS, seed=6))
    assert (np.abs(other_seed.latents - first.latents).mean(axis=(1, 2, 3)) > 0.01).all()
    same = of_array(np.repeat(images.fetch(np.array([0])), 2, axis=0))
    pair, _ = encoded(tmp_path / "e", vae, same)
    assert np.abs(pair.latents[0] - pair.latents[1]).mean() > 0.01, (
        "equal images at other places have other draws"
    )


def test_mirrored_copies_are_latents_of_mirrored_images_and_may_be_added(tmp_path, vae, images):
    settings = replace(SETTINGS, sample=False, flip=True)
    both, made = encoded(tmp_path / "both", vae, images, settings)
    assert made.latents == 14 and both.labels.tolist() == [0, 1, 2, 0, 1, 2, 0] * 2
    np.testing.assert_allclose(
        both.latents[7:], posterior(vae, images, mirrored=True)[0], atol=1e-6
    )
    assert np.abs(both.latents[7:] - both.latents[:7, ..., ::-1]).mean() > 1e-3, (
        "flipping a latent is something else"
    )
    encoded(tmp_path / "later", vae, images, replace(settings, flip=False))
    # and the image of the short last shard
    assert encoded(tmp_path / "later", vae, images, settings)[1].latents == 8
    assert contents(tmp_path / "later") == contents(tmp_path / "both")
    drawn, _ = encoded(tmp_path / "drawn", vae, images, replace(settings, sample=True))
    symmetric = of_array(
        np.repeat(images.fetch(np.arange(1))[:, :, :4], 2, axis=2)[:, :, [0, 1, 2, 3, 3, 2, 1, 0]]
    )
    again, _ = encoded(tmp_path / "symmetric", vae, symmetric, replace(settings, sample=True))
    assert np.abs(again.latents[0] - again.latents[1]).mean() > 0.01, "and has a draw of its own"
    assert len(drawn) == 14


def test_half_precision_is_the_rounded_latent(tmp_path, vae, images):
    exact, _ = encoded(tmp_path / "32", vae, images)
    half, _ = encoded(tmp_path / "16", vae, images, replace(SETTINGS, dtype="float16"))
    assert half.latents.dtype == np.float16 and np.array_equal(
        half.latents, exact.latents.astype(np.float16)
    )
    with pytest.raises(ValueError, match="use float32 or float16"):
        replace(SETTINGS, dtype="float64")


def stop_after(n):
    def progress(iterable, **kwargs):
        for i, item in enumerate(iterable):
            if i == n:
                raise Stopped
            yield item

    return progress


def test_a_stopped_run_goes_on_to_the_same_bytes(tmp_path, vae, images):
    encoded(tmp_path / "whole", vae, images)
    with pytest.raises(Stopped):
        encoded(tmp_path / "parts", vae, images, progress=stop_after(1))
    assert len(list((tmp_path / "parts").glob("*.npz"))) == 1
    with pytest.raises(ValueError, match="holds 3 of 7 latents"):
        load_latents(tmp_path / "parts")
    assert encoded(tmp_path / "parts", vae, images)[1].latents == 4
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    done = encoded(tmp_path / "parts", vae, images, progress=stop_after(1))[1]
    assert done == (0, None, None), "one that is done encodes nothing"


def test_a_store_of_other_settings_images_or_vae_is_refused(tmp_path, vae, images):
    encoded(tmp_path, vae, images)
    before = contents(tmp_path)
    other = of_array(255 - images.fetch(np.arange(7)), images.labels)
    for changed in (
        (vae, images, replace(SETTINGS, seed=6)),
        (vae, other, SETTINGS),
        (tiny_vae(1), images, SETTINGS),
        (vae, images, replace(SETTINGS, sample=False)),
        (vae, images, replace(SETTINGS, dtype="float16")),
    ):
        with pytest.raises(ValueError, match="was made with other settings"):
            encoded(tmp_path, *changed)
    with pytest.raises(ValueError, match="batch size 3 there, 4 here"):
        encoded(tmp_path, vae, images, batch=4)
    assert contents(tmp_path) == before


def test_damaged_shards_are_made_again(tmp_path, vae, images):
    encoded(tmp_path, vae, images)
    before, shard = contents(tmp_path), tmp_path / "samples_00000003-00000005.npz"
    shard.write_bytes(shard.read_bytes()[:100])
    store = latent_store(tmp_path, images, vae, SETTINGS, 3)
    assert encode(vae, images, store, SETTINGS).latents == 3 and store.damaged == [shard.name]
    assert contents(tmp_path) == before


def test_latents_that_are_not_finite_are_refused(tmp_path, images):
    broken = tiny_vae()
    with torch.no_grad():
        broken.quant_conv.bias.fill_(torch.nan)
    with pytest.raises(ValueError, match="latents are not finite"):
        encoded(tmp_path, broken, images)
    assert not list(tmp_path.glob("*.npz"))


def test_memory_does_not_grow_with_the_images(tmp_path, vae, images, monkeypatch):
    """At most two batches are read and not yet encoded."""
    reads, written, fetch = [], [], images.fetch
    monkeypatch.setattr(
        images, "fetch", lambda positions: reads.append(len(positions)) or fetch(positions)
    )
    store = latent_store(tmp_path, images, vae, SETTINGS, 1)
    reads.clear()
    write = store.write
    store.write = lambda *args: written.append(len(reads)) or write(*args)
    encode(vae, images, store, SETTINGS)
    assert reads == [1] * 7 and all(count <= i + 2 for i, count in enumerate(written))


def test_labels_of_class_folders(tmp_path, vae):
    from PIL import Image

    for name, height in (("n02/a.JPEG", 20), ("n01/b.JPEG", 9), ("n01/a.png", 8)):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (12, height), 90).convert("L" if "png" in name else "RGB").save(
            tmp_path / "data" / name
        )
    found, _ = encoded(
        tmp_path / "out", vae, open_images(tmp_path / "data"), replace(SETTINGS, sample=False)
    )
    assert found.labels.tolist() == [0, 0, 1]
    np.testing.assert_allclose(found.latents[0], found.latents[2], atol=1e-5)  # all are grey
