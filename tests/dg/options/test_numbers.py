"""Numbers on the command line: finite, in range, lists of them, seeds."""

import importlib
import math

import click
import pytest

from dg.options.numbers import MOST_SEEDS, Numbers, Real, RealRange, SeedRange


def taken(kind, text):
    return kind.convert(text, None, None)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "NaN", "1e999", "infinity"])
def test_a_number_is_finite(text):
    for kind in (Real(), RealRange(min=0), RealRange(0, 1), RealRange(min=0, min_open=True)):
        with pytest.raises(click.BadParameter):
            taken(kind, text)
    with pytest.raises(click.BadParameter):
        taken(Numbers(), f"0.5,{text}")
    allowed = RealRange(min=0, infinite=True)
    assert taken(allowed, "inf") == math.inf and taken(allowed, "2.5") == 2.5
    with pytest.raises(click.BadParameter):
        taken(allowed, "nan")


def test_numbers_in_range_are_taken():
    assert taken(Real(), "-3e2") == -300 and taken(RealRange(0, 1), "0.5") == 0.5
    assert taken(Numbers(), "0.8,0.1,0.1") == (0.8, 0.1, 0.1)
    with pytest.raises(click.BadParameter, match="range"):
        taken(RealRange(0, 1), "2")


def options_of(module):
    module = importlib.import_module(f"dg.options.{module}")
    for option in declared_in([*vars(module).values()]):
        yield from option(click.Command("x", callback=lambda: None)).params


def declared_in(value):
    """The options in lists and in sections of commands, however deep."""
    if isinstance(value, dict):
        value = [part for name, part in value.items() if not str(name).startswith("__")]
    if isinstance(value, list):
        for part in value:
            yield from declared_in(part)
    elif "option.<locals>.decorator" in getattr(value, "__qualname__", ""):
        yield value


@pytest.mark.parametrize("module", ["fid", "generate", "network", "pretrain", "reproduce", "train"])
def test_every_option_of_numbers_checks_them(module):
    kinds = {type(option.type) for option in options_of(module)}
    assert kinds and not kinds & {click.types.FloatParamType, click.FloatRange}


def test_seeds():
    assert taken(SeedRange(), "0-3,7,5-6") == [0, 1, 2, 3, 7, 5, 6]
    for text in ("0-99999999999", f"0-{MOST_SEEDS}", "5-3", "x", "1,,2", "9" * 5000):
        with pytest.raises((click.BadParameter, ValueError)):
            taken(SeedRange(), text)
