"""Exact resume: everything a training loop needs to go on as if it had never stopped."""

import errno
import time
from pathlib import Path

import torch

from dg.runtime.files import atomic_write
from tensor_files.reading import FileError, parsing
from tensor_files.weights import read_tensor_file


def save_state(path, state: dict) -> None:
    """Write tensors and plain values, completely or not at all."""
    with atomic_write(path) as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch's own writer, which does not tell the system's reason
            raise OSError(errno.ENOSPC, "the disk is full, or failed") from error


def load_state(path) -> dict | None:
    """What `save_state` wrote, on the CPU; None if there is no such file, ValueError if it is
    damaged."""
    if not Path(path).exists():
        return None
    with restoring(path):
        if not isinstance(state := read_tensor_file(path), dict):
            raise FileError(f"holds no state but a {type(state).__name__}; delete it to start over")
        return state


def restoring(path):
    """A context in which whatever is wrong with a state becomes a ValueError of one line."""
    return parsing(path, "delete it to start over", "not a readable training state")


class Every:
    """True once in every `seconds` of wall time; decides when a state is worth saving."""

    def __init__(self, seconds: float):
        self.seconds, self.last = seconds, time.monotonic()

    def __call__(self) -> bool:
        if time.monotonic() - self.last < self.seconds:
            return False
        self.last = time.monotonic()
        return True
