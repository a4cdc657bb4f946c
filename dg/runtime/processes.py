"""One process or many: what torchrun tells a script, and the little that processes must agree
on."""

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

PATIENCE = timedelta(days=7)  # with a slow process; one that has ended is noticed at once
CLOSED = 2**40  # what closing adds to the counter of a `WorkList`: more than any list has items


@dataclass(frozen=True)
class Ranks:
    """This process among `world` of them. Where another one has gone, all that waits for it is an
    OSError of one line."""

    rank: int = 0
    world: int = 1
    store: Any = None  # the torch.distributed.Store that all of several processes reach

    @property
    def first(self) -> bool:
        """Whether this is the process that speaks and writes what belongs to all."""
        return self.rank == 0

    def share(self, items: list) -> list:
        """This process's part of a list; every item goes to exactly one process."""
        return items[self.rank :: self.world]

    def barrier(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            import torch.distributed

            with _all_there():
                torch.distributed.barrier()

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """What is done within is done by the first process before the others: it may have to
        download."""
        if not self.first:
            self.barrier()
        yield
        if self.first:
            self.barrier()

    def sum_(self, tensors: list) -> None:
        """Replace every tensor by its sum over the processes, the same bits in all of them; one
        message for all tensors."""
        if self.world == 1:
            return
        import torch.distributed

        message = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with _all_there():
            torch.distributed.all_reduce(message)
        for tensor, total in zip(
            tensors, message.split([tensor.numel() for tensor in tensors]), strict=True
        ):
            tensor.copy_(total.view_as(tensor))

    def any(self, flag: bool) -> bool:
        """Whether it is true at any process; all ask at once."""
        if self.world == 1:
            return flag
        import torch

        number = torch.tensor([int(flag)])
        self.sum_([number])
        return bool(number)

    def gather(self, item) -> list | None:
        """Every process's `item`, in the order of ranks, at the first process; None at the
        others."""
        if self.world == 1:
            return [item]
        import torch.distributed

        items = [None] * self.world if self.first else None
        with _all_there():
            torch.distributed.gather_object(item, items)
        return items

    def broadcast(self, item=None):
        """The first process's `item`, at every process."""
        if self.world == 1:
            return item
        import torch.distributed

        items = [item]
        with _all_there():
            torch.distributed.broadcast_object_list(items)
        return items[0]


SINGLE_PROCESS = Ranks()


class WorkList:
    """Items that the processes of a run take one by one, each item whoever is free first: a slow
    one does not hold the others.

    All processes make the list alike, and the `items` of the first one count. Iterating takes:
    (place in the list, item).
    """

    def __init__(self, ranks: Ranks, items: list):
        self.ranks, self.store = ranks, ranks.store
        self.key, self.items = ranks.broadcast((secrets.token_hex(8), items))
        self.taken = 0  # by a process that is alone

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        while (place := self._add(1) - 1) < len(self.items):
            yield place, self.items[place]

    def close(self) -> None:
        """Let no process take another item."""
        self._add(CLOSED)

    def done(self, mine: int) -> bool:
        """Whether all items have been done, `mine` of them by this process; all processes meet
        here."""
        import torch

        number = torch.tensor([mine])
        self.ranks.sum_([number])
        return int(number) == len(self.items)

    def _add(self, number: int) -> int:
        if self.store is None:
            self.taken += number
            return self.taken
        with _all_there():
            return self.store.add(self.key, number)


@contextmanager
def _all_there() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch tells it in many lines of many kinds
        raise ConnectionError(
            "another process of this run has ended; the same command again goes on"
        ) from error


@contextmanager
def process_group(on_gpus: bool = False) -> Iterator[Ranks]:
    """The processes that torchrun started, joined by gloo; a single process joins nothing.

    What they exchange lies in the memory of CPUs; with `on_gpus`, tensors on GPUs (gradients) go by
    nccl.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks()
        return
    import torch.distributed

    nccl = on_gpus and torch.cuda.is_available() and torch.distributed.is_nccl_available()
    with _quiet_stdout():
        store, rank, _ = next(torch.distributed.rendezvous("env://"))
        group, work = (torch.distributed.PrefixStore(name, store) for name in ("group", "work"))
        torch.distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if nccl else "gloo",
            store=group,
            rank=rank,
            world_size=world,
            timeout=PATIENCE,
        )
    try:
        yield Ranks(rank, world, work)
    finally:
        torch.distributed.destroy_process_group()


@contextmanager
def cpu_threads(number: int, device="cpu") -> Iterator[None]:
    """So many threads within, where a CPU computes."""
    import torch

    before = torch.get_num_threads()
    if torch.device(device).type == "cpu":
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _quiet_stdout() -> Iterator[None]:
    """Nothing on standard output within, not from C++ either: gloo greets there, where results
    belong."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
