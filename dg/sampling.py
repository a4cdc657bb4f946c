"""From seeds to images: any score network, any guidance, into a resumable store."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

import edm
from dg.discriminator import fingerprint
from dg.guidance import DiscriminatorGuidance
from dg.runtime.datasets import to_uint8
from dg.runtime.progress import Progress, silent
from dg.runtime.ranks import Ranks
from dg.runtime.store import SampleStore

ALONE = Ranks()
ABLATION = ("solver", "discretization", "schedule", "scaling")


@dataclass(frozen=True)
class Sampling:
    """How to sample; names and defaults as in EDM's generate.py. None leaves a value to the sampler."""

    num_steps: int = 18
    sigma_min: float | None = None
    sigma_max: float | None = None
    rho: float = 7
    S_churn: float = 0
    S_min: float = 0
    S_max: float = float("inf")
    S_noise: float = 1
    solver: str | None = None  # any of these four selects EDM's generalised sampler
    discretization: str | None = None
    schedule: str | None = None
    scaling: str | None = None

    def __post_init__(self):
        if self.num_steps < 1:
            raise ValueError(f"{self.num_steps} sampling steps; give at least 1")
        for name in ("sigma_min", "sigma_max", "S_churn", "S_min", "S_max", "S_noise"):
            value = getattr(self, name)
            if value is not None and (math.isnan(value) or (math.isinf(value) and name not in ("S_churn", "S_max"))):
                raise ValueError(f"{name} is {value}; give a finite number")
        if not 0.1 <= self.rho <= 1000:
            raise ValueError(f"rho is {self.rho}; give a number from 0.1 to 1000")
        if None not in (self.sigma_min, self.sigma_max) and self.sigma_min >= self.sigma_max:
            raise ValueError(f"no noise level is between sigma_min {self.sigma_min} and sigma_max {self.sigma_max}")

    @property
    def sampler(self):
        return edm.ablation_sampler if any(getattr(self, name) for name in ABLATION) else edm.edm_sampler

    @property
    def num_evaluations(self) -> int:
        """Evaluations of the score network for one image (NFE)."""
        return self.num_steps if self.solver == "euler" else 2 * self.num_steps - 1

    def kwargs(self) -> dict:
        return {name: value for name, value in asdict(self).items() if value is not None}


def draw_images(net, seeds: Sequence[int], sampling: Sampling, guidance: edm.Guidance | None = None,
                class_idx: int | None = None, device="cpu") -> tuple[Tensor, Tensor | None]:
    """Images of one batch of seeds: (float64 [N, C, R, R] on `device`, class numbers [N] or None).

    Each seed draws its latent, then its class, then its step noise, as EDM does; nothing depends on the other seeds.
    """
    rnd = edm.StackedRandomGenerator(device, seeds)
    latents = rnd.randn([len(seeds), net.img_channels, net.img_resolution, net.img_resolution], device=device)
    classes = one_hot = None
    if net.label_dim:
        classes = rnd.randint(net.label_dim, size=[len(seeds)], device=device)
        if class_idx is not None:
            classes = torch.full_like(classes, class_idx)
        one_hot = torch.eye(net.label_dim, device=device)[classes]
    images = sampling.sampler(net, latents, one_hot, randn_like=rnd.randn_like, guidance=guidance, **sampling.kwargs())
    return images, classes


def check_class(net, class_idx: int | None) -> None:
    """ValueError unless the network can draw that class."""
    if class_idx is None:
        return
    if not net.label_dim:
        raise ValueError("--class: this network is unconditional; leave the option out")
    if not 0 <= class_idx < net.label_dim:
        raise ValueError(f"--class {class_idx}: this network has classes 0 to {net.label_dim - 1}")


def describe(net, sampling: Sampling, guidance: DiscriminatorGuidance | None = None, class_idx=None) -> dict:
    """Everything besides the seeds that images depend on; a store refuses to mix two of these."""
    described = {"network": fingerprint(net), "sampling": sampling.kwargs(), "class": class_idx, "guidance": None}
    if guidance is not None:
        discriminator = guidance.discriminator
        described["guidance"] = {
            "heads": [fingerprint(head) for head in discriminator.heads], "member_weights": discriminator.weights.tolist(),
            "extractor": _describe_extractor(discriminator.extractor), "weights": guidance.weights,
            "window": [guidance.time_min, guidance.time_max], "clip": guidance.clip,
            "boosting": guidance.boosting and asdict(guidance.boosting)}
        if discriminator.average != "logits":
            described["guidance"]["average"] = discriminator.average
    return described


def _describe_extractor(extractor) -> list:
    return [extractor.kind, getattr(extractor, "schedule", None), fingerprint(extractor)]


def generate(net, store: SampleStore, sampling: Sampling, guidance: edm.Guidance | None = None,
             class_idx: int | None = None, device="cpu", progress: Progress = silent, ranks: Ranks = ALONE) -> float:
    """Fill the store with the batches it still lacks, shared among `ranks`; returns the seconds this process took."""
    check_class(net, class_idx)
    pending = store.pending()
    ranks.wait()  # all must have seen the same batches pending before the first is written
    pending = ranks.share(pending)
    sizes = [len(store.batches()[index]) for index in pending]
    bar = iter(progress(range(sum(sizes)), desc="images", unit="img", total=sum(sizes)))
    seconds = 0.0
    for index, size in zip(pending, sizes, strict=True):
        start = time.perf_counter()
        images, classes = draw_images(net, store.batches()[index], sampling, guidance, class_idx, device)
        store.write(index, to_uint8(images), None if classes is None else classes.cpu().numpy().astype(np.int64))
        seconds += time.perf_counter() - start
        for _ in range(size):
            next(bar, None)
    next(bar, None)
    ranks.wait()
    if ranks.first:
        store.finish()
    return seconds
