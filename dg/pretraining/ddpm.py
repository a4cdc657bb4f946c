"""Training of DDPMs (Ho et al. 2020; with learned variances Nichol & Dhariwal 2021)."""

import copy
from collections.abc import Callable
from dataclasses import asdict

import torch

from dg.data.datasets import ImageSet
from dg.models.ddpm import DDPM
from dg.pretraining.batches import RandomBatch
from dg.pretraining.engine import Run, Stepper, Values, update_average
from dg.pretraining.presets import DDPMTraining
from dg.runtime.files import plain
from dg.runtime.processes import SINGLE_PROCESS, Ranks
from dg.runtime.progress import Progress, silent
from dg.runtime.randomness import seeded, step_generator
from guided_diffusion import training_losses

RISE = 0.25  # part of the steps over which the learning rate rises, as in MNISTDiffusion


def build_ddpm(
    data: ImageSet, network: dict, settings: DDPMTraining, conditional: bool = False
) -> DDPM:
    """A model for the images of `data` with the noise of `settings`, its initial weights drawn from
    their seed.

    network  as of `DDPM`, without size, channels and classes
    """
    if conditional and data.labels is None:
        raise ValueError(
            f"{data.name}: has no labels; give a labelled set, or train an unconditional network"
        )
    process = dict(
        schedule=settings.schedule,
        num_steps=settings.num_steps,
        variance=settings.variance,
        mean="epsilon",
    )
    shape = dict(
        image_size=data.resolution,
        in_channels=data.channels,
        num_classes=data.num_classes if conditional else 0,
    )
    with seeded(settings.seed):
        return DDPM(process, network | shape)


def train_ddpm(
    data: ImageSet,
    network: dict,
    settings: DDPMTraining,
    conditional: bool = False,
    device="cpu",
    state_path=None,
    progress: Progress = silent,
    save_seconds: float = 20,
    ranks: Ranks = SINGLE_PROCESS,
    microbatch: int | None = None,
    observe: Callable[[DDPM], dict] | None = None,
    after: Callable[[DDPM, int], None] | None = None,
) -> tuple[DDPM, list[dict]]:
    """Train on `data`; returns (exponential moving average of the model, frozen; log of `loss` and
    its share `mse`).

    network, conditional  as of `build_ddpm`
    state_path, save_seconds, ranks, microbatch, observe  as of
                                                          `dg.pretraining.score.train_score_network`
    after  called with the average and the number of steps done after every step

    Interrupted and started again, it ends with the same weights. The one-cycle schedule ends with
    `steps`, so a state goes on to no other number of them. ValueError, before training, for what
    does not fit together.
    """
    s = settings
    model = build_ddpm(data, network, s, conditional).to(device)
    average = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=s.lr, weight_decay=s.weight_decay)
    total = max(s.steps, 5)  # over 1 / RISE steps the schedule would divide by zero
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, s.lr, total_steps=total, pct_start=RISE
    )
    stepper = Stepper(optimizer, s.batch_size, device, s.precision, ranks, microbatch, s.seed)
    identity = {
        "settings": plain(asdict(s)),
        "network": plain(model.init_kwargs),
        "images": data.fingerprint(),
    }
    holders = dict(
        net=model, ema=average, optimizer=optimizer, schedule=schedule, scaler=stepper.scaler
    )
    run = Run(state_path, identity, holders, ranks, observe and (lambda step: observe(average)))

    def update(step: int) -> Values:
        values = stepper.step(step, _batch_loss(model, data, s, step, device))
        schedule.step()
        update_average(average.parameters(), model.parameters(), s, step)
        if after:
            after(average, step + 1)
        return values

    return average, run.train(update, s.steps, progress, "DDPM", save_seconds)


def _batch_loss(
    model: DDPM, data: ImageSet, settings: DDPMTraining, step: int, device
) -> Callable[[slice], Values]:
    """The loss on a part of a step's batch, drawn as a whole from (seed, step)."""
    size, generator = settings.batch_size, step_generator(settings.seed, "ddpm", step)
    batch = RandomBatch(data, size, generator)
    batch.mirror(generator, settings.flip)
    t = torch.randint(model.diffusion.num_steps, [size], generator=generator)
    shape = [size, data.channels, data.resolution, data.resolution]
    noise = torch.randn(
        shape, generator=step_generator(settings.seed, "noise", step, device), device=device
    )

    def values(part: slice) -> Values:
        images, times = batch.items(part).to(device), t[part].to(device)
        classes = {"y": batch.labels(part).to(device)} if model.label_dim else {}
        losses = training_losses(model.diffusion, model.net, images, times, noise[part], classes)
        return {"loss": losses.loss.mean(), "mse": losses.mse.mean()}

    return values
