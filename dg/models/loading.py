"""Any generative model from its file."""

import json
from pathlib import Path

import torch
from torch import nn

import edm
from dg.models import ddpm, dit, vae
from guided_diffusion.loading import read_file

LOADERS = {ddpm.FORMAT: ddpm.load_ddpm, vae.FORMAT: vae.load_vae}
TORCH_FILES = (
    b"PK\x03\x04",
    b"\x80\x02\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19",
)  # of torch.save, now and before 1.6


def load_model(path, device="cpu") -> nn.Module:
    """A frozen EDM score network, diffusion model or VAE, as the file itself says.

    path  a file of this project, an NVIDIA .pkl, a file of guided-diffusion's or DiT's, or a folder of diffusers with a DiT

    What is none of the others is left to `edm.load_network`, which also says what is wrong with it.
    All but the score network, which `dg.sampling.as_model` wraps, are a `GenerativeModel`.
    """
    if dit.folder_in(path):
        return dit.load_dit(path, device)
    if _first_bytes(path).startswith(TORCH_FILES):
        return _load_published(path, device)
    return LOADERS.get(_format(path), edm.load_network)(path, device)


def _load_published(path, device) -> nn.Module:
    """An ADM or DiT, told by the names of its tensors."""
    names = _names(path)
    if dit.is_original(names):
        return dit.load_dit(path, device)
    if any(name.removeprefix("module.").startswith("output_blocks.") for name in names):
        return ddpm.load_adm(path, device)
    raise ValueError(
        f"{path}: a PyTorch file with neither an ADM's U-Net nor a DiT; give that of a diffusion model"
    )


def _names(path) -> list[str]:
    """The names of the tensors in a torch.save'd state dict, bare or one under "ema", which are not read as far as possible."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (
        Exception
    ):  # a file from before torch 1.6, which cannot be mapped, or one that is damaged
        try:
            state = read_file(Path(path))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    state = state.get("ema", state) if isinstance(state, dict) else state
    return [str(name) for name in state] if isinstance(state, dict) else []


def _first_bytes(path, number: int = 16) -> bytes:
    if not Path(path).is_file():
        return b""
    with open(path, "rb") as file:
        return file.read(number)


def _format(path) -> str | None:
    """The format name in the header of a safetensors file; None for any other file."""
    if not Path(path).is_file():
        return None
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = file.read(min(size, 1 << 24))
    try:
        return str(json.loads(header)["__metadata__"]["format"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
