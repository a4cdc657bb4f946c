"""Files of torch.save, now and before 1.6, and the tensors of TorchScript archives.

They are pickles beside raw numbers. `tensor_files.pickle_machine` interprets the pickle; the names
that it may use stand in tables here. No storage is larger than the file, no tensor reaches beyond
its storage, and all tensors of a storage together are at most a few times as large. Zip archives
carry sums of their content, which are checked.
"""

import math
import re
import sys
import zipfile
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from tensor_files.pickle_machine import U8, Damaged, Foreign, OtherKind, PickleMachine

MAX_INSTRUCTIONS = 2_000_000  # a few seconds; the state of the largest training needs a tenth
MAX_VIEWS = 8  # how often all of a storage may be spelled out: averaged weights may begin as shared
MAX_DIMENSIONS = 8
MAGIC = b"\x80\x02\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # before 1.6
DTYPES = {
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Float": torch.float32,
    "Double": torch.float64,
    "Bool": torch.bool,
    "Byte": torch.uint8,
    "Char": torch.int8,
    "Short": torch.int16,
    "Int": torch.int32,
    "Long": torch.int64,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
}


@dataclass(eq=False)
class Storage:
    """A flat tensor, and how many elements may still be taken out of it."""

    flat: torch.Tensor
    left: int


def viewed(storage, offset, size, stride, *_) -> torch.Tensor:
    """A view of a storage, inside its bounds. The arguments are those of torch's own
    `_rebuild_tensor_v2`."""
    if type(storage) is not Storage or type(size) is not tuple or type(stride) is not tuple:
        raise Damaged("a tensor")
    numbers = (offset, *size, *stride)
    # strides of torch's empty tensors are of their shape with 1 for 0, so they may pass the storage
    limit = len(storage.flat) or 2**31
    plain = all(type(number) is int and 0 <= number <= limit for number in numbers)
    if not plain or not len(size) == len(stride) <= MAX_DIMENSIONS:
        raise Foreign("holds a tensor larger than its storage")
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count and last >= len(storage.flat):
        raise Foreign("holds a tensor that reaches beyond its storage")
    storage.left -= count
    if storage.left < 0:
        raise Foreign("holds tensors larger than their storage")
    return storage.flat.as_strided(size, stride, offset)


def _same(value, *_):
    return value


def _mapping(*items) -> dict:
    if items:
        raise Foreign("fills a dict by a call")
    return {}


def _set_state(target, state) -> None:
    """Attributes: those of a Namespace are kept, those of an OrderedDict say nothing of tensors."""
    if type(target) is Namespace and type(state) is dict and all(map(_is_word, state)):
        vars(target).update(state)
    elif type(target) is not dict:
        raise Foreign("sets the state of something that has none")


def _is_word(name) -> bool:
    return type(name) is str and name.isidentifier() and not name.startswith("__")


def _size(*sizes) -> tuple:
    return tuple(*sizes)


STORAGES = {f"torch.{name}Storage": dtype for name, dtype in DTYPES.items()}
NAMES = STORAGES | {
    "collections.OrderedDict": _mapping,
    "torch._utils._rebuild_tensor_v2": viewed,
    "torch._utils._rebuild_parameter": _same,
    "torch.Size": _size,
    "argparse.Namespace": lambda: Namespace(),
    **{str(dtype): dtype for dtype in DTYPES.values()},
}


def is_torch_file(head: bytes) -> bool:
    """Whether a file that begins so is one of torch.save."""
    return head.startswith((b"PK\x03\x04", MAGIC))


def read_content(file, shapes_only: bool = False):
    """What a binary file of torch.save holds: tensors, plain containers, a Namespace; of a
    TorchScript archive the tensors by name.

    shapes_only  tensors without content, on the meta device

    PickleError, or what damaged bytes make zipfile raise.
    """
    head = file.read(len(MAGIC))
    file.seek(0)
    if head.startswith(b"PK"):
        return _zip_content(file, shapes_only)
    if head == MAGIC:
        return legacy_content(memoryview(file.read()), instructions(), shapes_only)
    raise OtherKind("not a PyTorch file") if head else Damaged("it is empty")


def instructions(most: int = MAX_INSTRUCTIONS) -> Iterator[int]:
    """What a `PickleMachine` uses up."""
    return iter(range(most))


def _described(description) -> tuple[torch.dtype, str, int]:
    """(dtype, key, number of elements) of a storage, from its persistent id."""
    if type(description) is not tuple or len(description) not in (5, 6):
        raise Damaged("a storage")
    kind, dtype, key, device, count, *view = description
    plain = (type(dtype) is torch.dtype) and type(kind) is type(key) is type(device) is str
    if (
        not plain
        or kind != "storage"
        or type(count) is not int
        or count < 0
        or view not in ([], [None])
    ):
        raise Damaged("a storage")
    return dtype, key, count


def _filled(data, dtype, count, shapes_only) -> Storage:
    if shapes_only:
        flat = torch.empty(count, dtype=dtype, device="meta")
    else:
        flat = (
            torch.frombuffer(bytearray(data), dtype=dtype) if count else torch.empty(0, dtype=dtype)
        )
    return Storage(flat, MAX_VIEWS * count)


# Files of torch 1.6 and later.


def _zip_content(file, shapes_only):
    with zipfile.ZipFile(file) as archive:
        names, size = archive.namelist(), file.seek(0, 2)
        if len(set(names)) < len(names):
            raise Damaged("an entry that occurs twice")
        # tensors are never packed; the code of TorchScript is
        stored = (info for info in archive.infolist() if info.compress_type == zipfile.ZIP_STORED)
        entries = {info.filename: info for info in stored}
        if sum(info.file_size for info in entries.values()) > size:
            raise Damaged("entries larger than the file")
        roots = [
            name[: -len("data.pkl")] for name in entries if re.fullmatch("[^/]*/data.pkl", name)
        ]
        if len(roots) != 1:
            raise OtherKind("not a PyTorch file but another zip archive")
        (root,) = roots
        order = f"{root}byteorder"
        if sys.byteorder != "little" or (order in entries and archive.read(order) != b"little"):
            raise OtherKind("a PyTorch file of another byte order")
        storages = {}

        def storage(description):
            dtype, key, count = _described(description)
            if key not in storages:
                name = f"{root}data/{key}"
                if name not in entries or entries[name].file_size != count * dtype.itemsize:
                    raise Damaged("a storage has another size than it states")
                data = b"" if shapes_only else archive.read(name)
                storages[key] = _filled(data, dtype, count, shapes_only)
            if storages[key].flat.dtype != dtype or len(storages[key].flat) != count:
                raise Damaged("a storage of two kinds")
            return storages[key]

        script = f"{root}constants.pkl" in names
        table = _ScriptNames(NAMES) if script else NAMES
        data = memoryview(archive.read(f"{root}data.pkl"))
        state = _set_script_state if script else _set_state
        content = PickleMachine(data, table, instructions(), state, storage).run()
    return dict(_script_tensors(content)) if script else content


# TorchScript archives, whose code is left alone.


@dataclass(eq=False)
class _ScriptObject:
    state: dict | None = None


class _ScriptNames(dict):
    """The names of a TorchScript archive: its own classes stand for objects without behaviour."""

    def __contains__(self, name):
        return name.startswith("__torch__.") or super().__contains__(name)

    def __missing__(self, name):
        return _ScriptObject


def _set_script_state(target, state) -> None:
    if type(target) is _ScriptObject and target.state is None and type(state) is dict:
        target.state = state
    else:
        _set_state(target, state)


def _script_tensors(content) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors by the names that a state dict gives them; every object counts once."""
    pending, seen = [("", content)], set()
    while pending:
        prefix, thing = pending.pop()
        if type(thing) is not _ScriptObject or id(thing) in seen or len(prefix) > 256:
            raise Damaged("a module")
        seen.add(id(thing))
        for name, value in (thing.state or {}).items():
            if type(value) is torch.Tensor:
                yield f"{prefix}{name}", value
            elif type(value) is _ScriptObject:
                pending.append((f"{prefix}{name}.", value))


# Files of older versions: five pickles, of which the fourth is the content, then the storages.


def legacy_content(data: memoryview, steps: Iterator[int], shapes_only: bool = False, names=NAMES):
    """What a file of torch before 1.6 holds.

    The pickles are a magic number, a version, a description of the machine, the content, and the
    keys of the storages, which follow, each behind the number of its elements.
    """
    storages = {}

    def storage(description):
        dtype, key, count = _described(description)
        if count * dtype.itemsize > len(data):
            raise Damaged("a storage has another size than it states")
        if key not in storages:
            device = "meta" if shapes_only else "cpu"
            flat = torch.empty(count, dtype=dtype, device=device)
            storages[key] = Storage(flat, MAX_VIEWS * count)
            if sum(one.flat.nbytes for one in storages.values()) > len(data):
                raise Damaged("storages larger than the file")
        return storages[key]

    machine = PickleMachine(data, names, steps, _set_state, storage)
    magic, version, system = (machine.run() for _ in range(3))
    if (magic, version) != (0x1950A86A20F9469CFC6C, 1001) or type(system) is not dict:
        raise Damaged("the start of the file")
    if system.get("little_endian") is not True or sys.byteorder != "little":
        raise OtherKind("a PyTorch file of another byte order")
    content, keys = machine.run(), machine.run()
    if type(keys) is not list or sorted(map(str, keys)) != sorted(storages):
        raise Damaged("the list of storages")
    for key in keys:
        flat = storages[key].flat
        if machine.number(U8) != len(flat):
            raise Damaged("a storage has another size than it states")
        part = machine.take(flat.nbytes)
        if len(flat) and not shapes_only:
            flat.copy_(torch.frombuffer(bytearray(part), dtype=flat.dtype))
    if machine.position != len(data):
        raise Damaged("it goes on behind its end")
    return content
