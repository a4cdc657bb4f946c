"""Deterministic synthetic weights for the golden vectors in tests/golden.

A weight is a splitmix64 hash of its flat index, keyed by the parameter's name, so that nothing but
64-bit integer arithmetic decides its value and the vectors hold for every library version.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parent / "golden"


def load(name):
    """Arrays of tests/golden/<name>.npz and its `config` as a dict."""
    arrays = np.load(GOLDEN / f"{name}.npz")
    return arrays, json.loads(str(arrays["config"]))


def layouts():
    return json.loads((GOLDEN / "state_dict_layouts.json").read_text())


def weight(name, shape, salt="", gain=1.0):
    """float32 array of the given shape; variance gain^2 / fan_in for matrices, near 1 or 0 for
    vectors."""
    index = np.arange(1, int(np.prod(shape, dtype=np.int64)) + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        z = index + np.uint64(zlib.crc32((salt + name).encode()) << 32)
        z *= np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    r = np.sqrt(3.0) * (2.0 * ((z >> np.uint64(11)).astype(np.float64) * 2.0**-53) - 1.0)
    if len(shape) >= 2:
        value = gain * r / np.sqrt(np.prod(shape[1:]))
    else:
        value = 0.1 * r + (1.0 if name.endswith(".weight") else 0.0)
    return value.astype(np.float32).reshape(shape)


@torch.no_grad()
def fill(module, salt="", gain=1.0):
    """Fill every parameter of `module` in place (buffers keep their values); returns the module."""
    for name, parameter in module.named_parameters():
        parameter.copy_(torch.from_numpy(weight(name, tuple(parameter.shape), salt, gain)))
    return module
