"""Rebuild a network from a bare state dict: every setting that shapes it is read off its tensors'
names and shapes."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from tensor_files.pickle_machine import Foreign, OtherKind
from tensor_files.reading import FileError
from tensor_files.weights import built, fault_of, read_tensor_file

from .encoder import EncoderUNetModel
from .layouts import Shapes, infer_settings, infer_unet_settings, shapes_of, untold_settings
from .unet import UNetModel

# Under which names training code keeps a state dict beside other things; averaged weights first.
WRAPPERS = (
    *("ema", "model_ema", "ema_model", "ema_state_dict", "params_ema"),
    *("state_dict", "model_state_dict", "model", "net", "network", "unet", "params"),
)
# Of DistributedDataParallel and AveragedModel, of torch.compile, of modules that hold the network.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
UNTOLD = {
    "image_size": "the size of the images",
    "num_heads": "the number of attention heads",
    "noise_schedule": "the noise schedule",
    "diffusion_steps": "its number of steps",
}


class MissingSettings(ValueError):
    """Settings that the tensors of a network do not tell, and that no published network tells.

    source  whose tensors they are
    names   arguments that give them
    """

    def __init__(self, source: str, names: Sequence[str]):
        self.source, self.names = source, list(names)
        self.fact = (
            f"{source}: no published network has tensors of these names and shapes, which do not "
            f"tell {listed([UNTOLD[name] for name in names])}"
        )
        super().__init__(f"{self.fact}; give {listed(self.names)}")


def load_encoder(
    source: str | Path | Mapping[str, Tensor], device: str | torch.device = "cpu", **overrides
) -> EncoderUNetModel:
    """The encoder stored in a file or state dict, float32, on `device`, in eval mode; nothing in
    the file is executed.

    source     path of a `torch.save`d bare state dict, or the state dict itself (its tensors are
               copied)
    overrides  settings of `EncoderUNetModel` that win over the inferred ones. Names and shapes do
               not show: num_head_channels (64 unless given), dropout, image_size under a pool other
               than attention

    Reads the files of Discriminator Guidance (32x32_classifier.pt, discriminator_60.pt, its latent
    variants), those of guided-diffusion (64x64_classifier.pt and larger), and what `bare_state`
    finds in a training's own checkpoints. ValueError of one line for a file that is missing,
    damaged, unsafe, of another architecture or with weights that are not finite.
    """
    return load_network(EncoderUNetModel, infer_settings, source, device, overrides)


def load_unet(
    source: str | Path | Mapping[str, Tensor], device: str | torch.device = "cpu", **overrides
) -> UNetModel:
    """The diffusion model stored in a file or state dict, as `load_encoder` loads encoders.

    overrides  settings of `UNetModel` that win over the inferred ones. Names and shapes do not show
               image_size, num_heads (or num_head_channels), use_new_attention_order and dropout,
               which are those of the published file of `UNETS` that has the same tensors. For other
               networks the first two must be given, or `MissingSettings`, a ValueError, is raised

    Reads the files of guided-diffusion: 64x64_diffusion.pt to 512x512_diffusion.pt,
    256x256_diffusion_uncond.pt, lsun_*.pt.
    """
    return load_network(UNetModel, infer_unet_settings, source, device, overrides, untold_settings)


def load_network(
    network: Callable[..., nn.Module],
    infer: Callable[..., dict],
    source: str | Path | Mapping[str, Tensor],
    device: str | torch.device,
    overrides: dict,
    untold: Callable[..., list[str]] = lambda shapes, given: [],
) -> nn.Module:
    """`network` with the settings that `infer` finds; otherwise as `load_encoder`.

    untold  names the settings that must be given; MissingSettings if there are any
    """
    name = "the state dict" if isinstance(source, Mapping) else str(source)
    try:
        state = check_tensors(
            bare_state(source if isinstance(source, Mapping) else read_file(source))
        )
        shapes = shapes_of(state)
        settings = infer(shapes, **overrides)
        missing = untold(shapes, overrides)
        if "num_heads" in missing:
            settings["num_heads"] = 1  # any number has the same tensors
        net = built(network, state, **settings)
        check_fit(shapes, shapes_of(net.state_dict()))
    except ValueError as error:
        raise FileError(f"{name}: {error}") from None
    if missing:
        raise MissingSettings(name, missing)
    owned = not isinstance(source, Mapping)
    state = {key: tensor.to(device, torch.float32, copy=not owned) for key, tensor in state.items()}
    net.load_state_dict(state, assign=True)
    return net.eval()


def read_file(path: str | Path, shapes_only: bool = False) -> object:
    """What a `torch.save`d file holds: tensors, plain containers, the Namespace of a command line;
    or the tensors of a safetensors file.

    shapes_only  leave the content of the tensors on the disk where the format allows it

    ValueError of one line for anything else; nothing in the file is executed.
    """
    path = Path(path)
    if not path.exists() or path.is_dir():
        raise FileError("no such file: check the path or download it first")
    try:
        return read_tensor_file(path, shapes_only)
    except FileError:
        raise
    except Foreign as error:
        raise FileError(_refusal(path, error)) from error
    except OtherKind as error:
        raise FileError(f"is {error}: download or save it again") from error
    except OSError as error:
        raise FileError(f"cannot be read ({error.strerror}): check its permissions") from error
    except Exception as error:  # a damaged file can fail anywhere inside the reader
        raise FileError("damaged or truncated: download or save it again") from error


def _refusal(path: Path, error: Foreign) -> str:
    """Why the reader took no such file, in our words."""
    if error.name is None:
        return f"{error}, which no PyTorch file does: download or save it again"
    number = re.fullmatch(r"training-state-(\d+)\.pt", path.name)
    if number or error.name.startswith("torch_utils.persistence."):
        beside = f"network-snapshot-{number[1] if number else '*'}.pkl"
        return f"is the state of EDM's training: give the network, {beside} beside it"
    if error.name.startswith(("torch._utils._rebuild_", "torch.storage.")):
        kind = error.name.rsplit(".", 1)[1]
        return f"holds tensors of an unusual kind ({kind}): save plain tensors of floats"
    return (
        f"holds a pickled '{error.name}', refused because loading it could run code: store the "
        "bare weights with torch.save(model.state_dict(), path)"
    )


def bare_state(content: object) -> object:
    """The state dict in what training code saves: without the rest, and without prefixes of all
    names.

    Averaged weights win over others, see `WRAPPERS`. What holds no state dict is returned as it is.
    """
    while (wrapper := wrapper_of(content)) is not None:
        content = content[wrapper]
    if not isinstance(content, Mapping):
        return content
    state = {key: value for key, value in content.items() if key != "n_averaged"}  # AveragedModel's
    while prefix := _common_prefix(state):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def wrapper_of(content: object) -> str | None:
    """The name in `WRAPPERS` under which the weights stand; None where they stand under no name."""
    names = WRAPPERS if isinstance(content, Mapping) else ()
    return next((n for n in names if isinstance(content.get(n), Mapping) and content[n]), None)


def _common_prefix(state: Mapping) -> str:
    """The one of `PREFIXES` before all names; empty for none."""
    names = [key for key in state if isinstance(key, str)]
    whole = names and len(names) == len(state)
    return next((p for p in PREFIXES if whole and all(n.startswith(p) for n in names)), "")


def check_tensors(state: object) -> Mapping[str, Tensor]:
    """`state` itself if it is a state dict of finite tensors; ValueError naming the first entry
    that is not."""
    if not isinstance(state, Mapping):
        raise FileError(
            f"holds a {type(state).__name__}, not a state dict: store model.state_dict()"
        )
    for key, tensor in state.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor):
            raise FileError(
                f"entry '{key}' is a {type(tensor).__name__}, not a tensor: store the bare "
                "model.state_dict()"
            )
        if fault := fault_of(tensor, "has NaN or infinite weights"):
            raise FileError(
                f"tensor '{key}' {fault}: use a checkpoint from before the training diverged, or "
                "download it again"
            )
    return state


def check_fit(found: Shapes, expected: Shapes) -> None:
    """ValueError naming the first tensor that is missing, has another shape or is left over."""
    for key in [*expected, *found]:
        want, have = expected.get(key, "no such tensor"), found.get(key, "no such tensor")
        if want != have:
            raise FileError(
                f"tensor '{key}' does not fit: expected {want}, found {have}; use the original "
                "file, or "
                "correct the settings passed beside it"
            )


def listed(words: Sequence[str]) -> str:
    """Words as a sentence lists them: "a, b and c"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
