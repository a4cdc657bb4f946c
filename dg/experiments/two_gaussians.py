"""What a discriminator learns where the truth is known: two Gaussians, their log density ratio and
its gradient.

Real and generated images are drawn from Gaussians that differ in mean and spread. Each loss of
dg.losses trains the same small head on many images and on few; errors by noise level, against the
closed form.
"""

from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn

from dg.checkpoints import FORMAT
from dg.data.datasets import ImageSet, to_uint8
from dg.discriminator import Discriminator
from dg.evaluation.figures import ratio_errors, ratio_scatter
from dg.evaluation.log_ratios import compare_with_truth, relative_errors
from dg.evaluation.report import Document, Note, Picture, Section, Table, text_of
from dg.evaluation.tables import how_it_was_run
from dg.evaluation.uncertainty import summarise_repeats
from dg.experiments.pipeline import Stage, Stages
from dg.experiments.report import write_results
from dg.extractors import PixelExtractor
from dg.models.gaussian import Gaussian
from dg.recipes import LOSS_WEIGHTS, DiscriminatorTraining
from dg.runtime.files import read_json, write_json
from dg.runtime.processes import cpu_threads
from dg.runtime.provenance import provenance
from dg.runtime.randomness import seeded
from dg.runtime.run_folder import sole_writer
from dg.training import train_discriminator
from edm.checkpoint import read_safetensors

SIDE = 4  # pixels
DATA, MODEL = Gaussian(0.0, 0.2, SIDE), Gaussian(0.05, 0.24, SIDE)
QUANTITIES = ("ratio", "gradient")
TRAINING = DiscriminatorTraining(
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


@dataclass(frozen=True)
class Settings:
    """Everything the numbers depend on."""

    training: DiscriminatorTraining = TRAINING
    # with the weights that are the default
    losses: tuple[str, ...] = ("bce", "matching", "sobolev")
    sizes: tuple[int, ...] = (20_000, 500)  # images of each kind
    steps: int = 1500
    sigmas: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.8)
    num_test: int = 2000  # fresh images of each kind
    width: int = 128

    def errors(self, discriminator: Discriminator) -> dict[str, list[float]]:
        """Of log ratio and gradient by noise level."""
        return relative_errors(discriminator, DATA, MODEL, self.sigmas, self.num_test)


PROFILES = {"full": Settings(), "smoke": Settings(sizes=(600, 200), steps=8, num_test=50, width=16)}


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
        rates = torch.tensor([1.0, 3.0, 9.0, 27.0], device=features.device)
        angles = (time.float().reshape(-1, 1) * rates).expand(len(features), 4)  # [N, 4]
        # [N, width]
        h = self.enter(torch.cat([4 * features.flatten(1), angles.sin(), angles.cos()], dim=1))
        for layer in self.middle:
            h = layer(nn.functional.silu(h))
        return self.leave(nn.functional.silu(h))


def image_sets(n: int) -> list[ImageSet]:
    """n real and n generated images; as bytes, which rounds values to 1 / 127.5."""
    images = [to_uint8(gaussian.draw(n, seed)) for seed, gaussian in enumerate((DATA, MODEL))]
    return [ImageSet(found, None, f"gaussian{i}") for i, found in enumerate(images)]


def train_small(
    settings: Settings, size: int, loss: str, folder, device="cpu", **kwargs
) -> Discriminator:
    """A head trained with one loss on `size` images of each kind, at the end of the training."""
    real, fake = image_sets(size)
    images = 2 * int(size * settings.training.split[0])  # real and generated, of an epoch
    batch = min(settings.training.batch_size, images)
    changes = dict(loss=loss, batch_size=batch, epochs=max(settings.steps * batch // images, 1))
    changes["eval_images"] = min(settings.training.eval_images, size)
    training = replace(settings.training, **changes)
    with seeded(0):
        discriminator = Discriminator(PixelExtractor(), [SmallHead(settings.width)]).to(device)
    train_discriminator(discriminator, real, fake, training, folder, net=MODEL, **kwargs)
    return discriminator


def best_head(discriminator: Discriminator, folder) -> Discriminator:
    """The same with the weights of best.safetensors."""
    weights = read_safetensors(Path(folder) / "best.safetensors", FORMAT)[1]
    discriminator.heads[0].load_state_dict(weights)
    return discriminator


def run(
    settings: Settings, folder: Path, results: Path, command: str, device, progress, notify
) -> dict:
    """Train every loss on every size; write results and report to `results`; return them."""
    stages, found = Stages(folder, notify), {}
    with cpu_threads(1, device):  # so small a head is slower on several
        for size in settings.sizes:
            for loss in settings.losses:
                key = asdict(settings) | {"size": size, "loss": loss, "weight": LOSS_WEIGHTS[loss]}
                make = partial(_train, settings, size, loss, device, progress)
                path = stages.run(Stage(f"{loss}-{size}", key, [], make))
                found[size, loss] = read_json(path / "errors.json")
        origin = provenance(command, stages.seconds, device)
    errors, metrics = {}, {}
    for (size, which), name in product(product(settings.sizes, ("best", "last")), QUANTITIES):
        lines = {loss: found[size, loss][which][name] for loss in settings.losses}
        errors.setdefault(_title(size, which), {})[name] = lines
        for loss, values in lines.items():
            entry = metrics.setdefault(f"{_title(size, which)}, {loss}", {})
            entry[f"{name}_error"] = summarise_repeats(values)
    outcome = {"experiment": "two_gaussians", "metrics": metrics, "errors": errors}
    outcome["settings"] = asdict(settings)
    outcome |= origin
    scatter = {loss: found[settings.sizes[0], loss]["scatter"] for loss in settings.losses}
    with sole_writer(results):
        _draw_scatter(results, settings, scatter)
        write_results(results, outcome, describe(results, outcome))
    return outcome


def _train(settings: Settings, size: int, loss: str, device, progress, path, paths) -> None:
    """One training, and the errors of its last and its best checkpoint."""
    discriminator = train_small(settings, size, loss, path, device, progress=progress)
    found = {"last": settings.errors(discriminator)}
    found |= {"best": settings.errors(best_head(discriminator, path)), "scatter": {}}
    for index in (0, 2, len(settings.sigmas) - 1):
        values = compare_with_truth(discriminator, DATA, MODEL, settings.sigmas[index], 300)
        found["scatter"][index] = {name: values[name] for name in ("ratio", "learned_ratio")}
    write_json(path / "errors.json", found)


def _draw_scatter(folder: Path, settings: Settings, scatter: dict) -> None:
    truth, learned = (
        {loss: {int(i): pair[name] for i, pair in pairs.items()} for loss, pairs in scatter.items()}
        for name in ("ratio", "learned_ratio")
    )
    ratio_scatter(folder / "ratios.png", settings.sigmas, truth[settings.losses[0]], learned)


def _title(size: int, which: str) -> str:
    return f"{size:,} images, {which}"


def _rows(outcome: dict) -> list[list[str]]:
    return [
        [system, *(f"{found[f'{name}_error']['mean']:.3f}" for name in QUANTITIES)]
        for system, found in outcome["metrics"].items()
    ]


def text_table(outcome: dict) -> str:
    """The mean errors, for a terminal."""
    return text_of([["images, checkpoint, loss", *QUANTITIES], *_rows(outcome)])


QUESTION = (
    "Two Gaussians have a log density ratio that is known in closed form at every noise level. How "
    "well do the three losses recover it, and how well its gradient, which is what guidance uses?"
)
ERRORS = (
    "Root mean square error relative to the truth's own, mean over the noise levels; 1 is no "
    "better than a discriminator that always answers 0."
)
BY_LEVEL = "The same errors by noise level. The dashed line is no better than a constant answer."
RATIOS = (
    "The learned log ratio over the true one, on fresh noisy images, after training on many "
    "images. The line is the truth."
)
CHECKPOINTS = (
    "“best” has the lowest validation loss, “last” is the end of a training that is far too long "
    "for the small set. The gradient-matching loss is given the exact score of the generated "
    "images."
)


def verdict(outcome: dict) -> str:
    """The answer in a sentence for each size: the loss of least error of the gradient."""
    losses, said = outcome["settings"]["losses"], []
    for size in outcome["settings"]["sizes"]:
        titles = {loss: f"{_title(size, 'best')}, {loss}" for loss in losses}
        found = {
            loss: outcome["metrics"][title]["gradient_error"]["mean"]
            for loss, title in titles.items()
        }
        best, worst = min(found, key=found.get), max(found, key=found.get)
        text = f"With {size:,} images the loss “{best}” finds the gradient best: its error is "
        said.append(f"{text}{found[best]:.2f}, that of “{worst}” {found[worst]:.2f}.")
    return " ".join(said)


def describe(folder: Path, outcome: dict) -> Document:
    """The report as plain data; draws the errors. The scatter stays as it stands in the folder."""
    columns = ["images of each kind, checkpoint, loss", "log ratio", "gradient"]
    # With many images the last checkpoint is as good as the best one.
    left_out = _title(outcome["settings"]["sizes"][0], "last")
    shown = {key: lines for key, lines in outcome["errors"].items() if key != left_out}
    ratio_errors(folder / "errors.png", outcome["settings"]["sigmas"], shown)
    pictures = [Picture(folder / "errors.png", BY_LEVEL)]
    if (folder / "ratios.png").is_file():
        pictures.append(Picture(folder / "ratios.png", RATIOS))
    found = Section("Errors", [Table(columns, _rows(outcome), caption=ERRORS), *pictures])
    sections = [found, how_it_was_run(outcome, extra=[Note(CHECKPOINTS)])]
    return Document("A discriminator against the truth", verdict(outcome), QUESTION, sections)
