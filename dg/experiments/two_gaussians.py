"""What a discriminator learns where the truth is known: two Gaussians, their log density ratio and
its gradient.

Real and generated images are drawn from Gaussians that differ in mean and spread. Each loss of
dg.losses trains the same small head on many images and on few; errors by noise level, against the
closed form.
"""

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dg.checkpoints import FORMAT
from dg.data.datasets import ImageSet, to_uint8
from dg.discriminator import Discriminator
from dg.evaluation.figures import ratio_errors, ratio_scatter
from dg.evaluation.report import (
    Document,
    Note,
    Picture,
    Section,
    Table,
    text_of,
    write_markdown,
    write_report,
)
from dg.evaluation.uncertainty import summarise_repeats
from dg.experiments.common import one_thread
from dg.experiments.pipeline import Stages
from dg.experiments.provenance import provenance
from dg.experiments.sections import how_it_was_run
from dg.extractors import PixelExtractor
from dg.recipes import LOSS_WEIGHTS, DiscriminatorTraining
from dg.runtime.files import read_json, write_json
from dg.runtime.randomness import seeded
from dg.training import train_discriminator
from edm.checkpoint import read_safetensors

SIDE = 4  # pixels


@dataclass(frozen=True)
class Settings:
    """Everything the numbers depend on."""

    training: DiscriminatorTraining = DiscriminatorTraining(
        epochs=1,
        batch_size=256,
        lr=2e-3,
        ema_halflife=10_000,
        ema_rampup=0.0,
        P_mean=-1.5,
        P_std=1.0,
        split=(0.8, 0.2, 0.0),
        eval_images=2000,
    )
    losses: tuple[str, ...] = tuple(LOSS_WEIGHTS)  # with the weights that are the default
    sizes: tuple[int, ...] = (20_000, 500)  # images of each kind
    steps: int = 1500
    sigmas: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.8)
    num_test: int = 2000  # fresh images of each kind
    width: int = 128


PROFILES = {"full": Settings(), "smoke": Settings(sizes=(600, 200), steps=8, num_test=50, width=16)}


class Gaussian:
    """Images [N, 1, SIDE, SIDE] with independent pixels, and the exact denoiser of them."""

    img_resolution, img_channels, label_dim = SIDE, 1, 0

    def __init__(self, mean: float, sd: float):
        sign = torch.tensor([1.0, -1.0]).repeat(SIDE * SIDE // 2).reshape(1, 1, SIDE, SIDE)
        self.mean, self.sd = (mean * sign).double(), sd

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        variance = torch.as_tensor(sigma).reshape(-1, 1, 1, 1) ** 2
        mean = self.mean.to(x.device)
        return (self.sd**2 * x + variance * mean) / (self.sd**2 + variance)

    def draw(self, n: int, seed: int) -> Tensor:
        noise = torch.randn(
            n, 1, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
        )
        return self.mean + self.sd * noise

    def log_density(self, x: Tensor, sigma: float) -> Tensor:
        """Of noisy images, [N] in nats, up to a constant that all Gaussians share."""
        variance = self.sd**2 + sigma**2
        return -0.5 * ((x - self.mean) ** 2 / variance + np.log(variance)).sum(dim=(1, 2, 3))


DATA, MODEL = Gaussian(0.0, 0.2), Gaussian(0.05, 0.24)


class SmallHead(nn.Module):
    """Multilayer perceptron on all pixels and the time."""

    num_classes = 0

    def __init__(self, width: int):
        super().__init__()
        self.enter = nn.Linear(SIDE**2 + 8, width)
        self.middle = nn.ModuleList([nn.Linear(width, width) for _ in range(2)])
        self.leave = nn.Linear(width, 1)

    def forward(self, features: Tensor, time: Tensor, condition: Tensor | None = None) -> Tensor:
        """features [N, 1, SIDE, SIDE], time [N] -> logits [N, 1]."""
        # [N, 4]
        angles = time.float().reshape(-1, 1) * torch.tensor(
            [1.0, 3.0, 9.0, 27.0], device=features.device
        )
        angles = angles.expand(len(features), 4)
        # [N, width]
        h = self.enter(torch.cat([4 * features.flatten(1), angles.sin(), angles.cos()], dim=1))
        for layer in self.middle:
            h = layer(nn.functional.silu(h))
        return self.leave(nn.functional.silu(h))


def small_discriminator(width: int, seed: int = 0) -> Discriminator:
    with seeded(seed):
        return Discriminator(PixelExtractor(), [SmallHead(width)])


def image_sets(n: int, seed: int = 0) -> tuple[ImageSet, ImageSet]:
    """n real and n generated images; as bytes, which rounds values to 1 / 127.5."""
    return tuple(
        ImageSet(to_uint8(gaussian.draw(n, 2 * seed + i)), None, f"gaussian{i}")
        for i, gaussian in enumerate((DATA, MODEL))
    )


def compare(discriminator: Discriminator, sigma: float, n: int) -> dict[str, Tensor]:
    """True and learned log ratios [2 n] and gradients [2 n, D] on fresh noisy images, half real,
    half generated."""
    clean = torch.cat([gaussian.draw(n, 1000 + i) for i, gaussian in enumerate((DATA, MODEL))])
    noise = torch.randn(
        clean.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7)
    )
    x = (clean + sigma * noise).requires_grad_()
    truth = DATA.log_density(x, sigma) - MODEL.log_density(x, sigma)
    learned = discriminator(x, torch.tensor(sigma, dtype=torch.float64)).double()
    result = {"ratio": truth.detach(), "learned_ratio": learned.detach()}
    for name, value in (("gradient", truth), ("learned_gradient", learned)):
        (gradient,) = torch.autograd.grad(value.sum(), x)
        result[name] = gradient.flatten(1)
    return result


def relative_errors(discriminator: Discriminator, sigmas, n: int) -> dict[str, list[float]]:
    """Root mean square error of log ratio and gradient by noise level, over the truth's own root
    mean square."""
    errors = {"ratio": [], "gradient": []}
    for sigma in sigmas:
        found = compare(discriminator.cpu(), sigma, n)
        for name, values in errors.items():
            difference = found[f"learned_{name}"] - found[name]
            values.append(
                float(difference.square().mean().sqrt() / found[name].square().mean().sqrt())
            )
    return errors


def train_small(
    settings: Settings, size: int, loss: str, folder, device="cpu", **kwargs
) -> Discriminator:
    """A head trained with one loss on `size` images of each kind for `steps` steps; the last one,
    averaged."""
    real, fake = image_sets(size)
    images = 2 * int(size * settings.training.split[0])  # real and generated, of an epoch
    batch = min(settings.training.batch_size, images)
    training = replace(
        settings.training,
        loss=loss,
        batch_size=batch,
        epochs=max(settings.steps * batch // images, 1),
        eval_images=min(settings.training.eval_images, size),
    )
    discriminator = small_discriminator(settings.width).to(device)
    train_discriminator(discriminator, real, fake, training, folder, net=MODEL, **kwargs)
    return discriminator


def best_head(discriminator: Discriminator, folder) -> Discriminator:
    """The same with the weights of best.safetensors."""
    discriminator.heads[0].load_state_dict(
        read_safetensors(Path(folder) / "best.safetensors", FORMAT)[1]
    )
    return discriminator


def run(
    settings: Settings,
    folder: Path,
    results: Path,
    command: str,
    device,
    progress,
    notify,
) -> dict:
    """Train every loss on every size; write results.json, pictures and report to `results`; return
    the results."""
    stages, found = Stages(folder, progress, notify), {}
    for size in settings.sizes:
        for loss in settings.losses:
            key = asdict(settings) | {"size": size, "loss": loss, "weight": LOSS_WEIGHTS[loss]}
            make = partial(_train, settings, size, loss, device, progress)
            with one_thread(device):  # so small a head is slower on several
                path = stages.run(f"{loss}-{size}", key, [], make)
            found[size, loss] = read_json(path / "errors.json")
    errors = {
        _title(size, which): {
            quantity: {loss: found[size, loss][which][quantity] for loss in settings.losses}
            for quantity in ("ratio", "gradient")
        }
        for size in settings.sizes
        for which in ("best", "last")
    }
    metrics = {
        f"{panel}, {loss}": {
            f"{quantity}_error": summarise_repeats(lines[loss])
            for quantity, lines in panels.items()
        }
        for panel, panels in errors.items()
        for loss in settings.losses
    }
    outcome = {
        "experiment": "two_gaussians",
        "metrics": metrics,
        "errors": errors,
        "settings": asdict(settings),
    }
    outcome |= provenance(command, stages.seconds, device)
    write_json(results / "results.json", outcome)
    scatter = {loss: found[settings.sizes[0], loss]["scatter"] for loss in settings.losses}
    _draw(results, settings, errors, scatter)
    document = _report(results, outcome)
    write_report(results / "report.html", document)
    write_markdown(results / "report.md", document)
    return outcome


def _train(settings: Settings, size: int, loss: str, device, progress, path) -> None:
    """One training, and the errors of its last and its best checkpoint."""
    discriminator = train_small(settings, size, loss, path, device, progress=progress)
    found = {"last": relative_errors(discriminator, settings.sigmas, settings.num_test)}
    best_head(discriminator, path)
    found["best"] = relative_errors(discriminator, settings.sigmas, settings.num_test)
    found["scatter"] = {}
    for index in (0, 2, len(settings.sigmas) - 1):
        values = compare(discriminator, settings.sigmas[index], 300)
        found["scatter"][index] = {name: values[name] for name in ("ratio", "learned_ratio")}
    write_json(path / "errors.json", found)


def _draw(folder: Path, settings: Settings, errors: dict, scatter: dict) -> None:
    # Of the many images the last checkpoint is as the best.
    many = _title(settings.sizes[0], "last")
    shown = {panel: lines for panel, lines in errors.items() if panel != many}
    ratio_errors(folder / "errors.png", settings.sigmas, shown)
    pairs = {loss: {int(i): pair for i, pair in rows.items()} for loss, rows in scatter.items()}
    truth = {index: pair["ratio"] for index, pair in next(iter(pairs.values())).items()}
    learned = {
        loss: {index: pair["learned_ratio"] for index, pair in rows.items()}
        for loss, rows in pairs.items()
    }
    ratio_scatter(folder / "ratios.png", settings.sigmas, truth, learned)


def _title(size: int, which: str) -> str:
    return f"{size:,} images, {which}"


def _rows(outcome: dict) -> list[list[str]]:
    return [
        [
            system,
            *(f"{found[f'{quantity}_error']['mean']:.3f}" for quantity in ("ratio", "gradient")),
        ]
        for system, found in outcome["metrics"].items()
    ]


def text_table(outcome: dict) -> str:
    """The mean errors, for a terminal."""
    return text_of([["images, checkpoint, loss", "ratio", "gradient"], *_rows(outcome)])


CHECKPOINTS = (
    "“best” has the lowest validation loss, “last” is the end of a training that is far too long "
    "for the small set. The gradient-matching loss is given the exact score of the generated "
    "images."
)


def _report(folder: Path, outcome: dict) -> Document:
    return Document(
        "A discriminator against the truth",
        "Two Gaussians, whose log density ratio is known in closed form at every noise level: how "
        "well do the three losses recover it, and how well its gradient, which is what guidance "
        "uses?",
        (),
        [
            Section(
                "Errors",
                [
                    Table(
                        ["images of each kind, checkpoint, loss", "log ratio", "gradient"],
                        _rows(outcome),
                        caption="Root mean square error relative to the truth's own, mean over the "
                        "noise levels; 1 is no better than a discriminator that always answers 0.",
                    ),
                    Picture(folder / "errors.png", "The same by noise level."),
                    Picture(
                        folder / "ratios.png",
                        "Learned over true log ratio of fresh noisy images, many training images.",
                    ),
                ],
            ),
            how_it_was_run(outcome, extra=[Note(CHECKPOINTS)]),
        ],
    )
