"""A discriminator: one frozen extractor, one or several trainable heads, logits end to end."""

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from dg.extractors import ClassifierExtractor, PixelExtractor, ScoreExtractor
from dg.heads import ScoreHead
from dg.lora import fingerprint, load_lora, merge_lora
from dg.runtime.files import atomic_write
from dg.runtime.latents import AnySet
from edm.checkpoint import load_strictly, read_safetensors, write_safetensors
from edm.precond import Encoding
from guided_diffusion import create_classifier, load_encoder
from guided_diffusion.presets import CHANNEL_MULT

FORMAT = "discriminator-head"


class Discriminator(nn.Module):
    """Logit of "real" against "generated" for noisy images: an estimate of the log density ratio.

    extractor  frozen, from dg.extractors
    heads      one per member; several make an ensemble, whose logit is the weighted mean of theirs
    weights    one per member, normalised to sum 1; None = equal
    average    of the members' "logits": the mean of log ratios is a log ratio; "probabilities" is what reproduction B did
    """

    def __init__(self, extractor: nn.Module, heads, weights=None, average: str = "logits"):
        super().__init__()
        if average not in ("logits", "probabilities"):
            raise ValueError(f"average is {average!r}; use logits or probabilities")
        self.average = average
        self.extractor, self.heads = extractor, nn.ModuleList(heads)
        weights = torch.ones(len(self.heads)) if weights is None else torch.as_tensor(weights, dtype=torch.float32)
        if len(weights) != len(self.heads) or not 0 < weights.sum() < math.inf:
            raise ValueError(f"{len(weights)} ensemble weights for {len(self.heads)} heads; give one each, of positive sum")
        self.register_buffer("weights", weights / weights.sum(), persistent=False)

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """x [N, C, H, W] EDM scale, sigma [] or [N], class_labels [N, K] one-hot or None -> logits [N]."""
        return self._joined(*self.extractor(x, sigma, class_labels), class_labels)

    def from_encoding(self, encoding: Encoding, class_labels: Tensor | None = None) -> Tensor:
        """The same from the score network's encoder pass; for the `score` extractor only."""
        return self._joined(*self.extractor.from_encoding(encoding), class_labels)

    def at_vp(self, x: Tensor, time: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Logits [N] of images x [N, C, H, W] that are at VP scale already, at VP time [N]; not for `score`."""
        return self._joined(*self.extractor.at_vp(x, time), class_labels)

    @property
    def conditional(self) -> bool:
        """Whether the heads take class labels."""
        return any(head.num_classes for head in self.heads)

    def shares_encoder(self, net) -> bool:
        """Whether the extractor is the encoder of this very network."""
        return getattr(self.extractor, "net", None) is net

    def member_logits(self, features, time: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Logits of every member, [M, N], from the extractor's (features, time)."""
        return torch.stack([head(features, time, condition=class_labels).flatten() for head in self.heads])

    def _joined(self, features, time, class_labels) -> Tensor:
        logits = self.member_logits(features, time, class_labels)
        precise = logits.to(torch.promote_types(logits.dtype, torch.float32))  # under autocast they are half precision
        if self.average == "probabilities":
            return (self.weights[:, None] * precise.sigmoid()).sum(dim=0).logit()
        return (self.weights[:, None] * precise).sum(dim=0)


def clipped(logits: Tensor, eps: float | None) -> Tensor:
    """Logits after the authors' clip of the probability to [eps, 1 - eps], whose gradient is zero beyond; None: as is."""
    if eps is None:
        return logits
    probability = logits.sigmoid().clamp(eps, 1 - eps)
    return (probability / (1 - probability)).log()



def log_ratio(discriminator: Discriminator, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None,
              clip: float | None = None) -> Tensor:
    """Estimate of log p_data(x; sigma) - log p_model(x; sigma), [N], differentiable in x [N, C, H, W] at EDM scale.

    Kim et al. 2023, Eq. 8. sigma [] or [N]; class_labels [N, K] one-hot or None; `clip` as in `clipped`.
    """
    return clipped(discriminator(x, sigma, class_labels), clip)


def build_discriminator(kind: str, data: AnySet, net=None, classifier_path=None, conditional: bool = False,
                        width: int | None = None, seed: int = 0, device="cpu") -> Discriminator:
    """A discriminator with an untrained head for images or latents like `data`; its initial weights depend on `seed` alone.

    kind   "score" (needs `net`), "classifier" (needs `classifier_path`) or "none" (a U-Net encoder from scratch)
    width  channels of the head; None: 32 on a score network, the authors' 128 otherwise
    """
    if kind not in ("score", "classifier", "none"):
        raise ValueError(f"extractor is {kind!r}; use score, classifier or none")
    extractor = _build_extractor({"extractor": kind}, classifier_path, net, f"--extractor {kind}")
    num_classes = data.num_classes if conditional else 0
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not those of GPUs, which are not forked
        if kind == "score":
            _check_fit(net, data)
            head = ScoreHead(*extractor.dims(), num_classes=num_classes, width=width or 32)
        else:
            size, channels = data.resolution, data.channels
            if kind == "classifier":
                size, channels = extractor.encoder.feature_size, extractor.encoder.feature_channels
            head = create_classifier(image_size=size, in_channels=channels, out_channels=1, condition=conditional,
                                     classifier_width=width or 128, channel_mult=CHANNEL_MULT.get(size) or _multipliers(size))
    return Discriminator(extractor, [head]).to(device)


def _multipliers(size: int) -> tuple[int, ...]:
    """Widths of the levels for sizes that nobody has published: halve until 8 pixels or an odd size, as at 32 pixels."""
    levels = 1
    while size > 8 and size % 2 == 0 and levels < 3:
        size, levels = size // 2, levels + 1
    return (1, 2, 4)[:levels]


def _check_fit(net, data: AnySet) -> None:
    if (net.img_resolution, net.img_channels) != (data.resolution, data.channels):
        raise ValueError(f"{data.name}: {data.what} of {data.resolution} pixels and {data.channels} channels, but the score "
                         f"network makes {net.img_resolution} pixels and {net.img_channels} channels")


def save_head(path, head: nn.Module, extractor: nn.Module, training: dict | None = None) -> None:
    """Write a head as safetensors; its metadata says on which extractor it was trained, and how."""
    config = {"head": type(head).__name__, "head_kwargs": getattr(head, "config", {}), "extractor": extractor.kind,
              "fingerprint": extractor.frozen and fingerprint(extractor.frozen),
              "schedule": getattr(extractor, "schedule", None),
              "training": training or {}}
    with atomic_write(path) as file:
        write_safetensors(file, head.state_dict(), FORMAT, config)


def load_discriminator(classifier_path=None, head_path=None, net=None, weights=None, device="cpu",
                       lora_path=None, average="logits") -> Discriminator:
    """A frozen discriminator from files.

    classifier_path  the ADM classifier's bare state dict, where a head was trained on its features
    head_path        a head of this project (.safetensors), a bare state dict of the authors' (.pt), or a list of them
    net              the score network, where a head was trained on its encoder
    weights, average of the members, as in `Discriminator`
    lora_path        low-rank update of the classifier that the head was trained with; merged, so that it costs nothing

    Raises ValueError with one line that names the file: missing, damaged, or trained on another extractor.
    """
    paths = [Path(p) for p in (head_path if isinstance(head_path, (list, tuple)) else [head_path]) if p is not None]
    if not paths:
        raise ValueError("no discriminator is given; give the path of a head")
    loaded = [_load_head(path) for path in paths]
    needs = {config["extractor"] for _, config in loaded}
    if len(needs) > 1:
        raise ValueError(f"{paths[0]}: members of an ensemble must share one extractor, found {', '.join(sorted(needs))}")
    extractor = _build_extractor(loaded[0][1], classifier_path, net, paths[0])
    for path, (_, config) in zip(paths, loaded, strict=True):
        _check_trained_on(config, extractor, path)
    _adapt(extractor, lora_path, [config.get("training", {}).get("lora_rank") for _, config in loaded], paths[0])
    discriminator = Discriminator(extractor, [head for head, _ in loaded], weights, average)
    return discriminator.to(device).eval().requires_grad_(False)


def _load_head(path: Path) -> tuple[nn.Module, dict]:
    if not path.is_file():
        raise ValueError(f"{path}: no such discriminator; train one with train.py")
    with open(path, "rb") as file:
        own_format = file.read(9)[8:] == b"{"
    if not own_format:
        head = load_encoder(path)
        return head, {"extractor": "none" if head.in_channels <= 4 else "classifier"}
    config, tensors = read_safetensors(path, FORMAT, "head", "head_kwargs", "extractor")
    if config["head"] == "EncoderUNetModel":
        try:
            return load_encoder(tensors), config
        except ValueError as error:
            raise ValueError(str(error).replace("the state dict", str(path), 1)) from None
    with torch.device("meta"):
        head = ScoreHead(**config["head_kwargs"])
    load_strictly(head, tensors, path)
    return head, config


def _build_extractor(config: dict, classifier_path, net, path) -> nn.Module:
    kind = config["extractor"]
    if kind == "none":
        return PixelExtractor()
    if kind == "score":
        if net is None:
            raise ValueError(f"{path}: was trained on a score network's encoder; give that network")
        return ScoreExtractor(net)
    if classifier_path is None:
        raise ValueError(f"{path}: works on a classifier's features; give --pretrained_classifier_ckpt")
    encoder = load_encoder(classifier_path)
    # The authors' classifier of 64 x 64 images was trained with the cosine schedule, the others with the linear one.
    cosine = (encoder.image_size, encoder.in_channels) == (64, 3)
    return ClassifierExtractor(encoder, config.get("schedule") or ("cosine" if cosine else "linear"))


def _adapt(extractor, lora_path, ranks: list, head_path) -> None:
    """Merge a LoRA into the classifier; a head that was trained with one must get one."""
    if lora_path is None:
        if any(ranks):
            raise ValueError(f"{head_path}: was trained together with a LoRA of the classifier; give --lora_checkpoint")
        return
    if extractor.kind != "classifier":
        raise ValueError(f"{lora_path}: LoRA adapts a classifier, but the head was trained on extractor {extractor.kind}")
    load_lora(lora_path, extractor.encoder)
    merge_lora(extractor.encoder)


def _check_trained_on(config: dict, extractor: nn.Module, path) -> None:
    expected = config.get("fingerprint")
    if expected is None:
        return
    found = fingerprint(extractor.frozen)
    if found != expected:
        what = "score network" if extractor.kind == "score" else "classifier"
        raise ValueError(f"{path}: was trained on another {what} (fingerprint {expected}, given {found}); "
                         "give the one it was trained with, or train a new discriminator")
