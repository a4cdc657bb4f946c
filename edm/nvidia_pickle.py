"""Reads network pickles of NVIDIA's EDM without executing anything that is in them.

A pickle is a program: the ordinary loader imports and calls whatever the file names, and these files also carry Python
source which NVIDIA's own loader runs. Here a small machine interprets only the instructions that describe data. The
names a file may use stand in a table of functions of this module; any other name, instruction or argument is refused.
No part of a network counts twice and instructions are counted, so a small file cannot ask for much time or memory.

Formats: pickle protocols 2 to 5 (PEP 307, PEP 3154; the standard library's `pickletools` documents each instruction),
`torch_utils/persistence.py` of github.com/NVlabs/edm, and the storage files of
`torch.save(..., _use_new_zipfile_serialization=False)`.
"""

import functools
import math
import pickle
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import torch

CLASS_NAMES = ("EDMPrecond", "VPPrecond", "VEPrecond", "iDDPMPrecond")
MAX_INSTRUCTIONS = 400_000  # nearly four times what the largest published network needs
MAX_NAME = 256  # characters of a tensor's name
MAX_ITEMS = 64  # entries of one container among the constructor's arguments


class CheckpointError(ValueError):
    """A file that is no usable EDM network; one line that names the file, what is wrong and what to do."""


@dataclass(frozen=True)
class NetworkRecord:
    """What a network pickle says, as plain values.

    class_name   the preconditioner, one of CLASS_NAMES
    init_kwargs  its constructor's keyword arguments
    state_dict   tensor name -> CPU tensor, in the order of the network's own state_dict
    """

    class_name: str
    init_kwargs: dict
    state_dict: dict[str, torch.Tensor]


def read_network(path, key: str = "ema") -> NetworkRecord:
    """The network under `key` of a pickle of NVIDIA's EDM, or the network itself if the pickle holds nothing else.

    Raises CheckpointError if the file cannot be read, is of another kind, is damaged, names anything that such files do
    not need, or holds NaN or infinity.
    """
    try:
        with open(path, "rb") as file:
            if file.read(1) != pickle.PROTO:
                raise _other_kind("no pickle of protocol 2 to 5")
            file.seek(0)
            data = memoryview(file.read())
        instructions = iter(range(MAX_INSTRUCTIONS))
        names = _NETWORK_NAMES | {
            "torch.storage._load_from_bytes": functools.partial(_storage, instructions)
        }
        return _record(_Machine(data, names, instructions).run(), key)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror or error}); check the path"
        ) from None
    except (
        Exception
    ) as error:  # whatever malformed bytes make the machine stumble over is the file's fault
        reason = _shown(f"{type(error).__name__}: {error}")
        raise CheckpointError(
            f"{path}: is damaged or no EDM network ({reason}); download it again"
        ) from error


def _other_kind(found: str) -> CheckpointError:
    return CheckpointError(f"is {found}; give a network pickle of NVIDIA's EDM")


def _damaged(part: str) -> CheckpointError:
    return CheckpointError(f"is damaged ({part}); download it again")


def _hostile(act: str) -> CheckpointError:
    return CheckpointError(
        f"{act}, which no EDM network does; do not open this file with any other tool"
    )


def _shown(text: str) -> str:
    """Text of a file, fit for one line of an error message."""
    return ascii(text[:MAX_NAME])[1:-1]


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
            found = ", ".join(_shown(name) for name in list(content)[:MAX_ITEMS]) or "nothing"
            raise CheckpointError(
                f"has no entry '{key}' but {found}; choose one of these or another file"
            )
        content = content[key]
    if type(content) is not _Object:
        raise _other_kind("a pickle of something else")
    if content.class_name not in CLASS_NAMES:
        raise _other_kind(
            f"a pickled {_shown(content.class_name)}, not one of {', '.join(CLASS_NAMES)}"
        )
    init_kwargs = content.state.get("_init_kwargs")
    if type(init_kwargs) is not dict or not _is_plain(init_kwargs):
        raise _damaged("constructor arguments")
    state_dict = {}
    for name, tensor in _tensors(content):
        extremes = tensor.aminmax()  # one pass, and NaN spreads to both
        if name in state_dict or not all(map(math.isfinite, extremes)):
            fault = "occurs twice" if name in state_dict else "holds NaN or infinity"
            raise _damaged(f"tensor {_shown(name)} {fault}")
        state_dict[name] = tensor
    return NetworkRecord(content.class_name, init_kwargs, state_dict)


def _tensors(network: _Object) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors of a module: its parameters, its buffers, then its children's, each in the file's order."""
    seen = set()

    def once(thing, kind):
        # Shared parts would let a small file spell out a network of any size.
        if type(thing) is not kind or id(thing) in seen:
            raise _damaged("structure of the network")
        seen.add(id(thing))
        return thing

    pending = [("", network)]
    while pending:
        prefix, module = pending.pop()
        state = once(module, _Object).state or {}
        parts = (once(state.get(part), dict) for part in ("_parameters", "_buffers", "_modules"))
        parameters, buffers, children = parts
        if any(len(prefix) + len(name) > MAX_NAME for name in (*parameters, *buffers, *children)):
            raise _damaged("length of a name")
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


# The machine.

_U1, _U2, _U4, _U8 = (struct.Struct(layout) for layout in ("<B", "<H", "<I", "<Q"))
_I4, _F8 = struct.Struct("<i"), struct.Struct(">d")
_MAKERS = {  # instruction -> makes the value that it pushes
    pickle.NONE: lambda: None,
    pickle.NEWTRUE: lambda: True,
    pickle.NEWFALSE: lambda: False,
    pickle.EMPTY_DICT: dict,
    pickle.EMPTY_LIST: list,
    pickle.EMPTY_TUPLE: tuple,
    pickle.EMPTY_SET: set,
}
_NUMBERS = {pickle.BININT: _I4, pickle.BININT1: _U1, pickle.BININT2: _U2, pickle.BINFLOAT: _F8}
_STRETCHES = {  # instruction -> layout of the length behind it, and what is made of the bytes behind that
    pickle.SHORT_BINUNICODE: (_U1, lambda data: str(data, "utf-8", "surrogatepass")),
    pickle.BINUNICODE: (_U4, lambda data: str(data, "utf-8", "surrogatepass")),
    pickle.SHORT_BINBYTES: (_U1, bytes),
    pickle.BINBYTES: (_U4, lambda data: data),  # a storage, not copied here
    pickle.LONG1: (_U1, lambda data: int.from_bytes(data, "little", signed=True)),
}
_TUPLES = {pickle.TUPLE1: 1, pickle.TUPLE2: 2, pickle.TUPLE3: 3}
_PUTS = {pickle.BINPUT: _U1, pickle.LONG_BINPUT: _U4}
_GETS = {pickle.BINGET: _U1, pickle.LONG_BINGET: _U4}


class _Machine:
    """Interprets the instructions of a pickle that describe data, on a stack of plain values and objects of ours.

    data          bytes in which pickles follow each other from `position` on
    names         dotted name -> what it stands for; the callables in it are all that a pickle can call
    instructions  iterator that ends when the file has used up its share
    """

    def __init__(self, data: memoryview, names: dict, instructions: Iterator):
        self.data, self.names, self.instructions, self.position = data, names, instructions, 0

    def run(self):
        """Interpret one pickle up to its STOP and return the value that it describes."""
        self.stack, self.marked, self.memo = [], [], {}
        if self.take(1) != pickle.PROTO or not 2 <= self.number(_U1) <= 5:
            raise _other_kind("no pickle of protocol 2 to 5")
        for _ in self.instructions:
            code = bytes(self.take(1))
            if code == pickle.STOP:
                return self.stack.pop()
            if not self._push(code) and not self._combine(code):
                raise _hostile(f"contains the pickle instruction {code!r}")
        raise _hostile(f"has more than {MAX_INSTRUCTIONS} instructions")

    def take(self, count: int) -> memoryview:
        """The next bytes of the data."""
        self.position += count
        if self.position > len(self.data):
            raise _damaged("it ends too early")
        return self.data[self.position - count : self.position]

    def number(self, layout: struct.Struct) -> int | float:
        return layout.unpack(self.take(layout.size))[0]

    def _push(self, code: bytes) -> bool:
        """Interpret an instruction that pushes a value or remembers one; False if it is of another kind."""
        if code in _MAKERS:
            self.stack.append(_MAKERS[code]())
        elif code in _NUMBERS:
            self.stack.append(self.number(_NUMBERS[code]))
        elif code in _STRETCHES:
            length, make = _STRETCHES[code]
            self.stack.append(make(self.take(self.number(length))))
        elif code == pickle.MEMOIZE or code in _PUTS:
            index = self.number(_PUTS[code]) if code in _PUTS else len(self.memo)
            # No network refers to a storage's bytes again; forgetting them ensures that each is decoded only once.
            self.memo[index] = None if type(self.stack[-1]) is memoryview else self.stack[-1]
        elif code in _GETS:
            self.stack.append(self.memo[self.number(_GETS[code])])
        elif code == pickle.MARK:
            self.marked.append(self.stack)
            self.stack = []
        elif code == pickle.FRAME:
            if self.number(_U8) > len(self.data) - self.position:
                raise _damaged("it ends too early")
        elif code == pickle.GLOBAL:
            self.stack.append(self._named(self._line(), self._line()))
        else:
            return False
        return True

    def _combine(self, code: bytes) -> bool:
        """Interpret an instruction that makes something of the top of the stack; False if it is of another kind."""
        marked = code in (pickle.TUPLE, pickle.SETITEMS, pickle.APPENDS)
        items, self.stack = (self.stack, self.marked.pop()) if marked else ([], self.stack)
        pop, push = self.stack.pop, self.stack.append
        if code == pickle.TUPLE:
            push(tuple(items))
        elif code in _TUPLES:
            push(tuple([pop() for _ in range(_TUPLES[code])][::-1]))
        elif code in (pickle.SETITEM, pickle.SETITEMS):
            items = items if marked else [pop(), pop()][::-1]
            # Only strings are keys: hashing them is cheap and cannot be made to collide.
            if type(self.stack[-1]) is not dict or any(type(key) is not str for key in items[::2]):
                raise _damaged("a dict")
            self.stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif code in (pickle.APPEND, pickle.APPENDS):
            items = items if marked else [pop()]
            if type(self.stack[-1]) is not list:
                raise _damaged("a list")
            self.stack[-1].extend(items)
        elif code == pickle.STACK_GLOBAL:
            name, module = pop(), pop()
            push(self._named(module, name))
        elif code in (pickle.REDUCE, pickle.NEWOBJ):
            arguments, function = pop(), pop()
            if not callable(function) or type(arguments) is not tuple:
                raise _hostile("calls what is no function")
            push(function(*arguments))
        elif code == pickle.BUILD:
            state = pop()
            _set_state(self.stack[-1], state)
        elif (
            code != pickle.BINPERSID or self.names is not _STORAGE_NAMES
        ):  # a storage's description stands for it
            return False
        return True

    def _line(self) -> str:
        length = bytes(self.data[self.position : self.position + MAX_NAME]).index(b"\n")
        return bytes(self.take(length + 1)[:-1]).decode()

    def _named(self, module, name):
        if type(module) is not str or type(name) is not str:
            raise _damaged("a name")
        if f"{module}.{name}" not in self.names:
            raise _hostile(f"asks for {_shown(f'{module}.{name}')}")
        return self.names[f"{module}.{name}"]


# What the names in a file stand for.


def _persistent_object(meta) -> _Object:
    if (
        type(meta) is not dict
        or type(meta.get("class_name")) is not str
        or type(meta.get("state")) is not dict
    ):
        raise _damaged("a persistent object")
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
        raise _hostile("sets the state of something that has none")


_NUMPY_LAYOUTS = {"b1": "<?", "i4": "<i", "i8": "<q", "f2": "<e", "f4": "<f", "f8": "<d"}


def _numpy_dtype(code, align, copy) -> struct.Struct:
    if type(code) is not str or code not in _NUMPY_LAYOUTS:
        raise _hostile("holds a numpy value that is no simple number")
    return struct.Struct(_NUMPY_LAYOUTS[code])


def _numpy_scalar(layout, data) -> bool | int | float:
    if type(layout) is not struct.Struct or type(data) is not bytes or len(data) != layout.size:
        raise _damaged("a numpy number")
    return layout.unpack(data)[0]


@dataclass(eq=False)
class _Storage:
    """A flat tensor, until the one tensor that is made of it takes it."""

    flat: torch.Tensor | None


def _storage(instructions: Iterator, data) -> _Storage:
    """The legacy torch.save file of one storage: five pickles, the number of elements, and the elements.

    The pickles are a magic number, a version, a description of the machine, ('storage', type, key, device, elements,
    None) as a persistent id, and [key]. The device is ignored: all tensors come to the CPU.
    """
    machine = _Machine(memoryview(data), _STORAGE_NAMES, instructions)
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
        raise _damaged("a storage")
    if (
        not 0 < count == machine.number(_U8)
        or len(data) - machine.position != count * dtype.itemsize
    ):
        raise _damaged("a storage has another size than it states")
    return _Storage(torch.frombuffer(bytearray(machine.data[machine.position :]), dtype=dtype))


def _tensor(storage, offset, size, stride, requires_grad, hooks) -> torch.Tensor:
    """A view of a storage, inside its bounds and no larger than it."""
    if (
        type(storage) is not _Storage
        or storage.flat is None
        or type(size) is not tuple
        or type(stride) is not tuple
    ):
        raise _damaged("a tensor")
    flat, storage.flat = storage.flat, None
    numbers = (offset, *size, *stride)
    fits = len(size) == len(stride) <= 8 and all(
        type(n) is int and 0 <= n <= len(flat) for n in numbers
    )
    if not fits or not 0 < math.prod(size) <= len(flat):
        raise _hostile("holds a tensor larger than its storage")
    if offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) >= len(flat):
        raise _hostile("holds a tensor that reaches beyond its storage")
    return flat.as_strided(size, stride, offset)


def _parameter(tensor, requires_grad, hooks) -> torch.Tensor:
    if type(tensor) is not torch.Tensor:
        raise _damaged("a parameter")
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
