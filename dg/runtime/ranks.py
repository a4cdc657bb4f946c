"""One process or many: what torchrun tells a script, and the little that processes must agree on."""

import os
import sys
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

    def sum_(self, tensors: list) -> None:
        """Replace every tensor by its sum over the processes, the same bits in all of them; one message for all tensors.

        OSError of one line where another process has gone.
        """
        if self.world == 1:
            return
        import torch.distributed

        message = torch.cat([tensor.reshape(-1) for tensor in tensors])
        try:
            torch.distributed.all_reduce(message)
        except RuntimeError as error:
            raise ConnectionError("another process of this run has ended; the same command again goes on") from error
        for tensor, total in zip(tensors, message.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))

    def gather(self, item) -> list | None:
        """Every process's `item`, in the order of ranks, at the first process; None at the others."""
        if self.world == 1:
            return [item]
        import torch.distributed

        items = [None] * self.world if self.first else None
        torch.distributed.gather_object(item, items)
        return items


@contextmanager
def process_group(on_gpus: bool = False) -> Iterator[Ranks]:
    """The processes that torchrun started, joined by gloo; a single process joins nothing.

    What they exchange lies in the memory of CPUs; with `on_gpus`, tensors on GPUs (gradients) go by nccl.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks()
        return
    import torch.distributed

    nccl = on_gpus and torch.cuda.is_available() and torch.distributed.is_nccl_available()
    with _quiet_stdout():
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if nccl else "gloo")
    try:
        yield Ranks(int(os.environ["RANK"]), world)
    finally:
        torch.distributed.destroy_process_group()


@contextmanager
def _quiet_stdout() -> Iterator[None]:
    """Nothing on standard output within, not from C++ either: gloo greets there, where results belong."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
