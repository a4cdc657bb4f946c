"""Options of generate.py for samplers beside EDM's, and what they ask for."""

import json

import click

from dg.options.guidance import discriminator_of
from dg.options.numbers import RealRange, SeedRange
from dg.runtime import console

METHODS = ("restart", "rejection", "particles")


class Json(click.ParamType):
    """A value written as JSON."""

    name = "json"

    def convert(self, value, param, ctx):
        try:
            return json.loads(value) if isinstance(value, str) else value
        except ValueError:
            self.fail(f"{value!r} is no JSON; write for example [3, 2, 0.06, 0.30]", param, ctx)


SAMPLERS = [
    click.option(
        "--restart",
        "--restart_info",
        "restart",
        type=Json(),
        metavar="JSON",
        help="Intervals of --sampler restart: [N, K, t_min, t_max], a list of these, or the "
        "authors' {i: [...]}. N levels from t_max to t_min are sampled K more times.  [default: "
        "[3, 2, 0.14, 0.30]]",
    ),
    click.option(
        "--restart_gamma",
        type=RealRange(min=0),
        metavar="GAMMA",
        help="Noise that --sampler restart adds at every step within an interval, relative to its "
        "level, from --S_min to --S_max.  [default: 0.05]",
    ),
    click.option(
        "--rej_percentile",
        type=RealRange(0, 1),
        metavar="Q",
        help="Quantile of the log ratios that --sampler rejection takes as its bound.  [default: "
        "0.75]",
    ),
    click.option(
        "--max_iter",
        type=click.IntRange(min=1),
        metavar="N",
        help="Evaluations after which --sampler rejection starts an image again.  [default: 105]",
    ),
    click.option(
        "--warmup",
        type=click.IntRange(min=1),
        metavar="N",
        help="Images on which --sampler rejection measures its bounds, once per OUTDIR.  "
        "[default: 640]",
    ),
    click.option(
        "--particles",
        "--num_particles",
        "particles",
        type=click.IntRange(min=1),
        metavar="K",
        help="Size of the group behind every image of --sampler particles.  [default: 4]",
    ),
    click.option(
        "--resample_steps",
        "--resample_inds",
        "resample_steps",
        type=SeedRange(),
        metavar="LIST",
        help="Steps before which --sampler particles resamples its groups, for example "
        "15,19,23,27 of 32.",
    ),
    click.option(
        "--select",
        type=click.Choice(["largest", "draw"]),
        help="Choice of the particle that is kept: the largest log ratio, or a draw by the ratios "
        "(--sampler particles).  [default: largest]",
    ),
]
NAMES = {option(lambda: None).__click_params__[0].name for option in SAMPLERS}


IMAGE = [
    click.option(
        "--image",
        "--init_images",
        "image",
        type=console.InputPath(),
        metavar="PATH|NAME",
        help="Images to begin with, of the network's size, instead of noise alone (SDEdit). Seed S "
        "begins with image S modulo their number.  [default: noise alone]",
    ),
    click.option(
        "--strength",
        type=RealRange(0, 1, min_open=True),
        metavar="S",
        help="Share of the steps, the last ones, that are taken from --image on. 1 begins at the "
        "highest noise level, where next to nothing is left of the image.  [default: 0.5]",
    ),
]


def settings_class(model, options):
    """The class of settings of the sampler that is asked for, for a model, and the option that asks
    for it; None for the model's own."""
    from dg.samplers.constants import RejectionSampling
    from dg.samplers.image_to_image import ImageToImageSampling
    from dg.samplers.particles import ParticleSampling
    from dg.samplers.restart import RestartSampling
    from dg.sampling import ScoreModel

    kinds = dict(zip(METHODS, (RestartSampling, RejectionSampling, ParticleSampling), strict=True))
    method, of_image = options["method"], options["image"] is not None
    if of_image and method:
        raise click.UsageError(
            f"--image is for EDM's sampler, not for --sampler {method}; leave one of them out."
        )
    if not of_image:
        console.refuse({"strength"}, "a run without --image")
    if not of_image and method not in kinds:
        console.refuse(NAMES, "a run without the --sampler that takes it")
        return model.sampling_type, None
    asked = "--image" if of_image else f"--sampler {method}"
    if not isinstance(model, ScoreModel):
        other = "leave it out" if of_image else "give another sampler"
        raise click.UsageError(
            f"{asked} is for score networks, not for a {type(model).__name__}; {other}."
        )
    kind = ImageToImageSampling if of_image else kinds[method]
    console.refuse(NAMES - set(kind.__dataclass_fields__), asked)
    return kind, asked


def with_image(net, options, tell):
    """The network as it draws from the images on that the options name, or as it is."""
    from dg.data.datasets import load_images
    from dg.samplers.image_to_image import ImageToImage

    if options["image"] is None:
        return net
    with console.option("--image"):
        return ImageToImage(net, load_images(options["image"], notify=tell))


def log_ratio_of(net, sampling, device, options):
    """The log ratio that the sampler takes, or None."""
    from dg.discriminator import LogRatio
    from dg.sampling import needs_log_ratio

    if not needs_log_ratio(sampling):
        return None
    if not options["discriminator_ckpt"]:
        raise click.UsageError(
            f"--sampler {options['method']} needs the log ratio of a discriminator; give "
            "--discriminator_ckpt PATH."
        )
    return LogRatio(discriminator_of(net, sampling, device, options), options["dg_clip"])


def with_log_ratio(net, log_ratio, sampling, guidance, class_idx, precision, outdir, device, ranks):
    """(the network with its log ratio, the sampling with its constants), where it takes these.

    Constants stand in the folder, and are measured where there are none.
    """
    from dg.samplers.constants import RejectionSampling, with_measured_constants
    from dg.sampling import ScoreModel

    if log_ratio is None:
        return net, sampling
    model = ScoreModel(net, log_ratio)
    if isinstance(sampling, RejectionSampling):
        run = (class_idx, device, precision, console.shown_by(ranks)[0], ranks)
        sampling = with_measured_constants(model, sampling, guidance, outdir, *run)
    return model, sampling
