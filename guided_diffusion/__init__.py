"""ADM's networks (Dhariwal & Nichol 2021) as Discriminator Guidance (Kim et al. 2023) uses them,
and discrete diffusion."""

from .encoder import EncoderUNetModel
from .gaussian_diffusion import GaussianDiffusion, create_diffusion
from .loading import load_encoder, load_unet
from .losses import training_losses, vlb
from .presets import create_classifier, create_unet
from .unet import UNetModel

__all__ = [
    "EncoderUNetModel",
    "GaussianDiffusion",
    "UNetModel",
    "create_classifier",
    "create_diffusion",
    "create_unet",
    "load_encoder",
    "load_unet",
    "training_losses",
    "vlb",
]
