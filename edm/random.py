"""One random generator per image, so that an image depends on its seed alone."""

import torch
from torch import Tensor


class StackedRandomGenerator:
    """A batch of generators; every draw has as many rows as there are seeds. Seeds are taken modulo
    2^32."""

    def __init__(self, device, seeds):
        self.generators = [torch.Generator(device).manual_seed(int(seed) % 2**32) for seed in seeds]

    def _stack(self, draw, size) -> Tensor:
        if len(self.generators) != size[0]:
            raise ValueError(
                f"{len(self.generators)} seeds cannot draw a batch of {size[0]}; give one seed "
                "per image"
            )
        return torch.stack([draw(size[1:], generator) for generator in self.generators])

    def randn(self, size, **kwargs) -> Tensor:
        """Standard normal [N, ...]; `kwargs` as for torch.randn."""
        return self._stack(
            lambda shape, generator: torch.randn(shape, generator=generator, **kwargs), size
        )

    def randn_like(self, x: Tensor) -> Tensor:
        """Standard normal of the shape, dtype and device of x."""
        return self.randn(x.shape, dtype=x.dtype, layout=x.layout, device=x.device)

    def randint(self, *bounds, size, **kwargs) -> Tensor:
        """Integers in [0, high) or [low, high); `kwargs` as for torch.randint."""
        return self._stack(
            lambda shape, generator: torch.randint(
                *bounds, size=shape, generator=generator, **kwargs
            ),
            size,
        )
