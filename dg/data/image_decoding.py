"""From the bytes of an image file to 8-bit pixels, and what was converted on the way."""

import io
import re
import struct
import sys
import warnings
from collections.abc import Iterator

import numpy as np

# Formats that Pillow decodes by itself: none of these runs another program.
FORMATS = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
warnings.filterwarnings("ignore", module=r"PIL\.")  # what matters is told by the notes below
MOST_PIXELS = 2**26  # of one image: 200 MB in colour
ORIENTATION, BITS, PHOTOMETRIC = 0x0112, 0x0102, 0x0106  # tags of EXIF and TIFF
WHITE_IS_ZERO = 0  # a photometric interpretation
TURNS = {  # by orientation, of pixels [H, W, C]
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels.transpose(1, 0, 2)[::-1, ::-1],
    8: np.rot90,
}
TURNED = "were turned as their EXIF orientation says"
DAMAGED = "have EXIF data that cannot be read; they were not turned"
ROUNDED = "have 16 bits per channel, rounded to 8 (value / 257)"
DARK = "have no 16-bit value above 4095; multiply them by 16 first if the data have 12 bits"
OPAQUE = "have transparency, which is left out"
FIRST = "have several frames, of which the first is taken"
CONVERTED = {mode: f"are in {mode}, converted to RGB" for mode in ("CMYK", "LAB")}
# How Pillow unpacks 16 bits per channel to the upper 8, and how it would unpack the lower 8.
OTHER_HALF = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}


def decode(content: bytes) -> tuple[np.ndarray, list[str]]:
    """(pixels uint8 [H, W, 1 or 3], what was converted) of an image file.

    Grey stays grey, all else becomes RGB; transparency is left out. 16 bits per channel are rounded
    to 8. The picture is turned as its EXIF orientation says. Damage raises OSError, SyntaxError,
    struct.error or others, depending on where it is; ValueError for what would have to be guessed.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        opened = Image.open(io.BytesIO(content), formats=list(FORMATS))
    except UnidentifiedImageError:
        raise ValueError("not an image, damaged, or of a kind that Pillow does not read") from None
    with opened as image:
        if (pixels := image.width * image.height) > MOST_PIXELS:
            raise ValueError(f"{pixels:,} pixels, of which {MOST_PIXELS:,} are read; scale it down")
        mode, before = image.mode, _orientation(image)
        notes = [
            (TURNED, before in TURNS),
            (DAMAGED, before is None),
            (FIRST, _has_more_frames(image)),
            (OPAQUE, mode in ("LA", "PA", "RGBA") or "transparency" in image.info),
            (CONVERTED.get(mode), mode in CONVERTED),
        ]
        deep_colour = image.format == "PPM" and mode == "RGB" and _most_of_ppm(image) > 255
        pixels = _deep_pixels(image, content)
        if pixels is None:
            pixels = np.asarray(image.convert("L" if mode in ("1", "L", "LA") else "RGB"))
        turn = _orientation(image)  # 1 where Pillow has turned it, as it does TIFF
    if pixels.dtype == np.uint16:
        notes += [(ROUNDED, True), (DARK, pixels.max() < 4096)]
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    elif deep_colour:  # Pillow has rounded them
        notes += [(ROUNDED, True), (DARK, pixels.max() <= 16)]
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    pixels = TURNS[turn](pixels) if turn in TURNS else pixels
    return pixels, [note for note, applies in notes if applies]


def _orientation(image):
    """The number that says how the picture is turned, 1 as it is; None for damaged EXIF data."""
    if image.format == "PNG":
        image.load()  # its EXIF data may come last
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # of Pillow or struct, depending on where the damage is
        return None


def _has_more_frames(image):
    try:
        image.seek(1)
    except EOFError:
        return False
    image.seek(0)
    return True


def _most_of_ppm(image):
    """The value that stands for white in a PPM file."""
    arguments = image.tile[0][3]
    return arguments[-1] if isinstance(arguments, tuple) else 255


def _deep_pixels(image, content):
    """uint16 [H, W] or [H, W, 3] of 16 bits per channel, None for 8; ValueError for others."""
    if image.format == "PNG" and content[24] == 16:
        return _deep_png(content)
    tags = image.tag_v2 if image.format == "TIFF" else {}
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        pixels = np.asarray(image).astype(np.uint16)
        return ~pixels if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else pixels
    if image.mode in ("RGB", "RGBA") and set(tags.get(BITS, ())) == {16}:
        return _deep_tiff(image, content)
    if image.mode == "F":
        raise ValueError("floating-point values, whose range is not told; convert it to 8 bits")
    if image.mode[0] == "I" or max(tags.get(BITS, (8,))) > 8:  # conversion would clip it
        raise ValueError(f"more than 8 bits per channel ({image.mode}); convert it to 8 bits")
    return None


def _deep_tiff(image, content):
    """The same of a TIFF file, of which Pillow keeps the upper 8 bits alone, as of PNG."""
    from PIL import Image

    with Image.open(io.BytesIO(content), formats=["TIFF"]) as again:
        tiles = []
        for codec, box, offset, (layout, *others) in again.tile:
            found = re.fullmatch("(RGB[AX]?;16)([LBN])", layout)
            if not found:
                raise ValueError(f"16 bits per channel, laid out as {layout}; convert it to 8 bits")
            tiles.append((codec, box, offset, (found[1] + OTHER_HALF[found[2]], *others)))
        again.tile = tiles
        upper, lower = (np.asarray(half).astype(np.uint16) for half in (image, again))
    return (upper * 256 + lower)[..., :3]


def _deep_png(content):
    """The same of a PNG file: Pillow keeps the upper 8 bits alone, but unpacks the lower ones too
    if it is told that they are the upper ones."""
    from PIL import Image

    width, height, _, colour, _, _, interlaced = struct.unpack(">IIBBBBB", content[16:29])
    data = b"".join(body for kind, body in _chunks(content) if kind == b"IDAT")

    def unpacked(mode, layout):
        image = Image.frombytes(mode, (width, height), data, "zip", layout, interlaced)
        return np.asarray(image).astype(np.uint16)

    if colour in (0, 4):  # grey, grey with alpha: two bytes each
        mode = {0: "LA", 4: "RGBA"}[colour]
        pairs = unpacked(mode, mode)
        return pairs[..., 0] * 256 + pairs[..., 1]
    mode = {2: "RGB", 6: "RGBA"}[colour]
    upper, lower = (unpacked(mode, mode + order) for order in (";16B", ";16L"))
    return (upper * 256 + lower)[..., :3]


def _chunks(content) -> Iterator[tuple[bytes, bytes]]:
    """(kind, body) of the chunks of a PNG file."""
    place = 8
    while place + 8 <= len(content):
        length, kind = struct.unpack(">I4s", content[place : place + 8])
        yield kind, content[place + 8 : place + 8 + length]
        place += length + 12
