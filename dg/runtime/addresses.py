"""Addresses without what is secret in them."""

import re

SECRET = re.compile(r"(?<=://)[^/@\s'\"]+@")  # user and password before the host


def public(text: str) -> str:
    """A text without the users and passwords of the addresses in it."""
    return SECRET.sub("", text)
