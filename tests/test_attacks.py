"""A small sample of `tests.attacks`; the whole of it is a command of its own."""

import pytest

from tests.attacks import GOOD, KINDS, outcomes


@pytest.mark.parametrize("name", KINDS)
def test_mutated_files_are_refused_or_read_as_written(name):
    found = outcomes(name, 4, first=10_000)
    assert len(found) == 4
    assert [one for one in found if one[1] not in GOOD] == []
