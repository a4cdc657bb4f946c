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


def settings_class(model, method):
    """The class of settings of the sampler that is asked for, for a model."""
    from dg.samplers.constants import RejectionSampling
    from dg.samplers.particles import ParticleSampling
    from dg.samplers.restart import RestartSampling
    from dg.sampling import ScoreModel

    if method not in METHODS:
        console.refuse(NAMES, "a run without the --sampler that takes it")
        return model.sampling_type
    if not isinstance(model, ScoreModel):
        raise click.UsageError(
            f"--sampler {method} is for score networks, not for a {type(model).__name__}; give "
            "another sampler."
        )
    kind = dict(zip(METHODS, (RestartSampling, RejectionSampling, ParticleSampling), strict=True))
    console.refuse(NAMES - set(kind[method].__dataclass_fields__), f"--sampler {method}")
    return kind[method]


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
