"""Rebuild a network from a bare state dict: every setting that shapes it is read off its tensors' names and shapes."""

import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from .encoder import EncoderUNetModel
from .layouts import Shapes, infer_settings, infer_unet_settings, shapes_of
from .unet import UNetModel


def load_encoder(
    source: str | Path | Mapping[str, Tensor], device: str | torch.device = "cpu", **overrides
) -> EncoderUNetModel:
    """The encoder stored in a file or state dict, float32, on `device`, in eval mode; nothing in the file is executed.

    source     path of a `torch.save`d bare state dict, or the state dict itself (its tensors are copied)
    overrides  settings of `EncoderUNetModel` that win over the inferred ones. Names and shapes do not show:
               num_head_channels (64 unless given), dropout, image_size under a pool other than attention

    Reads the files of Discriminator Guidance (32x32_classifier.pt, discriminator_60.pt, its latent variants), those of
    guided-diffusion (64x64_classifier.pt and larger) and, with `module.` before every name, those saved from
    DistributedDataParallel. ValueError of one line for a file that is missing, damaged, unsafe, of another architecture
    or with weights that are not finite.
    """
    return load_network(EncoderUNetModel, infer_settings, source, device, overrides)


def load_unet(
    source: str | Path | Mapping[str, Tensor], device: str | torch.device = "cpu", **overrides
) -> UNetModel:
    """The diffusion model stored in a file or state dict, as `load_encoder` loads encoders.

    overrides  settings of `UNetModel` that win over the inferred ones. Names and shapes do not show num_heads,
               use_new_attention_order and dropout, which are those of the published file of `UNETS` that has the same
               tensors, nor num_head_channels (64 unless given) and image_size (8 pixels in the middle block unless given)

    Reads the files of guided-diffusion: 64x64_diffusion.pt to 512x512_diffusion.pt, 256x256_diffusion_uncond.pt, lsun_*.pt.
    """
    return load_network(UNetModel, infer_unet_settings, source, device, overrides)


def load_network(
    network: Callable[..., nn.Module],
    infer: Callable[..., dict],
    source: str | Path | Mapping[str, Tensor],
    device: str | torch.device,
    overrides: dict,
) -> nn.Module:
    """`network` with the settings that `infer` finds; otherwise as `load_encoder`."""
    name = "the state dict" if isinstance(source, Mapping) else str(source)
    try:
        state = without_prefix(
            check_tensors(source if isinstance(source, Mapping) else read_file(Path(source)))
        )
        shapes = shapes_of(state)
        settings = infer(shapes, **overrides)
        with torch.device("meta"):
            net = network(**settings)
        check_fit(shapes, shapes_of(net.state_dict()))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    owned = not isinstance(source, Mapping)
    state = {key: tensor.to(device, torch.float32, copy=not owned) for key, tensor in state.items()}
    net.load_state_dict(state, assign=True)
    return net.eval()


def read_file(path: Path) -> object:
    """What a `torch.save`d file holds, tensors and plain containers only; ValueError for anything else."""
    if not path.is_file():
        raise ValueError("no such file: check the path or download it first")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # the reader remarks on the pickle protocol before it refuses
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            raise ValueError(
                f"holds a pickled '{refused[1]}', refused because loading it could run code: store the "
                "bare weights with torch.save(model.state_dict(), path)"
            ) from None
        raise ValueError("not a PyTorch file: download or save it again") from None
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror}): check its permissions") from None
    except Exception:  # a damaged file can fail anywhere inside the reader
        raise ValueError("damaged or truncated: download or save it again") from None


def check_tensors(state: object) -> Mapping[str, Tensor]:
    """`state` itself if it is a state dict of finite tensors; ValueError naming the first entry that is not."""
    if not isinstance(state, Mapping):
        raise ValueError(
            f"holds a {type(state).__name__}, not a state dict: store model.state_dict()"
        )
    for key, tensor in state.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor):
            raise ValueError(
                f"entry '{key}' is a {type(tensor).__name__}, not a tensor: store the bare "
                "model.state_dict()"
            )
        if not tensor.isfinite().all():
            raise ValueError(
                f"tensor '{key}' has NaN or infinite weights: use a checkpoint from before the training "
                "diverged, or download it again"
            )
    return state


def without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without the `module.` that DistributedDataParallel puts before all of them."""
    prefix = "module." if all(key.startswith("module.") for key in state) else ""
    return {key.removeprefix(prefix): tensor for key, tensor in state.items()}


def check_fit(found: Shapes, expected: Shapes) -> None:
    """ValueError naming the first tensor that is missing, has another shape or is left over."""
    for key in [*expected, *found]:
        want, have = expected.get(key, "no such tensor"), found.get(key, "no such tensor")
        if want != have:
            raise ValueError(
                f"tensor '{key}' does not fit: expected {want}, found {have}; use the original file, or "
                "correct the settings passed beside it"
            )
