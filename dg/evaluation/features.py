"""Feature extractors of images: Inception and others of torch-fidelity, a random VGG, pixels, and
this project's small classifiers.

An extractor takes a batch of uint8 images and gives named arrays: `features` [N, D] for the
distances, and where it has them `logits` [N, K] for the Inception Score and `spatial` [N, S] for
sFID. All float32; statistics are float64.
"""

import contextlib
import importlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dg.evaluation.dinov2 import DINOv2
from dg.evaluation.random_vgg import SHA256 as RANDOM_VGG_SHA256
from dg.evaluation.random_vgg import RandomVGG
from dg.runtime.catalogue import CATALOGUE
from dg.runtime.downloads import resolve
from dg.runtime.files import sha256_of
from dg.runtime.pretrained import pretrained_file
from dg.runtime.progress import silent
from edm.checkpoint import load_strictly
from guided_diffusion.loading import bare_state, check_tensors, read_file
from tensor_files.reading import parsing

# Name: (module and class of torch_fidelity, its feature, the catalogue's file).
FIDELITY = {
    "inception": (
        "feature_extractor_inceptionv3",
        "FeatureExtractorInceptionV3",
        "2048",
        "inception-torch-fidelity",
    ),
    "vgg16": ("feature_extractor_vgg16", "FeatureExtractorVGG16", "fc2_relu", "vgg16"),
    "clip-vit-b-32": ("feature_extractor_clip", "FeatureExtractorCLIP", "clip", "clip-vit-b-32"),
    "clip-vit-l-14": ("feature_extractor_clip", "FeatureExtractorCLIP", "clip", "clip-vit-l-14"),
    **{
        f"dinov2-vit-{size}-14": (
            "feature_extractor_dinov2",
            "FeatureExtractorDinoV2",
            "dinov2",
            f"dinov2-vit-{size}-14",
        )
        for size in "sblg"
    },
}
FILELESS = ("random-vgg", "pixels")
MOST_PIXELS = 4096  # as features; their covariance grows with the square


@dataclass(frozen=True)
class Extractor:
    """A frozen network that turns images into features.

    name       `inception` and so on, `random-vgg`, `pixels`, or `classifier`
    sha256     of the file of its weights; of `random-vgg` of the weights themselves
    published  whether those are the weights that published numbers were computed with, None where
               nobody can tell
    channels   1 or 3; grey images are repeated to 3 as EDM does; None for any
    """

    name: str
    sha256: str
    published: bool | None
    channels: int | None
    network: nn.Module
    device: torch.device
    resolution: int | None = None  # side of the images it takes; None: any

    @property
    def metric(self) -> str:
        """Name of the Fréchet distance in these features."""
        return "fid" if self.name == "inception" else "fd"

    def describe(self) -> dict:
        """The entry of a results file about this extractor; statistics must agree on it."""
        return {"name": self.name, "sha256": self.sha256, "published_weights": self.published}

    def check(self, name: str, shape: tuple[int, int, int]) -> None:
        """ValueError unless images of this shape (H, W, C) can be taken."""
        height, width, channels = shape
        if self.channels is None:
            if height * width * channels > MOST_PIXELS:
                raise ValueError(
                    f"{name}: {height * width * channels} values per image; `pixels` takes up to "
                    f"{MOST_PIXELS}"
                )
        elif (
            self.resolution not in (None, height)
            or self.resolution not in (None, width)
            or channels > self.channels
        ):
            raise ValueError(
                f"{name}: images of {height}x{width} pixels and {channels} channels; the feature "
                f"classifier takes {self.resolution} pixels and {self.channels} channels"
            )

    @torch.no_grad()
    def __call__(self, images: np.ndarray) -> dict[str, Tensor]:
        """uint8 [N, H, W, C] -> float32 tensors by name, on the CPU."""
        # [N, C, H, W]
        x = torch.from_numpy(np.ascontiguousarray(images)).to(self.device).permute(0, 3, 1, 2)
        if self.channels is not None and x.shape[1] < self.channels:
            x = x.expand(-1, self.channels, -1, -1)
        return {name: value.float().cpu() for name, value in self.network(x.contiguous()).items()}


class _Named(nn.Module):
    """A torch-fidelity extractor that returns its features under our names, Inception's spatial
    ones as well."""

    def __init__(self, inner: nn.Module, feature: str):
        super().__init__()
        self.inner, self.feature = inner, feature

    def forward(self, x):
        features = dict(zip(self.inner.features_list, self.inner(x), strict=True))
        return {"features": features.pop(self.feature)} | {
            name.removesuffix("_unbiased"): f for name, f in features.items()
        }


class _Inception(_Named):
    """Besides, the first 7 channels of a 17 x 17 layer, as ADM's evaluation takes them for sFID
    (Nash et al. 2021)."""

    def forward(self, x):
        kept = []
        hook = self.inner.Mixed_6d.branch1x1.register_forward_hook(
            lambda module, args, out: kept.append(out[:, :7])
        )
        try:
            named = super().forward(x)
        finally:
            hook.remove()
        return named | {"spatial": kept[0].permute(0, 2, 3, 1).flatten(1)}  # [N, 17 * 17 * 7]


class _Pixels(nn.Module):
    """The images themselves, at EDM scale; no network at all, so the same for everyone."""

    def forward(self, x):
        return {"features": x.flatten(1).float() / 127.5 - 1}


class _Classifier(nn.Module):
    """`FeatureClassifier` on uint8 images."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return {"features": self.model.features(x.float() / 127.5 - 1)}


def load_extractor(
    name: str,
    weights=None,
    device="cpu",
    unpublished_weights=False,
    progress=silent,
    notify=None,
) -> Extractor:
    """The extractor of that name, or this project's classifier at that path or of that name.

    weights              path of the weights' file instead of the download
    unpublished_weights  accept weights that are not the published ones; refused otherwise, where
                         their SHA-256 is known

    Nothing in a file of weights is executed: tensors are read out of it, and the network is built
    from this project's and torch-fidelity's code. ValueError of one line for whatever is missing or
    wrong.
    """
    device, name = torch.device(device), str(pretrained_file(name) or name)
    if name not in FIDELITY:
        if name in FILELESS and weights is not None:
            raise ValueError(f"{name} has no file of weights; leave the weights {weights} out")
        if name == "pixels":
            return Extractor(name, "none", None, None, _Pixels(), device)
        if name == "random-vgg":
            network = RandomVGG().eval().requires_grad_(False).to(device)
            return Extractor(name, RANDOM_VGG_SHA256, None, 3, network, device)
        if weights is not None:
            raise ValueError(
                f"{name} is itself the file of its weights; leave the weights {weights} out"
            )
        return _load_classifier(name, device)
    short = FIDELITY[name][3]
    path = Path(weights) if weights is not None else resolve(short, progress, notify)
    if not path.is_file():
        raise ValueError(f"{path}: no such file of weights; get {CATALOGUE[short].url}")
    published = _check(path, short, unpublished_weights)
    network = _build(name, path).eval().requires_grad_(False).to(device)
    return Extractor(name, sha256_of(path), published, 3, network, device)


def _check(path, short, unpublished_weights) -> bool | None:
    """Whether the file is the published one, None if its SHA-256 is not known; ValueError if it is
    not and has to be."""
    wanted, found = CATALOGUE[short].sha256, sha256_of(path)
    if wanted is None or wanted == found:
        return None if wanted is None else True
    if not unpublished_weights:
        raise ValueError(
            f"{path} has SHA-256 {found}, the published weights {wanted}; distances would compare "
            "with "
            "nothing (unpublished_weights takes it all the same)"
        )
    return False


def _build(name, path) -> nn.Module:
    """The network of an extractor of torch-fidelity with the tensors in a file."""
    module, class_name, feature, _ = FIDELITY[name]
    advice = "give its weights, or leave the weights out to fetch them"
    with parsing(path, advice, f"the weights of {name} cannot be used"):
        state = bare_state(read_file(path))
        module = importlib.import_module(f"torch_fidelity.{module}")
        extractor = getattr(module, class_name)
        with contextlib.redirect_stdout(io.StringIO()):
            if name.startswith("clip"):
                inner = _without_file(extractor, name, feature)
                inner.model = module.build_model(check_tensors(state), torch.float32)
                inner.resolution = inner.model.visual.input_resolution
            elif name.startswith("dinov2"):
                inner = _without_file(extractor, name, feature)
                with torch.device("meta"):
                    inner.model = DINOv2(name.split("-")[2])
                load_strictly(inner.model, check_tensors(state), name)
            else:
                # torch-fidelity's loader would execute what the file holds, so it gets the tensors
                torch.save(state, file := io.BytesIO())
                file.seek(0)
                wanted = [feature, "logits_unbiased"] if name == "inception" else [feature]
                inner = extractor(name, wanted, feature_extractor_weights_path=file)
    return (_Inception if name == "inception" else _Named)(inner, feature)


def _without_file(extractor, name, feature) -> nn.Module:
    """An extractor of torch-fidelity as it is before it loads its file, which would be executed."""
    inner = extractor.__new__(extractor)
    super(extractor, inner).__init__(name, [feature])
    inner.feature_extractor_internal_dtype = torch.float32
    return inner


def _load_classifier(path, device) -> Extractor:
    if Path(path).suffix == ".pkl":
        raise ValueError(
            f"{path}: NVIDIA's Inception pickle is not executed; the extractor inception is the "
            "same "
            "network from torch-fidelity's file"
        )
    if not Path(path).exists() and not Path(path).suffix:
        raise ValueError(
            f"{path}: no such extractor; there are {', '.join((*FIDELITY, *FILELESS))}, or the "
            "path of a classifier from `python pretrain.py features`"
        )
    from dg.evaluation.classifier import classifier_file, load_classifier

    path = classifier_file(path)
    model = load_classifier(path)
    return Extractor(
        "classifier",
        sha256_of(path),
        None,
        model.config["img_channels"],
        _Classifier(model).to(device),
        device,
        model.config["img_resolution"],
    )
