"""Checkpoints of score_sde (Song et al. 2021, github.com/yang-song/score_sde_pytorch) and of
projects built on it, such as Soft Truncation: the layers of EDM's `SongUNet` under other names.

A file says neither the process nor the size of the images. DDPM++ is assumed to be VP, beta from
0.1 to 20, and NCSN++ to be VE. Images of VE networks have values from 0 to 1, so EDM's noise levels
are twice theirs (Karras et al. 2022, appendix C).
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from edm.layers import FourierEmbedding, GroupNorm, UNetBlock, blur_of
from edm.networks import SongUNet
from tensor_files.reading import FileError
from tensor_files.weights import built

ATTENTION_SIZE = 16  # resolution with attention in the published configurations
FREQUENCIES, SIGMAS = "all_modules.0.W", "sigmas"  # not trained, so without averages
UNLIKE = "unlike DDPM++ and NCSN++ of its kind; get another file"
NAME = re.compile(r"all_modules\.(\d+)\.(.+)")

Part = dict[str, Tensor]  # tensors of one of the network's modules, by their names in it
Names = dict[str, str]  # new names of layers by the old


def _both(layers: Names) -> set[str]:
    return {f"{layer}{kind}" for layer in layers for kind in ("weight", "bias")}


# Layers of each kind of module, with `SongUNet`'s names.
SIMPLE = {"": ""}
BLOCK = {
    "GroupNorm_0.": "norm0.",
    "Conv_0.": "conv0.",
    "Dense_0.": "affine.",
    "GroupNorm_1.": "norm1.",
    "Conv_1.": "conv1.",
}
SKIP = {"Conv_2.": "skip."}
NORM = {"GroupNorm_0.": "norm2."}
ATTENTION = _both(NORM) | {f"NIN_{index}.{name}" for index in range(4) for name in "Wb"}
# The image beside the encoder (progressive_input): "residual" and "input_skip".
INPUT_RESIDUAL, INPUT_SKIP = {"Conv2d_0.": ""}, {"Conv_0.": ""}


class Described(NamedTuple):
    """What a checkpoint describes, as `edm.checkpoint.build_network` takes it."""

    class_name: str
    init_kwargs: dict
    state_dict: dict[str, Tensor]
    assumed: str  # what the file does not say, in words


def is_score_sde(content) -> bool:
    """Whether what a file of torch.save holds is a network of score_sde."""
    return any(NAME.fullmatch(name) for name in _weights(content))


def network_in(content, image_size: int | None = None) -> Described:
    """The network that the content of a file describes, with averaged weights where it has them.

    content     of a file of torch.save: a training's checkpoint, or a state dict
    image_size  of the images; None: attention is at 16 × 16, as in all published configurations

    ValueError for another architecture, or where the size of the images must be given.
    """
    state, averaged = _averaged(content)
    parts = _parts(state)
    settings = _settings(parts, image_size)
    unet = built(SongUNet, state, **settings)
    tensors = {f"model.{name}": tensor for name, tensor in _renamed(parts, unet)}
    blur = blur_of(settings["resample_filter"])
    names = [name for name, _ in unet.named_buffers() if name.endswith("resample_filter")]
    tensors |= {f"model.{name}": blur for name in names}
    size, channels = settings.pop("img_resolution"), settings.pop("in_channels")
    del settings["out_channels"]
    kwargs = dict(img_resolution=size, img_channels=channels, model_type="SongUNet", **settings)
    rest = f"images of {size} pixels" + ("" if averaged else "; its weights are not averaged")
    if settings["embedding_type"] == "positional":
        assumed = f"VP, beta 0.1 to 20 (images are wrong if it is sub-VP), {rest}"
        return Described("VPPrecond", kwargs, tensors, assumed)
    low, high = _noise_levels(state)
    kwargs |= dict(sigma_min=low, sigma_max=high)
    assumed = f"VE, values 0 to 1 (in EDM's scale sigma is {low:g} to {high:g}), {rest}"
    return Described("VEPrecond", kwargs, tensors, assumed)


def _weights(content) -> dict:
    """The state dict, without the prefix of DataParallel."""
    for name in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping):
        return {}
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def _averaged(content) -> tuple[dict[str, Tensor], bool]:
    """The state dict with the moving averages, which a checkpoint holds in the order of the trained
    weights; and whether there are any."""
    state, average = _weights(content), content.get("ema")
    if average is not None:
        trained = [name for name in state if name not in (FREQUENCIES, SIGMAS)]
        found = average.get("shadow_params") if isinstance(average, Mapping) else None
        if not isinstance(found, list) or len(found) != len(trained):
            number = f"{len(found)} averages" if isinstance(found, list) else "no list of averages"
            raise FileError(f"has {number} for {len(trained)} trained weights; get another file")
        state |= dict(zip(trained, found, strict=True))
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise FileError(f"entry {name} is a {type(value).__name__}, not a tensor")
    return state, average is not None


def _noise_levels(state: Mapping[str, Tensor]) -> tuple[float, float]:
    """The least and the largest noise level, in EDM's scale."""
    found = state.get(SIGMAS, torch.zeros(0)).to(torch.float64)
    if not found.numel():
        raise FileError(f"has no noise levels ({SIGMAS}); get another file")
    low, high = (float(f"{2 * float(level):.6g}") for level in (found.min(), found.max()))
    if not 0 < low < high < math.inf:
        raise FileError(f"its noise levels are {low:g} to {high:g}; get another file")
    return low, high


def _parts(state: Mapping[str, Tensor]) -> list[Part]:
    parts: dict[int, Part] = {}
    for name, tensor in state.items():
        match = NAME.fullmatch(name)
        if match:
            parts.setdefault(int(match[1]), {})[match[2]] = tensor
        elif name != SIGMAS:
            raise FileError(f"tensor {name} is unknown to DDPM++ and NCSN++; get another file")
    return [parts[index] for index in sorted(parts)]


def _is_block(part: Part) -> bool:
    return "GroupNorm_1.weight" in part


def _is_norm(part: Part) -> bool:
    return set(part) == _both(SIMPLE) and part["weight"].dim() == 1


def _resamples(part: Part) -> bool:
    """Whether it is a block that halves or doubles the resolution: one with a convolution on the
    skip path that leaves the channels as they are."""
    skip = part.get("Conv_2.weight")
    return _is_block(part) and skip is not None and skip.shape[0] == skip.shape[1]


def _settings(parts: list[Part], image_size: int | None) -> dict:
    """Arguments of the `SongUNet`."""
    if any(_is_block(part) and "NIN_0.W" in part for part in parts):
        raise FileError(f"has residual blocks of DDPM, {UNLIKE}")
    kinds, encoder = [set(part) for part in parts], "standard"
    for names, kind in ((INPUT_RESIDUAL, "residual"), (INPUT_SKIP, "skip")):
        encoder = kind if _both(names) in kinds else encoder
    try:
        main = [
            part for part in parts if set(part) not in (_both(INPUT_RESIDUAL), _both(INPUT_SKIP))
        ]
        fourier = "W" in main[0]
        hidden, stem, last = (main[place]["weight"] for place in (int(fourier), 2 + fourier, -1))
        (emb_channels, noise_channels), (width, channels) = hidden.shape, stem.shape[:2]
        resampling = [index for index, part in enumerate(main) if _resamples(part)]
        starts = [2 + fourier, *resampling[: len(resampling) // 2]]  # of the encoder's levels
        first_blocks = [main[start + 1]["Conv_0.weight"] for start in starts]
        attention = ["NIN_3.W" in main[start + 2] for start in starts]
        multipliers = [block.shape[0] // width for block in first_blocks]
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise FileError(f"has no residual blocks as BigGAN's, {UNLIKE}") from error
    if encoder == "residual" and not fourier:
        raise FileError(
            "is an NCSN++ with positional embeddings; its file does not tell whether it was "
            "trained as VP or as discrete VE, so give one of a continuous VE training"
        )
    if last.shape[0] != channels:
        raise FileError(
            f"takes {channels} channels and gives {last.shape[0]}: Fourier features of the image "
            "are not read; get another file"
        )
    if image_size is None and sum(attention) != 1:
        raise FileError("its tensors do not tell the size of its images; give image_size")
    size = image_size or ATTENTION_SIZE << attention.index(True)
    levels, blocks = len(starts), sum(map(_is_block, main)) - len(resampling) - 2
    # DDPM++ averages pixels. Soft Truncation's deepest, of narrower embedding, has filters.
    averages = encoder == "standard" and noise_channels == width
    return dict(
        img_resolution=size,
        in_channels=channels,
        out_channels=channels,
        model_channels=width,
        channel_mult=multipliers,
        channel_mult_emb=emb_channels // width,
        num_blocks=(blocks - levels) // (2 * levels),
        attn_resolutions=[size >> level for level, attends in enumerate(attention) if attends],
        embedding_type="fourier" if fourier else "positional",
        channel_mult_noise=noise_channels / width,
        encoder_type=encoder,
        decoder_type="skip" if sum(map(_is_norm, main)) > 1 else "standard",
        resample_filter=[1, 1] if averages else [1, 3, 3, 1],
    )


def _renamed(parts: list[Part], unet: SongUNet) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a `SongUNet` by their names in it; its modules stand in the same order."""
    left = iter(enumerate(parts))

    def next_part(names: set[str]) -> Part:
        index, part = next(left, (len(parts), {}))
        for found, verb in ((names - set(part), "lacks"), (set(part) - names, "has")):
            if found:
                raise FileError(f"module {index} {verb} {min(found)}, {UNLIKE}")
        return part

    def moved(place: str, layers: Names) -> Iterator[tuple[str, Tensor]]:
        return _moved(place, next_part(_both(layers)), layers)

    if isinstance(unet.map_noise, FourierEmbedding):
        yield "map_noise.freqs", next_part({"W"})["W"]
    for name in ("map_layer0", "map_layer1"):
        yield from moved(name, SIMPLE)
    for side in ("enc", "dec"):
        for name, module in getattr(unet, side).items():
            place = f"{side}.{name}"
            if isinstance(module, UNetBlock):
                yield from moved(place, BLOCK | SKIP if module.skip is not None else BLOCK)
                if module.num_heads:
                    yield from _attention(place, next_part(ATTENTION))
            elif name.endswith("aux_residual"):
                yield from moved(place, INPUT_RESIDUAL)
            elif name.endswith("aux_skip"):
                yield from moved(place, INPUT_SKIP)
            elif isinstance(module, GroupNorm) or module.weight is not None:
                yield from moved(place, SIMPLE)
    if more := next(left, None):
        raise FileError(f"has a module {more[0]}, {UNLIKE}")


def _moved(place: str, part: Part, layers: Names) -> Iterator[tuple[str, Tensor]]:
    for old, new in layers.items():
        for kind in ("weight", "bias"):
            yield f"{place}.{new}{kind}", part[f"{old}{kind}"]


def _attention(place: str, part: Part) -> Iterator[tuple[str, Tensor]]:
    """Queries, keys, values and output, each [in, out], as 1 × 1 convolutions; the first three
    interleaved by channel."""
    yield from _moved(place, part, NORM)
    weights = [part[f"NIN_{index}.W"].T for index in range(4)]  # each [out, in]
    biases = [part[f"NIN_{index}.b"] for index in range(4)]  # each [out]
    yield f"{place}.qkv.weight", torch.stack(weights[:3], dim=1).flatten(0, 1)[..., None, None]
    yield f"{place}.qkv.bias", torch.stack(biases[:3], dim=1).flatten()
    yield f"{place}.proj.weight", weights[3][..., None, None]
    yield f"{place}.proj.bias", biases[3]
