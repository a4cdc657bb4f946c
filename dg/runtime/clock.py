"""The time that a piece of work has taken, over interruptions."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dg.runtime.files import read_json, write_json
from dg.runtime.progress import unheard

SPENT_SECONDS = 10  # between two notes of the time so far


@contextmanager
def kept_clock(
    file: Path, notify: Callable[[str], None] = unheard
) -> Iterator[Callable[[], float]]:
    """Yields what tells the seconds so far, those of interrupted runs included.

    file    keeps them, also where the process is killed
    notify  is told where the file is damaged, so that the seconds count from now on
    """
    before = 0.0
    if file.exists():
        try:
            before = float(read_json(file))
        except (ValueError, TypeError):
            notify(f"{file} is damaged; the seconds before are not counted")
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
