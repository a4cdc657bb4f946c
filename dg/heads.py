"""Trainable heads: (features, time, class) of an extractor -> one logit per image.

On pixels and on classifier features the head is the ADM encoder of `guided_diffusion`, on a score
network's features the `ScoreHead` below. The `FinetunedHead` is a score network's encoder with such
a head, for a discriminator that starts from it and is trained throughout. The `DifferenceHead`
gives an image in place of a logit. All are called as `head(features, time,
condition=class_labels)`.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dg.extractors import Extractor, ScoreExtractor, one_hot
from edm.fingerprints import fingerprint
from edm.precond import PRECONDITIONERS, Encoding, Preconditioner


class HeadBlock(nn.Module):
    """Residual block of two 3x3 convolutions, scaled and shifted by the score network's
    embedding."""

    def __init__(self, width: int, emb_dim: int, dropout: float):
        super().__init__()
        self.dropout = dropout
        self.norm0, self.norm1 = nn.GroupNorm(8, width), nn.GroupNorm(8, width, affine=False)
        self.conv0, self.conv1 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.film = nn.Linear(emb_dim, 2 * width)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x [N, width, h, w], emb [N or 1, emb_dim] -> [N, width, h, w]."""
        h = self.conv0(F.silu(self.norm0(x)))
        # [N or 1, width, 1, 1] each
        scale, shift = self.film(emb)[:, :, None, None].chunk(2, dim=1)
        h = F.silu(self.norm1(h) * (1 + scale) + shift)
        return x + self.conv1(F.dropout(h, self.dropout, self.training))


class ClassShift(nn.Linear):
    """Adds a vector per class to all places of an image."""

    def __init__(self, num_classes: int, width: int):
        super().__init__(num_classes, width, bias=False)

    def forward(self, h: Tensor, condition: Tensor | None) -> Tensor:
        """h [N, width, h, w], condition as in `one_hot`."""
        if condition is not None:
            condition = one_hot(condition, self.in_features)
        if condition is None or condition.shape[1] != self.in_features:
            raise ValueError(
                f"the head is conditional; give one-hot labels [N, {self.in_features}] as condition"
            )
        return h + super().forward(condition.to(h.dtype))[:, :, None, None]


class ScoreHead(nn.Module):
    """Small convolutional head on the joined encoder stages of a score network.

    feature_dim  channels of the joined features
    emb_dim      dimension of the score network's embedding of noise level and class
    num_classes  0 for an unconditional discriminator
    width        channels inside, a multiple of 8; small, because a few thousand images are soon
                 learned by heart
    """

    def __init__(
        self,
        feature_dim: int,
        emb_dim: int,
        num_classes: int = 0,
        width: int = 32,
        num_blocks: int = 1,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.config = dict(
            feature_dim=feature_dim,
            emb_dim=emb_dim,
            num_classes=num_classes,
            width=width,
            num_blocks=num_blocks,
            dropout=dropout,
        )
        self.num_classes = num_classes
        self.norm = nn.GroupNorm(1, feature_dim)
        self.enter = nn.Conv2d(feature_dim, width, 1)
        self.label = ClassShift(num_classes, width) if num_classes else None
        self.blocks = nn.ModuleList([HeadBlock(width, emb_dim, dropout) for _ in range(num_blocks)])
        self.leave = nn.GroupNorm(8, width)
        self.logit = nn.Linear(width, 1)
        # the log ratio of an untrained head is 0: guidance starts from none
        nn.init.zeros_(self.logit.weight)
        nn.init.zeros_(self.logit.bias)

    def forward(self, features: Tensor, time: Tensor, condition: Tensor | None = None) -> Tensor:
        """features [N, feature_dim, h, w], time [N or 1, emb_dim], condition as in `one_hot` ->
        logits [N, 1]."""
        h = self.enter(self.norm(features))  # [N, width, h, w]
        if self.label is not None:
            h = self.label(h, condition)
        for block in self.blocks:
            h = block(h, time)
        return self.logit(F.silu(self.leave(h)).mean(dim=(2, 3)))


class DifferenceHead(nn.Module):
    """Small convolutional head on the encoder stages of a score network, each at its own size,
    whose output is an image. It is 0 at first.

    stage_dims   channels of the stages, that of the image's size first
    emb_dim      dimension of the score network's embedding of noise level and class
    channels     of the image
    num_classes, width, num_blocks, dropout  as in `ScoreHead`
    """

    def __init__(
        self,
        stage_dims: Sequence[int],
        emb_dim: int,
        channels: int,
        num_classes: int = 0,
        width: int = 32,
        num_blocks: int = 1,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.config = dict(
            stage_dims=list(stage_dims),
            emb_dim=emb_dim,
            channels=channels,
            num_classes=num_classes,
            width=width,
            num_blocks=num_blocks,
            dropout=dropout,
        )
        self.num_classes = num_classes
        self.norms = nn.ModuleList([nn.GroupNorm(1, dim) for dim in stage_dims])
        self.enter = nn.ModuleList([nn.Conv2d(dim, width, 1) for dim in stage_dims])
        self.label = ClassShift(num_classes, width) if num_classes else None
        self.blocks = nn.ModuleList([HeadBlock(width, emb_dim, dropout) for _ in range(num_blocks)])
        self.norm = nn.GroupNorm(8, width)
        self.leave = nn.Conv2d(width, channels, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(
        self, features: Sequence[Tensor], time: Tensor, condition: Tensor | None = None
    ) -> Tensor:
        """features [N, stage_dims[i], h, w] each, time [N or 1, emb_dim], condition as in `one_hot`
        -> [N, channels, H, W] of the size of the first."""
        layers = zip(self.enter, self.norms, features, strict=True)
        # convolved at its own size, where it costs least, and then enlarged
        h = sum(
            F.interpolate(enter(norm(stage)), features[0].shape[-2:])
            for enter, norm, stage in layers
        )
        if self.label is not None:
            h = self.label(h, condition)
        for block in self.blocks:
            h = block(h, time)
        return self.leave(F.silu(self.norm(h)))


class FinetunedHead(nn.Module):
    """A score network's encoder and a `ScoreHead` on all of its stages, both trained. Its file
    holds both, and needs no score network when it guides.

    network  {"class_name": , "init_kwargs": } of the encoder, as `edm.checkpoint.config_of` tells
    head     arguments of the `ScoreHead`
    origin   fingerprint of the score network that the encoder was

    The encoder is in evaluation mode while it is trained too, so that nothing drops out.
    """

    def __init__(self, network: dict, head: dict, origin: str):
        super().__init__()
        self.config = dict(network=network, head=head, origin=origin)
        encoder = PRECONDITIONERS[network["class_name"]](**network["init_kwargs"])
        self.encoder, self.head = ScoreExtractor(encoder), ScoreHead(**head)

    @property
    def num_classes(self) -> int:
        return self.head.num_classes

    @property
    def label_dim(self) -> int:
        """Classes that the encoder knows, 0 for none."""
        return self.encoder.label_dim

    def forward(self, x: Tensor, sigma: Tensor, condition: Tensor | None = None) -> Tensor:
        """x [N, C, R, R] at EDM scale, sigma [] or [N], condition as in `one_hot` -> logits
        [N, 1]."""
        return self.head(*self.encoder(x, sigma, condition), condition=condition)


def finetuned_head(net: Preconditioner, num_classes: int, width: int) -> FinetunedHead:
    """One that starts from the encoder of `net`, which stays as it is; its logit is 0 at first."""
    half = net.init_kwargs | dict(use_fp16=False, decoder=False)
    feature_dim, emb_dim = ScoreExtractor(net).dims()
    head = FinetunedHead(
        {"class_name": type(net).__name__, "init_kwargs": half},
        dict(feature_dim=feature_dim, emb_dim=emb_dim, num_classes=num_classes, width=width),
        fingerprint(net),
    )
    encoder, state = head.encoder.net, net.state_dict()
    encoder.load_state_dict({name: state[name] for name in encoder.state_dict()})
    return head


def attention_channels(width: int) -> int:
    """Channels of one attention head in an ADM head of `width` channels: 64 as in
    guided-diffusion, and where 64 does not divide the width, the largest divisor of both."""
    return math.gcd(64, width)


class HeadedExtractor(nn.Module):
    """A frozen extractor, from dg.extractors, and the heads on it; `_joined` makes one result of
    theirs."""

    def __init__(self, extractor: Extractor, heads):
        super().__init__()
        self.extractor, self.heads = extractor, nn.ModuleList(heads)

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """x [N, C, H, W] EDM scale, sigma [] or [N], class_labels [N, K] one-hot, [N] numbers or
        None -> logits [N], or a difference of scores like x."""
        return self._joined(*self.extractor(x, sigma, class_labels), class_labels, sigma)

    def from_encoding(self, encoding: Encoding, class_labels: Tensor | None = None) -> Tensor:
        """The same from the score network's encoder pass; for the `score` extractor only."""
        features, time = self.extractor.from_encoding(encoding)
        return self._joined(features, time, class_labels, encoding.sigma.flatten())

    @property
    def conditional(self) -> bool:
        """Whether the heads take class labels."""
        return any(head.num_classes for head in self.heads)

    @property
    def device(self) -> torch.device:
        return next(self.heads.parameters()).device

    @property
    def kinds(self) -> list[str]:
        """The kinds of its extractors."""
        return [self.extractor.kind]

    def shares_encoder(self, net) -> bool:
        """Whether the extractor is the encoder of this very network."""
        return self.extractor.shares_encoder(net)

    def describe(self) -> dict:
        """Plain data on which its result depends: heads and extractor by fingerprint."""
        return {
            "heads": [fingerprint(head) for head in self.heads],
            "extractor": self.extractor.describe(),
        }

    def networks(self) -> list[nn.Module]:
        """The networks that it evaluates."""
        return [self.extractor, *self.heads]

    def _joined(self, features, time, class_labels, sigma: Tensor) -> Tensor:
        raise NotImplementedError
