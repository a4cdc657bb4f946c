"""A discriminator: one frozen extractor and one or several trainable heads. It computes with logits
throughout. And its relative without a log ratio, which gives the difference of the scores itself.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict

import torch
from torch import Tensor, nn

from dg.calibration import Calibration
from dg.data.latents import AnySet
from dg.extractors import Extractor, PixelExtractor, StageExtractor, build_extractor
from dg.heads import (
    DifferenceHead,
    HeadedExtractor,
    ScoreHead,
    attention_channels,
    finetuned_head,
)
from dg.runtime.randomness import seeded
from edm.parametrisations import per_image
from guided_diffusion import create_classifier
from guided_diffusion.presets import CHANNEL_MULT

AVERAGES = ("logits", "probabilities", "sum", "mistaken")
CLIP = 1e-5  # bound of the probability in the authors' code
SIGMA_DATA = 0.5  # spread of images, as EDM's preconditioning takes it


class Discriminator(HeadedExtractor):
    """Logit of "real" against "generated" for noisy images: an estimate of the log density ratio.

    extractor  frozen, from dg.extractors
    heads      one per member; several make an ensemble, whose logit is the weighted mean of theirs
    weights    one per member, normalised to sum 1; None = equal
    average    "logits" averages the members' logits, and the mean of log ratios is a log ratio;
               "probabilities" averages probabilities; "sum" adds the logits, each times its
               weight as given, for members of which each was trained on what the ones before it
               had guided; "mistaken" is the fault of reproduction B: the mean of the logits is
               taken for a probability, and clipped as one
    calibrations  one per member, which divide the members' logits; None: logits as they are
    """

    def __init__(
        self,
        extractor: Extractor,
        heads,
        weights=None,
        average: str = "logits",
        calibrations: Sequence[Calibration] | None = None,
    ):
        super().__init__(extractor, heads)
        self.calibrations = calibrations and tuple(calibrations)
        if average not in AVERAGES:
            raise ValueError(f"average is {average!r}; use {', '.join(AVERAGES)}")
        self.average = average
        weights = member_weights(weights, len(self.heads), average)
        self.register_buffer("weights", weights, persistent=False)

    def describe(self) -> dict:
        described = super().describe() | {"member_weights": self.weights.tolist()}
        if self.average != "logits":
            described["average"] = self.average
        if self.calibrations:
            described["calibrations"] = [asdict(one) for one in self.calibrations]
        return described

    def member_logits(self, features, time: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Logits of every member, [M, N], from the extractor's (features, time)."""
        return torch.stack(
            [head(features, time, condition=class_labels).flatten() for head in self.heads]
        )

    def on_features(self) -> "Discriminator":
        """The same heads, which take the extractor's features for the noisy image."""
        members = self.heads, self.weights, self.average, self.calibrations
        return Discriminator(PixelExtractor(), *members)

    def _joined(self, features, time, class_labels, sigma: Tensor) -> Tensor:
        logits = self.member_logits(features, time, class_labels)
        # under autocast the logits are half precision
        precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.calibrations:
            found = [one.temperature(sigma).expand(precise.shape[1]) for one in self.calibrations]
            precise = precise / torch.stack(found).to(precise)
        if self.average == "probabilities":
            return (self.weights[:, None] * precise.sigmoid()).sum(dim=0).logit()
        joined = (self.weights[:, None] * precise).sum(dim=0)
        return _log_odds(joined, CLIP) if self.average == "mistaken" else joined


class MixedDiscriminator(nn.Module):
    """Members on different extractors as one discriminator, whose logit is the sum of theirs.

    parts  a discriminator for each extractor; its weights hold what share of the whole it has

    Every extractor has a pass of its own; a score network's is not shared with denoising.
    """

    def __init__(self, parts: Sequence[Discriminator]):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """As of `Discriminator`."""
        return torch.stack([part(x, sigma, class_labels) for part in self.parts]).sum(dim=0)

    @property
    def heads(self) -> list[nn.Module]:
        """All members."""
        return [head for part in self.parts for head in part.heads]

    @property
    def conditional(self) -> bool:
        """Whether one of the heads takes class labels."""
        return any(part.conditional for part in self.parts)

    @property
    def kinds(self) -> list[str]:
        """The kinds of its extractors."""
        return [part.extractor.kind for part in self.parts]

    def shares_encoder(self, net) -> bool:
        """Never: the others need the noisy image."""
        return False

    def describe(self) -> dict:
        """Plain data on which its logits depend."""
        return {"parts": [part.describe() for part in self.parts]}

    def networks(self) -> list[nn.Module]:
        """The networks that it evaluates."""
        return [network for part in self.parts for network in part.networks()]


def member_weights(weights, number: int, average: str) -> Tensor:
    """Weights of members, float32 [number], as given for a sum, else of sum 1; None: equal ones.
    ValueError for too many or too few, and for a sum that is not positive."""
    weights = torch.ones(number) if weights is None else torch.as_tensor(weights).float()
    if len(weights) != number or not 0 < weights.sum() < math.inf:
        raise ValueError(
            f"{len(weights)} ensemble weights for {number} heads; give one each, of positive sum"
        )
    return weights if average == "sum" else weights / weights.sum()


def _log_odds(probability: Tensor, eps: float) -> Tensor:
    """log p / (1 - p) of a probability that is clipped to [eps, 1 - eps]; its gradient is zero
    beyond."""
    probability = probability.clamp(eps, 1 - eps)
    return (probability / (1 - probability)).log()


class ScoreDifference(HeadedExtractor):
    """Estimate of the score of the data less that of the model, [N, C, H, W]: what the gradient of
    a log ratio is, without a log ratio and without a backward pass.

    The head's output is the correction of the denoised image in units of `correction_scale`.
    """

    def __init__(self, extractor: Extractor, head: nn.Module):
        super().__init__(extractor, [head])

    def _joined(self, features, time, class_labels, sigma: Tensor) -> Tensor:
        out = self.heads[0](features, time, condition=class_labels)
        # under autocast it is half precision
        out = out.to(torch.promote_types(out.dtype, torch.float32))
        return per_image(correction_scale(sigma) / sigma**2, out) * out


def correction_scale(sigma: Tensor) -> Tensor:
    """Spread of x_0 given a noisy image of a Gaussian of spread SIGMA_DATA: EDM's c_out (Karras et
    al. 2022, table 1)."""
    return sigma * SIGMA_DATA / (sigma**2 + SIGMA_DATA**2).sqrt()


def clipped(logits: Tensor, eps: float | None) -> Tensor:
    """Logits after the authors' clip of the probability to [eps, 1 - eps], whose gradient is zero
    beyond; None: as is."""
    return logits if eps is None else _log_odds(logits.sigmoid(), eps)


def log_ratio(
    discriminator: Discriminator | MixedDiscriminator,
    x: Tensor,
    sigma: Tensor,
    class_labels: Tensor | None = None,
    clip: float | None = None,
) -> Tensor:
    """Estimate of log p_data(x; sigma) - log p_model(x; sigma), [N], differentiable in x [N, C, H,
    W] at EDM scale.

    Kim et al. 2023, Eq. 8. sigma [] or [N]; class_labels [N, K] one-hot or None; `clip` as in
    `clipped`.
    """
    return clipped(discriminator(x, sigma, class_labels), clip)


class LogRatio:
    """`log_ratio` of one discriminator: what samplers accept and select by.

    clip  as in `clipped`
    """

    def __init__(
        self, discriminator: Discriminator | MixedDiscriminator, clip: float | None = None
    ):
        if isinstance(discriminator, ScoreDifference):
            raise ValueError("a difference of scores has no log ratio; give a discriminator")
        self.discriminator, self.clip = discriminator, clip

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        return log_ratio(self.discriminator, x, sigma, class_labels, self.clip)

    def describe(self) -> dict:
        """Plain data on which its values depend; networks by fingerprint."""
        return self.discriminator.describe() | {"clip": self.clip}

    def networks(self) -> list[nn.Module]:
        return self.discriminator.networks()


def known_log_ratio(
    ratio: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    x: Tensor,
    sigma: Tensor,
    class_labels: Tensor | None = None,
) -> Tensor:
    """ratio(x, sigma, class_labels) as float64 [N]. ValueError where it is not finite, by which
    nothing can be decided."""
    values = ratio(x, sigma, class_labels).to(torch.float64)
    if not values.isfinite().all():
        raise ValueError(
            f"the log ratio is {float(values[~values.isfinite()][0])} at a noise level of "
            f"{float(sigma.min()):.3g}; narrow the time window, or train the discriminator anew"
        )
    return values


def build_discriminator(
    kind: str,
    data: AnySet | None = None,
    net=None,
    classifier_path=None,
    conditional: bool = False,
    width: int | None = None,
    seed: int = 0,
    device="cpu",
) -> Discriminator:
    """A discriminator with an untrained head for images or latents like `data`; its initial weights
    depend on `seed`, and on `net` if they start from it, alone.

    kind   "score" (needs `net`), "finetuned" (starts from the encoder of `net`), "classifier"
           (needs `classifier_path`) or "none" (a U-Net encoder from scratch)
    data   None: images or latents of the size, and the classes, that the network or the classifier
           itself takes
    width  channels of the head; None: 32 on a score network's encoder, the authors' 128
           otherwise

    ValueError for what is missing, and for data that the network does not fit.
    """
    extractor = build_extractor(kind, net, classifier_path)
    on_score = kind in ("score", "finetuned")
    if on_score and net is None:
        raise ValueError(f"the extractor {kind} starts from a score network; give that network")
    num_classes = 0
    if data is not None:
        num_classes = data.num_classes if conditional else 0
    elif kind == "none":
        raise ValueError("a discriminator from scratch needs the size of its images; give data")
    elif on_score and conditional:
        if not net.label_dim:
            raise ValueError("the network knows no classes; give data with labels")
        num_classes = net.label_dim
    if on_score and data is not None:
        _check_fit(net, data)
    with seeded(seed):
        if kind == "score":
            head = ScoreHead(*extractor.dims(), num_classes=num_classes, width=width or 32)
        elif kind == "finetuned":
            head = finetuned_head(net, num_classes, width or 32)
        elif kind == "classifier":
            encoder = extractor.encoder
            head = _adm_head(encoder.feature_size, encoder.feature_channels, conditional, width)
        else:
            head = _adm_head(data.resolution, data.channels, conditional, width)
    return Discriminator(extractor, [head]).to(device)


def build_difference(
    net,
    data: AnySet | None = None,
    conditional: bool = False,
    width: int = 32,
    seed: int = 0,
    device="cpu",
) -> ScoreDifference:
    """A `ScoreDifference` of 0 on the encoder of a score network, before its training; arguments as
    in `build_discriminator`."""
    if net is None:
        raise ValueError("the score difference is learned on a score network; give that network")
    if data is not None:
        _check_fit(net, data)
    extractor = StageExtractor(net)
    num_classes = 0
    if conditional:
        num_classes = net.label_dim if data is None else data.num_classes
    with seeded(seed):
        head = DifferenceHead(*extractor.dims(), net.img_channels, num_classes, width)
    return ScoreDifference(extractor, head).to(device)


def _adm_head(size: int, channels: int, conditional: bool, width: int | None) -> nn.Module:
    """The authors' head, on pixels or on the features of a classifier."""
    width = width or 128
    return create_classifier(
        image_size=size,
        in_channels=channels,
        out_channels=1,
        condition=conditional,
        classifier_width=width,
        num_head_channels=attention_channels(width),
        channel_mult=CHANNEL_MULT.get(size) or _multipliers(size),
    )


def _multipliers(size: int) -> tuple[int, ...]:
    """Widths of the levels for sizes without a published choice: halve until 8 pixels or an odd
    size, as at 32 pixels."""
    levels = 1
    while size > 8 and size % 2 == 0 and levels < 3:
        size, levels = size // 2, levels + 1
    return (1, 2, 4)[:levels]


def _check_fit(net, data: AnySet) -> None:
    if (net.img_resolution, net.img_channels) != (data.resolution, data.channels):
        raise ValueError(
            f"{data.name}: {data.what} of {data.resolution} pixels and {data.channels} "
            f"channels, but the score network makes {net.img_resolution} pixels and "
            f"{net.img_channels} channels; give data of the network's size"
        )
