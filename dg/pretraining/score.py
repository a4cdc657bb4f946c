"""Training of score networks (Karras et al. 2022), for data without a public checkpoint."""

import copy
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch

import edm
from dg.data.datasets import ImageSet
from dg.fingerprints import fingerprint
from dg.pretraining.batches import RandomBatch
from dg.pretraining.ddo import DDO, ddo_loss, log_ratios
from dg.pretraining.engine import Run, Stepper, Values, update_average
from dg.pretraining.presets import PRECONDITIONING, SCORE_PRESETS, ScoreTraining, score_recipe
from dg.runtime.files import atomic_write, plain
from dg.runtime.processes import SINGLE_PROCESS, Ranks
from dg.runtime.progress import Progress, silent
from dg.runtime.randomness import seeded, step_generator

__all__ = [
    "SCORE_PRESETS",
    "ScoreTraining",
    "build_score_network",
    "score_recipe",
    "train_score_network",
]

# The loss that goes with a preconditioning (Karras et al. 2022, table 1).
LOSSES = {
    "EDMPrecond": lambda net, settings: edm.EDMLoss(
        settings.P_mean, settings.P_std, net.sigma_data
    ),
    "VPPrecond": lambda net, settings: edm.VPLoss(
        net.beta_d, net.beta_min, net.init_kwargs["epsilon_t"]
    ),
    "VEPrecond": lambda net, settings: edm.VELoss(net.sigma_min, net.sigma_max),
}


def build_score_network(
    data: ImageSet, network: dict, seed: int, conditional: bool = False
) -> edm.Preconditioner:
    """A network for the images of `data`, its initial weights drawn from `seed`.

    network  arguments of the preconditioner and its U-Net; `precond` ("edm", "vp", "ve") chooses
             the class, default "edm"
    """
    if conditional and data.labels is None:
        raise ValueError(
            f"{data.name}: has no labels; give a labelled set, or train an unconditional network"
        )
    arguments = dict(network)
    precondition = getattr(edm, PRECONDITIONING[arguments.pop("precond", "edm")])
    with seeded(seed):
        return precondition(
            img_resolution=data.resolution,
            img_channels=data.channels,
            label_dim=data.num_classes if conditional else 0,
            **arguments,
        )


def train_score_network(
    net: edm.Preconditioner,
    data: ImageSet,
    settings: ScoreTraining,
    state_path=None,
    progress: Progress = silent,
    save_seconds: float = 20,
    snap: int = 0,
    ranks: Ranks = SINGLE_PROCESS,
    microbatch: int | None = None,
    observe: Callable[[edm.Preconditioner], dict] | None = None,
    ddo: DDO | None = None,
) -> tuple[edm.Preconditioner, list[dict]]:
    """Train `net`, from the weights that it has, on `data`, and return (its exponential moving
    average, frozen; loss log).

    state_path    the training state is kept there, and log.jsonl and snapshots beside it
    save_seconds  how often, besides at the end
    snap          thousands of images from one snapshot of the average to the next,
                  network-snapshot-KKKKKK.safetensors; 0 = none
    ranks         processes that share every batch; all call this alike and get the same result
    microbatch    images that a process computes at once; None: all of its part
    observe       called with the average now and then; the values that it returns join the log,
                  such as {"test_loss": ...}
    ddo           train by its loss in place of the denoising loss: each step takes as many
                  generated images as real ones. Networks are without dropout then, as in sampling

    A run that finds a state goes on from it and ends with the same weights as one that was never
    interrupted; one with more steps trains on. How many processes there are and how large
    micro-batches are changes results by rounding only (and dropout's masks with the micro-batches).
    ValueError, before training, for what does not fit together.
    """
    device = next(net.parameters()).device
    _check(net, data, settings, state_path, snap)
    losses = _losses(net, data, settings, ddo)
    ema = copy.deepcopy(net).eval().requires_grad_(False)
    optimizer = torch.optim.Adam(
        net.train(ddo is None).parameters(),
        lr=settings.lr,
        betas=(0.9, 0.999),
        eps=settings.adam_eps,
    )
    stepper = Stepper(
        optimizer, settings.batch_size, device, settings.precision, ranks, microbatch, settings.seed
    )
    identity = _identity(net, data, settings, ddo)
    holders = dict(net=net, ema=ema, optimizer=optimizer, scaler=stepper.scaler)
    run = Run(state_path, identity, holders, ranks, observe and (lambda step: observe(ema)))

    def update(step: int) -> Values:
        seen = (step + 1) * settings.batch_size
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * min(seen / max(settings.warmup, 1), 1)
        values = stepper.step(step, losses(step))
        update_average(ema.parameters(), net.parameters(), settings, step)
        if snap and ranks.first and seen % (1000 * snap) < settings.batch_size:
            name = f"network-snapshot-{seen // 1000:06d}.safetensors"
            with atomic_write(Path(state_path).with_name(name)) as file:
                edm.save_network(file, ema)
        return values

    return ema, run.train(update, settings.steps, progress, "score network", save_seconds)


def _identity(net, data: ImageSet, settings: ScoreTraining, ddo: DDO | None) -> dict:
    """What a state must agree on; without DDO as it has always been."""
    told, images = plain(asdict(replace(settings, steps=0))), data.fingerprint()
    if ddo is not None:
        told = told | {"ddo": [ddo.alpha, ddo.beta]}
        images = [images, ddo.generated.fingerprint()]
    network = [plain(net.init_kwargs), fingerprint(net)]
    return {"settings": told, "network": network, "images": images}


def _losses(net, data: ImageSet, settings: ScoreTraining, ddo: DDO | None):
    """The loss by step; the reference of DDO is the network as it is now."""
    if ddo is None:
        return partial(_batch_loss, net, data, settings)
    _check_images(net, ddo.generated)
    reference = copy.deepcopy(net).eval().requires_grad_(False)
    return partial(_ddo_loss, net, reference, data, ddo, settings)


def _loss_of(net, settings: ScoreTraining) -> edm.DenoisingLoss:
    return LOSSES[type(net).__name__](net, settings)


def _batch_loss(net, data: ImageSet, settings: ScoreTraining, step: int):
    """The denoising loss on a part of a step's batch."""
    loss, drawn = _loss_of(net, settings), _drawn(net, data, settings, step)
    return lambda part: {"loss": loss.error(net, *drawn(part)).mean()}


def _ddo_loss(net, reference, data: ImageSet, ddo: DDO, settings: ScoreTraining, step: int):
    """The loss of DDO on a part of a step's batch, and the mean log ratios of its two kinds of
    images."""
    loss, real = _loss_of(net, settings), _drawn(net, data, settings, step)
    generated = _drawn(net, ddo.generated, settings, step, "generated ")

    def values(part: slice) -> Values:
        pairs = zip(real(part), generated(part), strict=True)
        both = [None if one is None else torch.cat([one, other]) for one, other in pairs]
        ratios = log_ratios(loss, net, reference, *both).chunk(2)
        means = {"real_log_ratio": ratios[0].mean(), "generated_log_ratio": ratios[1].mean()}
        return {"loss": ddo_loss(*ratios, ddo.alpha, ddo.beta)} | means

    return values


def _drawn(
    net, data: ImageSet, settings: ScoreTraining, step: int, kind: str = ""
) -> Callable[[slice], tuple]:
    """The images of a part of a step's batch, their noise levels, noise, classes and labels of
    augmentation, as `DenoisingLoss.error` takes them. The batch is drawn as a whole from (seed,
    kind, step)."""
    size, device = settings.batch_size, next(net.parameters()).device
    generator = step_generator(settings.seed, f"{kind}score", step)
    batch = RandomBatch(data, size, generator)
    batch.mirror(generator, settings.flip)
    pipe = edm.AugmentPipe(settings.augment) if settings.augment else None
    transforms = pipe and pipe.draw(size, step_generator(settings.seed, f"{kind}augment", step))
    shape = [size, net.img_channels, net.img_resolution, net.img_resolution]
    noises = step_generator(settings.seed, f"{kind}noise", step, device)
    sigma, noise = _loss_of(net, settings).draw(shape, device, noises)

    def drawn(part: slice) -> tuple:
        images, one_hot, augment_labels = batch.items(part).to(device), None, None
        if pipe:
            images, augment_labels = pipe.apply(images, transforms[part])
        if net.label_dim:
            one_hot = torch.eye(net.label_dim)[batch.labels(part)].to(device)
        return images, sigma[part], noise[part], one_hot, augment_labels

    return drawn


def _check(net, data: ImageSet, settings: ScoreTraining, state_path, snap: int) -> None:
    """ValueError for what cannot be trained together."""
    if type(net).__name__ not in LOSSES:
        raise ValueError(
            f"{type(net).__name__} cannot be trained here; take one of {', '.join(LOSSES)}"
        )
    _check_images(net, data)
    augment_dim = net.init_kwargs.get("augment_dim", 0)
    if settings.augment and augment_dim != edm.AugmentPipe.dim:
        raise ValueError(
            f"the network has augment_dim {augment_dim}, but augmentation takes "
            f"{edm.AugmentPipe.dim}; build it with augment_dim={edm.AugmentPipe.dim}, or leave "
            "augmentation out"
        )
    if snap and state_path is None:
        raise ValueError("snapshots are written beside the state; give state_path")


def _check_images(net, data: ImageSet) -> None:
    """ValueError for images that are not of the network's size and classes."""
    if (data.resolution, data.channels) != (net.img_resolution, net.img_channels):
        raise ValueError(
            f"{data.name}: {data.resolution} pixels and {data.channels} channels, but the "
            f"network takes {net.img_resolution} and {net.img_channels}; give images of that "
            "size"
        )
    if net.label_dim and (data.labels is None or data.num_classes > net.label_dim):
        raise ValueError(
            f"{data.name}: {data.num_classes} classes, but the network has {net.label_dim}; "
            "give a set of these classes"
        )
