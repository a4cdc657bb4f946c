"""Training of the noise-aware ADM classifier, the extractor of Kim et al. 2023, for data without a
published one.

An encoder of `guided_diffusion` learns the classes of noisy images, or latents, at VP scale
(Dhariwal & Nichol 2021, section 4); its middle-block features are the inputs of a discriminator's
head.
"""

from collections.abc import Callable
from dataclasses import asdict

import torch
from torch import Tensor
from torch.nn import functional as F

from dg import vp
from dg.data.latents import AnySet, LatentSet
from dg.pretraining.batches import RandomBatch
from dg.pretraining.engine import Run, Stepper, Values
from dg.pretraining.presets import CLASSIFIER_PRESETS, NoisyClassifierTraining
from dg.runtime.files import plain
from dg.runtime.processes import SINGLE_PROCESS, Ranks
from dg.runtime.progress import Progress, silent
from dg.runtime.randomness import seeded, step_generator
from guided_diffusion import EncoderUNetModel

__all__ = [
    "CLASSIFIER_PRESETS",
    "NoisyClassifierTraining",
    "build_noisy_classifier",
    "noisy_accuracy",
    "train_noisy_classifier",
]


def build_noisy_classifier(
    resolution: int, channels: int, num_classes: int, settings: NoisyClassifierTraining
) -> EncoderUNetModel:
    """A classifier for such images or latents, its initial weights drawn from the seed."""
    with seeded(settings.seed):
        return EncoderUNetModel(
            image_size=resolution,
            in_channels=channels,
            out_channels=num_classes,
            channel_mult=settings.channel_mult,
            model_channels=settings.model_channels,
            num_res_blocks=settings.num_res_blocks,
            attention_resolutions=settings.attention_resolutions,
        )


def train_noisy_classifier(
    data: AnySet,
    settings: NoisyClassifierTraining,
    device="cpu",
    progress: Progress = silent,
    state_path=None,
    save_seconds: float = 20,
    ranks: Ranks = SINGLE_PROCESS,
    microbatch: int | None = None,
) -> tuple[EncoderUNetModel, list[dict]]:
    """Train on labelled images or latents; returns (classifier in evaluation mode, log). ValueError
    without labels, and for latents that are to be mirrored, which are not the latents of mirrored
    images.

    state_path, save_seconds, ranks, microbatch  as of `dg.pretraining.score.train_score_network`
    """
    if data.labels is None:
        raise ValueError(f"{data.name}: has no labels; give a labelled set")
    if settings.flip and isinstance(data, LatentSet):
        raise ValueError(
            f"{data.name}: latents cannot be mirrored; encode mirrored copies of the images too"
        )
    s = settings
    model = build_noisy_classifier(data.resolution, data.channels, data.num_classes, s).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=s.lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, s.lr, total_steps=s.steps)
    stepper = Stepper(optimizer, s.batch_size, device, s.precision, ranks, microbatch, s.seed)
    identity = {"settings": plain(asdict(s)), "images": data.fingerprint()}
    holders = dict(net=model, optimizer=optimizer, schedule=schedule, scaler=stepper.scaler)
    run = Run(state_path, identity, holders, ranks)

    def update(step: int) -> Values:
        values = stepper.step(step, _batch_loss(model, data, s, step, device))
        schedule.step()
        return values

    log = run.train(update, s.steps, progress, "noisy classifier", save_seconds)
    return model.eval().requires_grad_(False), log


def _batch_loss(
    model, data: AnySet, settings: NoisyClassifierTraining, step: int, device
) -> Callable[[slice], Values]:
    """The loss on a part of a step's batch, drawn as a whole from (seed, step)."""
    size, generator = settings.batch_size, step_generator(settings.seed, "noisy classifier", step)
    batch = RandomBatch(data, size, generator)
    tau = vp.uniform_time(torch.rand(size, generator=generator), settings.time_min)
    noise = torch.randn(size, data.channels, data.resolution, data.resolution, generator=generator)
    batch.mirror(generator, settings.flip)

    def values(part: slice) -> Values:
        labels = batch.labels(part).to(device)
        noisy = _noisy(batch.items(part), tau[part], noise[part])
        logits = model(noisy.to(device), tau[part].to(device))
        return {
            "loss": F.cross_entropy(logits, labels),
            "accuracy": (logits.argmax(1) == labels).float().mean(),
        }

    return values


@torch.no_grad()
def noisy_accuracy(model, data: AnySet, time: float, seed: int = 0, batch_size: int = 256) -> float:
    """Fraction of labelled images that are classified correctly at VP time `time`, with noise from
    `seed`."""
    generator, device = torch.Generator().manual_seed(seed), next(model.parameters()).device
    correct = 0
    for start in range(0, len(data), batch_size):
        batch = data.subset(slice(start, start + batch_size))
        images, tau = batch.floats(slice(None)), torch.full([len(batch)], time)
        logits = model(
            _noisy(images, tau, torch.randn(images.shape, generator=generator)).to(device),
            tau.to(device),
        )
        correct += int((logits.argmax(1).cpu() == torch.from_numpy(batch.labels)).sum())
    return correct / len(data)


def _noisy(images: Tensor, tau: Tensor, noise: Tensor) -> Tensor:
    """Images [N, C, R, R] at VP time tau [N]."""
    return vp.mean(tau).reshape(-1, 1, 1, 1) * images + vp.std(tau).reshape(-1, 1, 1, 1) * noise
