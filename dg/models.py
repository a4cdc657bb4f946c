"""Any generative model from its file."""

import json
from pathlib import Path

from torch import nn

import edm
from dg import ddpm
from dg.baselines import vae
from dg.baselines.vae_sampling import VAESampling
from dg.discrete_sampling import DDPMSampling
from dg.sampling import Sampling

SAMPLING = {ddpm.DDPM: DDPMSampling, vae.VAE: VAESampling}
LOADERS = {ddpm.FORMAT: ddpm.load_ddpm, vae.FORMAT: vae.load_vae}


def load_model(path, device="cpu") -> nn.Module:
    """A frozen EDM score network, DDPM or VAE, as the file's own format name says.

    Everything that is no DDPM and no VAE is left to `edm.load_network`, which also says what is wrong with it.
    """
    return LOADERS.get(_format(path), edm.load_network)(path, device)


def sampling_of(model) -> type:
    """The settings of sampling that belong to a model: Sampling, DDPMSampling or VAESampling."""
    return SAMPLING.get(type(model), Sampling)


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
