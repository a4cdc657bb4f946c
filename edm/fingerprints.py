"""Fingerprints of frozen networks. Files name the network that they were made with by
fingerprint."""

import hashlib
import json
import math

import numpy as np
from torch import Tensor, nn


def fingerprint(module: nn.Module) -> str:
    """16 hex digits that depend on every frozen weight, not on LoRA, and on a network's arguments.

    The arguments are those that a network records as `init_kwargs`, if it records any.
    """
    digest = hashlib.sha256()
    if (arguments := vars(module).get("init_kwargs")) is not None:
        described = [type(module).__name__, _plain(arguments)]
        text = json.dumps(described, sort_keys=True, separators=(",", ":"), allow_nan=False)
        digest.update(hashlib.sha256(text.encode()).hexdigest()[:12].encode())
    return _digested(digest, base_state_dict(module))


def tensor_fingerprint(tensor: Tensor) -> str:
    """16 hex digits that depend on the values, shape and dtype of a tensor."""
    return _digested(hashlib.sha256(f"{tensor.dtype}{list(tensor.shape)}".encode()), {"": tensor})


def base_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """The state dict without the updates of LoRA: original names, order and values.

    A module that never had LoRA returns its own state dict.
    """
    state, base = module.state_dict(), {}
    for key, tensor in state.items():
        layer, _, last = key.rpartition(".")
        original = f"{layer}.parametrizations.weight.original"
        if last == "bias" and original in state:  # put the weight back in front of its bias
            base[f"{layer}.weight"] = state[original]
        if last not in ("lora_A", "lora_B"):
            base[key.replace(".parametrizations.weight.original", ".weight")] = tensor
    return base


def _digested(digest, tensors: dict[str, Tensor]) -> str:
    for name, tensor in tensors.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _plain(value):
    """Arguments as JSON can hold them; infinity and NaN become strings."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, (np.ndarray, np.generic, Tensor)):
        return _plain(value.tolist())
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
