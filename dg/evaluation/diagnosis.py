"""A diagnosis of discriminators before anyone spends compute on guided images.

Held-out real and generated images get the noise levels of the default sampler. At each level the
diagnosis measures whether the log ratio tells them apart and is calibrated, how large the
correction c = sigma^2 grad log r is, and whether it lowers the denoising error on real images,

    change(w) = E ||D(x) + w c - x_0||^2 - E ||D(x) - x_0||^2 = w^2 E ||c||^2 - 2 w E <c, x_0 - D>.

The true log ratio (Kim et al. 2023, Eq. 8) has E <c, x_0 - D> = E ||c||^2 and its minimum at w = 1;
this is the term that the loss "matching" trains (Verine et al. 2025).

On images that are distributed as the network's score says, E <c, x_0 - D> is 0 whatever c is. Few
steps and accumulated errors lead the sampler away from there. A discriminator of its images sees
that difference too, and no denoising error shows it. The difference of E <c, x_0 - D> between real
and generated images holds both: over E ||c||^2 it is 1 where c is the difference of their scores,
or near 1 where E ||c||^2 differs between the two sets.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dg import vp
from dg.data.latents import AnySet
from dg.evaluation import reliability
from dg.evaluation.conclusions import Level, conclude
from dg.guidance import DiscriminatorGuidance
from dg.runtime.progress import Progress, silent
from dg.runtime.randomness import step_generator
from dg.sampling import Sampling, draw_images
from dg.training_data import random_subset
from edm.guidance import WrappedGuidance
from edm.sampler import noise_schedule

WINDOW = (0.01, 1.0)  # of the default guidance, in VP time
FIRST_VISITED_SEED = 3_000_000  # of the images whose states are visited
HOTTEST = 100.0  # temperature that stands for "no guidance"


def sampler_levels(net, num_levels: int = 10) -> list[Level]:
    """Noise levels of the default sampler inside the default window, from high to low.

    num_levels  at most so many of them, evenly spread
    """
    sampling = Sampling()
    bounds = (max(0.002, net.sigma_min), min(80, net.sigma_max))
    sigmas = net.round_sigma(noise_schedule(sampling.num_steps, *bounds, sampling.rho))
    times = vp.from_sigma(sigmas)[0]
    inside = ((times >= WINDOW[0]) & (times <= WINDOW[1])).nonzero().flatten().tolist()
    if num_levels < 2 or len(inside) < 2:
        raise ValueError(
            f"{num_levels} noise levels of the {len(inside)} that are guided; give at least 2"
        )
    chosen = [inside[i] for i in np.linspace(0, len(inside) - 1, num_levels).round().astype(int)]
    chosen = list(dict.fromkeys(chosen))
    logs = sigmas[chosen].log().numpy()
    spans = np.abs(np.gradient(logs)) if len(chosen) > 1 else np.ones(1)
    found = []
    for step, span in zip(chosen, spans, strict=True):
        first, last = step == inside[0], step == inside[-1]
        above = WINDOW[1] if first else float((times[step - 1] + times[step]) / 2)
        below = WINDOW[0] if last else float((times[step + 1] + times[step]) / 2)
        sigma = float(sigmas[step])
        found.append(Level(step, sigma, float(times[step]), below, above, span / sigma**2))
    return found


class VisitedRatios(WrappedGuidance):
    """Wraps a discriminator guidance and keeps the log ratio of the state at every first-order
    stage, by step."""

    def __init__(self, guidance: DiscriminatorGuidance):
        super().__init__(guidance)
        self.log_ratios: dict[int, list[Tensor]] = {}

    def denoise(self, net, x, sigma, class_labels, step, order):
        denoised = super().denoise(net, x, sigma, class_labels, step, order)
        if order == 1:
            self.log_ratios.setdefault(step, []).append(self.guidance.last_log_ratio.double().cpu())
        return denoised


def diagnose(
    net,
    discriminators: dict,
    real: AnySet,
    fake: AnySet,
    training: tuple[AnySet, AnySet] | None = None,
    weights: Sequence[float] = (0.5, 1.0, 2.0),
    *,
    num_levels: int = 10,
    num_visited: int = 256,
    seed: int = 0,
    batch_size: int = 64,
    device="cpu",
    progress: Progress = silent,
) -> dict:
    """Return {"images", "levels", "heads"} as plain data; values are {"value", "se"}.

    net             score network: a denoiser as the samplers take it
    discriminators  {name: `Discriminator`}; corrections are compared with those of the first
    real, fake      held-out sets; of the larger one as many are drawn by `seed` as the other has
    training        (real, generated) images that the discriminators were trained on, for their AUC
    weights         for which the change of the denoising error is listed. A weight acts on both
                    stages of a step, as (w, w) does and nearly as (2 w, 0)
    num_visited     images that the sampler draws at weight 1 to see which states it visits; 0: none

    `heads[name]` holds `levels`, one dict per noise level, and the conclusion: `verdict`, `reason`,
    `findings`, `window` in VP time, `weight`, `gain`. The noise is the same for all discriminators.
    """
    levels = sampler_levels(net, num_levels)
    count = _check(net, real, fake)
    sets = {"real": random_subset(real, count, seed), "fake": random_subset(fake, count, seed)}
    if training is not None:
        least = min(count, _check(net, *training))
        names = ("train_real", "train_fake")
        for name, data in zip(names, training, strict=True):
            sets[name] = random_subset(data, least, seed)
    run = dict(seed=seed, batch_size=batch_size, device=device)
    found: dict[str, list[dict]] = {name: [] for name in discriminators}
    for place in progress(range(len(levels)), desc="noise levels", total=len(levels)):
        columns = {
            kind: _columns(net, discriminators, data, levels[place].sigma, kind, place, **run)
            for kind, data in sets.items()
        }
        for name in discriminators:
            found[name].append({kind: parts[name] for kind, parts in columns.items()})
    heads = {}
    for name, discriminator in discriminators.items():
        visited = _visited(net, discriminator, num_visited, batch_size, device)
        entries = [
            level.describe() | _entry(columns, visited.get(level.step), weights)
            for level, columns in zip(levels, found[name], strict=True)
        ]
        heads[name] = {"levels": entries} | conclude(levels, entries, found[name])
    images = {kind: len(data) for kind, data in sets.items()}
    return {"images": images, "levels": [level.sigma for level in levels], "heads": heads}


def calibration(head: dict) -> tuple[list[float], list[float]]:
    """(VP times, temperatures) of a diagnosed head: `heads[name]` of `diagnose`, for
    `dg.calibration.Calibration`. ValueError for one whose ratio has the wrong sign."""
    if "wrong sign" in head["findings"]:
        raise ValueError(
            "the log ratio has the wrong sign, which no temperature mends; exchange the real and "
            "the generated images, or train the discriminator again"
        )
    levels = head["levels"][::-1]
    return [one["time"] for one in levels], [one["temperature"] for one in levels]


def _check(net, real: AnySet, fake: AnySet) -> int:
    """How many images of each kind there are. ValueError for sets that do not fit the network."""
    for data in (real, fake):
        if (data.resolution, data.channels) != (net.img_resolution, net.img_channels):
            raise ValueError(
                f"{data.name}: {data.what} of {data.resolution} pixels and {data.channels} "
                f"channels, but the network makes {net.img_resolution} pixels and "
                f"{net.img_channels} channels; give data of the network's size"
            )
        if net.label_dim and (data.labels is None or data.labels.max() >= net.label_dim):
            raise ValueError(
                f"{data.name}: the network has {net.label_dim} classes; give {data.what} with "
                "labels of these"
            )
        if len(data) < 10:
            raise ValueError(f"{data.name}: {len(data)} {data.what} are too few; give at least 10")
    return min(len(real), len(fake))


def _columns(
    net, discriminators, data, sigma, kind, place, seed, batch_size, device
) -> dict[str, dict[str, np.ndarray]]:
    """For every discriminator, arrays [N] over the images of a set at one noise level.

    logit; c2 = ||c||^2; along = <c, x_0 - D>; residual = ||x_0 - D||^2; score = ||x - D||^2; cosine
    of c and that of the first discriminator. Training images have their logit alone.
    """
    generator = step_generator(seed, f"diagnosis {kind}", place)
    level = torch.tensor(sigma, dtype=torch.float64, device=device)
    guidances = {
        name: DiscriminatorGuidance(one, (1.0, 1.0), 0.0, 1.0)
        for name, one in discriminators.items()
    }
    rows: dict[str, list[dict]] = {name: [] for name in discriminators}
    for start in range(0, len(data), batch_size):
        index = np.arange(start, min(start + batch_size, len(data)))
        clean = data.floats(index).to(device, torch.float64)
        noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64).to(device)
        x, labels = clean + level * noise, None
        if net.label_dim:
            labels = F.one_hot(torch.from_numpy(data.labels[index]).long(), net.label_dim)
            labels = labels.to(device, torch.float32)
        if kind.startswith("train"):
            for name, guidance in guidances.items():
                with torch.no_grad():
                    rows[name].append({"logit": guidance.log_ratio(x, level, labels).double()})
            continue
        for name, row in _geometry(net, guidances, clean, x, level, labels):
            rows[name].append(row)
    return {
        name: {
            key: torch.cat([row[key] for row in parts]).double().cpu().numpy() for key in parts[0]
        }
        for name, parts in rows.items()
    }


def _geometry(net, guidances, clean, x, level, labels):
    """Yield (name, columns) of every guidance on one batch; the network is evaluated once."""
    denoised = first = None
    for name, guidance in guidances.items():
        guidance.begin(x)
        with torch.no_grad():
            if denoised is None:
                denoised, correction = guidance.parts(net, x, level, labels, 0, 1)
            else:
                correction = guidance.correction(x, level, labels)
        c, error, score = (
            part.double().flatten(1) for part in (correction, clean - denoised, x - denoised)
        )
        first = c if first is None else first
        yield (
            name,
            {
                "logit": guidance.last_log_ratio.double(),
                "c2": c.square().sum(1),
                "along": (c * error).sum(1),
                "residual": error.square().sum(1),
                "score": score.square().sum(1),
                "cosine": F.cosine_similarity(c, first, dim=1, eps=1e-30),
            },
        )


def _visited(net, discriminator, count, batch_size, device) -> dict[int, np.ndarray]:
    """Log ratios [count] of the states that guidance at weight 1 visits, by step."""
    recorder = VisitedRatios(DiscriminatorGuidance(discriminator, (2.0, 0.0), *WINDOW))
    for start in range(0, count, batch_size):
        seeds = [FIRST_VISITED_SEED + i for i in range(start, min(start + batch_size, count))]
        draw_images(net, seeds, Sampling(), recorder, device=device)
    return {step: torch.cat(parts).numpy() for step, parts in recorder.log_ratios.items()}


def _entry(columns: dict, visited: np.ndarray | None, weights: Sequence[float]) -> dict:
    """What is measured of one discriminator at one noise level."""
    real, fake = columns["real"], columns["fake"]
    logits = (real["logit"], fake["logit"])
    slope = reliability.calibration_slope(*logits)
    change = {w: reliability.mean_of(w * w * real["c2"] - 2 * w * real["along"]) for w in weights}
    entry = {
        "auc": reliability.auc(*logits),
        "accuracy": reliability.accuracy(*logits),
        "loss": reliability.cross_entropy(*logits),
        "mean_log_ratio": {
            kind: reliability.mean_of(one["logit"]) for kind, one in columns.items()
        },
        "histogram": reliability.histogram(*logits),
        "ece": reliability.calibration_error(*logits),
        "slope": slope,
        "temperature": 1 / max(slope["value"], 1 / HOTTEST),
        "correction": reliability.root_mean_ratio(fake["c2"], fake["score"]),
        "cosine": reliability.mean_of(fake["cosine"]),
        "error": reliability.mean_of(real["residual"]),
        "change": [{"weight": float(w)} | found for w, found in change.items()],
        "best_weight": reliability.ratio_of_means(real["along"], real["c2"]),
        "own": reliability.ratio_of_means(fake["along"], fake["c2"]),
        "between": reliability.ratio_of_differences(
            (real["along"], fake["along"]), (real["c2"], fake["c2"])
        ),
    }
    if "train_real" in columns:
        entry["train_auc"] = reliability.auc(
            columns["train_real"]["logit"], columns["train_fake"]["logit"]
        )
    if visited is not None:
        found = reliability.mean_of(visited)
        renoised = entry["mean_log_ratio"]["fake"]
        entry["visited"] = {
            "auc": reliability.auc(real["logit"], visited),
            "mean_log_ratio": found,
            "gap": reliability.measured(
                found["value"] - renoised["value"], np.hypot(found["se"], renoised["se"])
            ),
        }
    return entry
