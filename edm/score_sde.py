"""Checkpoints of score_sde (Song et al. 2021, github.com/yang-song/score_sde_pytorch) and of
projects built on it, such as Soft Truncation: the layers of EDM's `SongUNet` under other names.

A file says neither the process nor the size of the images. Networks with positional embeddings are
read as VP, beta from 0.1 to 20; those with Fourier embeddings as VE. Images of VE networks have
values from 0 to 1, so EDM's noise levels are twice theirs (Karras et al. 2022, appendix C).
"""

import math
import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from edm.layers import FourierEmbedding, GroupNorm, UNetBlock, blur_of
from edm.networks import SongUNet
from tensor_files.reading import FileError
from tensor_files.weights import built

ATTENTION_SIZE = 16  # resolution with attention in the published configurations
FREQUENCIES, SIGMAS = "all_modules.0.W", "sigmas"  # which are not trained
SIGMA_RANGE = 0.01, 50.0  # of the published VE configurations
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
# The image runs beside the encoder: summed up from level to level, or taken up anew at each.
RESIDUAL, INPUT = {"Conv2d_0.": ""}, {"Conv_0.": ""}


def is_score_sde(content) -> bool:
    """Whether what a file of torch.save holds is a network of score_sde."""
    return any(NAME.fullmatch(name) for name in _weights(content))


def network_in(content, image_size: int | None = None) -> tuple[str, dict, dict, str]:
    """What the content of a file describes, averaged weights where it has them.

    content     of a file of torch.save: a training's checkpoint, or a state dict
    image_size  of the images; None: attention is at 16 × 16, as in all published configurations

    (class of the preconditioner, its arguments, its state dict, what was taken as given in words).
    ValueError for another architecture, or where the size of the images must be given.
    """
    state = _averaged(content)
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
    if settings["embedding_type"] == "positional":
        return "VPPrecond", kwargs, tensors, f"VP, beta 0.1 to 20, images of {size} pixels"
    sigmas = state.get(SIGMAS, torch.tensor(SIGMA_RANGE)).to(torch.float64)
    low, high = (float(f"{2 * float(sigma):.6g}") for sigma in (sigmas.min(), sigmas.max()))
    if not 0 < low < high < math.inf:
        raise FileError(f"its noise levels are {low:g} to {high:g}; get another file")
    kwargs |= dict(sigma_min=low, sigma_max=high)
    process = f"VE, sigma {low:g} to {high:g}"
    return "VEPrecond", kwargs, tensors, f"{process}, images of {size} pixels"


def _weights(content) -> dict:
    """The state dict, without the prefix of DataParallel."""
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    if not isinstance(content, Mapping):
        return {}
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def _averaged(content) -> dict[str, Tensor]:
    """The state dict with the moving averages, which a checkpoint holds in the order of the trained
    weights."""
    state, average = _weights(content), content.get("ema")
    if isinstance(average, Mapping) and "shadow_params" in average:
        trained = [name for name in state if name not in (FREQUENCIES, SIGMAS)]
        found = average["shadow_params"]
        if not isinstance(found, list) or len(found) != len(trained):
            number = len(found) if isinstance(found, list) else "no list of"
            raise FileError(
                f"holds {number} averages for {len(trained)} trained weights; get another file"
            )
        state |= dict(zip(trained, found, strict=True))
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise FileError(f"entry {name} is a {type(value).__name__}, not a tensor")
    return state


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
    kinds = [set(part) for part in parts]
    encoder = (
        "residual" if _both(RESIDUAL) in kinds else "skip" if _both(INPUT) in kinds else "standard"
    )
    main = [part for part in parts if set(part) not in (_both(RESIDUAL), _both(INPUT))]
    fourier = "W" in main[0]
    try:
        hidden, stem, last = (main[place]["weight"] for place in (int(fourier), 2 + fourier, -1))
        width, channels = stem.shape[:2]
        turns = [index for index, part in enumerate(main) if _resamples(part)]
        begins = [2 + fourier, *turns[: len(turns) // 2]]
        firsts = [main[begin + 1]["Conv_0.weight"] for begin in begins]
        attends = ["NIN_3.W" in main[begin + 2] for begin in begins]
    except (KeyError, IndexError, ValueError) as error:
        raise FileError(
            "is no DDPM++ or NCSN++ with residual blocks as BigGAN has them; get another file"
        ) from error
    if last.shape[0] != channels:
        raise FileError(
            f"takes {channels} channels and gives {last.shape[0]}: Fourier features of the image "
            "are not read; get another file"
        )
    levels, blocks = len(begins), sum(map(_is_block, main)) - len(turns) - 2
    # the deepest network of Soft Truncation filters too, and its embedding is narrower
    plain = encoder == "standard" and hidden.shape[1] == width
    if image_size is None and sum(attends) != 1:
        raise FileError("its tensors do not tell the size of its images; give image_size")
    size = image_size or ATTENTION_SIZE << attends.index(True)
    return dict(
        img_resolution=size,
        in_channels=channels,
        out_channels=channels,
        model_channels=width,
        channel_mult=[first.shape[0] // width for first in firsts],
        channel_mult_emb=hidden.shape[0] // width,
        num_blocks=(blocks - levels) // (2 * levels),
        attn_resolutions=[size >> level for level, attending in enumerate(attends) if attending],
        embedding_type="fourier" if fourier else "positional",
        channel_mult_noise=hidden.shape[1] / width,
        encoder_type=encoder,
        decoder_type="skip" if sum(map(_is_norm, main)) > 1 else "standard",
        resample_filter=[1, 1] if plain else [1, 3, 3, 1],
    )


def _renamed(parts: list[Part], unet: SongUNet) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a `SongUNet` by their names in it; its modules stand in the same order."""
    left = iter(enumerate(parts))

    def taken(names: set[str]) -> Part:
        index, part = next(left, (len(parts), {}))
        for found, verb in ((names - set(part), "lacks"), (set(part) - names, "has")):
            if found:
                raise FileError(f"module {index} {verb} {min(found)}, {UNLIKE}")
        return part

    def moved(place: str, layers: Names) -> Iterator[tuple[str, Tensor]]:
        return _moved(place, taken(_both(layers)), layers)

    if isinstance(unet.map_noise, FourierEmbedding):
        yield "map_noise.freqs", taken({"W"})["W"]
    for name in ("map_layer0", "map_layer1"):
        yield from moved(name, SIMPLE)
    for side in ("enc", "dec"):
        for name, module in getattr(unet, side).items():
            place = f"{side}.{name}"
            if isinstance(module, UNetBlock):
                yield from moved(place, BLOCK | SKIP if module.skip is not None else BLOCK)
                if module.num_heads:
                    yield from _attention(place, taken(ATTENTION))
            elif name.endswith("aux_residual"):
                yield from moved(place, RESIDUAL)
            elif name.endswith("aux_skip"):
                yield from moved(place, INPUT)
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
