"""Opening and parsing files that may hold anything."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

MOST_SHOWN = 200  # characters of a foreign message
SPECIAL = {stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
SPECIAL |= {stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}


class FileError(ValueError):
    """One line: what is wrong with a file, and what to do. Names out of the file may hold anything,
    so what is not printable is not in it."""

    def __init__(self, text: str):
        super().__init__(_printable(text))


def open_file(path) -> BinaryIO:
    """A regular file, opened for reading. FileError for anything else: a pipe would be waited for,
    a device never ends."""
    kind = stat.S_IFMT(os.stat(path).st_mode)
    if kind != stat.S_IFREG:
        what = SPECIAL.get(kind, "no file")
        raise FileError(f"cannot be read (it is {what}); give a regular file")
    return open(path, "rb")


@contextmanager
def parsing(
    path=None, advice: str = "get or make it again", fault: str = "cannot be read"
) -> Iterator[None]:
    """Whatever the parsing within raises becomes a FileError of one line that begins with `path`:
    the fault, its reason, the advice."""
    name = "" if path is None else f"{path}: "
    try:
        yield
    except FileError as error:
        raise FileError(f"{name}{error}") from error
    except OSError as error:
        reason = error.strerror or shown(error)
        raise FileError(f"{name}{fault} ({reason}); {advice}") from error
    except Exception as error:  # damaged bytes make parsers stumble in every way there is
        raise FileError(f"{name}{fault} ({shown(error)}); {advice}") from error


def shown(error: BaseException) -> str:
    """A foreign error in one line of moderate length; its class where it says nothing."""
    text = _printable(str(error)) or type(error).__name__
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def _printable(text: str) -> str:
    line = " ".join(text.split())
    return "".join(letter if letter.isprintable() else "?" for letter in line)
