"""Going on in smaller parts where a GPU's memory is too small."""

from collections.abc import Callable
from typing import TypeVar

import torch

from dg.runtime.progress import unheard

T = TypeVar("T")


def in_chunks(
    compute: Callable[[slice], T],
    count: int,
    most: int,
    notify: Callable[[str], None] = unheard,
) -> tuple[list[T], int]:
    """(`compute(part)` of consecutive parts of `count` items, the most items of a part that fit).

    Parts have at most `most` items. Where these do not fit into memory, all is computed again in
    parts of half as many, and `notify` is told. ValueError where a single item does not fit.
    """
    while True:
        try:
            return [
                compute(slice(first, min(first + most, count))) for first in range(0, count, most)
            ], most
        except torch.OutOfMemoryError:
            if most == 1:
                raise ValueError(
                    "the memory of the GPU does not suffice for one image; free it, or compute on "
                    "the CPU"
                ) from None
        most = (min(most, count) + 1) // 2  # outside of the handler, which still holds the tensors
        torch.cuda.empty_cache()
        notify(f"out of memory; going on with {most} images at once")
