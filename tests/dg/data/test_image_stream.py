"""Streams give the images of `load_images`, in its order, a part at a time, and refuse what it
refuses."""

import zipfile

import numpy as np
import pytest
from PIL import Image

from dg.data.npz_files import NpzImages
from dg.data.reader import load_images, open_images


def images(n, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, [n, *(shape or (5, 5, 3))]).astype(np.uint8)


def whole(stream, size=7, **kwargs):
    return np.concatenate(
        [batch for _, batch in stream.batches(stream.positions(None), size, **kwargs)]
    )


def png_folder(path, array, name="{:06d}.png"):
    for i, image in enumerate(array):
        file = path / name.format(i)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.squeeze()).save(file)
    return path


def shards(path, array, sizes, seeds=None, key="samples"):
    path.mkdir()
    seeds = np.arange(len(array)) if seeds is None else seeds
    for i, index in enumerate(np.split(np.arange(len(array)), np.cumsum(sizes)[:-1])):
        np.savez(path / f"samples_{i}.npz", **{key: array[index], "seeds": seeds[index]})
    return path


@pytest.fixture(
    params=[
        "npz",
        "compressed",
        "channels first",
        "grey",
        "shards",
        "interleaved",
        "pngs",
        "classes",
        "zip",
        "digits",
    ]
)
def source(request, tmp_path):
    kind = request.param
    if kind in ("npz", "compressed"):
        save = np.savez if kind == "npz" else np.savez_compressed
        save(tmp_path / "a.npz", samples=images(2100, 3, 3, 1))  # more than one part
        return tmp_path / "a.npz"
    if kind in ("channels first", "grey"):
        np.savez(
            tmp_path / "a.npz",
            arr_0=images(20, 3, 6, 6) if kind == "channels first" else images(20, 6, 6),
        )
        return tmp_path / "a.npz"
    if kind == "shards":
        return shards(tmp_path / "s", images(30), [10, 5, 15])
    if kind == "interleaved":
        return shards(
            tmp_path / "s", images(30), [10, 5, 15], np.random.default_rng(1).permutation(30)
        )
    if kind == "pngs":
        return png_folder(tmp_path / "p", images(1100, 2, 2, 3))
    if kind == "classes":
        return png_folder(tmp_path / "p", images(9), "{0}/{0}.png")
    if kind == "zip":
        folder = png_folder(tmp_path / "p", images(9))
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for file in folder.iterdir():
                archive.write(file, file.name)
        return tmp_path / "a.zip"
    return "digits"


def test_a_stream_is_what_load_images_loads(source):
    stream, expected = open_images(source), load_images(source).images
    assert len(stream) == len(expected) and stream.shape == expected.shape[1:]
    np.testing.assert_array_equal(whole(stream), expected)


def test_ranks_share_the_batches(source):
    expected, parts = load_images(source).images, {}
    for rank in range(3):
        stream = open_images(source)
        parts |= dict(stream.batches(stream.positions(None), 7, rank, 3))
    np.testing.assert_array_equal(np.concatenate([parts[i] for i in sorted(parts)]), expected)


def test_positions_are_the_first_or_drawn_by_seed(source):
    stream, expected = open_images(source), load_images(source).images
    np.testing.assert_array_equal(stream.positions(4, first=3), [3, 4, 5, 6])
    drawn = stream.positions(5, seed=1)
    assert len(np.unique(drawn)) == 5 and (np.diff(drawn) > 0).all()
    np.testing.assert_array_equal(drawn, stream.positions(5, seed=1))
    np.testing.assert_array_equal(
        np.concatenate([b for _, b in stream.batches(drawn, 2)]), expected[drawn]
    )


@pytest.mark.parametrize("seed", [0, 3, 2**31 + 3])
def test_images_drawn_by_seed_are_edms(source, seed):
    """EDM's data set shuffles all indices by numpy's old generator and sorts the first ones."""
    stream = open_images(source)
    index = np.arange(len(stream))
    np.random.RandomState(seed % (1 << 31)).shuffle(index)
    np.testing.assert_array_equal(stream.positions(5, seed=seed), np.sort(index[:5]))


def test_more_images_than_there_are(tmp_path):
    stream = open_images(shards(tmp_path / "s", images(6), [3, 3]))
    with pytest.raises(ValueError, match="7 images asked for, 6 found"):
        stream.positions(7)
    with pytest.raises(ValueError, match="4 images asked for, 3 found"):
        stream.positions(4, first=3)
    with pytest.raises(ValueError, match="0 found"):
        stream.positions(1, first=9)


def test_only_what_is_needed_is_read(tmp_path, monkeypatch):
    read, really = [], NpzImages.read
    monkeypatch.setattr(
        NpzImages,
        "read",
        lambda self, *rows: read.append((self.path.stem, *rows)) or really(self, *rows),
    )
    stream = open_images(shards(tmp_path / "s", images(40), [10, 10, 10, 10]))
    for _ in stream.batches(np.array([1, 2, 31]), 2):
        pass
    assert read == [("samples_0", 1, 3), ("samples_3", 1, 2)]


def test_many_shards_do_not_stay_open(tmp_path):
    import resource

    folder = shards(tmp_path / "s", images(300, 2, 2, 1), [1] * 300)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, limit[1]))
    try:
        assert len(whole(open_images(folder))) == 300
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"samples": np.zeros([4, 5, 5, 3], np.float32)}, "float32, not uint8"),
        ({"samples": np.zeros([4, 5, 5, 2], np.uint8)}, "are not images"),
        ({"samples": np.zeros([0, 5, 5, 3], np.uint8)}, "at least one"),
        ({"samples": np.zeros([4, 5, 5, 3], np.uint8), "seeds": np.arange(3)}, "for 4 images"),
        ({"nothing": np.zeros(1)}, "holds nothing"),
    ],
)
def test_refused_npz(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        open_images(tmp_path / "a.npz")


def test_damage_is_one_line(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", samples=images(50))
    data = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[:-30])
    (tmp_path / "flipped.npz").write_bytes(
        data[:700] + bytes(b ^ 255 for b in data[700:710]) + data[710:]
    )
    with pytest.raises(ValueError, match="cut short"):
        open_images(tmp_path / "cut.npz")
    with zipfile.ZipFile(tmp_path / "few.npz", "w") as archive:
        archive.writestr(
            "samples.npy", zipfile.ZipFile(tmp_path / "a.npz").read("samples.npy")[:-1]
        )
    with pytest.raises(ValueError, match="fewer bytes than its header tells"):
        open_images(tmp_path / "few.npz")
    with pytest.raises(ValueError, match="cannot be read"):
        whole(open_images(tmp_path / "flipped.npz"))


def test_mixed_sizes_and_seeds(tmp_path):
    folder = shards(tmp_path / "s", images(6), [3, 3], np.array([0, 1, 2, 2, 3, 4]))
    with pytest.raises(ValueError, match="both hold seed 2"):
        open_images(folder)
    np.savez(folder / "samples_9.npz", samples=images(2, 4, 4, 3), seeds=[9, 10])
    with pytest.raises(ValueError, match="both hold seed 2"):
        open_images(folder)
    (folder / "samples_1.npz").unlink()
    with pytest.raises(ValueError, match="keep one size"):
        whole(open_images(folder))
    pngs = png_folder(tmp_path / "p", images(3))
    Image.fromarray(images(1, 4, 4, 3)[0]).save(pngs / "000007.png")
    with pytest.raises(ValueError, match="convert all images to one size"):
        whole(open_images(pngs))


@pytest.mark.parametrize("source", ["nowhere", "nowhere.npz", "digits:test"])
def test_what_is_not_there(source):
    with pytest.raises(ValueError):
        open_images(source)
