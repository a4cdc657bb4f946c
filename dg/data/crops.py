"""Squares of one size from images of any size and colour."""

import numpy as np


def center_crop(image: np.ndarray, size: int) -> np.ndarray:
    """The middle square of an image as ADM crops ImageNet (Dhariwal & Nichol 2021).

    image    uint8 [H, W, 1 or 3]
    returns  uint8 [size, size, 3]

    Sides are halved by averaging while the shorter one is at least 2 * size, then scaled by cubic
    interpolation until the shorter one is `size`; what sticks out of the longer one is cut off, of
    an odd number one more at the end.
    """
    from PIL import Image

    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).convert("RGB")
    while min(picture.size) >= 2 * size:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    shorter = min(picture.size)
    width, height = (round(side * (size / shorter)) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(picture)[top : top + size, left : left + size]
