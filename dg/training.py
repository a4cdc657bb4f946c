"""Training of a discriminator's head: real against generated images at every noise level (Kim et al. 2023, Eq. 7)."""

import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dg import vp
from dg.discriminator import Discriminator, save_head
from dg.runtime.datasets import ImageSet, to_float
from dg.runtime.files import atomic_write
from dg.runtime.progress import Progress, silent
from dg.runtime.training_state import Every, load_state, save_state, step_generator


@dataclass(frozen=True)
class DiscriminatorTraining:
    """How to train. One epoch is a pass over the real and the generated training images together."""

    epochs: int = 20
    batch_size: int = 128  # real and generated images together, half of each
    lr: float = 3e-4
    weight_decay: float = 1e-7
    lr_schedule: str = "constant"  # or "cosine": to zero at the last epoch
    ema_halflife: int = 0  # images in which the weight of an old head halves; 0 = no averaging
    time_min: float = 1e-5  # smallest VP time
    time_sampling: str = "importance"  # or "uniform"
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)  # train, validation, test
    keep_every: int = 0  # also keep the head of every so many epochs
    seed: int = 0


class Pairs(NamedTuple):
    """Real and generated images of one split, equally many, on the training device."""

    images: Tensor  # [2 n, C, H, W] float32 in [-1, 1]; the real ones first
    labels: Tensor | None  # [2 n, K] one-hot

    def __len__(self):
        return len(self.images) // 2

    @property
    def targets(self) -> Tensor:
        """[2 n]: 1 real, 0 generated."""
        return (torch.arange(len(self.images), device=self.images.device) < len(self)).to(torch.float32)


def check_sets(real: ImageSet, fake: ImageSet, batch_size: int, conditional: bool) -> None:
    """Refuse sets that cannot be told apart fairly, before anything is computed."""
    if (real.resolution, real.channels) != (fake.resolution, fake.channels):
        raise ValueError(f"{fake.name}: images of {fake.resolution} pixels and {fake.channels} channels, but {real.name} "
                         f"has {real.resolution} pixels and {real.channels} channels; give sets of one kind")
    if len(real) != len(fake):
        raise ValueError(f"{real.name} has {len(real)} images and {fake.name} has {len(fake)}; a discriminator needs "
                         f"equally many: --num_data {min(len(real), len(fake))} takes the first of both")
    if len(real) * 2 < batch_size:
        raise ValueError(f"{len(real)} real and {len(fake)} generated images are fewer than one batch of {batch_size}; "
                         "give more images or a smaller batch")
    if conditional:
        for data in (real, fake):
            if data.labels is None:
                raise ValueError(f"{data.name}: has no class labels, which a conditional discriminator needs")
        if real.num_classes != fake.num_classes:
            raise ValueError(f"{real.name} has labels of {real.num_classes} classes and {fake.name} of "
                             f"{fake.num_classes}; give sets of the same classes")


def split_pairs(real: ImageSet, fake: ImageSet, fractions, seed: int, conditional: bool, device="cpu") -> list[Pairs]:
    """Train, validation and test pairs, disjoint; the permutation depends on the seed and the number of images."""
    bounds = np.round(np.cumsum(fractions) / sum(fractions) * len(real)).astype(int)
    order = np.random.default_rng(seed).permutation(len(real))
    num_classes = max(real.num_classes, fake.num_classes)
    pairs = []
    for index in np.split(order, bounds[:-1]):
        images = to_float(np.concatenate([real.images[index], fake.images[index]])).to(device)
        labels = None
        if conditional:
            labels = torch.eye(num_classes)[np.concatenate([real.labels[index], fake.labels[index]])].to(device)
        pairs.append(Pairs(images, labels))
    return pairs


def draw_sigma(settings: DiscriminatorTraining, n: int, generator: torch.Generator, device="cpu") -> Tensor:
    """Noise levels of a batch, float64 [n]."""
    u = torch.rand(n, generator=generator, dtype=torch.float64, device=device)
    if settings.time_sampling == "importance":
        return vp.to_sigma(vp.importance_time(u, settings.time_min)[0])
    if settings.time_sampling == "uniform":
        return vp.to_sigma(vp.uniform_time(u, settings.time_min))
    raise ValueError(f"time_sampling is {settings.time_sampling!r}; use importance or uniform")


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
    check_sets(real, fake, settings.batch_size, conditional)
    folder, head, device = Path(folder), discriminator.heads[0], discriminator.weights.device
    train, valid, _ = split_pairs(real, fake, settings.split, settings.seed, conditional, device)
    if not len(train) or not len(valid):
        raise ValueError(f"the split {settings.split} leaves no training or validation images of {len(real)}")
    half = settings.batch_size // 2
    steps = max(len(train) // half, 1)
    head.requires_grad_(True)
    average = copy.deepcopy(head).eval().requires_grad_(False)
    optimizer = torch.optim.Adam(head.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    start, log, best = 0, [], None
    if (state := load_state(folder / "state.pt")) is not None:
        head.load_state_dict(state["head"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        start, log, best = state["epoch"], state["log"], state["best"]

    def save(epoch):
        save_state(folder / "state.pt", dict(head=head.state_dict(), average=average.state_dict(), log=log, best=best,
                                             optimizer=optimizer.state_dict(), epoch=epoch))

    recipe, due = asdict(settings), Every(save_seconds)
    for epoch in progress(range(start, settings.epochs), desc="discriminator", initial=start, total=settings.epochs,
                          unit="epoch"):
        head.train()
        generator = step_generator(settings.seed, "discriminator", epoch, device)
        order = [torch.randperm(len(train), generator=generator, device=device) for _ in range(2)]
        for step in range(steps):
            rate = (epoch + step / steps) / settings.epochs if settings.lr_schedule == "cosine" else 0.0
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * 0.5 * (1 + np.cos(np.pi * rate))
            part = slice(step * half, (step + 1) * half)
            index = torch.cat([order[0][part], len(train) + order[1][part]])
            loss = _batch_loss(discriminator, train, index, settings, generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            _update_average(average, head, settings)
        discriminator.heads[0] = average
        measured = {split: evaluate(discriminator, pairs, settings) for split, pairs in
                    (("train", train), ("valid", valid))}
        discriminator.heads[0] = head
        log.append({"epoch": epoch + 1, **{f"{split}_{name}": value for split, values in measured.items()
                                           for name, value in values.items()}})
        if not np.isfinite(log[-1]["valid_loss"]):
            raise ValueError(f"the validation loss is not finite at epoch {epoch + 1}; lower the learning rate")
        if best is None or log[-1]["valid_loss"] < best["valid_loss"]:
            best = log[-1]
            save_head(folder / "best.safetensors", average, discriminator.extractor, recipe | {"epoch": epoch + 1})
        if settings.keep_every and (epoch + 1) % settings.keep_every == 0:
            save_head(folder / f"epoch_{epoch + 1:03d}.safetensors", average, discriminator.extractor,
                      recipe | {"epoch": epoch + 1})
        if due():
            save(epoch + 1)
    save(settings.epochs)
    save_head(folder / "last.safetensors", average, discriminator.extractor, recipe | {"epoch": settings.epochs})
    discriminator.heads[0] = average
    return log


def _batch_loss(discriminator, pairs: Pairs, index: Tensor, settings, generator) -> Tensor:
    sigma = draw_sigma(settings, len(index), generator, pairs.images.device)
    noisy = perturb(pairs.images[index], sigma, generator)
    logits = discriminator(noisy, sigma, None if pairs.labels is None else pairs.labels[index])
    return F.binary_cross_entropy_with_logits(logits, pairs.targets[index])


@torch.no_grad()
def evaluate(discriminator: Discriminator, pairs: Pairs, settings: DiscriminatorTraining, num_images: int = 2000,
             batch: int = 500) -> dict:
    """Loss (BCE, nats) and accuracy on `num_images` perturbed images, the same noise at every call."""
    generator = step_generator(settings.seed, "evaluate", 0, pairs.images.device)
    n = len(pairs.images)
    index = torch.arange(num_images, device=pairs.images.device) * (n // num_images or 1) % n
    if num_images > n:  # small sets are seen several times, with other noise
        index = torch.arange(num_images, device=pairs.images.device) % n
    loss = correct = 0.0
    for part in index.split(batch):
        sigma = draw_sigma(settings, len(part), generator, pairs.images.device)
        noisy = perturb(pairs.images[part], sigma, generator)
        logits = discriminator(noisy, sigma, None if pairs.labels is None else pairs.labels[part])
        targets = pairs.targets[part]
        loss += F.binary_cross_entropy_with_logits(logits, targets, reduction="sum").item()
        correct += ((logits > 0) == (targets > 0.5)).sum().item()
    return {"loss": loss / num_images, "accuracy": correct / num_images}


@torch.no_grad()
def _update_average(average: nn.Module, head: nn.Module, settings: DiscriminatorTraining) -> None:
    decay = 0.5 ** (settings.batch_size / settings.ema_halflife) if settings.ema_halflife else 0.0
    for old, new in zip(average.parameters(), head.parameters(), strict=True):
        old.lerp_(new, 1 - decay)
