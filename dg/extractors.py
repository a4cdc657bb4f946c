"""Frozen feature extractors under a discriminator: they turn a noisy image into the inputs of a
head.

Every extractor takes images at EDM scale, x = x_0 + sigma z, and returns (features, time). It
carries gradients to x and has no trainable weights.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dg import vp
from edm.fingerprints import fingerprint
from edm.precond import Encoding, Preconditioner
from guided_diffusion import load_encoder
from guided_diffusion.layers import AttentionBlock, AttentionPool
from tensor_files.reading import FileError


def one_hot(labels: Tensor, num_classes: int) -> Tensor | None:
    """Class numbers [N] as one-hot labels [N, K]; one-hot ones as they are; None for K = 0 and
    numbers. ValueError for other shapes and for numbers that are no class."""
    if labels.ndim == 2:
        return labels
    if labels.ndim != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"class labels are {labels.dtype} {list(labels.shape)}; give whole numbers [N] or "
            "one-hot [N, K]"
        )
    if not num_classes:
        return None
    if not ((labels >= 0) & (labels < num_classes)).all():
        raise ValueError(
            f"class numbers {labels.tolist()}; give numbers from 0 to {num_classes - 1}"
        )
    return F.one_hot(labels.long(), num_classes).to(torch.float32)


class Extractor(nn.Module):
    """Base class of extractors: frozen, and in evaluation mode whatever a training loop calls.

    kind       "score", "finetuned", "classifier" or "none"
    schedule   schedule of a classifier's VP time, None for the others
    label_dim  classes that the features depend on, 0 for none
    """

    kind: str
    schedule: str | None = None
    label_dim: int = 0

    @property
    def frozen(self) -> nn.Module | None:
        """The network underneath, which a head's file names by its fingerprint; None for none."""
        return None

    def own_network(self) -> nn.Module:
        """The network underneath as this extractor's alone, which a LoRA may change; ValueError for
        none."""
        raise FileError(
            f"LoRA adapts a frozen network, but the extractor {self.kind} has none; leave the LoRA "
            "out, or train on the extractor classifier or score"
        )

    def train(self, mode: bool = True) -> "Extractor":
        """Stay in evaluation mode: dropout inside the frozen network would change the features."""
        return super().train(False)

    def shares_encoder(self, net) -> bool:
        """Whether the features are those of this very network's encoder: see `from_encoding`."""
        return False

    def describe(self) -> list:
        """[kind, schedule, fingerprint], the entry in a description of guidance."""
        return [self.kind, self.schedule, fingerprint(self)]


class PixelExtractor(Extractor):
    """No features: the noisy image itself at VP scale, for a discriminator trained from scratch."""

    kind = "none"

    def forward(
        self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x [N, C, H, W], sigma [] or [N] -> (mean * x [N, C, H, W] float32, tau [] or [N])."""
        tau, scale = vp.from_sigma(sigma)
        return (scale.reshape(-1, 1, 1, 1) * x).to(torch.float32), tau


class ImageExtractor(Extractor):
    """No features either: the noisy image at EDM scale, for a head that holds an encoder of its own
    (`dg.heads.FinetunedHead`)."""

    kind = "finetuned"

    def forward(
        self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x [N, C, H, W], sigma [] or [N] -> (x float32, sigma)."""
        return x.to(torch.float32), sigma


class ClassifierExtractor(Extractor):
    """Middle-block features of the ADM noisy-image classifier, the extractor of Kim et al. 2023,
    section 5.

    schedule  the VP schedule whose time the classifier was trained with: "linear" (32 pixels) or
              "cosine" (64 pixels)
    """

    kind = "classifier"

    def __init__(self, encoder: nn.Module, schedule: str = "linear"):
        if schedule not in ("linear", "cosine"):
            raise ValueError(f"schedule is {schedule!r}; use linear or cosine")
        super().__init__()
        self.encoder, self.schedule = encoder.eval().requires_grad_(False), schedule

    @property
    def frozen(self) -> nn.Module:
        return self.encoder

    def own_network(self) -> nn.Module:
        return self.encoder

    def shares_encoder(self, net) -> bool:
        """Whether a classifier, asked at the VP time, computes these features on the way to its
        logits: it is the same network, or has the same weights."""
        return (
            self.schedule == "linear"
            and type(net) is type(self.encoder)
            and net.head_takes_features
            and _same_weights(net, self.encoder)
        )

    def forward(
        self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x [N, C, H, W], sigma [] or [N] -> (features [N, F, h, w], time [] or [N] of the
        classifier's schedule)."""
        tau, scale = vp.from_sigma(sigma)
        time = vp.cosine_time(tau) if self.schedule == "cosine" else tau
        x = (scale.reshape(-1, 1, 1, 1) * x).to(torch.float32)
        return self.encoder(x, time, feature=True), time


class ScoreExtractor(Extractor):
    """The score network's own encoder at the same noise level: no second network is needed.

    Every encoder stage is averaged down to the size of the bottleneck, and all are joined.
    `from_encoding` takes the encoder pass of the denoising, at no extra cost.
    """

    kind = "score"

    def __init__(self, net: Preconditioner):
        super().__init__()
        self.net, self.label_dim = net.eval().requires_grad_(False), net.label_dim

    @property
    def frozen(self) -> nn.Module:
        return self.net

    def own_network(self) -> nn.Module:
        """A float32 copy of the network, which takes its place here: its pass is shared no more."""
        self.net = copy.deepcopy(self.net.with_fp16(False))
        return self.net

    def shares_encoder(self, net) -> bool:
        return self.net is net

    def dims(self) -> tuple[int, int]:
        """(channels of the features, dimension of the embedding)."""
        features, emb = self._probe()
        return features.shape[1], emb.shape[1]

    @torch.no_grad()
    def _probe(self) -> tuple:
        """What it returns for an image of the network's size."""
        device = next(self.net.parameters()).device
        x = torch.zeros(
            1,
            self.net.img_channels,
            self.net.img_resolution,
            self.net.img_resolution,
            device=device,
        )
        return self(x, torch.ones((), device=device))

    def forward(
        self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x [N, C, R, R], sigma [] or [N], class_labels as in `one_hot` -> (features [N, D, r, r]
        float32, embedding [N or 1, E])."""
        if class_labels is not None:
            class_labels = one_hot(class_labels, self.net.label_dim)
        return self.from_encoding(self.net.encode(x, sigma, class_labels))

    def from_encoding(self, encoding: Encoding) -> tuple[Tensor, Tensor]:
        """The same from a shared encoder pass."""
        size = encoding.skips[-1].shape[-2:]
        stages = [
            h if h.shape[-2:] == size else F.adaptive_avg_pool2d(h, size) for h in encoding.skips
        ]
        return torch.cat(stages, dim=1).to(torch.float32), encoding.emb


class StageExtractor(ScoreExtractor):
    """The same, but that every encoder stage stays as it is: for a head whose output is an
    image."""

    def dims(self) -> tuple[list[int], int]:
        """(channels of every stage, dimension of the embedding)."""
        stages, emb = self._probe()
        return [h.shape[1] for h in stages], emb.shape[1]

    def from_encoding(self, encoding: Encoding) -> tuple[list[Tensor], Tensor]:
        """(stages [N, D, h, w] float32, that of the image's size first; embedding [N or 1, E])."""
        return [h.to(torch.float32) for h in encoding.skips], encoding.emb


def _same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks of a class hold equal weights, LoRA included, and as many attention
    heads, which no weight shows."""
    if one is other:
        return True
    states = one.state_dict(), other.state_dict()
    attention = AttentionBlock, AttentionPool
    heads = [
        [part.heads for part in net.modules() if isinstance(part, attention)]
        for net in (one, other)
    ]
    return (
        heads[0] == heads[1]
        and states[0].keys() == states[1].keys()
        and all(
            (a.dtype, a.device) == (b.dtype, b.device) and torch.equal(a, b)
            for a, b in zip(states[0].values(), states[1].values(), strict=True)
        )
    )


def build_extractor(
    kind: str, net: Preconditioner | None = None, classifier_path=None, schedule: str | None = None
) -> Extractor:
    """The extractor of a kind: "score" (needs `net`), "classifier" (needs `classifier_path`),
    "finetuned" or "none".

    schedule  schedule of a classifier's VP time; None: "cosine" for images of 64 x 64, as the
              authors trained it, else "linear"

    ValueError for an unknown kind, or where the network that it needs is missing.
    """
    if kind == "none":
        return PixelExtractor()
    if kind == "finetuned":
        return ImageExtractor()
    if kind == "score":
        if net is None:
            raise ValueError("the extractor score is a score network's encoder; give that network")
        return ScoreExtractor(net)
    if kind != "classifier":
        raise ValueError(f"extractor is {kind!r}; use score, finetuned, classifier or none")
    if classifier_path is None:
        raise ValueError(
            "the extractor classifier is an ADM classifier of noisy images; give its file"
        )
    encoder = load_encoder(classifier_path)
    cosine = (encoder.image_size, encoder.in_channels) == (64, 3)
    return ClassifierExtractor(encoder, schedule or ("cosine" if cosine else "linear"))
