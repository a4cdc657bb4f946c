"""Data sets of one size: crops by hand, both forms of files, what is left out and refused."""

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from dg.data.conversion import convert
from dg.data.crops import transform_of
from dg.data.image_stream import stream_of
from dg.data.images import ImageSet
from dg.data.reader import load_images, open_images
from dg.data.sample_store import SampleStore

RNG = np.random.default_rng(0)


def image(height, width, channels=3):
    return RNG.integers(0, 256, [height, width, channels], dtype=np.uint8)


# ---- crops


def test_the_middle_square_stays_where_it_has_the_size():
    picture = image(6, 11)
    assert np.array_equal(transform_of("center-crop", (6, 6))(picture), picture[:, 2:8])
    assert np.array_equal(transform_of("center-crop", (5, 5))(picture[:5, :6]), picture[:5, :5])


def test_the_middle_square_is_scaled_by_lanczos_and_gets_colours():
    picture = image(8, 12, 1)
    square = Image.fromarray(picture[:, 2:10, 0].repeat(1, 0)).convert("RGB")
    expected = np.asarray(square.resize((4, 4), Image.Resampling.LANCZOS))
    assert np.array_equal(transform_of("center-crop", (4, 4))(picture), expected)


def test_a_band_stands_in_the_middle_of_a_black_square():
    picture = image(7, 8)
    square = transform_of("center-crop-wide", (8, 4))(picture)
    assert square.shape == (8, 8, 3) and not square[:2].any() and not square[6:].any()
    band = Image.fromarray(picture).resize((8, 4), Image.Resampling.LANCZOS)
    assert np.array_equal(square[2:6], np.asarray(band))


@pytest.mark.parametrize("height_width", [(8, 7), (3, 8)])
def test_images_that_are_too_small_for_a_band_are_none(height_width):
    assert transform_of("center-crop-wide", (8, 4))(image(*height_width)) is None


def test_grey_stays_grey_without_a_crop():
    picture = image(8, 8, 1)
    assert transform_of(None, (4, 4))(picture).shape == (4, 4, 1)
    assert transform_of(None, None)(picture) is picture


@pytest.mark.parametrize(
    ("name", "resolution", "told"),
    [
        ("center-crop", None, "needs a size"),
        ("center-crop", (8, 6), "no squares"),
        ("center-crop-wide", (6, 8), "W > H"),
        (None, (8, 6), "no squares"),
        ("crop", (8, 8), "use center-crop"),
    ],
)
def test_impossible_sizes_are_refused(name, resolution, told):
    with pytest.raises(ValueError, match=told):
        transform_of(name, resolution)


# ---- files


def labelled(count=40, size=8):
    images = RNG.integers(0, 256, [count, size, size, 3], dtype=np.uint8)
    return ImageSet(images, np.arange(count) % 3)


@pytest.mark.parametrize("suffix", ["zip", "npz"])
@pytest.mark.parametrize("conditional", [True, False])
def test_files_hold_what_they_were_made_of(tmp_path, suffix, conditional):
    data = labelled()
    if not conditional:
        data = ImageSet(data.images)
    for name in ("a", "b"):
        assert (
            convert(stream_of(data), tmp_path / f"{name}.{suffix}", transform_of(None, None)) == 40
        )
    found = load_images(tmp_path / f"a.{suffix}")
    assert np.array_equal(found.images, data.images)
    assert np.array_equal(found.labels, data.labels) if conditional else found.labels is None
    assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_the_zip_has_the_form_of_edms(tmp_path):
    convert(stream_of(labelled()), tmp_path / "a.zip", transform_of(None, None), most=2)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        names = ["00000/img00000000.png", "00000/img00000001.png"]
        assert archive.namelist() == [*names, "dataset.json"]
        assert json.loads(archive.read("dataset.json")) == {
            "labels": [[names[0], 0], [names[1], 1]]
        }
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


def test_the_npz_has_the_form_of_adms(tmp_path):
    data = labelled()
    convert(stream_of(data), tmp_path / "a.npz", transform_of(None, None))
    with np.load(tmp_path / "a.npz") as arrays:
        assert arrays.files == ["arr_0", "arr_1"]
        assert np.array_equal(arrays["arr_0"], data.images)
        assert np.array_equal(arrays["arr_1"], data.labels)


def test_samples_of_a_store_become_an_npz(tmp_path):
    data = labelled(4)
    store = SampleStore(tmp_path / "out", {}, range(4), 2, "png")
    for index, images in enumerate(np.split(data.images, 2)):
        store.write(index, images)
    store.finish()
    convert(open_images(tmp_path / "out"), tmp_path / "a.npz", transform_of(None, None))
    assert np.array_equal(np.load(tmp_path / "a.npz")["arr_0"], data.images)


def pictures(folder, *images):
    for number, picture in enumerate(images):
        place = folder / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.squeeze()).save(place / f"{number}.png")
    return folder


def test_pictures_of_all_sizes_become_squares_with_labels(tmp_path):
    folder, told = pictures(tmp_path / "p", image(9, 20), image(17, 8, 1), image(8, 8)), []
    convert(
        open_images(folder),
        tmp_path / "a.zip",
        transform_of("center-crop", (8, 8)),
        None,
        notify=told.append,
    )
    found = load_images(tmp_path / "a.zip")
    assert found.images.shape == (3, 8, 8, 3) and found.labels.tolist() == [0, 0, 1]
    assert told == [f"{folder}: 1 of 3 images are grey, converted to RGB"]


def test_small_images_are_left_out_and_counted(tmp_path):
    folder, told = pictures(tmp_path / "p", image(8, 8), image(8, 4), image(9, 9)), []
    wide = transform_of("center-crop-wide", (8, 6))
    assert convert(open_images(folder), tmp_path / "a.zip", wide, notify=told.append) == 2
    assert load_images(tmp_path / "a.zip").labels.tolist() == [0, 0]
    assert told == [f"{folder}: 1 of 3 images are too small and left out"]


@pytest.mark.parametrize(
    ("images", "told"),
    [
        ([image(8, 9)], "8x9 RGB, no square"),
        ([image(8, 8), image(6, 6)], "image 1 is 6x6 RGB, but the first is 8x8 RGB"),
    ],
)
def test_what_gives_no_data_set_leaves_no_file(tmp_path, images, told):
    folder = pictures(tmp_path / "p", *images)
    with pytest.raises(ValueError, match=told):
        convert(open_images(folder), tmp_path / "out" / "a.zip", transform_of(None, None))
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(ValueError, match="too small"):
        wide = transform_of("center-crop-wide", (64, 32))
        convert(open_images(folder), tmp_path / "out" / "a.npz", wide)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(("name", "told"), [("a.tar", "neither"), ("a.zip", "already")])
def test_other_files_and_files_that_are_there_are_refused(tmp_path, name, told):
    (tmp_path / "a.zip").write_bytes(b"mine")
    with pytest.raises(ValueError, match=told):
        convert(stream_of(labelled()), tmp_path / name, transform_of(None, None))
    assert (tmp_path / "a.zip").read_bytes() == b"mine"
