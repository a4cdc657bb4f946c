"""Feature matrices [N, D] as they come: checked, in their own float type, turned into float64 a
bounded block at a time.

A float64 copy of 50,000 Inception features takes 0.8 GB. So a set keeps its type (float32 takes
half of that and is not copied), and a computation asks for `float64_blocks` or `row_blocks`.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

# Largest block of features or of a distance matrix that is held at once, in float64 elements (128
# MiB).
BLOCK_ELEMENTS = 2**24


def matrix(features, name: str = "features") -> Tensor:
    """Features [N, D] (array or tensor) as a tensor of the same float type, on the same device if
    that can do float64.

    Arrays are shared where they can be, so nobody may write into the result. ValueError, which
    speaks of `name`, for another shape and for NaN and infinite values.
    """
    if isinstance(features, Tensor):
        x = features.detach()
        x = x.cpu() if x.device.type == "mps" else x
        x = x if x.is_floating_point() else x.double()
    else:
        array = np.asarray(features)
        kept = array.dtype in (np.float16, np.float32, np.float64)
        x = torch.from_numpy(np.require(array, None if kept else np.float64, ["C", "W"]))
    if x.ndim != 2 or not x.shape[1]:
        raise ValueError(f"{name} have the shape {list(x.shape)}; give [N, D]")
    broken = sum(int((~torch.isfinite(x[rows])).any(1).sum()) for rows in row_blocks(x, x.shape[1]))
    if broken:
        raise ValueError(
            f"{name} hold NaN or infinite values in {broken} of {len(x)} rows; check the "
            "extractor and its weights"
        )
    return x


def pair(
    features, features_ref, at_least: int, names=("generated", "reference")
) -> tuple[Tensor, Tensor]:
    """Generated features [N, D] and reference features [M, D] on one device, `at_least` so many of
    each; `names` of the two for errors."""
    first, second = names
    x, y = matrix(features, f"{first} features"), matrix(features_ref, f"{second} features")
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"{first} features have {x.shape[1]} dimensions, {second} features {y.shape[1]}; "
            "give features of one extractor"
        )
    if min(len(x), len(y)) < at_least:
        raise ValueError(
            f"{len(x)} {first} and {len(y)} {second} features; give at least {at_least} of each"
        )
    return x, y.to(x.device)


def row_blocks(x: Tensor, width: int) -> Iterator[slice]:
    """Slices of the rows of x, so long that rows * width stays within BLOCK_ELEMENTS."""
    size = max(1, BLOCK_ELEMENTS // width)
    return (slice(start, start + size) for start in range(0, len(x), size))


def float64_blocks(x: Tensor) -> Iterator[Tensor]:
    """New float64 tensors [rows, D] which together are x [N, D]."""
    return (x[rows].to(torch.float64, copy=True) for rows in row_blocks(x, x.shape[1]))


def center_of(x: Tensor) -> Tensor:
    """Mean [D] of x [N, D] in float64."""
    return sum(block.sum(0) for block in float64_blocks(x)) / len(x)


def distance2_blocks(x: Tensor, y: Tensor, center: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield (slice of rows of x, squared distances [rows, len(y)] in float64), a bounded block at a
    time.

    Subtracting `center` [D] leaves the distances and shrinks the rounding of |x|^2 - 2 x.y + |y|^2.
    """
    y = y.to(torch.float64, copy=True).sub_(center)
    norm_y = torch.einsum("nd,nd->n", y, y)
    for rows in row_blocks(x, max(len(y), x.shape[1])):
        block = x[rows].double() - center
        norm = torch.einsum("nd,nd->n", block, block)
        # [rows, M]
        yield (
            rows,
            (block @ y.T).mul_(-2).add_(norm[:, None]).add_(norm_y).clamp_(min=0),
        )
