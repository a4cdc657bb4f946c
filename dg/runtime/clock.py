"""The time that a piece of work has taken, over interruptions."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dg.runtime.files import read_json, write_json

SPENT_SECONDS = 10  # between two notes of the time so far


@contextmanager
def kept_clock(file: Path) -> Iterator[Callable[[], float]]:
    """Yields what tells the seconds so far, those of interrupted runs included.

    file  keeps them, also where the process is killed
    """
    before = read_json(file) if file.exists() else 0.0
    start, over = time.perf_counter(), threading.Event()

    def spent() -> float:
        return before + time.perf_counter() - start

    def keep():
        # A killed process cannot say how long it has worked.
        while not over.wait(SPENT_SECONDS):
            write_json(file, spent())

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield spent
    except BaseException:
        write_json(file, spent())
        raise
    finally:
        over.set()
        thread.join()
