"""How well a discriminator tells real from generated images, or how much a score difference lowers
the denoising error: overall and by noise level."""

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from dg.losses import denoising_errors
from dg.precision import autocast
from dg.recipes import DiscriminatorTraining
from dg.runtime.randomness import step_generator
from dg.training_data import Split, perturb

# edges of the ranges of noise levels that are measured apart
LEVELS = (
    0.0,
    0.1,
    0.3,
    1.0,
    3.0,
    float("inf"),
)
BINS = 10  # bins of the calibration error
DRAWS = 20  # noise draws per image, at most


@torch.no_grad()
def evaluate(discriminator, split: Split, settings: DiscriminatorTraining, net=None) -> dict:
    """Return `binary_metrics` of noisy images of a split, and `levels`: the same by noise level.
    After the loss "difference" `denoising_metrics` instead, `net` being the score network.

    It takes `eval_images` of each kind, spread over a large set and taken with up to 20 noises each
    from a small one. The noise is the same at every call; its levels are stratified, so that they
    hardly differ between splits either.
    """
    if settings.loss == "difference":
        columns, metrics = denoise(discriminator, split, settings, net), denoising_metrics
    else:
        columns, metrics = predict(discriminator, split, settings), binary_metrics
    *values, sigma = columns
    levels = []
    for low, high in pairwise(LEVELS):
        inside = (sigma >= low) & (sigma < high)
        if inside.any():
            levels.append(
                {"sigma": [low, None if high == LEVELS[-1] else high], "n": int(inside.sum())}
                | metrics(*(column[inside] for column in values))
            )
    return metrics(*values) | {"levels": levels}


@torch.no_grad()
def predict(
    discriminator, split: Split, settings: DiscriminatorTraining
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(logits, targets, sigma) of 2 * eval_images noisy images or fewer, each float64 [n]."""

    def measured(batch):
        return discriminator(batch.x, batch.sigma, batch.labels), batch.targets, batch.sigma

    return _columns(measured, split, settings)


@torch.no_grad()
def denoise(
    difference, split: Split, settings: DiscriminatorTraining, net
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(`dg.losses.denoising_errors`, two columns, and sigma) of eval_images noisy images or fewer,
    each float64 [n]."""

    def measured(batch):
        return *denoising_errors(difference, batch, net), batch.sigma

    return _columns(measured, split, settings)


def _columns(measured, split: Split, settings: DiscriminatorTraining) -> tuple[np.ndarray, ...]:
    """What `measured` makes of noisy batches, real and generated images in turn."""
    device, kinds = split.images.device, split.kinds
    n = min(settings.eval_images, DRAWS * max(number for _, number in kinds))
    generator = step_generator(settings.seed, "evaluate", 0, device)
    index = torch.stack(
        [first + _spread(number, n, device) for first, number in kinds], dim=1
    ).flatten()  # [kinds * n]
    u = torch.stack([_stratified(n, generator, device) for _ in kinds], dim=1).flatten()
    u = u.to(getattr(torch, settings.time_dtype))
    columns = []
    microbatch = min(settings.microbatch or settings.batch_size, settings.batch_size)
    for part in torch.arange(len(index), device=device).split(microbatch):
        images, labels, targets = split.batch(index[part])
        z = torch.randn(images.shape, generator=generator, device=device)
        batch = perturb(images, labels, targets, u[part], z, settings)
        with autocast(settings.precision, device):
            found = measured(batch)
        columns.append(torch.stack([column.double() for column in found]))
    return tuple(torch.cat(columns, dim=1).cpu().numpy())


def denoising_metrics(errors: np.ndarray, of_network: np.ndarray) -> dict:
    """Mean denoising error on real images, with the learned correction and of the network alone."""
    return {"loss": float(errors.mean()), "network_loss": float(of_network.mean())}


def binary_metrics(logits: np.ndarray, targets: np.ndarray) -> dict:
    """Loss (cross-entropy, nats), accuracy, ROC-AUC, calibration error; precision and recall of the
    answer "real".

    logits   [n]  log ratios; "real" where positive
    targets  [n]  1 real, 0 generated
    A value that is not defined (AUC of one kind alone, precision if no image was called real) is
    None.
    """
    from sklearn.metrics import roc_auc_score

    real, called = targets > 0.5, logits > 0
    hits = int((real & called).sum())
    finite = bool(np.isfinite(logits).all())
    with np.errstate(invalid="ignore"):
        loss = float(np.mean(np.logaddexp(0, np.where(real, -logits, logits))))
    return {
        "loss": loss,
        "accuracy": float(np.mean(real == called)),
        "auc": float(roc_auc_score(real, logits))
        if finite and 0 < real.sum() < len(real)
        else None,
        "ece": calibration_error(logits, real),
        "precision": hits / int(called.sum()) if called.any() else None,
        "recall": hits / int(real.sum()) if real.any() else None,
    }


def calibration_error(logits: np.ndarray, real: np.ndarray) -> float:
    """Mean distance between predicted probability and share of real images, over bins of equally
    many images. Equal logits, which nothing orders, have the same share."""
    probability = 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
    _, place, count = np.unique(logits, return_inverse=True, return_counts=True)
    error = probability - (np.bincount(place, real) / count)[place]
    parts = np.array_split(np.argsort(logits, kind="stable"), BINS)
    return float(sum(abs(error[part].sum()) for part in parts) / len(logits))


def _spread(count: int, n: int, device) -> Tensor:
    """n indices below `count`: evenly spaced, or round and round where there are fewer."""
    index = torch.arange(n, device=device)
    return index * count // n if count >= n else index % count


def _stratified(n: int, generator, device) -> Tensor:
    """n numbers in random order, one from each n-th of [0, 1], float64."""
    order = torch.randperm(n, generator=generator, device=device)
    return (order + torch.rand(n, generator=generator, dtype=torch.float64, device=device)) / n
