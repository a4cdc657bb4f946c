"""Waiting that hears signals and says whom it waits for: Python's signal handlers run in the main
thread, and only between its own steps."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from dg.runtime.progress import Stopped

T = TypeVar("T")
LOOK_SECONDS = 1  # from one look at signals to the next
SETTLED_SECONDS = 5  # whoever waits for longer is known to the others as one who waits
TOLD_SECONDS = 30  # until the first line; each further one takes twice as long as that before
GRACE_SECONDS = 10  # of a wait, after a request to end


class Wait:
    """One wait for others, which may be long.

    notify  gets the lines
    asked   whether this process has been asked to end
    """

    def __init__(self, notify: Callable[[str], None], asked: Callable[[], bool]):
        self.notify, self.asked = notify, asked
        self.start, self.request, self.due = time.monotonic(), None, SETTLED_SECONDS

    def look(self, whom: Callable[[], str | None]) -> None:
        """To be called every LOOK_SECONDS: tells where a line is due; Stopped where a request to
        end has been in vain for GRACE_SECONDS.

        whom  names those who are waited for; None where another process tells
        """
        now = time.monotonic()
        if self.asked():
            self.request = self.request or now
            if now - self.request > GRACE_SECONDS:
                raise Stopped
        waited = now - self.start
        if waited < self.due:
            return
        name = whom()  # asked once before the first line, for the others to know of this wait
        if name and waited >= TOLD_SECONDS:
            self.notify(f"waiting for {name}, {waited:.0f} s so far")
        self.due = max(TOLD_SECONDS, 2 * self.due if waited >= TOLD_SECONDS else 0)


class _Call(threading.Thread):
    """A call in a thread of its own, which does not keep the process alive."""

    def __init__(self, call: Callable):
        super().__init__(daemon=True)
        self.call, self.result, self.error = call, None, None
        self.start()

    def run(self):
        try:
            self.result = self.call()
        except BaseException as error:
            self.error = error


def aside(call: Callable[[], T], wait: Wait, whom: Callable[[], str | None]) -> T:
    """What a call returns or raises that may block for long: it runs in another thread, and this
    one looks at signals."""
    thread = _Call(call)
    while thread.is_alive():
        thread.join(LOOK_SECONDS)
        if thread.is_alive():
            wait.look(whom)
    if thread.error is not None:
        raise thread.error
    return thread.result


def answer_of(call: Callable[[], T], seconds: float) -> T | None:
    """What a call returns within so many seconds; None where it takes longer."""
    thread = _Call(call)
    thread.join(seconds)
    return None if thread.is_alive() or thread.error else thread.result
