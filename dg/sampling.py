"""From seeds to images: any score network, any guidance, into a resumable store."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

import edm
from dg.data.datasets import to_uint8
from dg.data.sample_store import SampleStore
from dg.discriminator import LogRatio
from dg.models.generative_model import GenerativeModel, SamplingSettings
from dg.precision import MixedPrecisionGuidance, autocast
from dg.runtime.counted_work import CountedWork
from dg.runtime.memory import in_chunks
from dg.runtime.processes import SINGLE_PROCESS, Ranks, WorkList
from dg.runtime.progress import Progress, silent, unheard
from dg.runtime.run_folder import sole_writer
from edm.fingerprints import fingerprint

ABLATION = ("solver", "discretization", "schedule", "scaling")


@dataclass(frozen=True)
class HeunSampling:
    """What all samplers of Heun steps share; names and defaults as in EDM's generate.py. None
    leaves a value to the sampler."""

    needs_log_ratio: ClassVar[bool] = False  # whether the sampler takes `log_ratio`

    num_steps: int = 18
    sigma_min: float | None = None
    sigma_max: float | None = None
    rho: float = 7
    S_churn: float = 0
    S_min: float = 0
    S_max: float = float("inf")
    S_noise: float = 1

    def __post_init__(self):
        if self.num_steps < 1:
            raise ValueError(f"{self.num_steps} sampling steps; give at least 1")
        for name in ("sigma_min", "sigma_max", "S_churn", "S_min", "S_max", "S_noise"):
            value = getattr(self, name)
            if value is not None and (
                math.isnan(value) or (math.isinf(value) and name not in ("S_churn", "S_max"))
            ):
                raise ValueError(f"{name} is {value}; give a finite number")
        if not 0.1 <= self.rho <= 1000:
            raise ValueError(f"rho is {self.rho}; give a number from 0.1 to 1000")
        if None not in (self.sigma_min, self.sigma_max) and self.sigma_min >= self.sigma_max:
            raise ValueError(
                f"no noise level is between sigma_min {self.sigma_min} and sigma_max "
                f"{self.sigma_max}; give a larger sigma_max or a smaller sigma_min"
            )

    @property
    def num_evaluations(self) -> int:
        """Evaluations of the score network for one image (NFE)."""
        return 2 * self.num_steps - 1

    def kwargs(self) -> dict:
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Sampling(HeunSampling):
    """EDM's sampler, or, where any of these four is given, its generalised sampler."""

    solver: str | None = None
    discretization: str | None = None
    schedule: str | None = None
    scaling: str | None = None

    @property
    def sampler(self):
        return (
            edm.ablation_sampler
            if any(getattr(self, name) for name in ABLATION)
            else edm.edm_sampler
        )

    @property
    def num_evaluations(self) -> int:
        return self.num_steps if self.solver == "euler" else super().num_evaluations


def needs_log_ratio(sampling: SamplingSettings) -> bool:
    """Whether the sampler, of any model, asks for the log ratio of a `ScoreModel`."""
    return isinstance(sampling, HeunSampling) and sampling.needs_log_ratio


class ScoreModel(GenerativeModel):
    """A score network of `edm`, or any denoiser(x, sigma, class_labels) with its attributes.

    log_ratio  what samplers that accept or select by the log density ratio take: `dg.LogRatio`
    """

    sampling_type = Sampling

    def __init__(self, net, log_ratio: LogRatio | None = None):
        self.net, self.log_ratio, self.label_dim = net, log_ratio, net.label_dim
        self.img_resolution, self.img_channels = net.img_resolution, net.img_channels

    def draw(
        self, latents, class_labels, sampling, randn_like=torch.randn_like, guidance=None, **given
    ):
        ratio = {"log_ratio": self.log_ratio} if sampling.needs_log_ratio else {}
        return sampling.sampler(
            self.net,
            latents,
            class_labels,
            randn_like=randn_like,
            guidance=guidance,
            **ratio,
            **given,
            **sampling.kwargs(),
        )

    def networks(self) -> list[torch.nn.Module]:
        return [self.net, *(self.log_ratio.networks() if self.log_ratio else [])]

    def describe(self) -> dict:
        ratio = {"log_ratio": self.log_ratio.describe()} if self.log_ratio else {}
        return {"network": fingerprint(self.net)} | ratio


def as_model(net) -> GenerativeModel:
    """Wrap a result of `load_model`, or any denoiser, as a `GenerativeModel`."""
    return net if isinstance(net, GenerativeModel) else ScoreModel(net)


def first_draws(
    model: GenerativeModel,
    seeds: Sequence[int],
    sampling: SamplingSettings,
    class_idx: int | None = None,
    device="cpu",
) -> tuple[edm.StackedRandomGenerator, Tensor, Tensor | None, Tensor | None]:
    """What every seed draws first: (generators, latents [N, C, R, R], classes [N], one-hot [N, K]).

    The last two are None where the model, sampled so, has no classes.
    """
    if max(seeds, default=0) >= 2**32:
        raise ValueError(f"seed {max(seeds)} is too large; give seeds below 2^32 = {2**32}")
    rnd = edm.StackedRandomGenerator(device, seeds)
    latents = rnd.randn(
        [len(seeds), model.img_channels, model.img_resolution, model.img_resolution], device=device
    )
    if not (num_classes := model.num_classes(sampling)):
        return rnd, latents, None, None
    classes = rnd.randint(num_classes, size=[len(seeds)], device=device)
    if class_idx is not None:
        classes = torch.full_like(classes, class_idx)
    return rnd, latents, classes, torch.eye(num_classes, device=device)[classes]


def draw_images(
    net,
    seeds: Sequence[int],
    sampling: SamplingSettings | None = None,
    guidance: edm.Guidance | None = None,
    class_idx: int | None = None,
    device="cpu",
    precision: str = "float32",
) -> tuple[Tensor, Tensor | None]:
    """Images of one batch of seeds: (float [N, C, R, R] on `device`, class numbers [N] or None).

    `net` is a `GenerativeModel` or a denoiser; `sampling` is of the kind that belongs to it,
    None for the settings that the model was published with.
    Each seed draws its latent, then its class, then its step noise, as EDM does; nothing depends on
    the other seeds. `precision` is the networks', see `dg.precision`; a model's own decoder keeps
    float32.
    """
    model = as_model(net).for_seeds(seeds)
    sampling = model.sampling() if sampling is None else sampling
    rnd, latents, classes, one_hot = first_draws(model, seeds, sampling, class_idx, device)
    of_edm = isinstance(model, ScoreModel) and isinstance(model.net, edm.Preconditioner)
    if precision == "bfloat16" and of_edm:
        guidance = MixedPrecisionGuidance(guidance)
    with autocast(precision, device):
        drawn = model.draw(latents, one_hot, sampling, rnd.randn_like, guidance)
    return model.to_images(drawn), classes


def check_class(net, class_idx: int | None, sampling: SamplingSettings | None = None) -> None:
    """ValueError unless the network, sampled so, can draw that class."""
    if class_idx is None:
        return
    if not (num_classes := as_model(net).num_classes(sampling)):
        raise ValueError(
            f"class {class_idx}, but the network is unconditional; leave the class out"
        )
    if not 0 <= class_idx < num_classes:
        raise ValueError(
            f"class {class_idx}, but the network has classes 0 to {num_classes - 1}; give one of "
            "these"
        )


def describe(
    net,
    sampling: SamplingSettings,
    guidance: edm.Guidance | None = None,
    class_idx=None,
    precision: str = "float32",
) -> dict:
    """Return all settings that images depend on besides the seeds; a store refuses to mix two of
    these."""
    described = {
        "network": None,
        "sampling": sampling.kwargs(),
        "class": class_idx,
        "guidance": guidance and guidance.describe(),
    }
    described |= as_model(net).describe()
    if precision != "float32":
        described["precision"] = precision
    return described


class GenerationResult(NamedTuple):
    """Result of `generate`: images of all processes together, and seconds of this one."""

    images: int
    seconds: float


def generate(
    net,
    store: SampleStore,
    sampling: SamplingSettings,
    guidance: edm.Guidance | None = None,
    class_idx: int | None = None,
    device="cpu",
    progress: Progress = silent,
    ranks: Ranks = SINGLE_PROCESS,
    precision: str = "float32",
    notify: Callable[[str], None] = unheard,
    at_once: int = 1,
) -> GenerationResult:
    """Fill the store with the batches it still lacks. Each process takes the next one when it is
    free.

    at_once  batches in work at a time, each in a thread of its own: for CPUs, where a small network
             gains little from several threads on one batch

    A batch is saved while the next is drawn. One that does not fit into a GPU's memory is drawn in
    halves, of which `notify` tells; images are the same up to rounding. Where `progress` asks to
    end, by `Stopped`, all processes finish their batches and pass it on, unless that was all.
    """
    check_class(net, class_idx, sampling)
    with sole_writer(store.outdir, ranks):
        # counted by batch: its images are all finished at once
        work = CountedWork(ranks, ranks.by_first(store.pending), progress, "images")
        total = sum(len(store.batches()[index]) for index in work.items)
        how = (class_idx, device, precision)
        most, mine, saving, start = store.batch_size, 0, None, time.perf_counter()

        def draw(index: int) -> tuple[np.ndarray, np.ndarray | None]:
            nonlocal most
            images, classes, most = _drawn_in_chunks(
                lambda seeds: draw_images(
                    net, seeds, sampling, guidance and guidance.copied(), *how
                ),
                store.batches()[index],
                most,
                notify,
            )
            return images, classes

        with ThreadPoolExecutor(max_workers=1) as thread:
            work.show(1)
            for place, index, batch in _in_flight(work, draw, at_once):
                if saving is not None:
                    saving.result()
                saving, mine = thread.submit(store.write, index, *batch), mine + 1
                work.show(place + 2)
            if saving is not None:
                saving.result()
        seconds = time.perf_counter() - start if total else 0.0
        work.end(mine)
        if ranks.first:
            store.finish()
        return GenerationResult(total, seconds)


def _in_flight(work: WorkList, compute: Callable, at_once: int) -> Iterator[tuple]:
    """Yield (place, item, what `compute` makes of it) of a list's items, `at_once` in work at a
    time."""
    with ThreadPoolExecutor(at_once) as threads:
        waiting: deque = deque()
        for place, item in work:
            waiting.append((place, item, threads.submit(compute, item)))
            if len(waiting) == at_once:
                place, item, found = waiting.popleft()
                yield place, item, found.result()
        for place, item, found in waiting:
            yield place, item, found.result()


def fill_store(
    path,
    net,
    sampling: SamplingSettings,
    seeds: Sequence[int],
    batch_size: int,
    guidance: edm.Guidance | None = None,
    described: dict | None = None,
    ranks: Ranks = SINGLE_PROCESS,
    **kwargs,
) -> GenerationResult:
    """Generate the images of `seeds` into the store at `path`; `kwargs` as for `generate`.

    described  result of `describe` for these arguments, if it is known: it hashes all networks
    """
    described = described or describe(net, sampling, guidance)
    with sole_writer(path, ranks):
        store = SampleStore(path, described, list(seeds), batch_size, ranks=ranks)
        return generate(net, store, sampling, guidance, ranks=ranks, **kwargs)


def _drawn_in_chunks(
    draw, seeds: Sequence[int], most: int, notify
) -> tuple[np.ndarray, np.ndarray | None, int]:
    """(images uint8 [N, R, R, C], class numbers int64 [N] or None) of a batch, and how many seeds
    fit into memory at once."""
    pieces, most = in_chunks(lambda part: draw(seeds[part]), len(seeds), most, notify)
    images = np.concatenate([to_uint8(images) for images, _ in pieces])
    if pieces[0][1] is None:
        return images, None, most
    return (
        images,
        np.concatenate([classes.cpu().numpy() for _, classes in pieces]).astype(np.int64),
        most,
    )
