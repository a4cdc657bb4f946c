"""Rebuild an encoder from a bare state dict: every setting that shapes it is read off its tensors' names and shapes."""

import math
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .encoder import EncoderUNetModel

FINAL_SIZE = 8  # every published encoder ends at 8x8 features; only the attention pool records the size
Shapes = Mapping[str, tuple[int, ...]]


def load_encoder(source: str | Path | Mapping[str, Tensor], device: str | torch.device = "cpu",
                 **overrides) -> EncoderUNetModel:
    """The encoder stored in a file or state dict, float32, on `device`, in eval mode; nothing in the file is executed.

    source     path of a `torch.save`d bare state dict, or the state dict itself (its tensors are copied)
    overrides  settings of `EncoderUNetModel` that win over the inferred ones. Names and shapes do not show:
               num_head_channels (64 unless given), dropout, image_size under a pool other than attention

    Reads the files of Discriminator Guidance (32x32_classifier.pt, discriminator_60.pt, its latent variants), those of
    guided-diffusion (64x64_classifier.pt and larger) and, with `module.` before every name, those saved from
    DistributedDataParallel. ValueError of one line for a file that is missing, damaged, unsafe, of another architecture
    or with weights that are not finite.
    """
    name = "the state dict" if isinstance(source, Mapping) else str(source)
    try:
        state = without_prefix(check_tensors(source if isinstance(source, Mapping) else read_file(Path(source))))
        shapes = shapes_of(state)
        settings = infer_settings(shapes, **overrides)
        with torch.device("meta"):
            encoder = EncoderUNetModel(**settings)
        check_fit(shapes, shapes_of(encoder.state_dict()))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    state = {key: tensor.to(device, torch.float32, copy=True) for key, tensor in state.items()}
    encoder.load_state_dict(state, assign=True)
    return encoder.eval()


def read_file(path: Path) -> object:
    """What a `torch.save`d file holds, tensors and plain containers only; ValueError for anything else."""
    if not path.is_file():
        raise ValueError("no such file: check the path or download it first")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the reader remarks on the pickle protocol before it refuses
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            raise ValueError(f"holds a pickled '{refused[1]}', refused because loading it could run code: store the "
                             "bare weights with torch.save(model.state_dict(), path)") from None
        raise ValueError("not a PyTorch file: download or save it again") from None
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror}): check its permissions") from None
    except Exception:  # a damaged file can fail anywhere inside the reader
        raise ValueError("damaged or truncated: download or save it again") from None


def check_tensors(state: object) -> Mapping[str, Tensor]:
    """`state` itself if it is a state dict of finite tensors; ValueError naming the first entry that is not."""
    if not isinstance(state, Mapping):
        raise ValueError(f"holds a {type(state).__name__}, not a state dict: store model.state_dict()")
    for key, tensor in state.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor):
            raise ValueError(f"entry '{key}' is a {type(tensor).__name__}, not a tensor: store the bare "
                             "model.state_dict()")
        if not tensor.isfinite().all():
            raise ValueError(f"tensor '{key}' has NaN or infinite weights: use a checkpoint from before the training "
                             "diverged, or download it again")
    return state


def without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without the `module.` that DistributedDataParallel puts before all of them."""
    prefix = "module." if all(key.startswith("module.") for key in state) else ""
    return {key.removeprefix(prefix): tensor for key, tensor in state.items()}


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def check_fit(found: Shapes, expected: Shapes) -> None:
    """ValueError naming the first tensor that is missing, has another shape or is left over."""
    for key in [*expected, *found]:
        want, have = expected.get(key, "no such tensor"), found.get(key, "no such tensor")
        if want != have:
            raise ValueError(f"tensor '{key}' does not fit: expected {want}, found {have}; use the original file, or "
                             "correct the settings passed beside it")


class Block(NamedTuple):
    """One entry of `input_blocks` after the first convolution."""
    channels: int
    attention: bool
    strided: bool  # a strided convolution, the other way of downsampling


def infer_settings(shapes: Shapes, **overrides) -> dict:
    """Keyword arguments of `EncoderUNetModel` that give tensors of these shapes; `overrides` win.

    ValueError where a tensor that decides a setting is missing, or where two depths explain the same tensors.
    """
    width = shape_of(shapes, "time_embed.0.weight", 2)[1]
    in_channels = shape_of(shapes, "input_blocks.0.0.weight", 4)[1]
    emb_rows = shape_of(shapes, "input_blocks.1.0.emb_layers.1.weight", 2)[0]
    blocks = read_blocks(shapes)
    depth = find_depth(blocks, overrides.get("num_res_blocks"))
    levels = blocks[::depth + 1]  # the first block of each level
    pool, out_channels, size = read_head(shapes)
    image_size = overrides.get("image_size", size * 2 ** (len(levels) - 1))
    settings = dict(
        image_size=image_size,
        in_channels=in_channels,
        out_channels=out_channels,
        model_channels=width,
        num_res_blocks=depth,
        channel_mult=[level.channels / width for level in levels],
        attention_resolutions=[image_size // 2**i for i, level in enumerate(levels) if level.attention],
        num_classes=shape_of(shapes, "label_emb.weight", 2)[0] if "label_emb.weight" in shapes else 0,
        use_scale_shift_norm=emb_rows == 2 * levels[0].channels,
        resblock_updown=not any(block.strided for block in blocks),
        pool=pool,
    )
    return settings | overrides


def shape_of(shapes: Shapes, key: str, ndim: int) -> tuple[int, ...]:
    """Shape of one tensor; ValueError if it is missing, empty or has another number of dimensions."""
    shape = shapes.get(key, ())
    if len(shape) != ndim or 0 in shape:
        found = f"has shape {shape}" if key in shapes else "is missing"
        raise ValueError(f"tensor '{key}' {found}, expected {ndim} dimensions: this is not an ADM encoder")
    return shape


def read_blocks(shapes: Shapes) -> list[Block]:
    """What each input block after the first convolution is made of."""
    count = len({key.split(".")[1] for key in shapes if key.startswith("input_blocks.")})
    blocks = []
    for i in range(1, count):
        strided = f"input_blocks.{i}.0.op.weight" in shapes
        last_conv = f"input_blocks.{i}.0." + ("op.weight" if strided else "out_layers.3.weight")
        attention = f"input_blocks.{i}.1.qkv.weight" in shapes
        blocks.append(Block(shape_of(shapes, last_conv, 4)[0], attention, strided))
    return blocks


def find_depth(blocks: list[Block], given: int | None = None) -> int:
    """Residual blocks per level; ValueError where none or several explain the blocks, or the `given` one does not.

    A residual downsampling block has the tensors of any other block, so the levels show only in what they share: all
    blocks of a level have one width and all or none have attention; between two levels stands one block of the upper
    level's width without attention.
    """
    strided = any(block.strided for block in blocks)

    def explains(depth: int) -> bool:
        groups = [blocks[i:i + depth + 1] for i in range(0, len(blocks), depth + 1)]
        return len(groups[-1]) == depth and all(
            set(group[:depth]) == {group[0]} and not group[0].strided
            and group[depth:] in ([], [Block(group[0].channels, False, strided)]) for group in groups)

    depths = [depth for depth in ([given] if given else range(1, len(blocks) + 1)) if explains(depth)]
    if not depths:
        raise ValueError(f"the input blocks do not form levels of {given or 'equally many'} residual blocks: this is "
                         "not an ADM encoder, or num_res_blocks is wrong")
    if len(depths) > 1:
        raise ValueError(f"the tensors fit {' and '.join(map(str, depths))} residual blocks per level alike: pass "
                         "num_res_blocks")
    return depths[0]


def read_head(shapes: Shapes) -> tuple[str, int, int]:
    """Pool, number of outputs and size of the feature map."""
    if "out.2.positional_embedding" in shapes:
        positions = shape_of(shapes, "out.2.positional_embedding", 2)[1]
        return "attention", shape_of(shapes, "out.2.c_proj.weight", 3)[0], math.isqrt(positions - 1)
    if len(shapes.get("out.3.weight", ())) == 4:
        return "adaptive", shapes["out.3.weight"][0], FINAL_SIZE
    if "out.3.weight" in shapes:
        return "spatial_v2", shape_of(shapes, "out.3.weight", 2)[0], FINAL_SIZE
    return "spatial", shape_of(shapes, "out.2.weight", 2)[0], FINAL_SIZE
