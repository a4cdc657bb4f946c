"""Sets of images whose files are no regular files, claim too much, or are not what their names
say."""

import io
import json
import os
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from dg.data.array_files import read_arrays
from dg.data.image_decoding import decode
from dg.data.reader import open_images

GREY = np.zeros((8, 8), np.uint8)


def png(image=GREY):
    Image.fromarray(image).save(out := io.BytesIO(), "png")
    return out.getvalue()


def refused(source, *words):
    with pytest.raises(ValueError) as caught:
        open_images(source).load()
    text = str(caught.value)
    assert "\n" not in text and str(source) in text and all(word in text for word in words), text


@pytest.mark.parametrize("name", ["a.npz", "a.npy"])
def test_a_pipe_instead_of_an_array_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    refused(tmp_path / name, "it is a pipe")
    refused(tmp_path, "it is a pipe")


@pytest.mark.parametrize("name", ["000001.png", "dataset.json"])
def test_a_pipe_or_device_among_images_is_refused(tmp_path, name):
    (tmp_path / "000000.png").write_bytes(png())
    os.mkfifo(tmp_path / name)
    refused(tmp_path, "it is a pipe")
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    refused(tmp_path, "it is a device")


def claiming(shape, descr="|u1", data=b"", method=zipfile.ZIP_STORED, says=None):
    """An npz whose array claims a shape, and whose directory claims a size."""
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("images.npy", array)
    content = bytearray(out.getvalue())
    if says is not None:
        at = content.index(b"PK\x01\x02") + 24
        content[at : at + 4] = struct.pack("<I", says)
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [
        claiming((10**12, 8, 8, 1)),
        claiming((10**12, 8, 8, 1), says=2**31),
        claiming((2**31 - 400, 1, 1, 1), says=2**31, method=zipfile.ZIP_DEFLATED),
        claiming((-5, 8, 8, 1)),
        claiming((10**12,), "|V0"),
        claiming((1, 8, 8, 1), data=bytes(64), method=zipfile.ZIP_LZMA),
        claiming((1, 8, 8, 1), data=bytes(64), method=zipfile.ZIP_BZIP2),
    ],
    ids=["many", "both many", "packed", "negative", "empty items", "lzma", "bzip2"],
)
def test_an_array_is_no_larger_than_its_file(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    refused(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"a\.npz"):
        read_arrays(tmp_path / "a.npz", "images")


def test_packed_arrays_are_read(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros((3000, 8, 8, 1), np.uint8))
    assert len(open_images(tmp_path / "a.npz").load()) == 3000


def test_entries_of_a_zip_do_not_overlap(tmp_path):
    """Many entries of the directory that stand for the same bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("000000.png", png())
    data = out.getvalue()
    start, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    entry, count = data[start:end], 50
    tail = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(entry) * count, start, 0)
    (tmp_path / "a.zip").write_bytes(data[:start] + entry * count + tail)
    refused(tmp_path / "a.zip", "claims more than the file holds")


def test_a_picture_of_too_many_pixels_is_not_decoded(tmp_path):
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 2**16, 2**16, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99)))
    (tmp_path / "0.png").write_bytes(bomb + chunk(b"IEND", b""))
    refused(tmp_path, "0.png cannot be read")


@pytest.mark.parametrize(
    "kind", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"%PDF-1.4\n"]
)
def test_no_other_program_opens_a_picture(tmp_path, kind):
    (tmp_path / "0.png").write_bytes(kind + b"(x) run\n%%EOF\n")
    refused(tmp_path, "not an image")
    with pytest.raises(ValueError, match="not an image"):
        decode(kind)


LABELS = ["7", "1e999", "true", "1" + "0" * 30, "-1"]


@pytest.mark.parametrize(
    "text",
    [
        '{"labels": ' + "[" * 50_000,
        '{"labels": 7}',
        "[]",
        "7",
        *(f'{{"labels": [["000000.png", {label}], ["x", 1]]}}' for label in LABELS),
    ],
)
def test_a_table_of_labels_that_is_none(tmp_path, text):
    (tmp_path / "000000.png").write_bytes(png())
    (tmp_path / "dataset.json").write_text(text)
    refused(tmp_path, "dataset.json")


def test_a_name_of_many_digits_is_no_seed(tmp_path):
    for name in ("1" * 40, "2" * 40):
        (tmp_path / f"{name}.png").write_bytes(png())
    stream = open_images(tmp_path)
    assert len(stream) == 2 and stream.seeds is None
    (tmp_path / "manifest.json").write_text(json.dumps({"class names": [1, {}]}))
    assert len(open_images(tmp_path)) == 2
