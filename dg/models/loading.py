"""Any generative model from its file."""

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import nn

import edm
from dg.models import ddpm, dit, vae
from dg.models.diffusers_ddpm import load_pixel_diffusion, unet_folder_in
from dg.runtime.progress import unheard
from edm.checkpoint import kind_of, network_file
from edm.score_sde import is_score_sde
from guided_diffusion.loading import bare_state, listed, read_file, wrapper_of
from tensor_files.safetensors_files import read_header
from tensor_files.torch_files import is_torch_file as starts_as_torch_file

LOADERS = {ddpm.FORMAT: ddpm.load_ddpm, vae.FORMAT: vae.load_vae}
SETTINGS = (
    "image_size",
    "num_heads",
    "num_head_channels",
    "noise_schedule",
    "diffusion_steps",
    "rescale_timesteps",
    "use_new_attention_order",
    "predict_xstart",
    "sigma_small",
)


def load_model(
    path, device="cpu", notify: Callable[[str], None] = unheard, **settings
) -> nn.Module:
    """A frozen EDM score network, diffusion model or VAE, as the file itself says.

    path      a file of this project, or a folder with its network.safetensors; an NVIDIA .pkl; a
              file of guided-diffusion's, DiT's or score_sde's; a folder of diffusers with a DiT or
              the U-Net of a DDPMPipeline
    notify    called with one line that names settings taken because the file does not hold them
    settings  the settings of `SETTINGS` that the tensors of a published file do not show; None
              gives none

    `edm.load_network` reads, or refuses, every other file. All but the score network, which
    `dg.sampling.as_model` wraps, are a `GenerativeModel`. ValueError of one line; `MissingSettings`
    where settings must be given.
    """
    settings = {name: value for name, value in settings.items() if value is not None}
    path = network_file(path)
    if unet_folder_in(path):
        refuse(path, settings)
        return load_pixel_diffusion(path, device, notify)
    if dit.folder_in(path):
        return _load_dit(path, device, notify, settings)
    if is_torch_file(path):
        return _load_published(path, device, notify, settings)
    refuse(path, settings)
    return LOADERS.get(_format(path), edm.load_network)(path, device)


def _load_published(path, device, notify, settings: dict) -> nn.Module:
    """An ADM, a DiT or a network of score_sde, recognised by the names of its tensors."""
    try:
        content = read_file(path, shapes_only=True)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if is_score_sde(content):
        return _load_score_sde(path, device, notify, settings)
    if wrapper := wrapper_of(content):
        notify(f"{path}: of {listed(list(content))} the weights under {wrapper!r} are taken")
    state = bare_state(content)
    names = [str(name) for name in state] if isinstance(state, Mapping) else []
    if dit.is_original(names):
        return _load_dit(path, device, notify, settings)
    if any(name.startswith("output_blocks.") for name in names):
        return ddpm.load_adm(path, device, notify=notify, **settings)
    some = ", ".join(names[:3]) + (" and so on" if len(names) > 3 else "")
    raise ValueError(
        f"{path}: a PyTorch file with neither an ADM's U-Net nor a DiT nor a network of score_sde, "
        f"but {some or 'no tensors'}; give the weights of a diffusion model"
    )


def _load_dit(path, device, notify, settings: dict) -> nn.Module:
    size = settings.pop("image_size", None)
    refuse(path, settings, ("num_heads", "noise_schedule", "diffusion_steps"))
    model = dit.load_dit(path, device, notify=notify, **settings)
    if size not in (None, found := 8 * model.img_resolution):
        raise ValueError(f"{path}: makes images of {found} pixels, not {size}; get another file")
    return model


def refuse(path, settings: dict, needed: tuple[str, ...] = ()) -> None:
    """ValueError for a setting that is not `needed`, since the file itself holds it."""
    if told := [name for name in settings if name not in needed]:
        raise ValueError(f"{path}: holds {listed(told)} itself; leave that out")


def _load_score_sde(path, device, notify, settings: dict) -> edm.Preconditioner:
    size = settings.pop("image_size", None)
    refuse(path, settings)
    return edm.load_network(path, device, size, notify)


def is_torch_file(path) -> bool:
    """Whether torch.save has written it."""
    return starts_as_torch_file(first_bytes(path))


def first_bytes(path, number: int = 16) -> bytes:
    """The first bytes of a file, none where there is no file."""
    if not Path(path).is_file():
        return b""
    with open(path, "rb") as file:
        return file.read(number)


def _format(path) -> str | None:
    """The kind of network that the header of a safetensors file names; None for any other file."""
    try:
        return kind_of(read_header(path).get("__metadata__", {}))
    except (ValueError, OSError, RecursionError):  # whoever loads it says what is wrong
        return None
