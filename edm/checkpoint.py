"""Score networks on disk: this project's safetensors files, and NVIDIA's pickles read without
executing them."""

import json
from inspect import signature
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from edm.nvidia_pickle import read_network
from edm.precond import PRECONDITIONERS, Preconditioner

FORMAT = "edm-network"
NAME_IN_FOLDER = "network.safetensors"  # of what a training has written


def load_network(path, device="cpu") -> Preconditioner:
    """A frozen score network in evaluation mode, from a .safetensors file of this project or an
    NVIDIA .pkl.

    A folder stands for its network.safetensors. The file decides by its first bytes which it is,
    not by its name; nothing in it is executed. Raises ValueError with one line that names the file
    and what is wrong.
    """
    path = network_file(path)
    if not path.is_file():
        folder = f" (a folder without {NAME_IN_FOLDER})" if path.is_dir() else ""
        raise ValueError(f"{path}: no such network file{folder}; give a .safetensors or .pkl file")
    with open(path, "rb") as file:
        head = file.read(9)
    if head[8:9] == b"{":
        config, state_dict = read_safetensors(path, FORMAT, "class_name", "init_kwargs")
        class_name, init_kwargs = config["class_name"], config["init_kwargs"]
    else:
        record = read_network(path)
        class_name, state_dict = record.class_name, record.state_dict
        init_kwargs = _by_name(class_name, record.init_args, record.init_kwargs, path)
    return build_network(class_name, init_kwargs, state_dict, path).to(device)


def network_file(path) -> Path:
    """The file of a network: a folder's network.safetensors where there is one, else the path
    itself."""
    return file_in(path, NAME_IN_FOLDER)


def file_in(path, name: str) -> Path:
    """The file of that name in the folder `path` where there is one, else the path itself."""
    inside = Path(path) / name
    return inside if inside.is_file() else Path(path)


def _by_name(class_name: str, args: tuple, kwargs: dict, path) -> dict:
    """Arguments of a preconditioner by name, also those that a checkpoint keeps by position."""
    parameters = signature(PRECONDITIONERS[class_name]).parameters.values()
    names = [one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD][: len(args)]
    if len(names) < len(args) or set(names) & set(kwargs):
        raise ValueError(
            f"{path}: {class_name} does not take these arguments: {len(args)} by position"
        )
    return dict(zip(names, args, strict=True)) | kwargs


def build_network(class_name: str, init_kwargs: dict, state_dict: dict, path) -> Preconditioner:
    """The network that a checkpoint describes, with its weights; `path` is named in errors."""
    if class_name not in PRECONDITIONERS:
        raise ValueError(
            f"{path}: holds a {class_name}, not a score network ({', '.join(PRECONDITIONERS)})"
        )
    try:
        with torch.device("meta"):
            net = PRECONDITIONERS[class_name](**init_kwargs)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{path}: {class_name} does not take these arguments: {error}") from None
    load_strictly(net, state_dict, path)
    return net.eval().requires_grad_(False)


def save_network(file, net: Preconditioner) -> None:
    """Write a network as safetensors, its class and arguments in the metadata. `file`: a path or a
    binary file object."""
    write_safetensors(file, net.state_dict(), FORMAT, config_of(net))


def config_of(net: Preconditioner) -> dict:
    """Its class and arguments, with which `build_network` builds it again."""
    return {"class_name": type(net).__name__, "init_kwargs": net.init_kwargs}


def write_safetensors(file, tensors: dict, kind: str, config: dict) -> None:
    """Tensors by name, with a JSON `config` and its `kind` in the metadata, to a path or binary
    file object. The metadata also says `format: pt`, as Hugging Face's loaders demand."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"format": "pt", "kind": kind, "config": json.dumps(config)}
    data = _ordered(save(tensors, metadata))
    if hasattr(file, "write"):
        file.write(data)
    else:
        Path(file).write_bytes(data)


def _ordered(data: bytes) -> bytes:
    """The same safetensors file with its metadata sorted: the library writes them in another order
    every time."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return data[:8] + text.ljust(size) + data[8 + size :]


def kind_of(metadata: dict) -> str | None:
    """What a file of this project says it is; the first version's files say it as `format`."""
    return metadata.get("kind", metadata.get("format"))


def read_safetensors(path, kind: str, *keys: str) -> tuple[dict, dict]:
    """(config, tensors) of a file that `write_safetensors` wrote, whose config has `keys`.

    ValueError if the file is damaged or of another kind.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if (found := kind_of(metadata)) != kind:
                raise ValueError(f"{path}: is no {kind} (its metadata says {found or 'nothing'})")
            config = json.loads(metadata["config"])
            if not isinstance(config, dict) or not set(keys) <= set(config):
                raise ValueError(
                    f"{path}: its metadata does not say {' and '.join(keys)}; make the file again"
                )
            return config, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path}: not a readable safetensors file ({error}); make or download it again"
        ) from None


def load_strictly(module: torch.nn.Module, state_dict: dict, path) -> None:
    """Assign `state_dict` to a module; ValueError naming the first tensor that is missing, unknown,
    misfit or not finite."""
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    for name, shape in expected.items():
        if name not in state_dict:
            raise ValueError(
                f"{path}: tensor {name} is missing; the file does not fit the network it describes"
            )
        if tuple(state_dict[name].shape) != shape:
            found = tuple(state_dict[name].shape)
            raise ValueError(
                f"{path}: tensor {name} has shape {found} where the network needs {shape}"
            )
        if not torch.isfinite(state_dict[name]).all():
            raise ValueError(
                f"{path}: tensor {name} holds NaN or infinity; the file is damaged, make it again"
            )
    for name in state_dict:
        if name not in expected:
            raise ValueError(
                f"{path}: tensor {name} is unknown to the network that the file describes"
            )
    # Cast and copy: a tensor that shared its storage with the file would keep the whole file in
    # memory.
    float_state = {name: tensor.clone().to(torch.float32) for name, tensor in state_dict.items()}
    module.load_state_dict(float_state, strict=True, assign=True)
