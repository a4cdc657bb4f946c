"""Conversion of a network's file to safetensors, optionally with weights rounded to float16, or to
the bare state dict that the authors' code reads."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import edm
import edm.checkpoint
from dg.checkpoints import FORMAT as HEAD
from dg.data.datasets import to_uint8
from dg.models.loading import first_bytes, is_torch_file, refuse
from dg.runtime.progress import unheard
from dg.sampling import Sampling, draw_images
from edm.checkpoint import AGAIN, UNREADABLE, config_in, holds_score_sde, kind_of, write_safetensors
from guided_diffusion.loading import bare_state, check_tensors, read_file
from tensor_files.reading import parsing
from tensor_files.safetensors_files import read_header, read_safetensors_file

BARE = "state-dict"  # the kind of a file that holds weights and no settings


def convert(
    source,
    file,
    half: bool = False,
    bare: bool = False,
    image_size: int | None = None,
    notify: Callable[[str], None] = unheard,
) -> int:
    """Write the network at `source` to `file`, a path or binary file; returns its number of values.

    source  a safetensors file of this project, which keeps its kind and settings; a torch file,
            whose bare state dict is kept; an NVIDIA pickle; or a checkpoint of score_sde
    half    round floats to float16; they are read back as float32. ValueError for a value beyond
            float16's range
    bare    write the state dict alone, as torch files of heads and classifiers hold it (Kim et al.
            2023's discriminator_N.pt). ValueError for a network that needs its settings
    image_size, notify  of `edm.load_network`, for a checkpoint of score_sde

    ValueError of one line for a file that cannot be read.
    """
    kind, config, tensors = _content(Path(source), image_size, notify)
    if half:
        tensors = {name: _rounded(source, name, tensor) for name, tensor in tensors.items()}
    if not bare:
        write_safetensors(file, tensors, kind, config)
    elif kind in (BARE, HEAD) and config.get("head", "EncoderUNetModel") == "EncoderUNetModel":
        torch.save(tensors, file)
    else:
        raise ValueError(
            f"{source}: is not read without its settings, which a state dict does not hold; "
            "write a .safetensors file"
        )
    return sum(tensor.numel() for tensor in tensors.values())


def is_score_network(path) -> bool:
    """Whether a safetensors file holds a score network."""
    with parsing(path, AGAIN, UNREADABLE):
        return kind_of(read_header(path).get("__metadata__", {})) == edm.checkpoint.FORMAT


def share_within(first, second, levels: int = 2, seeds: int = 64) -> float:
    """Share of the pixel values of two networks' images, by EDM's default sampler from the same
    seeds, that differ by at most so many levels of 255.

    first, second  files of score networks
    """
    drawn = []
    for path in (first, second):
        images, _ = draw_images(edm.load_network(path), range(seeds), Sampling())
        drawn.append(to_uint8(images).astype(int))
    return float((abs(drawn[0] - drawn[1]) <= levels).mean())


def _content(path: Path, image_size, notify) -> tuple[str, dict, dict[str, Tensor]]:
    """(kind, settings, tensors)"""
    of_score_sde = is_torch_file(path) and holds_score_sde(path)
    if image_size is not None and not of_score_sde:
        refuse(path, {"image_size": image_size})
    if is_torch_file(path) and not of_score_sde:
        try:
            return BARE, {}, dict(check_tensors(bare_state(read_file(path))))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    if first_bytes(path)[8:9] == b"{":
        with parsing(path, AGAIN, UNREADABLE):
            metadata, tensors = read_safetensors_file(path)
        return kind_of(metadata) or BARE, config_in(metadata, path), tensors
    net = edm.load_network(path, image_size=image_size, notify=notify)
    return edm.checkpoint.FORMAT, edm.checkpoint.config_of(net), net.state_dict()


def _rounded(source, name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    rounded = tensor.to(torch.float16)
    if not torch.isfinite(rounded).all():
        raise ValueError(f"{source}: tensor {name} has values beyond float16; keep float32")
    return rounded
