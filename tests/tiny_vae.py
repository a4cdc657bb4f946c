"""A small autoencoder of Stable Diffusion's kind, whose latents have 4 channels at half of the
image's size."""

import pytest

from dg.runtime.randomness import seeded


def tiny_vae(seed=0):
    """diffusers' AutoencoderKL with random weights; skips the test where diffusers is not
    installed."""
    diffusers = pytest.importorskip("diffusers")
    with seeded(seed):
        return diffusers.AutoencoderKL(
            in_channels=3,
            out_channels=3,
            latent_channels=4,
            block_out_channels=(32, 32),
            layers_per_block=1,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=8,
        ).eval()
