"""Stable Diffusion's autoencoder (Rombach et al. 2022), whose latents DiT diffuses, through
diffusers."""

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from dg.models.diffusers_models import create, is_folder, read_folder, read_weights
from edm.checkpoint import load_strictly

# Settings of stabilityai/sd-vae-ft-mse and sd-vae-ft-ema, for their weights without a folder.
STABLE_DIFFUSION = dict(
    in_channels=3,
    out_channels=3,
    latent_channels=4,
    down_block_types=["DownEncoderBlock2D"] * 4,
    up_block_types=["UpDecoderBlock2D"] * 4,
    block_out_channels=[128, 256, 512, 512],
    layers_per_block=2,
    norm_num_groups=32,
    act_fn="silu",
    sample_size=256,
    scaling_factor=0.18215,
)
# latents at once; the decoder's largest activations take 64 KiB each, 256 channels of 8x8 pixels
PIXELS_AT_ONCE = 8 * 32 * 32
FORMER_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def load_vae(path, device="cpu") -> nn.Module:
    """A frozen `AutoencoderKL`, float32, in evaluation mode; its `config.scaling_factor` makes
    latents of unit variance.

    path  a folder of diffusers, or a file of weights alone that fits `STABLE_DIFFUSION`

    ValueError with one line that names the file and the fault, or the package to install.
    """
    if is_folder(path):
        config, tensors = read_folder(path)
    elif Path(path).is_file():
        config, tensors = STABLE_DIFFUSION, read_weights(path)
    else:
        raise ValueError(
            f"{path}: no such autoencoder; give a folder of diffusers, or its .safetensors file"
        )
    if config.get("_class_name", "AutoencoderKL") != "AutoencoderKL":
        raise ValueError(
            f"{path}: holds a {config['_class_name']}, not an AutoencoderKL; give the folder or "
            "file of an autoencoder"
        )
    vae = create("AutoencoderKL", config, path, tensors)
    load_strictly(vae, {_present_name(name): tensor for name, tensor in tensors.items()}, path)
    return vae.eval().requires_grad_(False).to(device)


def _present_name(name: str) -> str:
    """The name that diffusers gives a tensor today. It has renamed those of attention since these
    files were written."""
    return re.sub(
        r"(?<=\.attentions\.0\.)\w+(?=\.\w+$)",
        lambda match: FORMER_NAMES.get(match[0], match[0]),
        name,
    )


@torch.no_grad()
def decode(vae: nn.Module, latents: Tensor) -> Tensor:
    """Images [N, 3, 8R, 8R], float32, nominally in [-1, 1], of latents [N, 4, R, R]; a few at a
    time, to save memory."""
    latents = latents.to(vae.dtype) / vae.config.scaling_factor
    at_once = max(1, PIXELS_AT_ONCE // latents[0, 0].numel())
    with torch.autocast(latents.device.type, enabled=False):  # in float16 the decoder overflows
        return torch.cat(
            [vae.decode(part).sample.to(torch.float32) for part in latents.split(at_once)]
        )
