"""One process or many: what torchrun tells a script, and the little that processes must agree
on."""

import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import Any

from dg.runtime.files import changed_names, plain
from dg.runtime.progress import unheard
from dg.runtime.waiting import LOOK_SECONDS, Wait, answer_of, aside

PATIENCE = timedelta(days=7)  # with a slow process; one that has ended is noticed at once
CLOSED = 2**40  # what closing adds to the counter of a `WorkList`: more than any list has items
ANSWER_SECONDS = 2  # within which a store that lives answers


@dataclass(frozen=True)
class Ranks:
    """This process among `world` of them. Where another one has gone, all that waits for it is an
    OSError of one line.

    store   the torch.distributed.Store that all of several processes reach
    notify  gets a line where this process waits long for others, and what `tell` is given
    asked   whether this process has been asked to end: then it does not wait for long, but raises
            `Stopped`
    """

    rank: int = 0
    world: int = 1
    store: Any = None
    notify: Callable[[str], None] = unheard
    asked: Callable[[], bool] = bool
    meetings: Iterator[int] = field(default_factory=count, compare=False, repr=False)

    @property
    def first(self) -> bool:
        """Whether this is the process that speaks and writes what belongs to all."""
        return self.rank == 0

    def share(self, items: list) -> list:
        """This process's part of a list; every item goes to exactly one process."""
        return items[self.rank :: self.world]

    def tell(self, line: str) -> None:
        """One line to the person who runs this, of the first process."""
        if self.first:
            self.notify(line)

    def barrier(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            import torch

            self.sum_([torch.zeros(1)])

    def agree(self, settings: dict) -> None:
        """ValueError at all processes unless these were given the same settings, by name."""
        if self.world == 1:
            return
        found, told = self.gather(plain(settings)), None
        for rank, others in enumerate(found or ()):
            if told is None and (names := changed_names(found[0], others)):
                told = (
                    f"process {rank} of this run has other {' and '.join(names)} than process 0; "
                    "give all processes the same command"
                )
        if told := self.broadcast(told):
            raise ValueError(told)

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
            if message.is_cuda:  # the GPU waits, not this process
                torch.distributed.all_reduce(message)
            else:
                self._wait(torch.distributed.all_reduce(message, async_op=True))
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

        self.barrier()  # which hears signals while it waits
        items = [None] * self.world if self.first else None
        with _all_there():
            torch.distributed.gather_object(item, items)
        return items

    def broadcast(self, item=None):
        """The first process's `item`, at every process."""
        if self.world == 1:
            return item
        import torch.distributed

        self.barrier()
        items = [item]
        with _all_there():
            torch.distributed.broadcast_object_list(items)
        return items[0]

    def by_first(self, call: Callable[[], Any]):
        """What `call` returns, or its ValueError, at all processes; the first one calls it."""
        result, refused = None, None
        if self.first:
            try:
                result = call()
            except ValueError as error:
                if self.world == 1:
                    raise
                refused = str(error)
        result, refused = self.broadcast((result, refused))
        if refused is not None:
            raise ValueError(refused)
        return result

    def _wait(self, work) -> None:
        """For the end of a collective operation, signals being heard and the late ones named."""
        number, wait = next(self.meetings), Wait(self.notify, self.asked)
        while True:
            try:
                work.wait(timedelta(seconds=LOOK_SECONDS))
                return
            except RuntimeError:
                if work.is_completed():  # it has failed
                    raise
            wait.look(lambda: self._late(number))

    def _late(self, number: int) -> str | None:
        """Who has not come to a meeting; None where another process is to tell."""
        if self.store is None:
            return "another process of this run"
        key = f"waiting/{number}"

        def look() -> list[int]:
            self.store.set(f"{key}/{self.rank}", "here")
            return [r for r in range(self.world) if not self.store.check([f"{key}/{r}"])]

        late = answer_of(look, ANSWER_SECONDS)
        if late is None:
            return "process 0 of this run, which does not answer"
        if self.rank != min(set(range(self.world)) - set(late)):
            return None
        return f"process {', '.join(map(str, late))} of this run" if late else None


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
        wait = Wait(self.ranks.notify, self.ranks.asked)
        with _all_there():
            return aside(
                lambda: self.store.add(self.key, number), wait, lambda: "process 0 of this run"
            )


@contextmanager
def _all_there() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch tells it in many lines of many kinds
        raise ConnectionError(
            "another process of this run has ended; the same command again goes on"
        ) from error


@contextmanager
def process_group(
    on_gpus: bool = False,
    notify: Callable[[str], None] = unheard,
    asked: Callable[[], bool] = bool,
) -> Iterator[Ranks]:
    """The processes that torchrun started, joined by gloo; a single process joins nothing.

    What they exchange lies in the memory of CPUs; with `on_gpus`, tensors on GPUs (gradients) go by
    nccl. `notify` and `asked` as of `Ranks`.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks(notify=notify, asked=asked)
        return
    import torch.distributed

    rank, where = int(os.environ["RANK"]), _meeting_place()
    whom = f"process 0 of this run at {where}"
    if rank == 0:
        whom = f"the other {world - 1} processes of this run, which join it at {where}"
    try:
        with _quiet_stdout():
            store = aside(lambda: _join(on_gpus), Wait(notify, asked), lambda: whom)
    except RuntimeError as error:
        raise ConnectionError(f"{whom}: not there; start all processes of the run") from error
    try:
        yield Ranks(rank, world, store, notify, asked)
    except Exception:  # an interruption is none: it would wait once more for whom it waited for
        torch.distributed.destroy_process_group()
        raise
    torch.distributed.destroy_process_group()


def _meeting_place():
    return f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"


def _join(on_gpus):
    """Meet the other processes; returns the store that serves the lists of work."""
    import torch.distributed

    nccl = on_gpus and torch.cuda.is_available() and torch.distributed.is_nccl_available()
    store, rank, world = next(torch.distributed.rendezvous("env://"))
    group, work = (torch.distributed.PrefixStore(name, store) for name in ("group", "work"))
    torch.distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if nccl else "gloo",
        store=group,
        rank=rank,
        world_size=world,
        timeout=PATIENCE,
    )
    return work


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
