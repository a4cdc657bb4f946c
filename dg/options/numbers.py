"""The types of numbers on the command line; none of them is NaN, and infinite only where that means
something."""

import math
import re

import click


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise ValueError
    return number


class _Finite:
    """Refuses NaN, and infinity unless that is allowed."""

    infinite = False

    def convert(self, value, param, ctx):
        number = super().convert(value, param, ctx)
        if math.isnan(number) or (math.isinf(number) and not self.infinite):
            self.fail(f"{value} is no number to compute with; give a finite one", param, ctx)
        return number


class Real(_Finite, click.types.FloatParamType):
    """A number of any size."""


class RealRange(_Finite, click.FloatRange):
    """A number in a range; `infinite` allows infinity. Other arguments of `click.FloatRange`."""

    def __init__(self, *bounds, infinite: bool = False, **more):
        super().__init__(*bounds, **more)
        self.infinite = infinite


class Numbers(click.ParamType):
    """`0.8,0.1,0.1`, a tuple of floats."""

    name = "numbers"

    def convert(self, value, param, ctx):
        try:
            numbers = value.split(",") if isinstance(value, str) else value
            return tuple(_finite(float(number)) for number in numbers)
        except ValueError:
            self.fail(f"{value!r} is no list of numbers; write for example 0.8,0.1,0.1", param, ctx)


MOST_SEEDS = 10**8  # of one command: a list of them is to fit into memory


class SeedRange(click.ParamType):
    """`0-63`, `1,2,5` or a mixture; a list of integers."""

    name = "seeds"

    def convert(self, value, param, ctx):
        if not isinstance(value, str):
            return value
        seeds = []
        for part in value.split(","):
            match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
            if match is None:
                self.fail(
                    f"{part!r} is not a seed or a range; write for example 0-63 or 1,2,5-8",
                    param,
                    ctx,
                )
            first, last = int(match[1]), int(match[2] or match[1])
            if last < first:
                self.fail(f"the range {part!r} is empty; write the smaller seed first", param, ctx)
            if len(seeds) + last - first >= MOST_SEEDS:
                self.fail(f"more than {MOST_SEEDS:,} seeds; give fewer at once", param, ctx)
            seeds.extend(range(first, last + 1))
        return seeds
