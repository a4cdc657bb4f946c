"""Log ratios that a discriminator gives for noisy images, and their errors if the densities are
known."""

import numpy as np
import torch
from torch import Tensor

from dg.data.datasets import to_float
from dg.runtime.randomness import step_generator

BATCH = 500  # images at once


@torch.no_grad()
def log_ratios(discriminator, images, sigmas, stream: str, device="cpu") -> list[np.ndarray]:
    """Log ratios [N] of an unconditional discriminator for images uint8 [N, H, W, C], at every
    noise level.

    stream  names the noise: another one has other draws
    """
    x, found = to_float(images), []
    for index, sigma in enumerate(sigmas):
        noise = torch.randn(x.shape, generator=step_generator(0, stream, index))
        level = torch.tensor(sigma, device=device)
        parts = (x + sigma * noise).split(BATCH)
        logits = [discriminator(part.to(device), level).cpu() for part in parts]
        found.append(torch.cat(logits).numpy())
    return found


def compare_with_truth(discriminator, data, model, sigma: float, n: int) -> dict[str, Tensor]:
    """True and learned log ratios [2 n] and gradients [2 n, D] on fresh noisy images, half real,
    half generated.

    data, model  with `draw` and `log_density`, as `dg.models.gaussian.Gaussian`
    """
    clean = torch.cat([density.draw(n, 1000 + i) for i, density in enumerate((data, model))])
    generator = torch.Generator().manual_seed(7)
    noise = torch.randn(clean.shape, dtype=torch.float64, generator=generator)
    x = (clean + sigma * noise).requires_grad_()
    truth = data.log_density(x, sigma) - model.log_density(x, sigma)
    learned = discriminator(x, torch.tensor(sigma, dtype=torch.float64)).double()
    result = {"ratio": truth.detach(), "learned_ratio": learned.detach()}
    for name, value in (("gradient", truth), ("learned_gradient", learned)):
        (gradient,) = torch.autograd.grad(value.sum(), x)
        result[name] = gradient.flatten(1)
    return result


def relative_errors(discriminator, data, model, sigmas, n: int) -> dict[str, list[float]]:
    """Root mean square error of log ratio and gradient by noise level, over the truth's own root
    mean square."""
    errors = {"ratio": [], "gradient": []}
    for sigma in sigmas:
        found = compare_with_truth(discriminator.cpu(), data, model, sigma, n)
        for name, values in errors.items():
            difference = (found[f"learned_{name}"] - found[name]).square().mean().sqrt()
            values.append(float(difference / found[name].square().mean().sqrt()))
    return errors
