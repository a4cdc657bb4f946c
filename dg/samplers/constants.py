"""The acceptance constants of rejection sampling: quantiles of the log ratios of a warm-up."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from dg import vp
from dg.discriminator import known_log_ratio
from dg.precision import autocast
from dg.runtime.files import read_json, settings_hash, writable_folder, write_json
from dg.runtime.processes import SINGLE_PROCESS, Ranks
from dg.runtime.progress import Progress, silent
from dg.sampling import HeunSampling, ScoreModel, as_model, describe, first_draws
from edm.guidance import Guidance
from edm.sampler import churn_factor, churned, heun_step, sampling_levels

FORMAT = "discriminator-guidance rejection constants"
BATCH = 64  # images of the warm-up at once


@dataclass(frozen=True)
class Constants:
    """For each noise level, from the first to 0: what a log ratio is held against.

    marginal  of a state that has not come by a step: the log ratio itself
    stepwise  of a state after a step: the change of the log ratio
    """

    marginal: tuple[float, ...]
    stepwise: tuple[float, ...]

    def __post_init__(self):
        for name in ("marginal", "stepwise"):
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))


@dataclass(frozen=True)
class RejectionSampling(HeunSampling):
    """How to sample with rejection. Names are those of DiffRS's options; rej_percentile and
    max_iter default to the values of its README's command (its parser's own are 0 and 999999).

    rej_percentile  quantile of the warm-up's log ratios that the constants are; 1 = their largest
    max_iter        the most evaluations of the score network in one attempt. A sample that would
                    need more begins anew, so an image may take several attempts.
    time_min, time_max  VP time window of the checks; states outside of it are accepted. The
                    authors' code checks at all times, which is time_min 0.
    warmup          images of the warm-up
    constants       of a warm-up; None where there has been none
    """

    rej_percentile: float = 0.75
    max_iter: int = 105
    time_min: float = 0.01
    time_max: float = 1.0
    warmup: int = 640
    constants: Constants | None = None

    needs_log_ratio: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        vp.check_window(self.time_min, self.time_max)
        if not 0 <= self.rej_percentile <= 1:
            raise ValueError(f"rej_percentile is {self.rej_percentile}; give a number from 0 to 1")
        if self.warmup < 1:
            raise ValueError(f"a warm-up of {self.warmup} images; give at least 1")
        if self.max_iter < self.num_evaluations:
            raise ValueError(
                f"max_iter {self.max_iter}, but {self.num_steps} steps take {self.num_evaluations} "
                "evaluations; give at least as many"
            )
        levels = self.constants and len(self.constants.marginal)
        if levels and levels != self.num_steps + 1:
            raise ValueError(
                f"constants of {levels - 1} steps, but {self.num_steps} are to be made; give those "
                "of the same settings"
            )

    def with_constants(self, constants: Constants) -> "RejectionSampling":
        return replace(self, constants=constants)


class Path:
    """The noise levels of a sampling, which of them are checked, and the step between them, for a
    batch whose samples may stand at different levels."""

    def __init__(self, net, sampling: HeunSampling, guidance: Guidance | None, device):
        self.guidance = guidance or Guidance()
        if self.guidance.needs_step:
            raise ValueError(
                "boosting and guidance at every K-th step depend on the step, which differs within "
                "a batch of rejection sampling; leave them out"
            )
        self.net, self.sampling = net, sampling
        low, high = sampling.sigma_min, sampling.sigma_max
        low, high = 0.002 if low is None else low, 80 if high is None else high
        self.sigmas = sampling_levels(net, sampling.num_steps, low, high, sampling.rho, device)
        window = (sampling.time_min, sampling.time_max)
        self.checked = vp.in_window(self.sigmas, *window).cpu()
        self.churns = sampling.S_churn > 0

    def step(self, x, level: Tensor, labels, noise: Tensor | None, second_order: bool) -> Tensor:
        """States x [N, C, H, W] at levels [N], one level further down; see `edm.edm_sampler`."""
        how, level = self.sampling, level.to(x.device)
        sigma, sigma_next = self.sigmas[level], self.sigmas[level + 1]  # [N]
        if noise is not None:
            gamma = churn_factor(how.S_churn, how.num_steps)
            gamma = gamma * ((how.S_min <= sigma) & (sigma <= how.S_max)).to(sigma)
            x, sigma = churned(self.net, x, sigma, gamma, how.S_noise, noise)
        self.guidance.begin(x)
        rest = (labels, self.guidance, 0, second_order)
        return heun_step(self.net, x, sigma, sigma_next, *rest)


@torch.no_grad()
def warm_up(
    net,
    log_ratio: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    sampling: RejectionSampling,
    guidance: Guidance | None = None,
    class_idx: int | None = None,
    device="cpu",
    progress: Progress = silent,
) -> Constants:
    """The constants of a sampling, from passes without rejection.

    Na et al. 2024: at each level the quantile `rej_percentile` of the log ratios, and of their
    change since the level before, both floored at 0. The images are of seeds of their own.
    """
    model, path = as_model(net), Path(net, sampling, guidance, device)
    levels, parts = len(path.sigmas), []
    firsts = range(0, sampling.warmup, BATCH)
    for first in progress(firsts, desc="warm-up", unit="batch", total=len(firsts)):
        places = range(first, min(first + BATCH, sampling.warmup))
        seeds = [zlib.crc32(f"warm-up/{place}".encode()) for place in places]
        rnd, latents, _, labels = first_draws(model, seeds, sampling, class_idx, device)
        x, ratios = latents.to(torch.float64) * path.sigmas[0], []
        for level in range(levels):
            at = path.sigmas[level].expand(len(x))
            check = path.checked[level]
            seen = known_log_ratio(log_ratio, x, at, labels) if check else x.new_zeros(len(x))
            ratios.append(seen.cpu())
            if level < levels - 1:
                noise = rnd.randn_like(x) if path.churns else None
                whole = torch.full([len(x)], level)
                x = path.step(x, whole, labels, noise, level < levels - 2)
        parts.append(torch.stack(ratios))
    return _quantiles(torch.cat(parts, dim=1), path.checked, sampling.rej_percentile)


def _quantiles(ratios: Tensor, checked: Tensor, share: float) -> Constants:
    """Of log ratios [levels, images]; an unchecked level keeps the ratio before it."""
    known = ratios.clone()
    for before, level in pairwise(range(len(known))):
        if not checked[level]:
            known[level] = known[before]
    changes = known.diff(dim=0, prepend=known[:1])
    bounds = (part.quantile(share, dim=1).clamp(min=0).tolist() for part in (known, changes))
    return Constants(*bounds)


def with_measured_constants(
    model: ScoreModel,
    sampling: RejectionSampling,
    guidance: Guidance | None,
    folder,
    class_idx: int | None = None,
    device="cpu",
    precision: str = "float32",
    progress: Progress = silent,
    ranks: Ranks = SINGLE_PROCESS,
) -> RejectionSampling:
    """The sampling with the constants of a folder, which the first process measures where there
    are none.

    model  with its log ratio
    """

    def compute() -> Constants:
        with autocast(precision, device):
            return warm_up(
                model.net, model.log_ratio, sampling, guidance, class_idx, device, progress
            )

    def kept() -> Constants:
        identity = describe(model, sampling, guidance, class_idx, precision)
        return stored_constants(writable_folder(folder) / "constants.json", identity, compute)

    return sampling.with_constants(ranks.by_first(kept))


def stored_constants(path, identity: dict, compute: Callable[[], Constants]) -> Constants:
    """Those in a JSON file, or computed and written there.

    identity  plain data on which they depend; ValueError for a file of another one
    """
    key = settings_hash(identity)
    if path.is_file():
        stored = read_json(path)
        if not isinstance(stored, dict) or stored.get("format") != FORMAT:
            raise ValueError(f"{path} holds no constants of rejection sampling; use another folder")
        if stored["settings hash"] != key:
            raise ValueError(f"{path} is of other settings; use another folder")
        return Constants(stored["marginal"], stored["stepwise"])
    found = compute()
    content = {"marginal": found.marginal, "stepwise": found.stepwise}
    write_json(path, {"format": FORMAT, "settings hash": key, "settings": identity, **content})
    return found
