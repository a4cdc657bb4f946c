"""Progress without a terminal: libraries wrap their loops in a callable that a script may replace
by tqdm."""

import time
from collections.abc import Callable, Iterable
from operator import length_hint

# called like tqdm(iterable, desc=..., total=..., initial=..., unit=...)
Progress = Callable[..., Iterable]


class Stopped(BaseException):
    """Raised by a script's progress between two items where it was asked to end: the loop saves
    what it has and passes it on.

    No Exception, so that nothing on the way takes it for an error.
    """


def silent(iterable: Iterable, **kwargs) -> Iterable:
    """The iterable itself; the default of every `progress` argument."""
    return iterable


def unheard(line: str) -> None:
    """Says nothing; the default of every `notify` argument."""


def plain_lines(
    iterable: Iterable,
    tell: Callable[[str], None],
    seconds: float,
    desc: str = "",
    total: int | None = None,
    initial: int = 0,
    unit: str = "it",
) -> Iterable:
    """The items, and every so many seconds a line: what is done, how long it took, how long the
    rest will take."""
    total = total or length_hint(iterable)
    start = told = time.monotonic()
    for done, item in enumerate(iterable, start=initial + 1):
        yield item
        now = time.monotonic()
        if now - told < seconds:
            continue
        told, spent = now, now - start
        of, rest = "", ""
        if total:
            left = spent / (done - initial) * (total - done)
            of, rest = f"/{total}", f", about {_clock(left)} left"
        tell(f"{desc}: {done}{of} {unit}, {_clock(spent)} so far{rest}")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
