"""Freed memory is kept where the C library can be told so."""

import sys

from dg.runtime.allocator import keep_memory


def test_memory_is_kept_where_there_is_a_way_and_nothing_else_happens(monkeypatch):
    keep_memory()
    monkeypatch.setattr(sys, "platform", "darwin")
    keep_memory()
