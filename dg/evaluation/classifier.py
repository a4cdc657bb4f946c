"""A small image classifier. Its penultimate layer is the feature space for images that Inception
does not suit (digits, MNIST).

Distances in its features are not an Inception FID. Compare them only with distances in the features
of the same file.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dg.data.datasets import ImageSet, to_float
from dg.runtime.files import atomic_write
from dg.runtime.progress import Progress, silent
from dg.runtime.randomness import seeded, step_generator
from edm.checkpoint import build, file_in, load_strictly, read_safetensors, write_safetensors

FORMAT = "feature-classifier"
NAME_IN_FOLDER = "classifier.safetensors"  # in the folder of a training
ARGUMENTS = ("img_resolution", "img_channels", "num_classes", "width", "feature_dim")


@dataclass(frozen=True)
class ClassifierTraining:
    """How to train the classifier; one epoch is a pass over the training images."""

    epochs: int = 20
    batch_size: int = 64
    lr: float = 2e-3  # highest value of a one-cycle schedule
    weight_decay: float = 1e-2
    max_shift: int = 1  # largest random translation in pixels; digits keep their class
    seed: int = 0


class FeatureClassifier(nn.Module):
    """Convolutional classifier of R x R images; `features` are the `feature_dim` activations before
    the logits."""

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        num_classes: int,
        width: int = 32,
        feature_dim: int = 64,
    ):
        super().__init__()
        self.config = dict(
            img_resolution=img_resolution,
            img_channels=img_channels,
            num_classes=num_classes,
            width=width,
            feature_dim=feature_dim,
        )

        def block(c_in, c_out):
            return [nn.Conv2d(c_in, c_out, 3, padding=1), nn.GroupNorm(8, c_out), nn.SiLU()]

        # [N, feature_dim]
        self.body = nn.Sequential(
            *block(img_channels, width),
            *block(width, width),
            nn.AvgPool2d(2),  # [N, width, R/2, R/2]
            *block(width, 2 * width),
            *block(2 * width, 2 * width),
            nn.AdaptiveAvgPool2d(4),  # [N, 2 width, 4, 4]
            nn.Flatten(),
            nn.Linear(2 * width * 16, feature_dim),
            nn.SiLU(),
        )
        self.logits = nn.Linear(feature_dim, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """[N, C, R, R] in [-1, 1] -> [N, feature_dim]."""
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, R, R] in [-1, 1] -> logits [N, num_classes]."""
        return self.logits(self.features(x))


def train_classifier(
    data: ImageSet, settings: ClassifierTraining, progress: Progress = silent, device="cpu"
) -> FeatureClassifier:
    """Train on labelled images; frozen, in evaluation mode, on the CPU. ValueError if the set has
    no labels.

    device  to train on
    """
    if data.labels is None:
        raise ValueError(f"{data.name}: has no labels; give a labelled set")
    with seeded(settings.seed):
        model = FeatureClassifier(data.resolution, data.channels, data.num_classes).to(device)
    images, labels = to_float(data.images), torch.from_numpy(data.labels)
    steps = -(-len(images) // settings.batch_size)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.lr, total_steps=steps * settings.epochs
    )
    for epoch in progress(range(settings.epochs), desc="feature classifier", unit="epoch"):
        generator = step_generator(settings.seed, "classifier", epoch)
        for index in torch.randperm(len(images), generator=generator).split(settings.batch_size):
            batch = _shifted(images[index], settings.max_shift, generator)
            logits, truth = model(batch.to(device)), labels[index].to(device)
            loss = F.cross_entropy(logits, truth, label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval().requires_grad_(False).cpu()


def _shifted(x: Tensor, limit: int, generator: torch.Generator) -> Tensor:
    """Each image translated by up to `limit` pixels in both directions, its border filled with
    background."""
    n, _, height, width = x.shape
    padded = F.pad(x, [limit] * 4, value=-1.0)
    top, left = torch.randint(0, 2 * limit + 1, [2, n], generator=generator)
    rows = top[:, None] + torch.arange(height)  # [N, H]
    columns = left[:, None] + torch.arange(width)  # [N, W]
    return padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )


def accuracy(model: FeatureClassifier, data: ImageSet) -> float:
    """Fraction of the images of a labelled set that the classifier names correctly; ValueError if
    the set does not fit."""
    if data.labels is None:
        raise ValueError(f"{data.name}: has no labels; give a labelled set")
    return float((predict(model, data) == data.labels).mean())


@torch.no_grad()
def predict(model: FeatureClassifier, data: ImageSet) -> np.ndarray:
    """Predicted class of each image, int64 [N]; ValueError if the images do not fit the
    classifier."""
    _check_fit(model, data)
    return np.concatenate(
        [model(to_float(part)).argmax(1).numpy() for part in _batches(data.images)]
    )


@torch.no_grad()
def extract_features(model: FeatureClassifier, data: ImageSet) -> np.ndarray:
    """Features of every image, float64 [N, D]; ValueError if the images do not fit the
    classifier."""
    _check_fit(model, data)
    parts = [model.features(to_float(part)).numpy() for part in _batches(data.images)]
    return np.concatenate(parts).astype(np.float64)


def _check_fit(model: FeatureClassifier, data: ImageSet) -> None:
    wanted = (model.config["img_resolution"], model.config["img_channels"])
    if (data.resolution, data.channels) != wanted:
        raise ValueError(
            f"{data.name}: images of {data.resolution} pixels and {data.channels} channels, "
            f"but the feature classifier takes {wanted[0]} pixels and {wanted[1]} channels; "
            "give images of that size, or train another classifier"
        )


def _batches(images: np.ndarray, size: int = 256):
    return (images[i : i + size] for i in range(0, len(images), size))


def save_classifier(path, model: FeatureClassifier) -> None:
    """Write the classifier as safetensors, completely or not at all."""
    with atomic_write(path) as file:
        write_safetensors(file, model.state_dict(), FORMAT, model.config)


def classifier_file(path) -> Path:
    """The file of a classifier: a folder's classifier.safetensors where there is one, else the path
    itself."""
    return file_in(path, NAME_IN_FOLDER)


def load_classifier(path) -> FeatureClassifier:
    """A frozen classifier from `save_classifier`, a folder standing for its classifier.safetensors;
    ValueError if the file is missing, damaged or of another kind."""
    path = classifier_file(path)
    if not path.is_file():
        raise ValueError(
            f"{path}: no such classifier; train one with `python pretrain.py features`"
        )
    config, tensors = read_safetensors(path, FORMAT, *ARGUMENTS)
    settings = {name: config[name] for name in ARGUMENTS}
    model = build(FeatureClassifier, settings, tensors, path)
    load_strictly(model, tensors, path)
    return model.eval().requires_grad_(False)
