"""Progress without a terminal: libraries wrap their loops in a callable that a script may replace by tqdm."""

from collections.abc import Callable, Iterable

Progress = Callable[..., Iterable]  # called like tqdm(iterable, desc=..., total=..., initial=..., unit=...)


def silent(iterable: Iterable, **kwargs) -> Iterable:
    """The iterable itself; the default of every `progress` argument."""
    return iterable
