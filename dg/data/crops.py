"""Squares of one size from images of any size and colour."""

from collections.abc import Callable

import numpy as np

TRANSFORMS = ("center-crop", "center-crop-wide", "center-crop-dhariwal")


def picture_of(image: np.ndarray):
    """An image uint8 [H, W, 1 or 3] as a picture of Pillow."""
    from PIL import Image

    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)


def center_crop(image: np.ndarray, size: int) -> np.ndarray:
    """The middle square of an image as ADM crops ImageNet (Dhariwal & Nichol 2021).

    image    uint8 [H, W, 1 or 3]
    returns  uint8 [size, size, 3]

    Sides are halved by averaging while the shorter one is at least 2 * size, then scaled by cubic
    interpolation until the shorter one is `size`; what sticks out of the longer one is cut off, of
    an odd number one more at the end.
    """
    from PIL import Image

    picture = picture_of(image).convert("RGB")
    while min(picture.size) >= 2 * size:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    shorter = min(picture.size)
    width, height = (round(side * (size / shorter)) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(picture)[top : top + size, left : left + size]


def resized(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """An image [H, W, C] as [height, width, C], by Lanczos' filter."""
    from PIL import Image

    if image.shape[:2] == (height, width):
        return image
    picture = picture_of(image).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(picture).reshape(height, width, -1)


def middle_square(image: np.ndarray, size: int) -> np.ndarray:
    """The largest square in the middle, scaled: uint8 [size, size, 3], as EDM's center-crop."""
    height, width, _ = image.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resized(_coloured(image)[top : top + side, left : left + side], size, size)


def middle_band(image: np.ndarray, width: int, height: int) -> np.ndarray | None:
    """A band of the full width, scaled to [height, width], in the middle of a black square of
    `width`, as EDM's center-crop-wide; None for an image that is too small."""
    rows = round(width * image.shape[0] / image.shape[1])  # of the image at that width
    if image.shape[1] < width or rows < height:
        return None
    top, bottom = ((image.shape[0] + sign * rows) // 2 for sign in (-1, 1))
    square = np.zeros([width, width, 3], np.uint8)
    top_of_band = (width - height) // 2
    band = resized(_coloured(image)[top:bottom], width, height)
    square[top_of_band : top_of_band + height] = band
    return square


def _coloured(image: np.ndarray) -> np.ndarray:
    return image.repeat(3, axis=2) if image.shape[2] == 1 else image


def transform_of(
    name: str | None, resolution: tuple[int, int] | None
) -> Callable[[np.ndarray], np.ndarray | None]:
    """The function that crops and scales an image, which may return None for one that is too small.

    name        one of `TRANSFORMS`, or None, which scales without a crop
    resolution  (width, height); None leaves the size as it is

    ValueError for a resolution that does not serve the transform.
    """
    if name not in (None, *TRANSFORMS):
        raise ValueError(f"transform is {name!r}; use {' or '.join(TRANSFORMS)}")
    if resolution is None:
        if name is not None:
            raise ValueError(f"{name} needs a size; give the resolution too")
        return lambda image: image
    width, height = resolution
    if width < height or (name != "center-crop-wide" and width != height):
        wide = " or WxH with W > H" if name == "center-crop-wide" else ""
        raise ValueError(f"{width}x{height} gives no squares; give a size such as 64x64{wide}")
    if name is None:
        return lambda image: resized(image, width, height)
    if name == "center-crop-wide":
        return lambda image: middle_band(image, width, height)
    crop = middle_square if name == "center-crop" else center_crop
    return lambda image: crop(image, width)
