"""Training of VAEs: the negative ELBO in bits per dimension."""

import math
from collections.abc import Callable
from dataclasses import asdict

import torch

from dg.data.datasets import ImageSet
from dg.models.vae import VAE, elbo
from dg.pretraining.batches import RandomBatch
from dg.pretraining.engine import Run, Stepper, Values
from dg.pretraining.presets import VAETraining
from dg.runtime.files import plain
from dg.runtime.processes import SINGLE_PROCESS, Ranks
from dg.runtime.progress import Progress, silent
from dg.runtime.randomness import seeded, step_generator


def build_vae(data: ImageSet, network: dict, seed: int) -> VAE:
    """Build a model for the images of `data`, its initial weights drawn from `seed`. `network`: the
    other arguments of `VAE`."""
    with seeded(seed):
        return VAE(data.resolution, data.channels, **network)


def train_vae(
    data: ImageSet,
    network: dict,
    settings: VAETraining,
    device="cpu",
    state_path=None,
    progress: Progress = silent,
    save_seconds: float = 20,
    ranks: Ranks = SINGLE_PROCESS,
    microbatch: int | None = None,
    observe: Callable[[VAE], dict] | None = None,
    after: Callable[[VAE, int], None] | None = None,
) -> tuple[VAE, list[dict]]:
    """Train on `data`; returns (model, frozen; log of `loss`, the negative ELBO, and its part `kl`,
    both in bits/dim).

    state_path, save_seconds, ranks, microbatch, observe  as of
                                                          `dg.pretraining.score.train_score_network`
    after  called with the model and the number of steps done after every step

    Interrupted and started again, it ends with the same weights. The one-cycle schedule ends with
    `steps`, so a state goes on to no other number of them.
    """
    s = settings
    model = build_vae(data, network, s.seed).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=s.lr, weight_decay=s.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, s.lr, total_steps=s.steps)
    stepper = Stepper(optimizer, s.batch_size, device, s.precision, ranks, microbatch, s.seed)
    identity = {
        "settings": plain(asdict(s)),
        "network": plain(model.init_kwargs),
        "images": data.fingerprint(),
    }
    holders = dict(net=model, optimizer=optimizer, schedule=schedule, scaler=stepper.scaler)
    run = Run(state_path, identity, holders, ranks, observe and (lambda step: observe(model)))

    def update(step: int) -> Values:
        values = stepper.step(step, _batch_loss(model, data, s, step, device))
        schedule.step()
        if after:
            after(model, step + 1)
        return values

    log = run.train(update, s.steps, progress, "VAE", save_seconds)
    return model.eval().requires_grad_(False), log


def _batch_loss(
    model: VAE, data: ImageSet, settings: VAETraining, step: int, device
) -> Callable[[slice], Values]:
    """The loss on a part of a step's batch, drawn as a whole from (seed, step)."""
    size, generator = settings.batch_size, step_generator(settings.seed, "vae", step)
    batch = RandomBatch(data, size, generator)
    batch.mirror(generator, settings.flip)
    noise = torch.randn(size, model.latent_dim, generator=generator)
    bits = data.images[0].size * math.log(2)  # nats of an image in one bit per dimension

    def values(part: slice) -> Values:
        images = batch.items(part).to(device)
        reconstruction, divergence = elbo(model, images, noise[part].to(device))
        return {"loss": (reconstruction + divergence).mean() / bits, "kl": divergence.mean() / bits}

    return values
