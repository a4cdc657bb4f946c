"""How far log ratios and gradients at 64 pixels are from those of particle resampling's own code.

    python -m benchmarks.original_discriminators --repo ../diffusion_resampling

The argument is a checkout of UCSB-NLP-Chang/diffusion_resampling (Liu et al. 2024). Its networks get
random weights and are saved; both sides load the files. The authors take the logarithm of 1 + sigma^2
in float32, which is inexact at small noise levels: what their own result moves by with a better
logarithm stands beside.
"""

import argparse
import tempfile
from pathlib import Path
from types import ModuleType
from unittest import mock

import torch

from benchmarks.networks import random_weights
from benchmarks.original_samplers import loaded
from benchmarks.timing import finish
from dg import vp
from dg.checkpoints import load_discriminator
from dg.discriminator import CLIP, log_ratio

COLUMNS = ("case", "log ratio, abs", "gradient, rel", "of their logarithm, abs", "rel")
LEVELS = (0.05, 0.5, 2.0, 20.0)


def files(script: ModuleType, folder: Path, conditional: bool) -> tuple[Path, Path]:
    """A classifier and a discriminator of the authors' code with random weights, as it loads
    them."""
    made = [
        script.load_classifier(None, 64, "cpu"),
        script.load_discriminator(None, "cpu", conditional),
    ]
    paths = folder / "classifier.pt", folder / "discriminator.pt"
    for seed, (network, path) in enumerate(zip(made, paths, strict=True)):
        torch.save(random_weights(network, seed, gain=1.0).state_dict(), path)
    return paths


def rows_of(script: ModuleType, folder: Path, conditional: bool) -> list[dict]:
    paths, rows = files(script, folder, conditional), []
    theirs = script.get_discriminator(*paths, conditional, 64, "cpu")
    ours = load_discriminator(*paths)
    labels = torch.eye(1000)[[3, 7]] if conditional else None

    def original(x, sigma):
        """(log ratio, its gradient) of the authors' code, which gives the latter times -sigma^2."""
        at = (theirs, script.vpsde(), x, sigma.reshape(1), 64, 0.0, 1.0, labels)
        scaled, ratio = script.get_grad_log_ratio(*at, log=True)
        return ratio.detach(), -scaled / sigma**2

    for sigma in map(torch.tensor, LEVELS):
        z, noise = torch.randn(2, 2, 3, 64, 64)
        x = (0.5 * z + sigma * noise).requires_grad_()
        ratio = log_ratio(ours, x, sigma, labels, CLIP)
        (gradient,) = torch.autograd.grad(ratio.sum(), x)
        first = original(x.detach(), sigma)
        better = mock.patch.object(script.vpsde, "compute_tau", lambda _, s: vp.from_sigma(s)[0])
        with better:
            moved = original(x.detach(), sigma)
        case = f"{'with' if conditional else 'without'} classes, noise level {float(sigma):g}"
        cells = [*off((ratio.detach(), gradient), first), *off(moved, first)]
        rows.append(dict(zip(COLUMNS, (case, *cells), strict=True)))
    return rows


def off(pair, reference) -> tuple[float, float]:
    """How far log ratios and gradients are off: absolutely, and relative to the largest."""
    ratio, gradient = (
        float((one - other).abs().max()) for one, other in zip(pair, reference, strict=True)
    )
    return ratio, gradient / float(reference[1].abs().max())


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repo", type=Path, required=True, help="checkout of the repository")
    parser.add_argument("--out", help="also write the rows as JSON")
    options = parser.parse_args()
    torch.manual_seed(0)
    script, rows = loaded(options.repo / "benchmarks" / "classifier_lib.py"), []
    with tempfile.TemporaryDirectory() as folder:
        for conditional in (False, True):
            rows += rows_of(script, Path(folder), conditional)
    finish("benchmarks.original_discriminators", rows, COLUMNS, "cpu", options.out)


if __name__ == "__main__":
    main()
