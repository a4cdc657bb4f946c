"""Weights of two score networks merged into one network."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

import edm
from dg.runtime.progress import unheard
from edm.checkpoint import FORMAT, config_of, write_safetensors
from edm.fingerprints import fingerprint

IGNORED = {"dropout", "use_fp16"}  # no weight depends on these


def merge(first, second, weight: float, file, notify: Callable[[str], None] = unheard) -> int:
    """Write A + weight (A - B) to `file`, a path or binary file; returns its number of values.

    first, second  files of score networks A and B of one class and the same arguments
    notify         as of `edm.load_network`

    Neon (ICLR 2026, arXiv 2510.03597) merges (1 + w) theta - w theta_self, where
    theta_self is theta trained on with images of theta. The file names both networks by their
    fingerprints, and the weight. ValueError for networks of two shapes.
    """
    if not math.isfinite(weight):
        raise ValueError(f"the weight is {weight}; give a finite number")
    networks = [edm.load_network(path, notify=notify) for path in (first, second)]
    one, other = map(config_of, networks)
    _check_same(first, second, one, other)
    tensors = merged(*(net.state_dict() for net in networks), weight)
    about = dict(zip(("first", "second"), map(fingerprint, networks), strict=True))
    write_safetensors(file, tensors, FORMAT, one | {"merged": about | {"weight": weight}})
    return sum(tensor.numel() for tensor in tensors.values())


def merged(first: dict[str, Tensor], second: dict[str, Tensor], weight: float) -> dict[str, Tensor]:
    """A + weight (A - B) of tensors by name, computed in float64; ValueError where a value leaves
    the range of float32. Those that are no floats are A's."""
    found = {}
    for name, tensor in first.items():
        found[name] = tensor
        if tensor.is_floating_point():
            a, b = tensor.to(torch.float64), second[name].to(torch.float64)
            found[name] = (a + weight * (a - b)).to(tensor.dtype)
            if not found[name].isfinite().all():
                raise ValueError(
                    f"tensor {name} is not finite with the weight {weight:g}; give a smaller one"
                )
    return found


def _check_same(first, second, one: dict, other: dict) -> None:
    """ValueError unless two networks are built alike."""
    arguments = [config["init_kwargs"] | {"class": config["class_name"]} for config in (one, other)]
    for name in dict.fromkeys(name for found in arguments for name in found):
        a, b = (found.get(name) for found in arguments)
        if a != b and name not in IGNORED:
            raise ValueError(
                f"{second}: {name} is {b}, but {a} in {first}; give two networks of one shape"
            )
