"""Writes network pickles in the format of NVIDIA's EDM: the names, instructions and nesting of its
persistence code.

The source that such files carry is here one that raises, and that first creates a file if asked to,
so that a reader which executes it is caught. `python -m tests.edm.nvidia_writer NETWORK.safetensors
OUT.pkl` writes a network trained here.
"""

import copyreg
import pickle
import sys
from collections import OrderedDict
from types import ModuleType
from unittest import mock

import numpy as np
import torch
from torch import nn


def write_network(
    path,
    module: nn.Module,
    class_name: str,
    init_kwargs: dict,
    *,
    init_args: tuple = (),
    torch1: bool = False,
    numpy1: bool = False,
    device: str = "cpu",
    wrap: str | None = "ema",
    marker=None,
) -> None:
    """Write a module as the network `class_name(**init_kwargs)`.

    init_args  positional arguments of the constructor
    torch1  keep parameters, buffers, modules and hooks in OrderedDicts as torch 1 does, instead of
            dicts
    numpy1  name numpy's scalars as numpy 1 does
    device  that the storages claim to come from
    wrap    key of the network in the file's dict, beside the entries of a training snapshot; None =
            no dict
    marker  path of a file that the embedded source creates when it is executed
    """
    stamp = "" if marker is None else f"open({str(marker)!r}, 'w').close()\n"
    source = f"{stamp}raise RuntimeError('the source in a checkpoint was executed')\n"
    content = module
    if wrap is not None:
        pipe = Persistent(
            "AugmentPipe", {"p": 0.12, "xflip": 1e8, "rotate_frac": 0, "brightness_std": 0.2}
        )
        loss = Persistent("EDMLoss", {"P_mean": -1.2, "P_std": 1.2, "sigma_data": 0.5})
        dataset_kwargs = {"path": "images.zip", "use_labels": False, "max_size": 50000}
        content = {
            wrap: module,
            "loss_fn": loss,
            "augment_pipe": pipe,
            "dataset_kwargs": dataset_kwargs,
        }
    with mock.patch.dict(sys.modules, STAND_INS), open(path, "wb") as file:
        pickler = Pickler(file, protocol=4)
        pickler.top, pickler.class_name, pickler.init_kwargs = module, class_name, init_kwargs
        pickler.init_args = init_args
        pickler.torch1, pickler.numpy1, pickler.device, pickler.source = (
            torch1,
            numpy1,
            device,
            source,
        )
        pickler.dump(content)


class Persistent:
    """A persistent object that is no module."""

    def __init__(self, class_name: str, attributes: dict):
        self.class_name, self.attributes = class_name, attributes


class Pickler(pickle.Pickler):
    def reducer_override(self, obj):
        if isinstance(obj, nn.ModuleDict):
            return copyreg.__newobj__, (nn.ModuleDict,), self.state(obj)
        if isinstance(obj, nn.Module):
            class_name = self.class_name if obj is self.top else type(obj).__name__
            block_kwargs = {
                "init": {"init_mode": "xavier_uniform", "init_weight": np.sqrt(0.2)},
                "eps": 1e-6,
            }
            init_kwargs = self.init_kwargs if obj is self.top else block_kwargs
            init_args = self.init_args if obj is self.top else ()
            return self.persistent(
                class_name, self.state(obj) | {"_init_args": init_args, "_init_kwargs": init_kwargs}
            )
        if isinstance(obj, Persistent):
            return self.persistent(
                obj.class_name, obj.attributes | {"_init_args": (), "_init_kwargs": {}}
            )
        if isinstance(obj, torch.storage.TypedStorage):
            function, (data,) = obj.__reduce__()
            name = self.device.encode()
            return function, (
                data.replace(b"X\x03\0\0\0cpu", b"X" + len(name).to_bytes(4, "little") + name, 1),
            )
        if isinstance(obj, np.generic) and self.numpy1:
            return scalar, obj.__reduce__()[1]
        return NotImplemented

    def persistent(self, class_name: str, state: dict):
        meta = {
            "type": "class",
            "version": 6,
            "module_src": self.source,
            "class_name": class_name,
            "state": state,
        }
        return _reconstruct_persistent_obj, (meta,)

    def state(self, module: nn.Module) -> dict:
        """The module's __dict__ as NVIDIA's classes would have it: tables, then plain
        attributes."""
        state = {}
        for name, value in vars(module).items():
            if isinstance(value, dict) and name.startswith("_"):
                passing = module._non_persistent_buffers_set if name == "_buffers" else ()
                table = {key: entry for key, entry in value.items() if key not in passing}
                state[name] = OrderedDict(table) if self.torch1 or "hooks" in name else table
            elif isinstance(value, set):
                state[name] = set()
            elif name == "skip_scale":
                state[name] = np.float64(value)
            elif value is None or isinstance(
                value, bool | int | float | str | list | tuple | np.generic
            ):
                state[name] = value
        return state


def _reconstruct_persistent_obj(meta):
    raise AssertionError("only its name is written")


def scalar(dtype, data):
    raise AssertionError("only its name is written")


def stand_in(module: str, function) -> ModuleType:
    """A module that lets the pickler write `function` under a name of a package that is not
    installed."""
    function.__module__ = module
    made = ModuleType(module)
    setattr(made, function.__name__, function)
    return made


STAND_INS = {
    "torch_utils": ModuleType("torch_utils"),
    "torch_utils.persistence": stand_in("torch_utils.persistence", _reconstruct_persistent_obj),
    "numpy.core": ModuleType("numpy.core"),
    "numpy.core.multiarray": stand_in("numpy.core.multiarray", scalar),
}


if __name__ == "__main__":
    import edm

    if len(sys.argv) != 3:
        sys.exit("usage: python -m tests.edm.nvidia_writer NETWORK.safetensors OUT.pkl")
    net = edm.load_network(sys.argv[1])
    write_network(sys.argv[2], net, type(net).__name__, net.init_kwargs)
