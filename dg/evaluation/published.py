"""Published numbers, with their sources: stats/published.json."""

from functools import cache
from pathlib import Path

from dg.runtime.files import read_json

PUBLISHED = Path(__file__).parents[2] / "stats" / "published.json"


@cache
def published_rows() -> list[dict]:
    """All rows: `source`, `system`, `metric`, `value` and what tells them apart."""
    return read_json(PUBLISHED)["rows"]


def first_matching(filters) -> list[dict]:
    """For every filter the first row that has all its entries; a filter may be None."""
    known = [
        [row for row in published_rows() if wanted.items() <= row.items()]
        for wanted in filters
        if wanted
    ]
    return [found[0] for found in known if found]
