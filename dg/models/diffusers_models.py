"""Networks of diffusers, an optional dependency, from files: nothing is fetched, nothing in them is executed or left out."""

from inspect import signature
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dg.runtime.files import read_json
from guided_diffusion.loading import check_tensors, read_file

WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")


def is_folder(path) -> bool:
    """Whether a folder is one that diffusers writes."""
    return (Path(path) / "config.json").is_file()


def read_folder(path) -> tuple[dict, dict[str, Tensor]]:
    """(settings, tensors) of a model that diffusers has saved. ValueError of one line for anything else."""
    config = read_json(Path(path) / "config.json")
    for name in WEIGHTS:
        if (Path(path) / name).is_file():
            return config, read_weights(Path(path) / name)
    raise ValueError(
        f"{path}: holds no {' or '.join(WEIGHTS)}; get the whole folder, its weights in one file"
    )


def read_weights(path) -> dict[str, Tensor]:
    """Finite tensors by name, from safetensors or a `torch.save`d state dict. ValueError of one line for anything else."""
    try:
        return dict(
            check_tensors(
                load_file(path) if Path(path).suffix == ".safetensors" else read_file(Path(path))
            )
        )
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path}: not a readable safetensors file ({error}); download it again"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def create(kind: str, config: dict, path) -> nn.Module:
    """A diffusers model of class `kind` without memory for its weights; settings that it does not know are left out.

    ValueError of one line, which names `path`, without diffusers or where the settings describe no such model.
    """
    try:
        import diffusers
    except ImportError:
        raise ValueError(
            f"{path}: needs diffusers, which is not installed: pip install -r requirements-imagenet.txt"
        ) from None
    cls = getattr(diffusers, kind)
    known = signature(cls.__init__).parameters
    try:
        with torch.device("meta"):
            return cls(**{name: value for name, value in config.items() if name in known})
    except (TypeError, ValueError, ZeroDivisionError, NotImplementedError) as error:
        raise ValueError(
            f"{path}: describes no {kind} that can be built: {' '.join(str(error).split())}"
        ) from None
