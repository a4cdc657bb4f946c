"""Settings of a network from the names and shapes of the tensors in its state dict."""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from .presets import UNETS, published_unet

FINAL_SIZE = (
    8  # every published network ends at 8x8 features; only the attention pool records the size
)
HIDDEN = ("num_heads", "use_new_attention_order", "dropout")  # no shape depends on them
Shapes = Mapping[str, tuple[int, ...]]


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def infer_settings(shapes: Shapes, **overrides) -> dict:
    """Keyword arguments of `EncoderUNetModel` that give tensors of these shapes; `overrides` win.

    ValueError where a tensor that decides a setting is missing, or where two depths explain the
    same tensors.
    """
    pool, out_channels, size = read_head(shapes)
    depth = find_depth(read_blocks(shapes), overrides.get("num_res_blocks"))
    return (
        trunk_settings(shapes, depth, size, overrides)
        | dict(out_channels=out_channels, pool=pool)
        | overrides
    )


def infer_unet_settings(shapes: Shapes, **overrides) -> dict:
    """Keyword arguments of `UNetModel` that give tensors of these shapes; `overrides` win.

    Settings that shapes do not show are those of the published file with the same tensors, or the
    defaults if there is none. ValueError where a tensor that decides a setting is missing.
    """
    if {"num_heads", "num_head_channels"} <= set(overrides):
        raise ValueError("num_heads and num_head_channels are both given; give one of them")
    out_channels = shape_of(shapes, "out.2.weight", 4)[0]
    depth = overrides.get("num_res_blocks", find_unet_depth(shapes))
    published = UNETS.get(published_unet(shapes), {})
    hidden = {key: published[key] for key in HIDDEN if key in published}
    if "num_head_channels" in overrides:
        hidden.pop("num_heads", None)  # it would win
    return (
        trunk_settings(shapes, depth, FINAL_SIZE, overrides)
        | dict(out_channels=out_channels)
        | hidden
        | overrides
    )


def untold_settings(shapes: Shapes, given: Mapping) -> list[str]:
    """Settings of a `UNetModel` that neither its tensors, nor a published file, nor `given`
    supply."""
    if published_unet(shapes):
        return []
    untold = [] if "image_size" in given else ["image_size"]
    heads = {"num_heads", "num_head_channels"} & set(given)
    return untold if heads else [*untold, "num_heads"]


def trunk_settings(shapes: Shapes, depth: int, final_size: int, overrides: dict) -> dict:
    """Settings that an encoder and a U-Net of `depth` residual blocks per level have in common.

    final_size  pixels of a side in the middle block; the image_size follows, unless `overrides` has
                one
    """
    width = shape_of(shapes, "time_embed.0.weight", 2)[1]
    in_channels = shape_of(shapes, "input_blocks.0.0.weight", 4)[1]
    emb_rows = shape_of(shapes, "input_blocks.1.0.emb_layers.1.weight", 2)[0]
    blocks = read_blocks(shapes)
    levels = blocks[:: depth + 1]  # the first block of each level
    image_size = overrides.get("image_size", final_size * 2 ** (len(levels) - 1))
    return dict(
        image_size=image_size,
        in_channels=in_channels,
        model_channels=width,
        num_res_blocks=depth,
        channel_mult=[level.channels / width for level in levels],
        attention_resolutions=[
            image_size // 2**i for i, level in enumerate(levels) if level.attention
        ],
        num_classes=shape_of(shapes, "label_emb.weight", 2)[0]
        if "label_emb.weight" in shapes
        else 0,
        use_scale_shift_norm=emb_rows == 2 * levels[0].channels,
        resblock_updown=not any(block.strided for block in blocks),
    )


def shape_of(shapes: Shapes, key: str, ndim: int) -> tuple[int, ...]:
    """Shape of one tensor; ValueError if it is missing, empty or has another number of
    dimensions."""
    shape = shapes.get(key, ())
    if len(shape) != ndim or 0 in shape:
        found = f"has shape {shape}" if key in shapes else "is missing"
        raise ValueError(
            f"tensor '{key}' {found}, expected {ndim} dimensions; give the weights of an ADM "
            "network of that kind"
        )
    return shape


class Block(NamedTuple):
    """One entry of `input_blocks` after the first convolution."""

    channels: int
    attention: bool
    strided: bool  # a strided convolution, the other way of downsampling


def read_blocks(shapes: Shapes) -> list[Block]:
    """Contents of each input block after the first convolution."""
    count = len({key.split(".")[1] for key in shapes if key.startswith("input_blocks.")})
    blocks = []
    for i in range(1, count):
        strided = f"input_blocks.{i}.0.op.weight" in shapes
        last_conv = f"input_blocks.{i}.0." + ("op.weight" if strided else "out_layers.3.weight")
        attention = f"input_blocks.{i}.1.qkv.weight" in shapes
        blocks.append(Block(shape_of(shapes, last_conv, 4)[0], attention, strided))
    return blocks


def find_depth(blocks: list[Block], given: int | None = None) -> int:
    """Residual blocks per level; ValueError where none or several explain the blocks, or the
    `given` one does not.

    A residual downsampling block has the tensors of any other block, so the levels show only in
    their common traits. All blocks of a level have one width, and all or none have attention.
    Between two levels stands one block of the upper level's width without attention.
    """
    strided = any(block.strided for block in blocks)

    def explains(depth: int) -> bool:
        groups = [blocks[i : i + depth + 1] for i in range(0, len(blocks), depth + 1)]
        return len(groups[-1]) == depth and all(
            set(group[:depth]) == {group[0]}
            and not group[0].strided
            and group[depth:] in ([], [Block(group[0].channels, False, strided)])
            for group in groups
        )

    depths = [
        depth for depth in ([given] if given else range(1, len(blocks) + 1)) if explains(depth)
    ]
    if not depths:
        raise ValueError(
            f"the input blocks do not form levels of {given or 'equally many'} residual "
            "blocks; give the weights of an ADM encoder, or another num_res_blocks"
        )
    if len(depths) > 1:
        raise ValueError(
            f"the tensors fit {' and '.join(map(str, depths))} residual blocks per level "
            "alike; give num_res_blocks"
        )
    return depths[0]


def find_unet_depth(shapes: Shapes) -> int:
    """Residual blocks per level of a U-Net, whose way up has one more than that before its first
    upsampling."""
    shape_of(shapes, "output_blocks.0.0.in_layers.2.weight", 4)
    ups = [
        match[1]
        for key in shapes
        if (match := re.fullmatch(r"output_blocks\.(\d+)\.[12]\.(conv|in_layers\.2)\.weight", key))
    ]
    return (
        min(map(int, ups))
        if ups
        else len({key.split(".")[1] for key in shapes if key.startswith("output_blocks.")}) - 1
    )


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
