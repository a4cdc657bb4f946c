"""Pictures of any size: the crop by hand, the order and labels of `load_images`, and no more in
memory than is asked for."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from dg.data.crops import center_crop
from dg.data.reader import load_images, open_images

RNG = np.random.default_rng(0)


def image(height, width, channels=3):
    return RNG.integers(0, 256, [height, width, channels], dtype=np.uint8)


# ---- the crop


def test_an_image_of_the_size_stays():
    picture = image(6, 6)
    assert np.array_equal(center_crop(picture, 6), picture)


@pytest.mark.parametrize(
    ("height", "width", "top", "left"), [(6, 11, 0, 2), (9, 6, 1, 0), (6, 7, 0, 0)]
)
def test_what_sticks_out_is_cut_off_on_both_sides(height, width, top, left):
    picture = image(height, width)
    assert np.array_equal(center_crop(picture, 6), picture[top : top + 6, left : left + 6])


def test_large_images_are_halved_by_averages():
    """A 4 x 8 image to 2: columns 1 and 2 of what is left of 2 x 4."""
    picture = (np.arange(32).reshape(4, 8, 1) * 6).repeat(3, axis=2).astype(np.uint8)
    means = picture.reshape(2, 2, 4, 2, 3).astype(int).mean(axis=(1, 3))
    assert np.array_equal(center_crop(picture, 2)[..., 0], np.round(means[:, 1:3, 0]))
    assert center_crop(picture, 2)[..., 0].tolist() == [[39, 51], [135, 147]]
    flat = np.full([40, 33, 3], 7, np.uint8)  # halved to 20 x 16 and 10 x 8, then scaled to 6 x 5
    assert (center_crop(flat, 5) == 7).all()


def test_halving_stops_below_twice_the_size():
    """Steps of the crop one by one: 21 x 34 becomes 10 x 17, then 6 x 10 by cubic interpolation,
    then 6 x 6."""
    picture = image(21, 34)
    halved = Image.fromarray(picture).resize((17, 10), Image.Resampling.BOX)
    scaled = np.asarray(halved.resize((10, 6), Image.Resampling.BICUBIC))
    assert np.array_equal(center_crop(picture, 6), scaled[:, 2:8])


def test_grey_becomes_rgb_and_small_images_grow():
    grown = center_crop(np.array([[[0], [255]], [[0], [255]]], np.uint8), 4)
    assert grown.shape == (4, 4, 3) and (grown[..., 0] == grown[..., 2]).all()
    assert (np.diff(grown[0, :, 0].astype(int)) >= 0).all()


# ---- sources


def save(path, array, mode=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(array.squeeze())
    (picture.convert(mode) if mode else picture).save(path, **options)


@pytest.fixture
def mixed(tmp_path):
    """Two classes of images of all sizes and kinds, as ImageNet has them."""
    save(tmp_path / "n02" / "n02_1.JPEG", image(9, 17))
    save(tmp_path / "n01" / "n01_1.JPEG", image(8, 8, 1))
    save(tmp_path / "n01" / "n01_2.JPEG", image(30, 20), "CMYK", format="jpeg")
    save(tmp_path / "n01" / "n01_3.png", image(12, 8), "P")
    Image.fromarray(image(8, 8, 4)).save(tmp_path / "n01" / "n01_4.png")
    return tmp_path


def test_images_of_all_sizes_and_kinds_in_class_folders(mixed, tmp_path_factory):
    pictures = open_images(mixed)
    assert pictures.labels.tolist() == [0, 0, 0, 0, 1] and len(pictures) == 5
    crops = pictures.crops(np.arange(5), 6)
    assert crops.shape == (5, 6, 6, 3) and crops.dtype == np.uint8
    assert (crops[0, ..., 0] == crops[0, ..., 1]).all()
    assert np.array_equal(pictures.crops(np.array([4, 1]), 6), crops[[4, 1]])
    archive = tmp_path_factory.mktemp("zip") / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in mixed.rglob("*.*"):
            file.write(path, path.relative_to(mixed))
    zipped = open_images(archive)
    assert (
        np.array_equal(zipped.crops(np.arange(5), 6), crops)
        and zipped.fingerprint() == pictures.fingerprint()
    )


def test_a_fingerprint_tells_names_labels_and_pixels(mixed):
    found = {open_images(mixed).fingerprint()}
    save(mixed / "n02" / "n02_1.JPEG", image(9, 17))
    found.add(open_images(mixed).fingerprint())
    (mixed / "n02").rename(mixed / "n00")
    found.add(open_images(mixed).fingerprint())
    assert len(found) == 3 and open_images(mixed).fingerprint() in found


def shards(path, array, sizes, seeds=None, labels=None):
    path.mkdir()
    for i, index in enumerate(np.split(np.arange(len(array)), np.cumsum(sizes)[:-1])):
        more = {} if seeds is None else {"seeds": seeds[index]}
        more |= {} if labels is None else {"label": labels[index]}
        np.savez(path / f"samples_{i}.npz", samples=array[index], **more)
    return path


@pytest.mark.parametrize(
    "kind", ["npz", "shards", "interleaved", "without seeds", "one-hot", "named", "unlabelled"]
)
def test_sources_are_those_of_load_images(tmp_path, kind):
    array, labels, size = RNG.integers(0, 256, [10, 6, 6, 3], dtype=np.uint8), np.arange(10) % 3, 6
    seeds = {
        "shards": np.arange(10),
        "interleaved": RNG.permutation(10),
        "unlabelled": np.arange(10),
    }.get(kind)
    if kind == "npz":
        np.savez(source := tmp_path / "a.npz", images=array, labels=labels)
    elif kind == "named":
        source, size = "digits:train", 8
    else:
        given = None if kind == "unlabelled" else np.eye(3)[labels] if kind == "one-hot" else labels
        source = shards(tmp_path / "s", array, [4, 1, 5], seeds, given)
    expected, pictures = load_images(source), open_images(source)
    assert len(pictures) == len(expected)
    np.testing.assert_array_equal(pictures.labels, expected.labels)
    for positions in (np.arange(10), np.array([7, 2, 9, 0])):
        np.testing.assert_array_equal(
            pictures.crops(positions, size),
            np.broadcast_to(expected.images[positions], [len(positions), size, size, 3]),
        )


def test_what_cannot_be_read_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        open_images(tmp_path / "none")
    with pytest.raises(ValueError, match="holds no PNG or JPEG"):
        open_images(tmp_path)
    (tmp_path / "a.png").write_bytes(b"none")
    with pytest.raises(ValueError, match=r"a\.png cannot be read"):
        open_images(tmp_path).crops(np.array([0]), 4)
    half = shards(
        tmp_path / "s",
        RNG.integers(0, 256, [4, 6, 6, 3], dtype=np.uint8),
        [2, 2],
        labels=np.zeros(4, int),
    )
    np.savez(half / "samples_0.npz", samples=np.zeros([2, 6, 6, 3], np.uint8))
    with pytest.raises(ValueError, match="only one has labels"):
        open_images(half)
    buffer = io.BytesIO()
    np.savez(buffer, latents=np.zeros([2, 4, 3, 3], np.float32))
    (tmp_path / "l.npz").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match="holds latents, not images"):
        open_images(tmp_path / "l.npz")
