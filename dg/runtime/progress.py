"""Progress without a terminal: libraries wrap their loops in a callable that a script may replace by tqdm."""

from collections.abc import Callable, Iterable

Progress = Callable[
    ..., Iterable
]  # called like tqdm(iterable, desc=..., total=..., initial=..., unit=...)


class Stopped(BaseException):
    """Raised by a script's progress between two items where it was asked to end: the loop saves what it has and passes it on.

    No Exception, so that nothing on the way takes it for an error.
    """


def silent(iterable: Iterable, **kwargs) -> Iterable:
    """The iterable itself; the default of every `progress` argument."""
    return iterable
