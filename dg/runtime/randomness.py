"""Random numbers that depend on a seed alone: a generator per step, and seeded global numbers."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def step_generator(seed: int, stage: str, step: int, device="cpu") -> torch.Generator:
    """The random generator of one training step.

    It depends on these arguments alone, so a resumed run draws the same numbers.
    """
    return torch.Generator(device).manual_seed(zlib.crc32(f"{seed}/{stage}/{step}".encode()))


@contextmanager
def seeded(seed: int, device=None) -> Iterator[None]:
    """Within it global random numbers, which initialisation and dropout take, come from `seed`.

    device  a GPU whose numbers are seeded too; None or a CPU: none is touched

    Outside nothing changes.
    """
    gpus = [device] if device is not None and torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        yield
