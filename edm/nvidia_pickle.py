"""Reads network pickles of NVIDIA's EDM without executing anything that is in them.

A pickle is a program: the ordinary loader imports and calls whatever the file names, and these
files also carry Python source which NVIDIA's own loader runs. Here a small machine
(`edm.pickle_machine`) interprets only the instructions that describe data. The names a file may use
stand in a table of functions of this module; any other name, instruction or argument is refused. No
part of a network counts twice and instructions are counted, so a small file cannot ask for much
time or memory.

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

from edm.pickle_machine import (
    MAX_INSTRUCTIONS,
    MAX_NAME,
    U8,
    CheckpointError,
    PickleMachine,
    damaged,
    hostile,
    other_kind,
    shown,
)

CLASS_NAMES = ("EDMPrecond", "VPPrecond", "VEPrecond", "iDDPMPrecond")
MAX_ITEMS = 64  # entries of one container among the constructor's arguments


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
        with open(path, "rb") as file:
            start = file.read(2)
            if start == b"PK":
                raise other_kind("a file of torch.save" + _of_training(path))
            if start[:1] != pickle.PROTO:
                raise other_kind("no pickle of protocol 2 to 5")
            file.seek(0)
            data = memoryview(file.read())
        instructions = iter(range(MAX_INSTRUCTIONS))
        names = _NETWORK_NAMES | {
            "torch.storage._load_from_bytes": functools.partial(_storage, instructions)
        }
        return _record(PickleMachine(data, names, instructions, _set_state).run(), key)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror or error}); check the path"
        ) from None
    except (
        Exception
    ) as error:  # whatever malformed bytes make the machine stumble over is the file's fault
        reason = shown(f"{type(error).__name__}: {error}")
        raise CheckpointError(
            f"{path}: is damaged or no EDM network ({reason}); download it again"
        ) from error


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
        raise other_kind("a pickle of something else")
    if content.class_name not in CLASS_NAMES:
        raise other_kind(
            f"a pickled {shown(content.class_name)}, not one of {', '.join(CLASS_NAMES)}"
        )
    init_kwargs = content.state.get("_init_kwargs")
    init_args = content.state.get("_init_args", ())
    if (type(init_kwargs), type(init_args)) != (dict, tuple) or not _is_plain(
        [init_kwargs, init_args], depth=4
    ):
        raise damaged("constructor arguments")
    state_dict = {}
    for name, tensor in _tensors(content):
        extremes = tensor.aminmax()  # one pass, and NaN spreads to both
        if name in state_dict or not all(map(math.isfinite, extremes)):
            fault = "occurs twice" if name in state_dict else "holds NaN or infinity"
            raise damaged(f"tensor {shown(name)} {fault}")
        state_dict[name] = tensor
    return NetworkRecord(content.class_name, init_kwargs, state_dict, init_args)


def _tensors(network: _Object) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors of a module: its parameters, its buffers, then its children's, each in the
    file's order."""
    seen = set()

    def once(thing, kind):
        # Shared parts would let a small file spell out a network of any size.
        if type(thing) is not kind or id(thing) in seen:
            raise damaged("structure of the network")
        seen.add(id(thing))
        return thing

    pending = [("", network)]
    while pending:
        prefix, module = pending.pop()
        state = once(module, _Object).state or {}
        parts = (once(state.get(part), dict) for part in ("_parameters", "_buffers", "_modules"))
        parameters, buffers, children = parts
        if any(len(prefix) + len(name) > MAX_NAME for name in (*parameters, *buffers, *children)):
            raise damaged("length of a name")
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
        raise damaged("a persistent object")
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
        raise hostile("sets the state of something that has none")


_NUMPY_LAYOUTS = {"b1": "<?", "i4": "<i", "i8": "<q", "f2": "<e", "f4": "<f", "f8": "<d"}


def _numpy_dtype(code, align, copy) -> struct.Struct:
    if type(code) is not str or code not in _NUMPY_LAYOUTS:
        raise hostile("holds a numpy value that is no simple number")
    return struct.Struct(_NUMPY_LAYOUTS[code])


def _numpy_scalar(layout, data) -> bool | int | float:
    if type(layout) is not struct.Struct or type(data) is not bytes or len(data) != layout.size:
        raise damaged("a numpy number")
    return layout.unpack(data)[0]


@dataclass(eq=False)
class _Storage:
    """A flat tensor, until the one tensor that is made of it takes it."""

    flat: torch.Tensor | None


def _storage(instructions: Iterator, data) -> _Storage:
    """The legacy torch.save file of one storage: five pickles, the number of elements, and the
    elements.

    The pickles are a magic number, a version, a description of the machine, ('storage', type, key,
    device, elements, None) as a persistent id, and [key]. The device is ignored: all tensors come
    to the CPU.
    """
    machine = PickleMachine(memoryview(data), _STORAGE_NAMES, instructions, persistent=True)
    magic, version, system, description, keys = (machine.run() for _ in range(5))
    kind, dtype, key, device, count, view = description
    plain = (
        type(kind) is type(key) is type(device) is str
        and type(count) is int
        and type(dtype) is torch.dtype
    )
    known = (
        plain
        and (magic, version, kind, view) == (0x1950A86A20F9469CFC6C, 1001, "storage", None)
        and keys == [key]
    )
    if not known or system.get("little_endian") is not True:
        raise damaged("a storage")
    if (
        not 0 < count == machine.number(U8)
        or len(data) - machine.position != count * dtype.itemsize
    ):
        raise damaged("a storage has another size than it states")
    return _Storage(torch.frombuffer(bytearray(machine.data[machine.position :]), dtype=dtype))


def _tensor(storage, offset, size, stride, requires_grad, hooks) -> torch.Tensor:
    """A view of a storage, inside its bounds and no larger than it."""
    if (
        type(storage) is not _Storage
        or storage.flat is None
        or type(size) is not tuple
        or type(stride) is not tuple
    ):
        raise damaged("a tensor")
    flat, storage.flat = storage.flat, None
    numbers = (offset, *size, *stride)
    fits = len(size) == len(stride) <= 8 and all(
        type(n) is int and 0 <= n <= len(flat) for n in numbers
    )
    if not fits or not 0 < math.prod(size) <= len(flat):
        raise hostile("holds a tensor larger than its storage")
    if offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) >= len(flat):
        raise hostile("holds a tensor that reaches beyond its storage")
    return flat.as_strided(size, stride, offset)


def _parameter(tensor, requires_grad, hooks) -> torch.Tensor:
    if type(tensor) is not torch.Tensor:
        raise damaged("a parameter")
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
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.IntStorage": torch.int32,
    "torch.LongStorage": torch.int64,
}
