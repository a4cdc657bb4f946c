"""Fingerprints of frozen networks: a head's file names by one the network that it was trained on."""

import hashlib

from torch import Tensor, nn

from dg.runtime.files import settings_hash


def fingerprint(module: nn.Module) -> str:
    """16 hex digits that depend on every frozen weight, not on LoRA, and on a score network's arguments."""
    digest = hashlib.sha256()
    if hasattr(module, "init_kwargs"):
        digest.update(settings_hash([type(module).__name__, module.init_kwargs]).encode())
    for name, tensor in base_state_dict(module).items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def base_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """The state dict without the updates: original names, order and values, also of a module that never had any."""
    state, base = module.state_dict(), {}
    for key, tensor in state.items():
        layer, _, last = key.rpartition(".")
        original = f"{layer}.parametrizations.weight.original"
        if last == "bias" and original in state:  # put the weight back in front of its bias
            base[f"{layer}.weight"] = state[original]
        if last not in ("lora_A", "lora_B"):
            base[key.replace(".parametrizations.weight.original", ".weight")] = tensor
    return base
