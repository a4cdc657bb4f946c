"""Exact resume: everything a training loop needs to go on as if it had never stopped."""

import time
from pathlib import Path

import torch

from dg.runtime.files import atomic_write


def save_state(path, state: dict) -> None:
    """Write tensors and plain values, completely or not at all."""
    with atomic_write(path) as file:
        torch.save(state, file)


def load_state(path) -> dict | None:
    """What `save_state` wrote, on the CPU; None if there is no such file, ValueError if it is
    damaged."""
    if not Path(path).exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make the reader stumble in many ways
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(
            f"{path}: not a readable training state ({reason}); delete it to start over"
        ) from None


class Every:
    """True once in every `seconds` of wall time; decides when a state is worth saving."""

    def __init__(self, seconds: float):
        self.seconds, self.last = seconds, time.monotonic()

    def __call__(self) -> bool:
        if time.monotonic() - self.last < self.seconds:
            return False
        self.last = time.monotonic()
        return True
