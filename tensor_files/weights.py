"""Weights from files of either format, and the networks that files describe."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from warnings import catch_warnings, simplefilter

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from tensor_files.reading import FileError, open_file, shown
from tensor_files.safetensors_files import is_safetensors, read_safetensors_file
from tensor_files.torch_files import read_content

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MOST_ENTRIES, MOST_NESTED, MOST_NUMBER = 64, 4, 10**6  # of the settings in a file


def read_tensor_file(path, shapes_only: bool = False):
    """What a file of torch.save holds, or the tensors of a safetensors file; nothing in it is
    executed.

    shapes_only  of a file of torch.save, tensors on the meta device: the content is not read

    PickleError, or whatever damaged bytes make the parsers raise.
    """
    with open_file(path) as file:
        head = file.read(9)
        if not is_safetensors(head):
            file.seek(0)
            return read_content(file, shapes_only)
    return read_safetensors_file(path)[1]


def fault_of(tensor: Tensor, not_finite: str = "holds NaN or infinity") -> str:
    """Why a tensor cannot be weights, in words; nothing where it can."""
    if tensor.layout != torch.strided or tensor.dtype not in FLOATS:
        layout = "" if tensor.layout == torch.strided else f"{tensor.layout} "
        return f"is {layout}{tensor.dtype}, not floating point".replace("torch.", "")
    if not torch.isfinite(tensor.to(torch.float32)).all():
        return not_finite
    return ""


def built(factory: Callable[..., nn.Module], tensors: Mapping, **settings) -> nn.Module:
    """The module that the settings in a file describe, without memory for its weights.

    tensors  those in the file: a module with more is refused before it is complete

    FileError for settings that are no plain, moderate values, or that the module does not take.
    """
    _check_moderate(settings, MOST_NESTED)
    try:
        with _at_most(2 * len(tensors) + MOST_ENTRIES), torch.device("meta"), catch_warnings():
            simplefilter("ignore")  # of layers without weights, which no file has
            return factory(**settings)
    except FileError:
        raise
    except Exception as error:  # a constructor stumbles over wrong values in many ways
        raise FileError(shown(error)) from error


@contextmanager
def _at_most(count: int) -> Iterator[None]:
    """FileError as soon as the modules made within have more parameters than that."""
    left = iter(range(count))

    def registered(module, name, parameter):
        if next(left, None) is None:
            raise FileError("they describe more tensors than the file holds")

    hook = register_module_parameter_registration_hook(registered)
    try:
        yield
    finally:
        hook.remove()


def _check_moderate(value, depth: int) -> None:
    if isinstance(value, Mapping | list | tuple):
        parts = list(value.values()) if isinstance(value, Mapping) else value
        if depth == 0 or len(parts) > MOST_ENTRIES:
            raise FileError("they are nested too deeply or too many")
        for part in parts:
            _check_moderate(part, depth - 1)
    elif isinstance(value, int) and abs(value) > MOST_NUMBER:
        raise FileError("they hold a number beyond all networks")
