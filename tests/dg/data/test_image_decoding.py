"""Formats, depths and orientations of image files: right pixels in all roles, and every conversion
told."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from dg.data.image_decoding import decode
from dg.data.reader import load_images, open_images

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, [6, 6, 3], dtype=np.uint8)


def saved(picture, format, **options):
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def deep_png(values, interlaced=False):
    """A PNG of 16 bits: values [H, W, C]; its lines are filtered by their left neighbours."""
    channels = values.shape[2]
    parts = [values]
    if interlaced:  # Adam7
        steps = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)]
        parts = [values[y::dy, x::dx] for y, x, dy, dx in [*steps, (1, 0, 2, 1)]]
    lines = b""
    for row in (row for part in parts if part.shape[1] for row in part):
        line = np.frombuffer(row.astype(">u2").tobytes(), np.uint8)
        before = np.concatenate([np.zeros(2 * channels, np.uint8), line[: -2 * channels]])
        lines += b"\1" + (line - before).tobytes()
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    head = struct.pack(">IIBBBBB", *values.shape[1::-1], 16, colour, 0, 0, interlaced)
    data, chunks = zlib.compress(lines), b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", head), (b"IDAT", data[:50]), (b"IDAT", data[50:]), (b"IEND", b"")):
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        chunks += struct.pack(">I", len(body)) + kind + body + checksum
    return chunks


def checked(folder, content, pixels, *told):
    """In all roles the only image of a folder has these pixels; all that is `told` is told once."""
    name, content = content
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    lines = []
    stream = open_images(folder, notify=lines.append)
    loaded = load_images(folder, notify=lines.append)
    np.testing.assert_array_equal(loaded.images, pixels[None])
    (batch,) = [images for _, images in stream.batches(stream.positions(None), 4)]
    np.testing.assert_array_equal(batch, pixels[None])
    rgb = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    np.testing.assert_array_equal(stream.crops(np.arange(1), len(pixels))[0], rgb)
    assert len(lines) == 2 * len(told), lines
    for line, part in zip(lines, told * 2, strict=True):
        assert f"1 of 1 images {part}" in line


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_are_rounded_from_all_of_them(tmp_path, channels, interlaced):
    values = RNG.integers(0, 65536, [9, 9, channels])
    values[0, :4] = np.array([[0], [128], [129], [65535]])
    shown = values if channels in (1, 3) else values[..., :-1]
    expected = np.round(shown / 257).astype(np.uint8)
    told = ("have 16 bits",) if channels in (1, 3) else ("have transparency", "have 16 bits")
    checked(tmp_path, ("0.png", deep_png(values, interlaced)), expected, *told)


def test_12_bits_in_16_are_dark_and_this_is_told(tmp_path):
    values = RNG.integers(0, 4096, [6, 6, 3])
    values[0, 0, 0] = 4095
    expected = np.round(values / 257).astype(np.uint8)
    assert expected.max() == 16
    checked(tmp_path, ("0.png", deep_png(values)), expected, "have 16 bits", "have no 16-bit value")


def test_16_bits_of_other_formats(tmp_path):
    values = RNG.integers(0, 65536, [6, 6], dtype=np.uint16)
    expected = np.round(values / 257).astype(np.uint8)[..., None]
    tiff = saved(Image.fromarray(values), "tiff")
    checked(tmp_path / "tif", ("0.tif", tiff), expected, "have 16 bits")
    pgm = b"P5 6 6 65535\n" + values.astype(">u2").tobytes()
    checked(tmp_path / "pgm", ("0.pgm", pgm), expected, "have 16 bits")


def deep_tiff(values, order="<", deflated=False, alpha=2, photometric=2):
    """A TIFF of 16 bits per channel: values [H, W, 1, 3 or 4].

    order  "<" or ">", of bytes
    alpha  what a fourth channel is: 0 unknown, 1 multiplied into the others, 2 not
    """
    height, width, channels = values.shape
    data, entries = values.astype(f"{order}u2").tobytes(), []
    data = zlib.compress(data) if deflated else data
    place, deep = 8 + len(data), struct.pack(f"{order}{channels}H", *[16] * channels)
    for tag, kind, count, value in (
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, channels, place if channels > 1 else 16),
        (259, 3, 1, 8 if deflated else 1), (262, 3, 1, photometric), (273, 4, 1, 8),
        (277, 3, 1, channels), (278, 3, 1, height), (279, 4, 1, len(data)), (338, 3, 1, alpha),
    )[: None if channels == 4 else -1]:  # fmt: skip
        form = "HHIHH" if (kind, count) == (3, 1) else "HHII"
        numbers = (value, 0) if form == "HHIHH" else (value,)
        entries.append(struct.pack(order + form, tag, kind, count, *numbers))
    start = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, place + len(deep))
    return (
        start + data + deep + struct.pack(f"{order}H", len(entries)) + b"".join(entries) + b"\0" * 4
    )


@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("channels", "alpha"), [(3, 2), (4, 2), (4, 0)])
def test_16_bits_of_colour_tiff(tmp_path, order, deflated, channels, alpha):
    values = RNG.integers(0, 65536, [6, 6, channels])
    expected = np.round(values[..., :3] / 257).astype(np.uint8)
    content = deep_tiff(values, order, deflated, alpha)
    told = ("have transparency",) if (channels, alpha) == (4, 2) else ()
    checked(tmp_path, ("0.tif", content), expected, *told, "have 16 bits")


def test_black_may_be_the_highest_value(tmp_path):
    values = RNG.integers(0, 65536, [6, 6, 1])
    expected = np.round((65535 - values) / 257).astype(np.uint8)
    checked(tmp_path, ("0.tif", deep_tiff(values, photometric=0)), expected, "have 16 bits")


@pytest.mark.parametrize(("most", "told"), [(65535, 1), (4095, 1), (255, 0), (15, 0)])
@pytest.mark.parametrize("channels", [1, 3])
def test_values_of_ppm_are_of_its_own_white(tmp_path, channels, most, told):
    values = RNG.integers(0, most + 1, [6, 6, channels])
    values[0, 0] = most
    kind = {1: b"P5", 3: b"P6"}[channels]
    content = kind + b" 6 6 %d\n" % most + values.astype(">u2" if most > 255 else "u1").tobytes()
    expected = np.round(values / most * 255).astype(np.uint8)
    checked(tmp_path, ("0.ppm", content), expected, *["have 16 bits"] * told)


def test_12_bits_in_16_of_ppm_are_told(tmp_path):
    values = RNG.integers(0, 4096, [6, 6, 3])
    content = b"P6 6 6 65535\n" + values.astype(">u2").tobytes()
    expected = np.round(values / 257).astype(np.uint8)
    checked(tmp_path, ("0.ppm", content), expected, "have 16 bits", "have no 16-bit value")


def test_what_would_have_to_be_guessed_is_refused(tmp_path):
    for content, reason in (
        (saved(Image.fromarray(RNG.random([6, 6], dtype=np.float32)), "tiff"), "floating-point"),
        (deep_tiff(RNG.integers(0, 9, [6, 6, 4]), alpha=1), "16 bits per channel, laid out as"),
        (saved(Image.fromarray(RNG.integers(0, 9, [6, 6], np.int32)), "tiff"), "more than 8 bits"),
    ):
        (tmp_path / "0.tif").write_bytes(content)
        with pytest.raises(ValueError, match=rf"0\.tif cannot be read \({reason}"):
            load_images(tmp_path)


@pytest.mark.parametrize("format", ["png", "jpeg", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_they_say(tmp_path, format, orientation):
    picture = Image.fromarray(RGB[:4])
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if format == "webp" else {}
    content = saved(picture, format, exif=exif, **lossless)
    with Image.open(io.BytesIO(content)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert expected.shape == ((6, 4, 3) if orientation > 4 else (4, 6, 3))
    pixels, notes = decode(content)
    np.testing.assert_array_equal(pixels, expected)
    assert [note[:11] for note in notes] == (["were turned"] if orientation > 1 else [])


def test_a_deep_png_is_turned(tmp_path):
    content = deep_png(RNG.integers(0, 65536, [6, 6, 3]))
    exif = b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x0112, 3, 1, 6) + b"\0" * 4
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif
    chunk += struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    turned = content[:33] + chunk + content[33:]
    expected = np.rot90(decode(content)[0], -1)
    checked(tmp_path, ("0.png", turned), expected, "were turned", "have 16 bits")


@pytest.mark.parametrize(
    ("name", "format", "options"),
    [
        ("0.webp", "webp", {"lossless": True}),
        ("0.bmp", "bmp", {}),
        ("0.tiff", "tiff", {"compression": "tiff_lzw"}),
        ("0.TIF", "tiff", {}),
        ("0.PNG", "png", {}),
        ("0.ppm", "ppm", {}),
        ("0.JPG", "png", {}),
    ],
)
def test_other_formats_are_read(tmp_path, name, format, options):
    checked(tmp_path, (name, saved(Image.fromarray(RGB), format, **options)), RGB)


@pytest.mark.parametrize("format", ["gif", "tiff", "png"])
def test_of_several_frames_the_first_is_taken(tmp_path, format):
    frames = [Image.fromarray(np.full([6, 6], value, np.uint8)).convert("RGB") for value in (9, 99)]
    content = saved(frames[0], format, save_all=True, append_images=frames[1:])
    pixels, notes = decode(content)
    assert (pixels == 9).all() and notes == ["have several frames, of which the first is taken"]


def test_other_conversions_are_told(tmp_path):
    alpha = Image.fromarray(np.concatenate([RGB, RGB[..., :1]], axis=2))
    checked(tmp_path, ("0.png", saved(alpha, "png")), RGB, "have transparency")
    pixels, notes = decode(saved(Image.new("CMYK", (6, 6)), "jpeg"))
    assert pixels.shape == (6, 6, 3) and notes == ["are in CMYK, converted to RGB"]
    pixels, notes = decode(saved(Image.new("LAB", (6, 6)), "tiff"))
    assert pixels.shape == (6, 6, 3) and notes == ["are in LAB, converted to RGB"]


def test_formats_that_run_programs_are_not_opened(tmp_path):
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 6\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "0.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"0\.png cannot be read \(not an image"):
        load_images(tmp_path)


def test_the_number_of_converted_images_is_told(tmp_path):
    for i in range(5):
        (tmp_path / f"{i}.png").write_bytes(deep_png(RNG.integers(0, 65536, [6, 6, 3])))
    for i in range(3):
        (tmp_path / f"{i}.avif").write_bytes(b"")
    lines = []
    assert load_images(tmp_path, notify=lines.append).images.shape == (5, 6, 6, 3)
    assert "3 of 8 files skipped: 3 .avif" in lines[0] and "5 of 5 images have 16" in lines[1]
    assert len(lines) == 2


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0no", b"Exif\0\0II*\0\xff\xff\0\0", b"Exif\0\0MM\0*" + b"\7" * 9]
)
def test_damaged_exif_data_do_not_hinder(exif):
    content = saved(Image.fromarray(RGB), "jpeg", exif=exif)
    with Image.open(io.BytesIO(content)) as image:
        expected = np.asarray(image)
    pixels, notes = decode(content)
    np.testing.assert_array_equal(pixels, expected)
    assert notes in ([], ["have EXIF data that cannot be read; they were not turned"])
