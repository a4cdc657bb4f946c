"""Small DiT, ADM, classifiers and a head with random weights, in the published forms."""

import torch

from guided_diffusion import EncoderUNetModel, create_classifier
from tests import golden_fill
from tests.tiny_adm import tiny_unet
from tests.tiny_dit import tiny_transformer
from tests.tiny_vae import tiny_vae


def write_models(folder):
    """Write a folder as of facebook/DiT-XL-2-256, another autoencoder, ADMs with and without
    classes, a classifier for them, and a discriminator of DiT's latents with its classifier."""
    tiny_transformer().save_pretrained(folder / "dit" / "transformer")
    tiny_vae().save_pretrained(folder / "dit" / "vae")
    tiny_vae(seed=1).save_pretrained(folder / "other-vae")
    encoder = dict(
        image_size=8,
        model_channels=64,
        num_res_blocks=1,
        channel_mult=[1],
        attention_resolutions=[],
    )
    saved = {
        "adm": tiny_unet(num_classes=5),
        "uncond": tiny_unet(),
        "classifier": EncoderUNetModel(in_channels=3, out_channels=5, **encoder),
        "features": EncoderUNetModel(in_channels=4, out_channels=5, **encoder),
        "head": create_classifier(
            image_size=8, in_channels=64, out_channels=1, classifier_width=64, condition=True
        ),
    }
    for name, net in saved.items():
        torch.save(golden_fill.fill(net, gain=0.8).state_dict(), folder / f"{name}.pt")
    return {"models": folder, "dit": folder / "dit"} | {
        name: folder / f"{name}.pt" for name in saved
    }
