"""ADM's noisy-image encoder (Dhariwal & Nichol 2021) as Discriminator Guidance (Kim et al. 2023) extends it."""

from .encoder import EncoderUNetModel
from .loading import load_encoder
from .presets import create_classifier

__all__ = ["EncoderUNetModel", "create_classifier", "load_encoder"]
