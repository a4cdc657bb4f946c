"""Low-rank adaptation of a frozen network (LoRA; Hu et al. 2021, section 4.1): W + alpha / rank * B
A, only A and B learn.

Abdellaoui, Persson and Santos Escriche's reproduction of Discriminator Guidance adapts the first
convolution of every residual block of the ADM classifier in this way, together with the head, at
ranks 16 and 128. The encoder of a score network is adapted likewise.
"""

import math
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import edm.layers
from dg.fingerprints import base_state_dict, fingerprint
from dg.runtime.files import atomic_write
from edm.checkpoint import read_safetensors, write_safetensors
from guided_diffusion.loading import bare_state, check_tensors, read_file
from tensor_files.reading import FileError
from tensor_files.safetensors_files import is_safetensors

FORMAT = "lora"
ALPHA = 1.0  # the reproduction's, loralib's default: at rank 16 the update is B A / 16
# the first convolution of every residual block of an ADM network, or of a score network's encoder
TARGETS = {"first_conv": ("*.in_layers.2", "model.enc.*.conv0")}
LAYERS = (nn.Conv2d, nn.Conv1d, nn.Linear, edm.layers.Conv2d, edm.layers.Linear)


class LowRank(nn.Module):
    """Parametrization weight -> weight + alpha / rank * (B A, in the weight's shape)."""

    def __init__(self, layer: nn.Module, rank: int, alpha: float):
        super().__init__()
        self.rank, self.alpha = rank, alpha
        shape_a, shape_b = factor_shapes(layer, rank)
        self.lora_A = nn.Parameter(layer.weight.new_zeros(shape_a))
        self.lora_B = nn.Parameter(layer.weight.new_zeros(shape_b))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.lora_B @ self.lora_A).view(weight.shape) * (self.alpha / self.rank)


def factor_shapes(layer: nn.Module, rank: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Shapes of A and B for a layer; a linear layer has a kernel of 1 x 1, a 1D convolution one of
    1 x k.

    A [rank * h, in * w], B [out / groups * h, rank * h]: loralib's layout, in which the update of a
    kernel of h x w has up to h times the rank that is named. The files of the reproduction have it.
    """
    h, w = (1, 1, *layer.weight.shape[2:])[-2:]
    groups = getattr(layer, "groups", 1)
    out, fan_in = layer.weight.shape[0], layer.weight.shape[1] * groups
    return (rank * h, fan_in * w), (out // groups * h, rank * h)


def add_lora(
    module: nn.Module,
    rank: int,
    alpha: float | None = None,
    targets: str = "first_conv",
    seed: int = 0,
) -> list[nn.Parameter]:
    """Freeze `module` and add a low-rank update to its targets, in place; outputs stay the same to
    the bit at first.

    rank     of the update, see `factor_shapes`
    alpha    the update is scaled by alpha / rank; None: 1, as in the reproduction
    targets  "first_conv", or a pattern with * and ? for the dotted names of Conv2d, Conv1d and
             Linear layers
    seed     of A, uniform within 1 / sqrt(its columns); B is zero
    returns  A and B of every target: what to give the optimizer

    ValueError where nothing matches, for a rank below 1 or above what the narrowest target can use,
    an alpha that is not positive, and for a module that has an update already. The tensors of
    targets take other names until `merge_lora`; see `base_state_dict`. Add the update after the
    module became part of an extractor, which freezes what it is given.
    """
    alpha, patterns = ALPHA if alpha is None else float(alpha), TARGETS.get(targets, (targets,))
    layers = {
        name: layer
        for name, layer in module.named_modules()
        if name and isinstance(layer, LAYERS)
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    }
    if not layers:
        raise FileError(
            f"LoRA targets {targets!r} match no convolution or linear layer of a "
            f"{type(module).__name__}; use {', '.join(TARGETS)} or a pattern of layer names"
        )
    if rank < 1 or not alpha > 0:
        raise FileError(
            f"LoRA rank is {rank} and alpha {alpha}; use a rank of at least 1 and a positive alpha"
        )
    for name, layer in layers.items():
        (h, columns), (rows, _) = factor_shapes(layer, 1)
        if rank > min(rows, columns) // h:
            raise FileError(
                f"LoRA rank {rank} is more than layer {name} can use; use at most "
                f"{min(rows, columns) // h}, "
                "or leave that layer out of the targets"
            )
    adapters = _attach(module, layers, rank, alpha)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for adapter in adapters:
            bound = adapter.lora_A.shape[1] ** -0.5
            adapter.lora_A.copy_(
                torch.empty(adapter.lora_A.shape).uniform_(-bound, bound, generator=generator)
            )
    return [factor for adapter in adapters for factor in (adapter.lora_A, adapter.lora_B)]


def merge_lora(module: nn.Module) -> None:
    """Bake the updates into the weights: a plain frozen module again, tensors named and ordered as
    before `add_lora`."""
    for name, _ in _adapters(module):
        layer = module.get_submodule(name)
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
        if getattr(layer, "bias", None) is not None:  # the weight came back behind the bias
            layer._parameters["bias"] = layer._parameters.pop("bias")
    module.requires_grad_(False)


def lora_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """A and B of every adapted layer by name, `<layer>.lora_A` and `<layer>.lora_B`, in the order
    of `add_lora`."""
    return {
        f"{name}.{factor}": getattr(adapter, factor).detach()
        for name, adapter in _adapters(module)
        for factor in ("lora_A", "lora_B")
    }


def save_lora(path, module: nn.Module, training: dict | None = None) -> None:
    """Write the updates of a module as safetensors; the metadata says for which weights they are,
    and how they were made."""
    adapters = _adapters(module)
    if not adapters:
        raise FileError(
            f"{path} cannot be written: the network has no low-rank update; add one with "
            "add_lora first"
        )
    config = {
        "rank": adapters[0][1].rank,
        "alpha": adapters[0][1].alpha,
        "fingerprint": fingerprint(module),
        "training": training or {},
    }
    with atomic_write(path) as file:
        write_safetensors(file, lora_state_dict(module), FORMAT, config)


def load_lora(path, module: nn.Module) -> dict:
    """Freeze `module` and add the updates of a file, in place; returns {"rank", "alpha",
    "fingerprint", "training"}.

    path  a file of `save_lora`, or a torch.save'd state dict in loralib's layout, as the
          reproduction's are: lora_A and lora_B alone, or among the weights that they belong to,
          `<layer>.conv.weight` or `<layer>.weight`

    ValueError with one line that names the file, and the first tensor that does not fit; the module
    is then unchanged.
    """
    path = Path(path)
    config, tensors = _read(path)
    layers = _adapted_layers(path, tensors, module)
    rank = _rank(path, tensors, layers)
    _check_base(path, tensors, layers, base_state_dict(module))
    if "fingerprint" in config and config["fingerprint"] != (found := fingerprint(module)):
        raise FileError(
            f"{path}: was trained on another network (fingerprint {config['fingerprint']}, given "
            f"{found}); "
            "give the one it was trained on"
        )
    adapters = _attach(module, layers, rank, config["alpha"])
    with torch.no_grad():
        for name, adapter in zip(layers, adapters, strict=True):
            adapter.lora_A.copy_(tensors[f"{name}.lora_A"])
            adapter.lora_B.copy_(tensors[f"{name}.lora_B"])
    return {"fingerprint": None, "training": {}} | config | {"rank": rank}


def _read(path: Path) -> tuple[dict, dict[str, Tensor]]:
    if not path.is_file():
        raise FileError(f"{path}: no such LoRA file; train one, or give another path")
    with open(path, "rb") as file:
        own_format = is_safetensors(file.read(9))
    config, tensors = {"alpha": ALPHA}, None
    if own_format:
        types = dict(alpha=float | int, fingerprint=str | None, training=dict)
        config, tensors = read_safetensors(path, FORMAT, "alpha", **types)
        if not math.isfinite(config["alpha"]):
            raise FileError(f"{path}: its alpha is not finite; make the file again")
    try:
        return config, check_tensors(tensors if own_format else bare_state(read_file(path)))
    except ValueError as error:
        raise FileError(f"{path}: {error}") from None


def _adapted_layers(path: Path, tensors: dict, module: nn.Module) -> dict[str, nn.Module]:
    """The layers of `module` that a file has updates for, by name."""
    modules = dict(module.named_modules())
    layers = {
        name: modules.get(name)
        for name in (key.rpartition(".lora_")[0] for key in tensors if ".lora_" in key)
    }
    if not layers:
        raise FileError(
            f"{path}: holds no tensor named lora_A or lora_B; give the file of the low-rank update"
        )
    for name, layer in layers.items():
        if not isinstance(layer, LAYERS):
            raise FileError(
                f"{path}: tensor {name}.lora_A belongs to a layer that the network does not have; "
                "give the network it was trained on"
            )
    return layers


def _rank(path: Path, tensors: dict, layers: dict[str, nn.Module]) -> int:
    """The rank that a file's first A shows; ValueError for the first factor that is missing or of
    another shape."""
    rank = 0
    for name, layer in layers.items():
        (h, columns), _ = factor_shapes(layer, 1)
        rank = rank or max(
            tensors.get(f"{name}.lora_A", torch.empty(0)).numel() // (h * columns), 1
        )
        for factor, shape in zip(("lora_A", "lora_B"), factor_shapes(layer, rank), strict=True):
            key = f"{name}.{factor}"
            if key not in tensors:
                raise FileError(
                    f"{path}: tensor {key} is missing; the file is damaged, make or download it "
                    "again"
                )
            if (found := tuple(tensors[key].shape)) != shape:
                raise FileError(
                    f"{path}: tensor {key} has shape {found}, but the network needs {shape}; "
                    "give the network it was trained on"
                )
    return rank


def _check_base(
    path: Path, tensors: dict, layers: dict[str, nn.Module], base: dict[str, Tensor]
) -> None:
    """ValueError for the first tensor beside the factors that is not the network's own."""
    for key, tensor in tensors.items():
        layer, _, last = key.rpartition(".")
        if layer in layers and last in ("lora_A", "lora_B"):
            continue
        # loralib keeps the convolution itself inside its own
        if layer.removesuffix(".conv") in layers:
            layer = layer.removesuffix(".conv")
        own = base.get(f"{layer}.{last}" if layer else last)
        # loralib merges in evaluation mode: weights saved then hold the update, and adding it again
        # would double it.
        if own is None or not torch.equal(own.cpu(), tensor.to(own.dtype)):
            raise FileError(
                f"{path}: tensor {key} is not the network's own; the update was trained on another "
                "network, "
                "or is merged into these weights already"
            )


def _attach(
    module: nn.Module, layers: dict[str, nn.Module], rank: int, alpha: float
) -> list[LowRank]:
    if _adapters(module):
        raise FileError("the network already has a low-rank update; merge it before adding another")
    module.requires_grad_(False)
    adapters = [LowRank(layer, rank, alpha) for layer in layers.values()]
    for layer, adapter in zip(layers.values(), adapters, strict=True):
        parametrize.register_parametrization(layer, "weight", adapter)
    return adapters


def _adapters(module: nn.Module) -> list[tuple[str, LowRank]]:
    """(name of the layer, its update) of every adapted layer."""
    suffix = ".parametrizations.weight.0"
    return [
        (name.removesuffix(suffix), part)
        for name, part in module.named_modules()
        if isinstance(part, LowRank)
    ]
