"""One process or many: what torchrun tells a script, and the little that processes must agree on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Ranks:
    """This process among `world` of them."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that speaks and writes what belongs to all."""
        return self.rank == 0

    def share(self, items: list) -> list:
        """This process's part of a list; every item goes to exactly one process."""
        return items[self.rank :: self.world]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            import torch.distributed

            torch.distributed.barrier()


@contextmanager
def process_group() -> Iterator[Ranks]:
    """The processes that torchrun started, joined by gloo; a single process joins nothing.

    The processes exchange nothing but barriers, so gloo serves GPUs as well.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks()
        return
    import torch.distributed

    torch.distributed.init_process_group("gloo")
    try:
        yield Ranks(int(os.environ["RANK"]), world)
    finally:
        torch.distributed.destroy_process_group()
