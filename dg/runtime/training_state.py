"""Exact resume: everything a training loop needs to go on as if it had never stopped."""

import errno
import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import torch

from dg.runtime.files import atomic_write
from dg.runtime.progress import unheard
from tensor_files.reading import FileError, parsing
from tensor_files.weights import read_tensor_file

ENTRIES = {"sha256", "state"}  # of a file; older versions kept the state's own
PLAIN = (bool, int, float, str, bytes, type(None))  # values that can be read back


def save_state(path, state: dict) -> None:
    """Write tensors and plain values with their hash, completely or not at all. TypeError for
    anything else, which could not be read back."""
    with atomic_write(path) as file:
        try:
            torch.save({"sha256": content_hash(state), "state": state}, file)
        except RuntimeError as error:  # torch's own writer, which does not tell the system's reason
            raise OSError(errno.ENOSPC, "the disk is full, or failed") from error


def load_state(path, notify: Callable[[str], None] = unheard) -> dict | None:
    """What `save_state` wrote, on the CPU; None if there is no such file, ValueError if it is
    damaged.

    notify  is told of a state of an older version, which has no hash and is taken as it is
    """
    if not Path(path).exists():
        return None
    with restoring(path):
        if not isinstance(found := read_tensor_file(path), dict):
            raise FileError(f"holds no state but a {type(found).__name__}; delete it to start over")
        if not ENTRIES & set(found):
            notify(f"{path}: of an older version, without a hash; it is taken as it is")
            return found
        if found["sha256"] != content_hash(found["state"]):
            raise FileError(
                "its content does not have the hash that it was saved with; delete it to start over"
            )
        return found["state"]


def restoring(path):
    """A context in which whatever is wrong with a state becomes a ValueError of one line."""
    return parsing(path, "delete it to start over", "not a readable training state")


def content_hash(value) -> str:
    """SHA-256 of tensors and plain values, in dicts and lists: of all that a state means, however
    its file is laid out. TypeError for a value of another kind."""
    digest = hashlib.sha256()
    _update(digest, value)
    return digest.hexdigest()


def _update(digest, value) -> None:
    if isinstance(value, torch.Tensor):
        digest.update(f"{value.dtype}{list(value.shape)}".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy() if len(flat) else b"")
    elif isinstance(value, dict):
        digest.update(f"dict {len(value)}".encode())
        for key, entry in value.items():
            digest.update(repr(key).encode())
            _update(digest, entry)
    elif isinstance(value, (list, tuple)):
        digest.update(f"list {len(value)}".encode())
        for entry in value:
            _update(digest, entry)
    elif type(value) in PLAIN:
        digest.update(f"{type(value).__name__} {value!r}".encode())
    else:  # numpy's numbers among them, which no reader of weights accepts
        raise TypeError(f"a training state cannot hold a {type(value).__name__}: {value!r}")


class Every:
    """True once in every `seconds` of wall time; decides when a state is worth saving."""

    def __init__(self, seconds: float):
        self.seconds, self.last = seconds, time.monotonic()

    def __call__(self) -> bool:
        if time.monotonic() - self.last < self.seconds:
            return False
        self.last = time.monotonic()
        return True
