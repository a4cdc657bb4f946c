"""The images of a training step, drawn at random."""

import torch
from torch import Tensor

from dg.data.latents import AnySet


class RandomBatch:
    """Which items of a set a step's batch has, and which of them are mirrored.

    Both are drawn for the whole batch. So an item depends on its place in the batch alone, and not
    on the process.
    """

    def __init__(self, data: AnySet, size: int, generator: torch.Generator):
        self.data, self.mirrored = data, None
        self.index = torch.randint(len(data), [size], generator=generator)

    def mirror(self, generator: torch.Generator, flip: bool) -> None:
        """Mirror half of the images if `flip`.

        The numbers are drawn in any case, so that later draws do not change.
        """
        mirrored = torch.rand(len(self.index), 1, 1, 1, generator=generator) < 0.5
        self.mirrored = mirrored if flip else None

    def items(self, part: slice) -> Tensor:
        """float32 [N, C, H, W] at a part of the batch; images are in [-1, 1]."""
        items = self.data.floats(self.index[part].numpy())
        if self.mirrored is None:
            return items
        return torch.where(self.mirrored[part], items.flip(-1), items)

    def labels(self, part: slice) -> Tensor:
        """int64 [N]"""
        return torch.from_numpy(self.data.labels[self.index[part].numpy()])
