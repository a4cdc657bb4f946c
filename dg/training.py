"""Training of a discriminator's head: real against generated images at every noise level (Kim et al. 2023, Eq. 7)."""

import copy
import json
import math
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dg import vp
from dg.discriminator import Discriminator, save_head
from dg.runtime.datasets import ImageSet, to_float
from dg.runtime.files import plain, writable_folder, write_text
from dg.runtime.progress import Progress, silent
from dg.runtime.training_state import Every, load_state, save_state, step_generator


@dataclass(frozen=True)
class DiscriminatorTraining:
    """How to train. One epoch is a pass over the larger of the two training sets."""

    epochs: int = 20
    batch_size: int = 128  # half of it real, half generated, so that the prior odds are even
    lr: float = 3e-4
    weight_decay: float = 1e-7
    lr_schedule: str = "constant"  # or "cosine": to zero at the last epoch
    ema_halflife: int = 0  # images in which the weight of an old head halves; 0 = no averaging
    time_sampling: str = "importance"  # or "uniform" in VP time, or "lognormal": ln(sigma) ~ N(P_mean, P_std^2)
    time_min: float = 1e-5  # smallest VP time of the first two
    P_mean: float = -1.2  # of the last
    P_std: float = 1.2
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)  # train, validation, test
    unequal: bool = False  # allow different numbers of real and generated images; batches stay half and half
    keep_every: int = 0  # also keep the head of every so many epochs
    seed: int = 0


PRESETS = {
    "default": DiscriminatorTraining(),
    # A small head and an average over many steps: the 1,437 real images are soon learned by heart.
    "digits": DiscriminatorTraining(epochs=24, lr=2e-3, ema_halflife=8800, time_sampling="lognormal",
                                    split=(0.9, 0.1, 0.0), unequal=True),
}


class Split(NamedTuple):
    """Real and generated images of one split, on the training device."""

    images: tuple[Tensor, Tensor]  # real, generated: each [n, C, H, W] float32 in [-1, 1]
    labels: tuple[Tensor, Tensor] | None  # each [n, K] one-hot

    def batch(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """(images [N, C, H, W], labels [N, K] or None, targets [N]: 1 real, 0 generated) at the given indices."""
        images = torch.cat([self.images[0][real], self.images[1][fake]])
        labels = None if self.labels is None else torch.cat([self.labels[0][real], self.labels[1][fake]])
        return images, labels, torch.cat([torch.ones(len(real)), torch.zeros(len(fake))]).to(images.device)


def check_sets(real: ImageSet, fake: ImageSet, settings: DiscriminatorTraining, conditional: bool) -> None:
    """Refuse sets that cannot be told apart fairly, before anything is computed."""
    if (real.resolution, real.channels) != (fake.resolution, fake.channels):
        raise ValueError(f"{fake.name}: images of {fake.resolution} pixels and {fake.channels} channels, but {real.name} "
                         f"has {real.resolution} pixels and {real.channels} channels; give sets of one kind")
    if len(real) != len(fake) and not settings.unequal:
        raise ValueError(f"{real.name} has {len(real)} images and {fake.name} has {len(fake)}: take the same number of "
                         f"both with --num_data {min(len(real), len(fake))}, or all with --unequal")
    for data in (real, fake):
        if len(data) * 2 < settings.batch_size:
            raise ValueError(f"{data.name}: {len(data)} images are fewer than half a batch of {settings.batch_size}; "
                             "give more images or a smaller --batch_size")
        if conditional and data.labels is None:
            raise ValueError(f"{data.name}: has no class labels, which a conditional discriminator needs")
    if conditional and real.num_classes != fake.num_classes:
        raise ValueError(f"{real.name} has labels of {real.num_classes} classes and {fake.name} of {fake.num_classes}; "
                         "give sets of the same classes")


def split_sets(real: ImageSet, fake: ImageSet, fractions, seed: int, conditional: bool, device="cpu") -> list[Split]:
    """Disjoint train, validation and test splits; which image goes where depends on the seed and the set's size."""
    parts = []
    for data in (real, fake):
        bounds = np.round(np.cumsum(fractions) / sum(fractions) * len(data)).astype(int)
        parts.append(np.split(np.random.default_rng(seed).permutation(len(data)), bounds[:-1]))
    splits = []
    for indices in zip(*parts, strict=True):
        pairs = list(zip((real, fake), indices, strict=True))
        images = tuple(to_float(data.images[index]).to(device) for data, index in pairs)
        labels = tuple(torch.eye(real.num_classes)[data.labels[index]].to(device) for data, index in pairs)\
            if conditional else None
        splits.append(Split(images, labels))
    return splits


def draw_sigma(settings: DiscriminatorTraining, n: int, generator: torch.Generator, device="cpu") -> Tensor:
    """Noise levels of a batch, float64 [n]."""
    u = torch.rand(n, generator=generator, dtype=torch.float64, device=device)
    if settings.time_sampling == "importance":
        return vp.to_sigma(vp.importance_time(u, settings.time_min)[0])
    if settings.time_sampling == "uniform":
        return vp.to_sigma(vp.uniform_time(u, settings.time_min))
    if settings.time_sampling == "lognormal":
        return (torch.special.ndtri(u.clamp(1e-9, 1 - 1e-9)) * settings.P_std + settings.P_mean).exp()
    raise ValueError(f"time_sampling is {settings.time_sampling!r}; use importance, uniform or lognormal")


def perturb(images: Tensor, sigma: Tensor, generator: torch.Generator) -> Tensor:
    """x_0 + sigma z, in the dtype of the images."""
    noise = torch.randn(images.shape, generator=generator, device=images.device)
    return images + sigma.to(images.dtype).reshape(-1, 1, 1, 1) * noise


def train_discriminator(discriminator: Discriminator, real: ImageSet, fake: ImageSet, settings: DiscriminatorTraining,
                        folder, conditional: bool = False, progress: Progress = silent,
                        save_seconds: float = 20) -> list[dict]:
    """Train the only head of `discriminator` in place, keep checkpoints in `folder`, return the log (a dict per epoch).

    `best.safetensors` has the lowest validation loss, `last.safetensors` is the final one, `epoch_NNN.safetensors` every
    `keep_every`; `log.jsonl` one line per epoch. A rerun in the same folder goes on where the last one stopped and ends
    with the same weights. Raises ValueError, before training, for sets that do not fit.
    """
    check_sets(real, fake, settings, conditional)
    folder, head, device = writable_folder(folder), discriminator.heads[0], discriminator.weights.device
    train, valid, _ = split_sets(real, fake, settings.split, settings.seed, conditional, device)
    if not all(len(images) for images in train.images + valid.images):
        raise ValueError(f"the split {settings.split} leaves no training or validation images")
    head.requires_grad_(True)
    average = copy.deepcopy(head).eval().requires_grad_(False)
    optimizer = torch.optim.Adam(head.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    start, log, best = 0, [], None
    if (state := load_state(folder / "state.pt")) is not None:
        if state["settings"] != plain(asdict(settings)):
            raise ValueError(f"{folder}: holds a training run with other settings; choose another folder or delete it")
        head.load_state_dict(state["head"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        start, log, best = state["epoch"], state["log"], state["best"]

    def save(epoch):
        save_state(folder / "state.pt", dict(head=head.state_dict(), average=average.state_dict(), log=log, best=best,
                                             optimizer=optimizer.state_dict(), epoch=epoch,
                                             settings=plain(asdict(settings))))

    def keep(name, epoch):
        save_head(folder / f"{name}.safetensors", average, discriminator.extractor, asdict(settings) | {"epoch": epoch})

    due = Every(save_seconds)
    for epoch in progress(range(start, settings.epochs), desc="discriminator", initial=start, total=settings.epochs,
                          unit="epoch"):
        steps = _train_epoch(discriminator, head, average, optimizer, train, settings, epoch)
        discriminator.heads[0] = average
        entry = {"epoch": epoch + 1, "step": (epoch + 1) * steps}
        for name, split in (("train", train), ("valid", valid)):
            measured = evaluate(discriminator, split, settings)
            entry |= {f"{name}_{key}": value for key, value in measured.items()}
        discriminator.heads[0] = head
        if not np.isfinite(entry["valid_loss"]):
            raise ValueError(f"the validation loss is not finite at epoch {epoch + 1}; lower the learning rate")
        log.append(entry)
        if best is None or entry["valid_loss"] < best["valid_loss"]:
            best = entry
            keep("best", epoch + 1)
        if settings.keep_every and (epoch + 1) % settings.keep_every == 0:
            keep(f"epoch_{epoch + 1:03d}", epoch + 1)
        if due():
            save(epoch + 1)
    keep("last", settings.epochs)
    save(settings.epochs)
    write_text(folder / "log.jsonl", "".join(json.dumps(entry) + "\n" for entry in log))
    discriminator.heads[0] = average
    return log


def best_entry(log: list[dict]) -> dict:
    """The epoch of lowest validation loss, the one that `best.safetensors` holds."""
    return min(log, key=lambda entry: entry["valid_loss"])


def _train_epoch(discriminator, head, average, optimizer, train: Split, settings, epoch: int) -> int:
    """One pass over the larger set, the smaller one again as often as that takes; returns the number of steps."""
    head.train()
    device = discriminator.weights.device
    generator, half = step_generator(settings.seed, "discriminator", epoch, device), settings.batch_size // 2
    longest = max(len(images) for images in train.images)
    order = [_endless_permutation(len(images), longest, generator, device) for images in train.images]
    steps = max(longest // half, 1)
    for step in range(steps):
        rate = (epoch + step / steps) / settings.epochs if settings.lr_schedule == "cosine" else 0.0
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * 0.5 * (1 + math.cos(math.pi * rate))
        part = slice(step * half, (step + 1) * half)
        images, labels, targets = train.batch(order[0][part], order[1][part])
        sigma = draw_sigma(settings, len(images), generator, device)
        logits = discriminator(perturb(images, sigma, generator), sigma, labels)
        loss = F.binary_cross_entropy_with_logits(logits, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        _update_average(average, head, settings)
    return steps


def _endless_permutation(n: int, length: int, generator, device) -> Tensor:
    """`length` indices below n: whole permutations, one after the other."""
    rounds = [torch.randperm(n, generator=generator, device=device) for _ in range(-(-length // n))]
    return torch.cat(rounds)[:length]


@torch.no_grad()
def evaluate(discriminator: Discriminator, split: Split, settings: DiscriminatorTraining, num_images: int = 1000,
             batch: int = 500) -> dict:
    """Loss (BCE, nats) and accuracy on `num_images` perturbed images of each kind, the same noise at every call."""
    device = discriminator.weights.device
    generator = step_generator(settings.seed, "evaluate", 0, device)
    counts = [len(images) for images in split.images]
    index = torch.arange(num_images, device=device)
    real, fake = (index * max(n // num_images, 1) % n for n in counts)  # spread over a large set, around a small one
    loss = correct = 0.0
    for part in index.split(batch // 2):
        images, labels, targets = split.batch(real[part], fake[part])
        sigma = draw_sigma(settings, len(images), generator, device)
        logits = discriminator(perturb(images, sigma, generator), sigma, labels)
        loss += F.binary_cross_entropy_with_logits(logits, targets, reduction="sum").item()
        correct += ((logits > 0) == (targets > 0.5)).sum().item()
    return {"loss": loss / (2 * num_images), "accuracy": correct / (2 * num_images)}


@torch.no_grad()
def _update_average(average: nn.Module, head: nn.Module, settings: DiscriminatorTraining) -> None:
    decay = 0.5 ** (settings.batch_size / settings.ema_halflife) if settings.ema_halflife else 0.0
    for old, new in zip(average.parameters(), head.parameters(), strict=True):
        old.lerp_(new, 1 - decay)
