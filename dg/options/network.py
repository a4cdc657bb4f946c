"""Options for settings that a network's file does not hold; every script that loads any model has
them."""

import click

from dg.runtime.console import FLAG

HEADING = "Settings that ADM, DiT and score_sde files do not hold"
NETWORK = [
    click.option(
        "--image_size",
        "--image-size",
        "image_size",
        type=click.IntRange(min=1),
        metavar="PIXELS",
        help="Image size of a U-Net, or of the images of a DiT.  [default: the published "
        "network's size; score_sde: the size that puts attention at 16 x 16]",
    ),
    click.option(
        "--num_heads",
        type=click.IntRange(min=1),
        metavar="N",
        help="Attention heads of each layer.  [default: the published network's]",
    ),
    click.option(
        "--num_head_channels",
        type=click.IntRange(min=1),
        metavar="N",
        help="Channels of each attention head, in place of --num_heads.",
    ),
    click.option(
        "--noise_schedule",
        type=click.Choice(["linear", "cosine"]),
        help="Noise schedule of the training.  [default: the published network's]",
    ),
    click.option(
        "--diffusion_steps",
        type=click.IntRange(min=1),
        metavar="N",
        help="Diffusion steps of the training.  [default: the published network's]",
    ),
    click.option(
        "--rescale_timesteps",
        **FLAG,
        default=None,
        help="The network takes timesteps scaled to 0-1000.  [default: True unless "
        "--diffusion_steps is 1000]",
    ),
    click.option(
        "--use_new_attention_order",
        **FLAG,
        default=None,
        help="The U-Net's attention weights hold all queries, all keys, all values, and not one "
        "head after the other.  [default: the published network's]",
    ),
    click.option(
        "--predict_xstart",
        **FLAG,
        default=None,
        help="The U-Net predicts the clean image.  [default: False, it predicts the noise]",
    ),
    click.option(
        "--sigma_small",
        **FLAG,
        default=None,
        help="Reverse steps of a U-Net have the variance of the posterior.  [default: False, that "
        "of the forward step]",
    ),
]


def load(path, device, notify, options: dict):
    """Load the model in a file; takes the options that `NETWORK` declares out of `options`.

    A usage error names the options of settings that the file does not hold.
    """
    from dg.models.loading import SETTINGS, load_model
    from guided_diffusion.loading import MissingSettings

    try:
        return load_model(path, device, notify, **{name: options.pop(name) for name in SETTINGS})
    except MissingSettings as error:
        needed = " ".join(f"--{name}" for name in error.names)
        raise click.UsageError(f"{error.fact}; give {needed}") from error
