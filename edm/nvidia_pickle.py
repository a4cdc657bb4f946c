"""Reads network pickles of NVIDIA's EDM without executing anything that is in them.

A pickle is a program: the ordinary loader imports and calls whatever the file names, and these
files also carry Python source which NVIDIA's own loader runs. Here a small machine
(`tensor_files.pickle_machine`) interprets only the instructions that describe data. The names a
file may use stand in a table of functions of this module; any other name, instruction or argument
is refused. No part of a network counts twice and instructions are counted, so a small file cannot
ask for much time or memory.

Formats: the machine's pickles, `torch_utils/persistence.py` of github.com/NVlabs/edm, and the
storage files of `torch.save(..., _use_new_zipfile_serialization=False)`.
"""

import functools
import math
import pickle
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from tensor_files.pickle_machine import (
    MAX_NAME,
    Damaged,
    Foreign,
    OtherKind,
    PickleMachine,
    shown,
)
from tensor_files.reading import FileError, open_file
from tensor_files.torch_files import STORAGES, Storage, instructions, legacy_content, viewed

CLASS_NAMES = ("EDMPrecond", "VPPrecond", "VEPrecond", "iDDPMPrecond")
MAX_INSTRUCTIONS = 400_000  # nearly four times what the largest published network needs
MAX_ITEMS = 64  # entries of one container among the constructor's arguments


class CheckpointError(ValueError):
    """A file that is no usable EDM network; one line that names the file, what is wrong and what to
    do."""


@dataclass(frozen=True)
class NetworkRecord:
    """What a network pickle says, as plain values.

    class_name   the preconditioner, one of CLASS_NAMES
    init_kwargs  its constructor's keyword arguments
    state_dict   tensor name -> CPU tensor, in the order of the network's own state_dict
    init_args    its constructor's positional arguments
    """

    class_name: str
    init_kwargs: dict
    state_dict: dict[str, torch.Tensor]
    init_args: tuple = ()


def read_network(path, key: str = "ema") -> NetworkRecord:
    """The network under `key` of a pickle of NVIDIA's EDM, or the network itself if the pickle
    holds nothing else.

    Raises CheckpointError if the file cannot be read, is of another kind, is damaged, names
    anything that such files do not need, or holds NaN or infinity.
    """
    try:
        with open_file(path) as file:
            start = file.read(2)
            if start == b"PK":
                raise OtherKind("a file of torch.save" + _of_training(path))
            if start[:1] != pickle.PROTO:
                raise OtherKind("no pickle of protocol 2 to 5")
            file.seek(0)
            data = memoryview(file.read())
        steps = instructions(MAX_INSTRUCTIONS)
        names = _NETWORK_NAMES | {
            "torch.storage._load_from_bytes": functools.partial(_storage, steps)
        }
        return _record(PickleMachine(data, names, steps, _set_state).run(), key)
    except Exception as error:  # malformed bytes make the machine stumble in every way
        raise CheckpointError(f"{path}: {_told(error)}") from error


def _told(error: Exception) -> str:
    """What is wrong with a file, and what to do."""
    if isinstance(error, OtherKind):
        return f"is {error}; give a network pickle of NVIDIA's EDM"
    if isinstance(error, Foreign):
        act = f"{error}, which no EDM network does"
        return f"{act}; do not open this file with any other tool"
    if isinstance(error, Damaged):
        return f"is damaged ({error}); download it again"
    if isinstance(error, OSError):
        return f"cannot be read ({error.strerror or error}); check the path"
    if isinstance(error, (CheckpointError, FileError)):
        return str(error)
    reason = shown(f"{type(error).__name__}: {error}")
    return f"is damaged or no EDM network ({reason}); download it again"


def _of_training(path) -> str:
    """Where the network stands, if the file has the name of the state that EDM's training keeps."""
    match = re.fullmatch(r"training-state-(\d+)\.pt", Path(path).name)
    beside = f"network-snapshot-{match[1]}.pkl" if match else "network-snapshot-*.pkl"
    return f", as the state of EDM's training is, whose network is {beside} beside it"


# The network in the file's content.


@dataclass(eq=False)
class _Object:
    """A persistent object or ModuleDict: its class by name only, and its __dict__."""

    class_name: str
    state: dict | None


def _record(content, key: str) -> NetworkRecord:
    """Pick the network out of what the file describes."""
    if type(content) is dict:
        if key not in content:
            found = ", ".join(shown(name) for name in list(content)[:MAX_ITEMS]) or "nothing"
            raise CheckpointError(
                f"has no entry '{key}' but {found}; choose one of these or another file"
            )
        content = content[key]
    if type(content) is not _Object:
        raise OtherKind("a pickle of something else")
    if content.class_name not in CLASS_NAMES:
        raise OtherKind(
            f"a pickled {shown(content.class_name)}, not one of {', '.join(CLASS_NAMES)}"
        )
    init_kwargs = content.state.get("_init_kwargs")
    init_args = content.state.get("_init_args", ())
    if (type(init_kwargs), type(init_args)) != (dict, tuple) or not _is_plain(
        [init_kwargs, init_args], depth=4
    ):
        raise Damaged("constructor arguments")
    state_dict = {}
    for name, tensor in _tensors(content):
        extremes = tensor.aminmax()  # one pass, and NaN spreads to both
        if name in state_dict or not all(map(math.isfinite, extremes)):
            fault = "occurs twice" if name in state_dict else "holds NaN or infinity"
            raise Damaged(f"tensor {shown(name)} {fault}")
        state_dict[name] = tensor
    return NetworkRecord(content.class_name, init_kwargs, state_dict, init_args)


def _tensors(network: _Object) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors of a module: its parameters, its buffers, then its children's, each in the
    file's order."""
    seen = set()

    def once(thing, kind):
        # Shared parts would let a small file spell out a network of any size.
        if type(thing) is not kind or id(thing) in seen:
            raise Damaged("structure of the network")
        seen.add(id(thing))
        return thing

    pending = [("", network)]
    while pending:
        prefix, module = pending.pop()
        state = once(module, _Object).state or {}
        parts = (once(state.get(part), dict) for part in ("_parameters", "_buffers", "_modules"))
        parameters, buffers, children = parts
        if any(len(prefix) + len(name) > MAX_NAME for name in (*parameters, *buffers, *children)):
            raise Damaged("length of a name")
        for name, tensor in (*parameters.items(), *buffers.items()):
            if tensor is not None:
                yield prefix + name, once(tensor, torch.Tensor)
        pending += [
            (f"{prefix}{name}.", child)
            for name, child in reversed(children.items())
            if child is not None
        ]


def _is_plain(value, depth: int = 3) -> bool:
    """Whether a value consists of numbers, strings, None and small, shallow containers of these."""
    if type(value) in (dict, list, tuple):
        parts = value.values() if type(value) is dict else value
        return (
            depth > 0
            and len(value) <= MAX_ITEMS
            and all(_is_plain(part, depth - 1) for part in parts)
        )
    return type(value) in (type(None), bool, int, float, str)


# What the names in a file stand for.


def _persistent_object(meta) -> _Object:
    if (
        type(meta) is not dict
        or type(meta.get("class_name")) is not str
        or type(meta.get("state")) is not dict
    ):
        raise Damaged("a persistent object")
    return _Object(meta["class_name"], meta["state"])


def _module_dict() -> _Object:
    return _Object("ModuleDict", None)


def _ordered_dict() -> dict:
    return {}


def _set_state(target, state) -> None:
    """Give a ModuleDict its __dict__, or a numpy dtype its byte order."""
    if type(target) is _Object and target.state is None and type(state) is dict:
        target.state = state
    elif (
        type(target) is not struct.Struct or type(state) is not tuple or state[1] not in ("<", "|")
    ):
        raise Foreign("sets the state of something that has none")


_NUMPY_LAYOUTS = {"b1": "<?", "i4": "<i", "i8": "<q", "f2": "<e", "f4": "<f", "f8": "<d"}


def _numpy_dtype(code, align, copy) -> struct.Struct:
    if type(code) is not str or code not in _NUMPY_LAYOUTS:
        raise Foreign("holds a numpy value that is no simple number")
    return struct.Struct(_NUMPY_LAYOUTS[code])


def _numpy_scalar(layout, data) -> bool | int | float:
    if type(layout) is not struct.Struct or type(data) is not bytes or len(data) != layout.size:
        raise Damaged("a numpy number")
    return layout.unpack(data)[0]


def _storage(steps: Iterator, data) -> Storage:
    """The legacy torch.save file of one storage, which serves one tensor. The device is ignored:
    all tensors come to the CPU."""
    storage = legacy_content(memoryview(data), steps, names=_STORAGE_NAMES)
    if type(storage) is not Storage:
        raise Damaged("a storage")
    storage.left = len(storage.flat)
    return storage


def _tensor(storage, offset, size, stride, requires_grad, hooks) -> torch.Tensor:
    tensor = viewed(storage, offset, size, stride)
    if not tensor.numel():
        raise Damaged("an empty tensor")
    storage.left = 0
    return tensor


def _parameter(tensor, requires_grad, hooks) -> torch.Tensor:
    if type(tensor) is not torch.Tensor:
        raise Damaged("a parameter")
    return tensor


_NETWORK_NAMES = {
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent_object,
    "torch.nn.modules.container.ModuleDict": _module_dict,
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "numpy.core.multiarray.scalar": _numpy_scalar,  # numpy 1
    "numpy._core.multiarray.scalar": _numpy_scalar,  # numpy 2
    "numpy.dtype": _numpy_dtype,
}
_STORAGE_NAMES = {
    f"torch.{kind}Storage": STORAGES[f"torch.{kind}Storage"]
    for kind in ("Half", "BFloat16", "Float", "Double", "Int", "Long")
}
