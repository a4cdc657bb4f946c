"""Guidance from the options of generate.py."""

from functools import reduce
from operator import add
from pathlib import Path

import click

from dg.options.common import head_file, input_file
from dg.runtime import console
from dg.runtime.pretrained import classifier_of, recommended_guidance

# Places of the authors' files for CIFAR-10; those of discriminators by --cond.
CLASSIFIER = Path("checkpoints/ADM_classifier/32x32_classifier.pt")
DISCRIMINATORS = {
    False: Path("checkpoints/discriminator/cifar_uncond/discriminator_60.pt"),
    True: Path("checkpoints/discriminator/cifar_cond/discriminator_250.pt"),
}
GUIDANCE_OPTIONS = (
    "guidance",
    "w1",
    "w2",
    "boosting",
    "S_churn_manual",
    "guide_every",
    "guide_between",
    "time_min",
    "time_max",
    "dg_time",
    "dg_clip",
    "cond",
    "pretrained_classifier_ckpt",
    "lora_checkpoint",
    "lora_rank",
    "member_weights",
    "ensemble",
    "calibrated",
)
# Those that need a log ratio, or a discriminator's extractor.
OF_LOG_RATIO = {
    "boosting",
    "S_churn_manual",
    "dg_clip",
    "lora_checkpoint",
    "lora_rank",
    "member_weights",
    "ensemble",
    "calibrated",
}


def guidance_of(net, sampling, device, precision, options, log_ratio=None):
    """Build the guidance that the options ask for, or None. The network already has its VAE and
    classifier.

    log_ratio  the sampler's, or None; its discriminator guides where a weight is given
    """
    terms = [
        _autoguidance(net, device, precision, options),
        _discriminator_guidance(net, sampling, device, options, log_ratio),
    ]
    given = [term for term in terms if term is not None]
    return reduce(add, given) if given else None


def _autoguidance(net, device, precision, options):
    """Guidance by a weaker network, or None."""
    if not (name := options["guide_network"]):
        console.refuse({"guide_scale"}, "a run without --guide_network")
        return None
    import edm
    from dg.guidance import Autoguidance
    from dg.models.loading import load_model

    if not isinstance(net, edm.Preconditioner):
        console.refuse({"guide_network"}, f"a {type(net).__name__}; it guides score networks alone")
    with console.option("--guide_network"):
        guide = load_model(input_file(name), device, console.notify)
        if not isinstance(guide, edm.Preconditioner):
            raise ValueError(f"{name} is a {type(guide).__name__}; give a score network")
        sizes = [(one.img_resolution, one.img_channels, one.label_dim) for one in (net, guide)]
        if sizes[0] != sizes[1]:
            found = ["{} pixels, {} channels and {} classes".format(*size) for size in sizes]
            raise ValueError(
                f"{name} has {found[1]}, but the network has {found[0]}; give a network of the "
                "same images"
            )
    scale = 2.0 if options["guide_scale"] is None else options["guide_scale"]
    with console.option("--guide_scale"):
        return Autoguidance(guide.with_fp16(guide.use_fp16 and precision == "float16"), scale)


def _discriminator_guidance(net, sampling, device, options, log_ratio):
    """Guidance by a discriminator or a score difference, or None."""
    options = options | _recommended(net, options, log_ratio)
    weights = (_first_weight(net, options, log_ratio), options["w2"])
    time_min = _time_min(net, options["time_min"])
    if not is_asked_for() or not any(weights) or time_min > 1:
        return None
    from dataclasses import replace

    from dg.checkpoints import holds_difference
    from dg.guidance import BOOSTING, DifferenceGuidance, DiscriminatorGuidance

    every, between = options["guide_every"], options["guide_between"] or "rescale"
    if every == 1:
        console.refuse({"guide_between"}, "guidance at every step")
    window, often = (weights, time_min, options["time_max"]), dict(every=every, between=between)
    if log_ratio is None:
        options = _with_files(net, options)
        if any(map(holds_difference, options["discriminator_ckpt"])):
            difference = _difference(net, sampling, device, options)
            return DifferenceGuidance(difference, *window, **often)
        discriminator = _discriminator(net, sampling, device, options)
    else:
        discriminator = log_ratio.discriminator
    boosting = None
    if options["boosting"]:
        boosting = replace(BOOSTING["authors"], S_churn=options["S_churn_manual"])
    return DiscriminatorGuidance(discriminator, *window, boosting, options["dg_clip"], **often)


def _recommended(net, options, log_ratio):
    """What was measured best for the head, for options that are not given: of a score network's own
    guidance, not where the log ratio is the sampler's."""
    import edm

    asked, heads = options["guidance"], options["discriminator_ckpt"]
    if asked == "published":
        return {}
    own = isinstance(net, edm.Preconditioner) and log_ratio is None
    found = recommended_guidance(heads) if own else {}
    if asked and not found:
        raise click.UsageError(
            "--guidance recommended is for one discriminator of pretrained/ that guides its score "
            "network; leave it out for the published setting."
        )
    parameters = {name: "w1" if name == "w_dg_1" else name for name in found}
    left = {name: value for name, value in found.items() if not console.given(parameters[name])}
    if left and console.speaks():
        told = " ".join(f"--{name} {value:g}" for name, value in left.items())
        console.notify(
            f"guided as did best with {heads[0]}: {told}; --guidance published takes the published "
            "setting"
        )
    return {parameters[name]: value for name, value in left.items()}


def _time_min(net, given):
    """The lowest VP time with guidance. Above 1 it is given as a timestep t of a discrete process,
    beyond which there is guidance; the last one or more leave none."""
    from dg.adapters import LAST_TIMESTEP
    from dg.models.discrete_diffusion import DiscreteDiffusion
    from dg.models.dit import DG_TIME_MIN, LatentDiffusion

    if given is None:
        return DG_TIME_MIN if isinstance(net, LatentDiffusion) else 0.01
    if given <= 1:
        return given
    if not isinstance(net, DiscreteDiffusion) or given != int(given):
        raise click.UsageError(
            f"--time_min {given:g} is no VP time; give 0 to 1, or to a DDPM, ADM or DiT a timestep."
        )
    if given >= LAST_TIMESTEP and console.speaks():
        console.notify(f"unguided: no timestep is above --time_min {given:g}")
    return (given + 0.5) / LAST_TIMESTEP


def discriminator_of(net, sampling, device, options):
    """The discriminator that the options name."""
    return _discriminator(net, sampling, device, _with_files(net, options))


def _with_files(net, options):
    """The options with the files of the heads, which are the authors' own where none are given."""
    options = options | _published(net, options)
    heads = [head_file(path) for path in options["discriminator_ckpt"]]
    return options | {"discriminator_ckpt": heads}


def is_asked_for():
    """Whether any option of discriminator guidance is given; without one, this is EDM's
    generate.py."""
    return any(map(console.given, ("discriminator_ckpt", *GUIDANCE_OPTIONS)))


def _published(net, options):
    """The options of files, or the authors' own files for CIFAR-10 if none are given.

    Their code guides by default, and the commands that they publish leave the options out.
    """
    import edm

    heads, classifier = options["discriminator_ckpt"], options["pretrained_classifier_ckpt"]
    on_cifar = isinstance(net, edm.Preconditioner) and net.img_resolution == 32
    if not heads and not (on_cifar and net.img_channels == 3):
        raise click.UsageError(
            "the options of guidance need a discriminator; give --discriminator_ckpt PATH."
        )
    cond = bool(net.label_dim if options["cond"] is None else options["cond"])
    wanted = {}
    if not heads:
        wanted["discriminator_ckpt"] = DISCRIMINATORS[cond]
    if not classifier and (partner := classifier_of(heads)):
        return {"pretrained_classifier_ckpt": partner}
    bare = all(Path(head).suffix == ".pt" for head in heads)  # the authors' form of a head
    if not classifier and bare and (not heads or (on_cifar and CLASSIFIER.exists())):
        wanted["pretrained_classifier_ckpt"] = CLASSIFIER
    if missing := [str(path) for path in wanted.values() if not path.exists()]:
        raise click.UsageError(
            f"guidance takes the authors' files by default, but {' and '.join(missing)} "
            "cannot be found here; give --discriminator_ckpt and "
            "--pretrained_classifier_ckpt (for example "
            f"dg-cifar10-{'cond' if cond else 'uncond'}-discriminator and "
            "dg-cifar10-classifier), or --dg_weight_1st_order 0 for images without guidance."
        )
    if wanted and console.speaks():
        console.notify(f"guided by the authors' {' and '.join(map(str, wanted.values()))}")
    found = {name: str(path) for name, path in wanted.items()}
    return found | ({} if heads else {"discriminator_ckpt": (found["discriminator_ckpt"],)})


def _first_weight(net, options, log_ratio):
    """The weight of the first order. Options that mean nothing for this kind of network are
    refused."""
    from dg.models.discrete_diffusion import DiscreteDiffusion
    from dg.models.vae import VAE

    discrete = isinstance(net, DiscreteDiffusion)
    if isinstance(net, VAE):
        console.refuse(
            {"discriminator_ckpt", *GUIDANCE_OPTIONS}, "a VAE, which is sampled in one step"
        )
    if discrete:
        console.refuse(
            [name for name in ("w2", "boosting") if options[name]],
            f"a {type(net).__name__}, whose steps have one stage and no churn",
        )
        if options["guide_every"] > 1:
            console.refuse({"guide_every"}, f"a {type(net).__name__}; it is for score networks")
    if options["w1"] is not None:
        return options["w1"]
    if log_ratio is not None:
        return 0
    return 1 if discrete else 2


def _difference(net, sampling, device, options):
    """The score difference from its file; options that mean nothing for it are refused."""
    from dg.checkpoints import load_difference

    heads, what = options["discriminator_ckpt"], "a head that gives a difference of scores"
    if len(heads) > 1:
        raise click.UsageError(f"{what} guides alone; give one --discriminator_ckpt.")
    console.refuse(OF_LOG_RATIO, what)
    difference = load_difference(heads[0], net, device)
    refuse_unused_classifier(difference)
    _check_classes(difference, net, sampling, options)
    return difference


def _discriminator(net, sampling, device, options):
    """The discriminator from its files; one that does not fit the network is refused."""
    from dg.checkpoints import MissingLoRA, load_discriminator

    lora = _lora_path(options)
    try:
        discriminator = load_discriminator(
            input_file(options["pretrained_classifier_ckpt"]),
            options["discriminator_ckpt"],
            net,
            device=device,
            lora_path=input_file(lora),
            weights=options["member_weights"],
            average="sum" if options["ensemble"] == "sum" else "logits",
            lora_rank=options["lora_rank"] if lora else None,
            calibrated=options["calibrated"],
        )
    except MissingLoRA as error:
        raise click.UsageError(f"--lora_checkpoint: {error}") from None
    refuse_unused_classifier(discriminator)
    _check_classes(discriminator, net, sampling, options)
    return discriminator


def _check_classes(discriminator, net, sampling, options):
    """Refuse one whose classes are not those that are asked for, or that the network does not
    draw."""
    from dg.sampling import as_model

    if options["cond"] is not None and bool(options["cond"]) != discriminator.conditional:
        found = "conditional" if discriminator.conditional else "unconditional"
        raise click.UsageError(
            f"--cond {int(options['cond'])}, but the discriminator is {found}; leave --cond out."
        )
    if discriminator.conditional and not as_model(net).num_classes(sampling):
        raise click.UsageError(
            "the discriminator is conditional, but the network draws no classes; give an "
            "unconditional discriminator."
        )


def refuse_unused_classifier(discriminator):
    """A usage error where a classifier is given beside heads that do not see its features."""
    if "classifier" not in discriminator.kinds:
        which = f"a discriminator on the extractor {' and '.join(discriminator.kinds)}"
        console.refuse({"pretrained_classifier_ckpt"}, which)


def _lora_path(options):
    """The LoRA's file; a rank of 0 or less switches it off, as in the published commands of the
    LoRA reproduction."""
    path, rank = options["lora_checkpoint"], options["lora_rank"]
    if rank is not None and rank <= 0:
        return None
    if rank is not None and path is None:
        raise click.UsageError("--lora_rank needs a file; give --lora_checkpoint PATH.")
    return path
