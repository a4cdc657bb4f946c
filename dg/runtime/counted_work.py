"""Items that processes share, with a bar that counts them."""

from contextlib import suppress

from dg.runtime.processes import Ranks, WorkList
from dg.runtime.progress import Progress, Stopped


class CountedWork(WorkList):
    """A `WorkList` of batches with a bar, which asks for the end by `Stopped`."""

    def __init__(self, ranks: Ranks, items: list, progress: Progress, desc: str):
        super().__init__(ranks, items)
        number = len(self.items)
        self.bar = iter(progress(range(number), desc=desc, unit="batch", total=number))
        self.shown = 0

    def show(self, number: int) -> None:
        """Count up to this number. Where the end is asked for, no process takes another item; those
        in work are still finished and saved."""
        try:
            for _ in range(self.shown, number):
                next(self.bar, None)
        except Stopped:
            self.close()
        self.shown = number

    def end(self, mine: int) -> None:
        """Wait for the other processes; `Stopped` unless all items have been done, `mine` of them
        by this one."""
        if not self.done(mine):
            raise Stopped
        with suppress(Stopped):
            for _ in self.bar:  # to its end: other processes may have made the last ones
                pass
