"""Options for what the file of a network does not tell, of every script that loads any model."""

import click

from dg.runtime.console import FLAG

NETWORK = [
    click.option(
        "--image_size",
        type=click.IntRange(min=1),
        metavar="PIXELS",
        help="Of a U-Net's bare weights: its images.  [default: of the published network]",
    ),
    click.option(
        "--num_heads",
        type=click.IntRange(min=1),
        metavar="N",
        help="Of bare weights: attention heads of each layer.  [default: of the published network]",
    ),
    click.option(
        "--num_head_channels",
        type=click.IntRange(min=1),
        metavar="N",
        help="Or the channels of each head, as in guided-diffusion.",
    ),
    click.option(
        "--noise_schedule",
        type=click.Choice(["linear", "cosine"]),
        help="Of bare weights: trained on it.  [default: of the published network]",
    ),
    click.option(
        "--diffusion_steps",
        type=click.IntRange(min=1),
        metavar="N",
        help="Of bare weights: steps trained on.  [default: of the published network]",
    ),
    click.option(
        "--rescale_timesteps",
        **FLAG,
        default=None,
        help="Of bare weights: trained on timesteps scaled to 1000.  [default: unless there are "
        "1000]",
    ),
    click.option(
        "--use_new_attention_order",
        **FLAG,
        default=None,
        help="Of a U-Net's bare weights: order of its heads.  [default: of the published network]",
    ),
    click.option(
        "--predict_xstart",
        **FLAG,
        default=None,
        help="Of a U-Net's bare weights: predicts the image, not the noise.",
    ),
    click.option(
        "--sigma_small",
        **FLAG,
        default=None,
        help="Of a U-Net's bare weights: variance of the posterior, not of the forward step.",
    ),
]


def load(path, device, notify, options: dict):
    """The model in a file; takes what `NETWORK` declares out of the options of a command.

    Settings that the file does not tell are asked for by a usage error that names their options.
    """
    from dg.models.loading import SETTINGS, load_model
    from guided_diffusion.loading import MissingSettings

    try:
        return load_model(path, device, notify, **{name: options.pop(name) for name in SETTINGS})
    except MissingSettings as error:
        needed = " ".join(f"--{name}" for name in error.names)
        raise click.UsageError(f"{error.fact}; give {needed}") from error
