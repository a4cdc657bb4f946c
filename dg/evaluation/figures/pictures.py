"""Images beside each other, enlarged by whole pixels only."""

import math

import numpy as np

from dg.evaluation.figures.style import MUTED, SIGMA, TIMES, canvas
from dg.runtime.files import atomic_write

GAP = 2  # pixels between enlarged images
MADE_BY = {"Software": "discriminator-guidance, a grid of images"}  # text in the file


def image_grid(path, images, columns=None, scale=None):
    """Images beside each other, row by row, without text.

    images   uint8 [N, H, W, C]  C = 1 or 3
    columns  default: a square
    scale    whole-number enlargement, nearest neighbour; default: short sides of about 64 pixels
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    images, about = _images(images, "images"), PngInfo()
    for key, value in MADE_BY.items():
        about.add_text(key, value)
    columns = columns or math.ceil(math.sqrt(len(images)))
    with atomic_write(path) as file:
        grid = Image.fromarray(_tile(images, columns, scale or _scale(images, 64)))
        grid.save(file, "png", pnginfo=about)


def is_grid(path) -> bool:
    """Whether a file is a picture that `image_grid` has written."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return {**picture.info, **MADE_BY} == picture.info
    except OSError:
        return False


def paired_grid(
    path,
    before,
    after,
    panels,
    title_before="unguided",
    title_after="guided",
    difference=True,
    scale=None,
):
    """Pairs from the same seeds, one pair per row, in panels side by side.

    before, after  uint8 [N, H, W, C]  C = 1 or 3, image i of both from the same seed
    panels         {title: indices}    the rows of each panel, such as {"Little changed": [...],
                                       "Much changed": [...]}
    difference     add a third column, after - before on grey, amplified by the factor in its
                   heading
    """
    before, after = _images(before, "before"), _images(after, "after")
    if before.shape != after.shape:
        raise ValueError(
            f"before and after must have one shape, got {before.shape} and {after.shape}"
        )
    columns, headings = [before, after], [title_before, title_after]
    if difference:
        signed = after.astype(np.int16) - before
        shown = [signed[np.asarray(indices)] for indices in panels.values()]
        largest = max(np.percentile(np.abs(part), 99.5) for part in shown)
        gain = int(np.clip(127 // max(largest, 1), 1, 16))
        columns.append(np.clip(128 + gain * signed.astype(np.int32), 0, 255).astype(np.uint8))
        headings.append("difference" if gain == 1 else f"difference {TIMES}{gain}")
    scale = scale or _scale(before, 128)
    blocks = {
        title: _tile(
            np.stack([c[np.asarray(indices)] for c in columns], 1).reshape(-1, *before.shape[1:]),
            len(columns),
            scale,
        )
        for title, indices in panels.items()
    }

    cell = before.shape[2] * scale + GAP
    between = cell // 4
    width = sum(block.shape[1] for block in blocks.values()) + between * (len(blocks) - 1)
    # a share of the width: legible at any scale
    text = min(width / 38, 1.6 * cell / max(map(len, headings)))
    with canvas(path, width, max(len(block) for block in blocks.values()), top=4.2 * text) as (
        picture,
        label,
    ):
        left = 0
        for title, block in blocks.items():
            picture(block, left, 0)
            label(title, left, -2.6 * text, 1.25 * text, weight="bold", ha="left")
            for i, heading in enumerate(headings):
                label(heading, left + (i + 0.5) * cell, -0.8 * text, text)
            left += block.shape[1] + between


def neighbour_sheet(path, images, neighbours, titles=("generated", "nearest training images")):
    """Images, each with others beside it, a little apart.

    images      uint8 [N, H, W, C]     C = 1 or 3
    neighbours  uint8 [N, K, H, W, C]  row i belongs to image i; the nearest first
    titles      over the images, and over their neighbours
    """
    images, neighbours = _images(images, "images"), np.asarray(neighbours)
    if neighbours.ndim != 5 or len(neighbours) != len(images):
        raise ValueError(
            f"neighbours must be [{len(images)}, K, H, W, C] for {len(images)} images, got "
            f"{list(neighbours.shape)}"
        )
    count, k = neighbours.shape[:2]
    others = _images(neighbours.reshape(-1, *neighbours.shape[2:]), "neighbours")
    scale = _scale(images, 64)
    cell = images.shape[2] * scale + GAP
    apart, pitch = cell // 6, (k + 1) * cell + cell // 6 + cell // 2
    blocks = next(b for b in range(1, count + 1) if 1.5 * b * (k + 2) * b >= count)
    rows = math.ceil(count / blocks)
    width, text = blocks * pitch - cell // 2, 1.3 * (cell + apart) / len(titles[0])
    height = rows * (images.shape[1] * scale + GAP)
    with canvas(path, width, height, top=1.6 * text) as (picture, label):
        for block in range(math.ceil(count / rows)):
            part, left = slice(block * rows, (block + 1) * rows), block * pitch
            picture(_tile(images[part], 1, scale), left, 0)
            beside = others[part.start * k : part.stop * k]
            picture(_tile(beside, k, scale), left + cell + apart, 0)
        label(titles[0], 0, -0.6 * text, text, weight="bold", ha="left")
        label(titles[1], cell + apart, -0.6 * text, text, ha="left")


def by_change(before, after, count):
    """Indices of the first `count` pairs, from the least changed one to the most changed one;
    before, after: uint8 [N, H, W, C]."""
    changes = np.abs(after[:count].astype(int) - before[:count]).mean(axis=(1, 2, 3))
    return np.argsort(changes, kind="stable").tolist()


def denoising_strips(
    path, strips, sigmas, row_labels=None, title="From noise to image", scale=None
):
    """One row of images per sample along its sampling trajectory, the noise level above each
    column.

    strips      uint8 [R, T, H, W, C]  C = 1 or 3
    sigmas      [T]                    noise levels, image units (data in [-1, 1])
    row_labels  R strings above the rows, None for none
    """
    strips = np.asarray(strips)
    if strips.ndim != 5 or len(sigmas) != strips.shape[1]:
        raise ValueError(
            f"strips must be [R, {len(sigmas)}, H, W, C] for {len(sigmas)} sigmas, got "
            f"{strips.shape}"
        )
    if row_labels is not None and len(row_labels) != len(strips):
        raise ValueError(f"{len(strips)} rows of images, but {len(row_labels)} row labels")
    rows = [_images(row, "strips") for row in strips]
    scale = scale or _scale(rows[0], 112)
    tiles = [_tile(row, len(row), scale) for row in rows]
    cell, (height, width) = rows[0].shape[2] * scale + GAP, tiles[0].shape[:2]
    text = min(width / 36, cell / 4)
    pitch = height + round(text * (2.2 if row_labels is not None else 0.4))
    first = pitch - height
    with canvas(path, width, pitch * len(rows), top=4.2 * text) as (picture, label):
        heading = f"{title}; noise level {SIGMA}:"
        label(heading, 0, -2.6 * text, 1.25 * text, weight="bold", ha="left")
        for i, sigma in enumerate(map(float, sigmas)):
            number = f"{sigma:,.0f}" if sigma >= 100 else f"{sigma:.2g}"
            label(number, (i + 0.5) * cell, -0.5 * text, text, color=MUTED)
        for r, tile in enumerate(tiles):
            picture(tile, 0, first + r * pitch)
            if row_labels is not None:
                label(row_labels[r], 0, first + r * pitch - 0.5 * text, text, ha="left")


def copy_with_palette(path, target) -> None:
    """Copy a picture with a palette of 256 colours, a third of the size; figures and digits look
    the same."""
    from PIL import Image

    with Image.open(path, formats=["PNG"]) as picture:
        small = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    with atomic_write(target) as file:
        small.save(file, "png", optimize=True)


def _images(images, name):
    """Checked images uint8 [N, H, W, 3]."""
    images = np.asarray(images)
    if (
        images.ndim != 4
        or images.shape[3] not in (1, 3)
        or images.dtype != np.uint8
        or not len(images)
    ):
        raise ValueError(
            f"{name} must be uint8 [N, H, W, 1 or 3], got {images.dtype} {list(images.shape)}"
        )
    return images if images.shape[3] == 3 else images.repeat(3, axis=3)


def _scale(images, pixels):
    return max(1, round(pixels / min(images.shape[1:3])))


def _tile(images, columns, scale):
    """Enlarged images uint8 [N, H, W, 3] on white, `columns` to a row; every cell ends in a gap of
    GAP pixels."""
    count, height, width, _ = images.shape
    rows, cell = math.ceil(count / columns), (height * scale + GAP, width * scale + GAP)
    canvas = np.full((rows * cell[0], columns * cell[1], 3), 255, dtype=np.uint8)
    for i, image in enumerate(images.repeat(scale, axis=1).repeat(scale, axis=2)):
        y, x = i // columns * cell[0], i % columns * cell[1]
        canvas[y : y + height * scale, x : x + width * scale] = image
    return canvas[:-GAP, :-GAP]
