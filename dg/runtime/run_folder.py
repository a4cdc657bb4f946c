"""A run folder has one writer: the lock that a run holds on what it writes to."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dg.runtime.files import HOST, lock, remove_stale_temporaries, writable_folder
from dg.runtime.processes import SINGLE_PROCESS, Ranks

LOCK = ".lock"
_held: dict[
    Path, list
] = {}  # of this process, by folder: [its lock file, how often it is asked for]


@contextmanager
def sole_writer(folder, ranks: Ranks = SINGLE_PROCESS) -> Iterator[Path]:
    """The folder, made if need be, for this run alone; what killed writers left in it is gone.

    ranks  the processes of the run, which share the folder: all enter, and the first holds the lock

    ValueError at all of them where another run is writing there. A lock ends with its owner, also
    with one that is killed. A process may enter again while it is within.
    """
    folder = Path(folder)
    ranks.by_first(lambda: _enter(folder))
    try:
        yield folder
    finally:
        if ranks.first:
            _leave(folder)


def _enter(folder: Path) -> None:
    writable_folder(folder)
    if entry := _held.get(folder.resolve()):
        entry[1] += 1
        return
    file = _locked(folder)
    _held[folder.resolve()] = [file, 1]
    remove_stale_temporaries(folder)


def _leave(folder: Path) -> None:
    entry = _held[folder.resolve()]
    entry[1] -= 1
    if not entry[1]:
        del _held[folder.resolve()]
        with suppress(OSError):
            (folder / LOCK).unlink()  # before the lock ends, so that no other run has it by then
        entry[0].close()


def _locked(folder: Path):
    """The folder's lock file, held by this process; ValueError where another one holds it."""
    path = folder / LOCK
    while True:
        file = open(path, "a+b", buffering=0)  # noqa: SIM115
        free, owner = lock(file), _owner(file)
        if free is False or (free is None and _may_live(owner)):
            file.close()
            raise ValueError(_told(folder, owner, free))
        with suppress(OSError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return _signed(file)
        file.close()  # its owner has left between the two lines, and the file with it


def _signed(file):
    """The lock file, which says now who holds it; on a full disk it is held without a word."""
    started = _start_of(os.getpid())
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    owner = {"host": HOST, "pid": os.getpid(), "since": since, "started": started}
    with suppress(OSError):
        file.truncate(0)
        file.write(json.dumps(owner).encode())
    return file


def _told(folder: Path, owner: dict, free: bool | None) -> str:
    who = "another process"
    if owner:
        who = f"process {owner['pid']} on {owner['host']}, since {owner['since']}"
    hint = "" if free is False else f" (if that has ended, delete {folder / LOCK})"
    return f"{folder} is being written by {who}; wait for its end{hint}, or use another folder"


def _owner(file) -> dict:
    """What the lock file says of its owner; nothing where it says nothing yet."""
    file.seek(0)
    with suppress(ValueError):
        found = json.loads(file.read())
        return found if isinstance(found, dict) and {"host", "pid", "since"} <= set(found) else {}
    return {}


def _may_live(owner: dict) -> bool:
    """Whether the owner may still run, where no lock tells: of another machine nobody knows."""
    if not owner or owner["host"] != HOST:
        return bool(owner)
    started = _start_of(owner["pid"])
    return started is not None and started == owner.get("started")


def _start_of(pid: int) -> str | None:
    """When a process of this machine started, in ticks since the machine did; None where there is
    none."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    return None
