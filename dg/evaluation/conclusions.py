"""What a diagnosis means: the window and the weight that lower the denoising error on real images,
and a verdict in words."""

import math
from typing import NamedTuple

import numpy as np

from dg.evaluation.reliability import mean_of, measured, standard_error

SURE, CERTAIN = 2.0, 4.0  # standard errors; the second where the largest of many counts
OVERFITTED = 0.05  # AUC on training images above that on held-out images
FOREIGN = 0.5  # share of ||c||^2 that generated images of the network itself cannot reach
MISCALIBRATED = 1.5  # factor
COARSE = 0.025  # standard error of an AUC that is too large to conclude from

GUIDE, DO_NOT_GUIDE = "guide", "do not guide"
TRAIN_ON_MORE, MEASURE_MORE = "train on more images", "measure more images"
TRY = "measure guided images"


class Level(NamedTuple):
    """A noise level of the sampler.

    step          of the sampler
    sigma, time   noise level and VP time
    below, above  ends of a window in VP time that holds it but not the sampler's neighbouring steps
    weight        d log(sigma) / sigma^2. Summed over levels with it, a fall of the denoising error
                  is a fall of the bound on the divergence from data to model in nats (Song et al.
                  2021, maximum likelihood training)
    """

    step: int
    sigma: float
    time: float
    below: float
    above: float
    weight: float

    def describe(self) -> dict:
        return {"step": self.step, "sigma": self.sigma, "time": self.time}


def conclude(levels: list[Level], entries: list[dict], columns: list[dict]) -> dict:
    """Return verdict, reason, findings (sentences by name), window, weight, and gains in nats:
    inside the window at this weight, at weight 1 everywhere, and the same between both sets.

    entries, columns  one per level, as in `dg.evaluation.diagnosis`
    """
    scale = np.array([level.weight for level in levels])
    along, size = (
        np.stack([one["real"][name] for one in columns], axis=1) for name in ("along", "c2")
    )  # [N, levels]
    window, weight = window_and_weight(along, size, scale)
    found = {"window": None, "weight": None, "gain": None}
    if window is not None:
        found["window"] = [levels[window[-1]].below, levels[window[0]].above]
        found["sigmas"] = [levels[window[-1]].sigma, levels[window[0]].sigma]
        found["weight"] = measured(weight, _spread_of_weight(along, size, scale, window, weight))
        found["gain"] = mean_of(_gain(along, size, scale, window, weight))
    everywhere = np.arange(len(levels))
    found["gain_at_weight_1"] = mean_of(_gain(along, size, scale, everywhere, 1.0))
    found["gain_between"] = _gain_between(columns, scale)
    findings = _findings(entries, columns, scale)
    verdict, reason = _verdict(found, findings, entries, len(columns[0]["real"]["logit"]))
    return {"verdict": verdict, "reason": reason, "findings": findings} | found


def window_and_weight(
    along: np.ndarray, size: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray | None, float | None]:
    """(places of neighbouring levels, weight of guidance), or None twice where no level gains.

    along, size  <c, x_0 - D> and ||c||^2 of real images [N, levels]
    scale        of the levels in the sum [levels]

    The weight minimises the error summed over the window; at this weight the error of every level
    in the window falls by more than two standard errors. It starts from the levels at which some
    small weight does so.
    """
    count = len(along)

    def surely_above_0(values):
        return values.mean(0) > SURE * values.std(0, ddof=1) / math.sqrt(count)

    falls, weight = surely_above_0(along), None
    for _ in range(len(scale)):
        window = _best_run(falls, scale * np.where(falls, along.mean(0), 0.0))
        if window is None:
            return None, None
        total = scale[window]
        weight = float((total * along.mean(0)[window]).sum() / (total * size.mean(0)[window]).sum())
        after = surely_above_0(2 * weight * along - weight**2 * size)
        inside = np.isin(np.arange(len(scale)), window)
        if after[inside].all():
            return window, weight
        falls = after & inside
    return None, None


def _best_run(holds: np.ndarray, gains: np.ndarray) -> np.ndarray | None:
    """Places of the run of neighbours for which `holds` is true whose gains add up to most."""
    places = np.flatnonzero(holds)
    if not len(places):
        return None
    runs = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
    return max(runs, key=lambda run: gains[run].sum())


def _gain(along, size, scale, window, weight) -> np.ndarray:
    """Fall of the summed denoising error of every image, [N] nats."""
    return ((2 * weight * along - weight**2 * size) * scale)[:, window].sum(1)


def _gain_between(columns: list[dict], scale) -> dict[str, float]:
    """The gain at weight 1 that counts the share between both sets as best weight, not that on real
    images alone: it holds what arises while sampling as well."""
    parts = []
    for kind, sign in (("real", 1), ("fake", -1)):
        along, size = (
            np.stack([one[kind][name] for one in columns], axis=1) for name in ("along", "c2")
        )
        parts.append((2 * sign * along - size / 2) @ scale)
    return measured(sum(map(np.mean, parts)), math.hypot(*map(standard_error, parts)))


def _spread_of_weight(along, size, scale, window, weight) -> float:
    parts = ((along - weight * size) * scale)[:, window].sum(1)
    return standard_error(parts) / (size * scale)[:, window].sum(1).mean()


def _findings(entries: list[dict], columns: list[dict], scale: np.ndarray) -> dict[str, str]:
    """Sentences about what is broken, by name."""
    found, mean_auc = {}, _mean([one["auc"] for one in entries])
    loss = _mean([one["loss"] for one in entries])
    wrong = mean_auc["value"] < 0.5 - SURE * mean_auc["se"]
    if wrong:
        found["wrong sign"] = (
            f"the AUC is {mean_auc['value']:.3f}, below one half: generated images look more real "
            "than real ones; real and generated images are exchanged, here or in the training"
        )
    fake = [np.stack([one["fake"][name] for one in columns], 1) @ scale for name in ("along", "c2")]
    own = fake[0].mean() / fake[1].mean() if fake[1].mean() else 0.0
    certain = abs(fake[0].mean()) > CERTAIN * standard_error(fake[0])
    overfitted = _overfitted(entries)
    knows_nothing = mean_auc["value"] < 0.5 + SURE * mean_auc["se"]
    at_random = knows_nothing and loss["value"] > math.log(2) + SURE * loss["se"]
    if not wrong and abs(own) > FOREIGN and certain:
        found["wrong network"] = (
            "the generated images are not distributed as the network says (the correction finds "
            f"{own:.2f} of its square in the network's error on them, not 0): they come from "
            "another network, or the sampler strays far; give the network that made them, or more "
            "steps"
        )
    elif at_random and not wrong and not overfitted:
        found["ignorant"] = (
            f"the logits are sure of themselves (cross-entropy {loss['value']:.3f}, chance 0.693) "
            f"and right by chance only (AUC {mean_auc['value']:.3f}): the head was trained against "
            "images of another network, or knows its training images by heart"
        )
    if overfitted:
        found["overfitted"] = overfitted
    if (coarsest := max(one["auc"]["se"] for one in entries)) > COARSE:
        found["too few images"] = (
            f"an AUC is known to {coarsest:.3f} only (one standard error); give four times as many "
            "held-out images to halve that"
        )
    slope = _slope(entries)
    factor = max(slope["value"], 1e-9)
    sure = abs(slope["value"] - 1) > SURE * slope["se"]
    if sure and not MISCALIBRATED**-1 < factor < MISCALIBRATED and not (wrong or knows_nothing):
        size, remedy = ("large", "divide") if factor < 1 else ("small", "multiply")
        found["miscalibrated"] = (
            f"the logits are {max(factor, 1 / factor):.1f} times too {size} (slope "
            f"{slope['value']:.2f}); guide with the calibrated log ratio, or {remedy} the weight"
        )
    return found


def _overfitted(entries: list[dict]) -> str | None:
    """The finding at the noise level where it is plainest; None where there is none."""
    found = []
    for one in entries if "train_auc" in entries[0] else ():
        seen, held_out = one["train_auc"], one["auc"]
        excess = seen["value"] - held_out["value"]
        if excess > OVERFITTED and excess > CERTAIN * math.hypot(seen["se"], held_out["se"]):
            found.append((excess, one["sigma"], seen["value"], held_out["value"]))
    if not found:
        return None
    _, sigma, seen, held_out = max(found)
    return (
        f"at the noise level {sigma:.3g} the AUC is {seen:.3f} on training images and "
        f"{held_out:.3f} on held-out ones: the head knows its training images by heart"
    )


def _verdict(found: dict, findings: dict, entries: list[dict], count: int) -> tuple[str, str]:
    gain, weight = found["gain"], found["weight"]
    for name in ("wrong sign", "ignorant"):
        if name in findings:
            return DO_NOT_GUIDE, findings[name]
    if "wrong network" in findings:
        return TRY, findings["wrong network"]
    if gain is not None and gain["value"] > SURE * gain["se"]:
        low, high = found["sigmas"]
        return GUIDE, (
            f"between the noise levels {low:.3g} and {high:.3g} the correction lowers the "
            f"denoising error on {count} held-out real images, most at weight "
            f"{weight['value']:.2f}: the bound on the divergence falls by "
            f"{gain['value']:.3g} ± {gain['se']:.2g} nats"
        )
    if "overfitted" in findings:
        return TRAIN_ON_MORE, findings["overfitted"]
    if "too few images" in findings:
        return MEASURE_MORE, (
            f"no noise level shows a fall of the denoising error, but {findings['too few images']}"
        )
    if (seen := _difference(entries)) is not None:
        return TRY, (
            f"at the noise level {seen['sigma']:.3g} the discriminator tells real from generated "
            f"images (AUC {seen['auc']['value']:.3f}), but the network's denoising error on real "
            "images falls nowhere: the difference arises while sampling. Guidance may make up for "
            "it; only the distance of guided images to real ones tells"
        )
    return DO_NOT_GUIDE, (
        "at no noise level does the correction lower the denoising error on held-out real images "
        "by more than two standard errors"
    )


def _difference(entries: list[dict]) -> dict | None:
    """The noise level of the largest AUC among those at which the discriminator is right in its
    value and in its gradient; None where there is none."""
    right = [
        one
        for one in entries
        if one["auc"]["value"] > 0.5 + CERTAIN * one["auc"]["se"]
        and one["between"] is not None
        and one["between"]["value"] > SURE * one["between"]["se"]
    ]
    return max(right, key=lambda one: one["auc"]["value"], default=None)


def _mean(values: list[dict]) -> dict[str, float]:
    """Mean over levels; the levels share their images, so the standard error does not shrink."""
    return {name: float(np.mean([one[name] for one in values])) for name in ("value", "se")}


def _slope(entries: list[dict]) -> dict[str, float]:
    """Mean slope over levels, weighted by its precision."""
    values, errors = (np.array([one["slope"][name] for one in entries]) for name in ("value", "se"))
    weights = errors**-2 / (errors**-2).sum()
    return {"value": float(weights @ values), "se": float(weights @ errors)}
