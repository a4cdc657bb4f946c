"""Score networks on disk: this project's safetensors files, NVIDIA's pickles and checkpoints of
score_sde, read without executing them."""

import json
from collections.abc import Callable
from inspect import signature
from pathlib import Path

import torch

from edm import score_sde
from edm.nvidia_pickle import read_network
from edm.precond import PRECONDITIONERS, Preconditioner
from tensor_files.reading import FileError, open_file, parsing
from tensor_files.safetensors_files import (
    is_safetensors,
    read_header,
    read_safetensors_file,
    safetensors_bytes,
)
from tensor_files.torch_files import is_torch_file
from tensor_files.weights import built, fault_of, read_tensor_file

FORMAT = "edm-network"
UNREADABLE, AGAIN = "not a readable safetensors file", "make or download it again"
NAME_IN_FOLDER = "network.safetensors"  # of what a training has written


def load_network(
    path,
    device="cpu",
    image_size: int | None = None,
    notify: Callable[[str], None] = lambda line: None,
) -> Preconditioner:
    """A frozen score network in evaluation mode, from a .safetensors file of this project, an
    NVIDIA .pkl, or a checkpoint of score_sde.

    image_size  size of the images of a checkpoint of score_sde, which does not hold it; None as in
                `edm.score_sde.network_in`
    notify      called with one line that tells what was assumed of such a checkpoint

    A folder stands for its network.safetensors. The file decides by its first bytes which it is,
    not by its name; nothing in it is executed. Raises ValueError with one line that names the file
    and what is wrong.
    """
    path = network_file(path)
    if not path.is_file():
        folder = f" (a folder without {NAME_IN_FOLDER})" if path.is_dir() else ""
        raise FileError(f"{path}: no such network file{folder}; give a network's file")
    with parsing(path), open_file(path) as file:
        head = file.read(16)
    if is_safetensors(head):
        config, state_dict = read_safetensors(path, FORMAT, "class_name", "init_kwargs")
        class_name, init_kwargs = config["class_name"], config["init_kwargs"]
    elif is_torch_file(head) and holds_score_sde(path):
        with parsing(path):
            found = score_sde.network_in(read_tensor_file(path), image_size)
        class_name, init_kwargs, state_dict, assumed = found
        notify(f"{path}: of score_sde; assumed, since the file does not say it: {assumed}")
        image_size = None
    else:
        record = read_network(path)
        class_name, state_dict = record.class_name, record.state_dict
        init_kwargs = _by_name(class_name, record.init_args, record.init_kwargs, path)
    if image_size is not None:
        raise FileError(f"{path}: holds the size of its images itself; leave image_size out")
    return build_network(class_name, init_kwargs, state_dict, path).to(device)


def holds_score_sde(path) -> bool:
    """Whether a file of torch.save is a checkpoint of score_sde."""
    try:
        return score_sde.is_score_sde(read_tensor_file(path, shapes_only=True))
    except Exception:  # whoever reads the file as another kind says what is wrong
        return False


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
        raise FileError(
            f"{path}: {class_name} does not take these arguments: {len(args)} by position"
        )
    return dict(zip(names, args, strict=True)) | kwargs


def build_network(class_name: str, init_kwargs: dict, state_dict: dict, path) -> Preconditioner:
    """The network that a checkpoint describes, with its weights; `path` is named in errors."""
    if not isinstance(class_name, str) or class_name not in PRECONDITIONERS:
        raise FileError(
            f"{path}: holds a {class_name}, not a score network ({', '.join(PRECONDITIONERS)})"
        )
    net = build(PRECONDITIONERS[class_name], init_kwargs, state_dict, path)
    if not init_kwargs.get("decoder", True):
        raise FileError(f"{path}: holds an encoder alone, without a decoder; give a whole network")
    load_strictly(net, state_dict, path)
    return net.eval().requires_grad_(False)


def build(network, settings: dict, state_dict: dict, path, what: str | None = None):
    """The module of class `network` that a file's settings describe, on the meta device; `path` is
    named in errors, and `what` the module is."""
    what = what or f"{network.__name__} does not take these arguments"
    try:
        if not isinstance(settings, dict) or not all(type(name) is str for name in settings):
            raise FileError("they have no names")
        return built(network, state_dict, **settings)
    except FileError as error:
        raise FileError(f"{path}: {what}: {error}; get or make the file again") from error


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
    data = safetensors_bytes(tensors, metadata)
    if hasattr(file, "write"):
        file.write(data)
    else:
        Path(file).write_bytes(data)


def kind_of(metadata: dict) -> str | None:
    """What a file of this project says it is; the first version's files say it as `format`."""
    return metadata.get("kind", metadata.get("format"))


def read_safetensors(path, kind: str, *keys: str, **types) -> tuple[dict, dict]:
    """(config, tensors) of a file that `write_safetensors` wrote, whose config has `keys`.

    types  of entries of the config that are there, as of `isinstance`

    ValueError if the file is damaged or of another kind.
    """
    with parsing(path, AGAIN, UNREADABLE):
        metadata, tensors = read_safetensors_file(path)
    if (found := kind_of(metadata)) != kind:
        raise FileError(f"{path}: is no {kind} (its metadata says {found or 'nothing'})")
    return config_in(metadata, path, *keys, **types), tensors


def read_config(path) -> dict:
    """The settings in the metadata of a safetensors file, {} for none, without its tensors;
    ValueError if its header is damaged."""
    with parsing(path, AGAIN, UNREADABLE):
        metadata = read_header(path).get("__metadata__", {})
    return config_in(metadata, path)


def config_in(metadata: dict, path, *keys: str, **types) -> dict:
    """The settings in the metadata of a file, which have `keys` of these `types`; ValueError
    otherwise."""
    with parsing(path, AGAIN, UNREADABLE):
        config = json.loads(metadata.get("config", "{}"))
    if not isinstance(config, dict) or not set(keys) <= set(config):
        raise FileError(
            f"{path}: its metadata does not say {' and '.join(keys)}; make the file again"
        )
    for name, kinds in types.items():
        if name in config and not isinstance(config[name], kinds):
            found = f"{name} of another kind ({type(config[name]).__name__})"
            raise FileError(f"{path}: its metadata has {found}; make or download the file again")
    return config


def load_strictly(module: torch.nn.Module, state_dict: dict, path) -> None:
    """Assign `state_dict` to a module; ValueError naming the first tensor that is missing, unknown,
    misfit or not finite."""
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    for name, shape in expected.items():
        if name not in state_dict:
            raise FileError(
                f"{path}: tensor {name} is missing; the file does not fit the network it describes"
            )
        if tuple(state_dict[name].shape) != shape:
            found = tuple(state_dict[name].shape)
            raise FileError(
                f"{path}: tensor {name} has shape {found} where the network needs {shape}"
            )
        if fault := fault_of(state_dict[name]):
            raise FileError(
                f"{path}: tensor {name} {fault}; the file is damaged, make or download it again"
            )
    for name in state_dict:
        if name not in expected:
            raise FileError(
                f"{path}: tensor {name} is unknown to the network that the file describes"
            )
    # Cast and copy: a tensor that shared its storage with the file would keep the whole file in
    # memory.
    float_state = {name: tensor.clone().to(torch.float32) for name, tensor in state_dict.items()}
    module.load_state_dict(float_state, strict=True, assign=True)
