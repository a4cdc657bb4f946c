"""Features computed once: in any batches, by any number of processes, kept or streamed, written and
read."""

import numpy as np
import pytest
import torch

from dg.data.datasets import load_images
from dg.data.image_stream import ImageStream
from dg.data.reader import kinds_of, open_images
from dg.evaluation.feature_sets import collect, load_features, save_features
from dg.evaluation.features import load_extractor
from dg.evaluation.measure import available, metric_estimates
from dg.evaluation.metrics import statistics
from dg.runtime.processes import Ranks

PIXELS = load_extractor("pixels")


def digits(**kwargs):
    stream = open_images("digits")
    return collect(PIXELS, stream, stream.positions(200), **kwargs)


def test_the_batch_size_changes_nothing():
    one, other = digits(batch_size=200), digits(batch_size=7)
    np.testing.assert_array_equal(one.features, other.features)
    np.testing.assert_allclose(one.sigma, other.sigma, atol=1e-14)
    assert one.fingerprint == other.fingerprint and one.num_images == 200


def test_a_batch_that_does_not_fit_into_memory_is_taken_in_halves():
    sizes = []

    class Small(type(PIXELS)):
        def __call__(self, images):
            sizes.append(len(images))
            if len(images) > limit:
                raise torch.OutOfMemoryError("tried to allocate\nmuch")
            return super().__call__(images)

    small, stream, limit = Small(**vars(PIXELS)), open_images("digits"), 3
    found = collect(small, stream, stream.positions(7), batch_size=7)
    assert sizes == [7, 4, 2, 2, 2, 1]
    np.testing.assert_array_equal(
        found.features, collect(PIXELS, stream, stream.positions(7)).features
    )
    limit = 0
    with pytest.raises(ValueError, match="does not suffice for one image"):
        collect(small, stream, stream.positions(7))


def test_statistics_are_those_of_the_features():
    found = digits()
    mu, sigma = statistics(found.features)
    np.testing.assert_allclose(found.mu, mu, atol=1e-14)
    np.testing.assert_allclose(found.sigma, sigma, atol=1e-14)
    np.testing.assert_allclose(
        found.features.reshape(-1, 64),
        load_images("digits", 200).images.reshape(200, 64) / 127.5 - 1,
        atol=1e-6,
    )


def test_processes_add_up_to_one():
    """The parts that three processes would send to the first."""
    parts = []

    class Sending(Ranks):
        def gather(self, item):
            parts.append(item)

    for rank in (1, 2):
        assert digits(batch_size=7, ranks=Sending(rank, 3)) is None

    class Receiving(Ranks):
        def gather(self, item):
            return [item, *parts]

    joined, alone = digits(batch_size=7, ranks=Receiving(0, 3)), digits(batch_size=7)
    np.testing.assert_array_equal(joined.features, alone.features)
    np.testing.assert_allclose(joined.sigma, alone.sigma, atol=1e-14)
    assert joined.fingerprint == alone.fingerprint


def test_a_process_without_images_changes_nothing():
    parts = []

    class Sending(Ranks):
        def gather(self, item):
            parts.append(item)

    class Receiving(Ranks):
        def gather(self, item):
            return [item, *parts]

    assert digits(batch_size=200, ranks=Sending(1, 2)) is None
    joined, alone = digits(batch_size=200, ranks=Receiving(0, 2)), digits(batch_size=200)
    np.testing.assert_array_equal(joined.sigma, alone.sigma)
    np.testing.assert_array_equal(joined.features, alone.features)


def test_memory_does_not_grow_where_nothing_is_kept():
    import tracemalloc

    class Blocks(ImageStream):
        shape = (8, 8, 1)

        def fetch(self, positions):
            return np.zeros((len(positions), *self.shape), np.uint8) + np.uint8(positions[0])

    def peak(count):
        tracemalloc.start()
        collect(PIXELS, Blocks("blocks", count), np.arange(count), 500, keep=False)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(1000)
    small, large = peak(1000), peak(20_000)
    assert large - small < 20_000 * 400, (
        "digests and positions, but neither images (64 bytes each in float32: 256) nor features"
    )


def test_written_and_read(tmp_path):
    found = digits()
    save_features(tmp_path / "a.npz", found)
    back = load_features(tmp_path / "a.npz", PIXELS)
    np.testing.assert_array_equal(back.features, found.features)
    np.testing.assert_array_equal(back.sigma, found.sigma)
    assert (back.num_images, back.fingerprint, back.extractor) == (
        200,
        found.fingerprint,
        PIXELS.describe(),
    )


def test_foreign_statistics_do_not_tell_what_made_them(tmp_path):
    np.savez(tmp_path / "edm.npz", mu=np.zeros(64), sigma=np.eye(64))
    found = load_features(tmp_path / "edm.npz", PIXELS)
    assert found.extractor is None and found.num_images is None
    assert available(digits(), found) == ["fd"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (dict(mu=np.zeros(3), sigma=np.eye(4)), "are not statistics"),
        (dict(mu=np.array(["a"]), sigma=np.eye(1)), "not readable statistics"),
        (dict(mu=np.zeros(3)), "not readable statistics"),
        (dict(mu=np.zeros(2), sigma=-np.eye(2)), "negative variances"),
        (dict(mu=np.zeros(2), sigma=np.array([[1, 2], [2, 1]])), "negative variances"),
        (dict(mu=np.zeros(2), sigma=np.array([[1, 0.5], [0, 1]])), "not symmetric"),
        (dict(mu=np.zeros(2), sigma=1j * np.eye(2)), "complex128"),
        (dict(mu=np.zeros(1), sigma=np.eye(1), about=np.array("[]")), "not readable statistics"),
        (
            dict(mu=np.zeros(1), sigma=np.eye(1), about=np.array('{"extractor": {"name": 1}}')),
            "not readable statistics",
        ),
        (dict(mu=np.zeros(1), sigma=np.eye(1), features=np.ones((3, 2))), "features are not those"),
        (dict(mu=np.zeros(1), sigma=np.eye(1), about=np.array("{")), "not readable statistics"),
    ],
)
def test_broken_statistics(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_features(tmp_path / "a.npz")


def test_a_metric_that_is_not_possible():
    with pytest.raises(ValueError, match="is, sfid: not possible"):
        metric_estimates(digits(), digits(), ["fd", "is", "sfid"])


def test_a_single_image_has_no_statistics():
    stream = open_images("digits")
    with pytest.raises(ValueError, match="at least 2"):
        collect(PIXELS, stream, stream.positions(1))


# ---- files of other projects


@pytest.mark.parametrize("key", ["reps", "feats"])
def test_features_of_others_give_their_statistics(tmp_path, key):
    """dgm-eval keeps float64 and an object array, which is not read; clean-fid float32."""
    found, path = digits(), tmp_path / "others.npz"
    kept = {"reps": found.features.astype(np.float64), "feats": found.features}[key]
    np.savez(path, model="pixels", hparams={"nimages": 200}, **{key: kept})
    assert kinds_of(path) == {"statistics"}
    read = load_features(path, PIXELS)
    np.testing.assert_allclose(read.mu, found.mu, atol=1e-14)
    np.testing.assert_allclose(read.sigma, found.sigma, atol=1e-14)
    np.testing.assert_array_equal(read.features, found.features)
    assert read.num_images == 200 and read.extractor is None
    assert metric_estimates(found, read)["fd"]["value"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("reps", "told"),
    [(np.ones([1, 4]), "1 image"), (np.full([3, 4], np.nan), "NaN"), (np.ones(4), "reps is")],
)
def test_features_of_others_that_are_none_are_refused(tmp_path, reps, told):
    np.savez(tmp_path / "others.npz", reps=reps)
    with pytest.raises(ValueError, match=told):
        load_features(tmp_path / "others.npz")
