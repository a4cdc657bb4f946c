"""A diagnosis in words and tables, for the terminal."""

import math

from dg.evaluation.figures.diagnosis import relative_change
from dg.evaluation.report import text_of

LEGEND = (
    "± is one standard error over images. error: change of the denoising error on real images at "
    "the listed weight nearest to 1, in percent; the true log ratio lowers it, and best w, the "
    "weight of its minimum, is 1. own: the same share on generated images, 0 where they are "
    "distributed as the network says. between: the share of both, near 1 for the true gradient. "
    "size: correction over score. visited: AUC of real images against the states of the guided "
    "sampler; gap: their mean log ratio less that of generated images with fresh noise."
)

SEARCH = "this serves the likelihood; for the lowest distance search larger weights too"


def diagnosis_text(outcome: dict) -> str:
    """A table by noise level and the conclusion for every discriminator of a diagnosis, and which
    of several gains most."""
    heads, counts = outcome["heads"], outcome["images"]
    lines = [f"{counts['real']} real and {counts['fake']} generated held-out images"]
    for name, head in heads.items():
        lines += ["", f"{name}", text_of(_rows(head["levels"], several=len(heads) > 1)), ""]
        lines.append(f"verdict: {head['verdict']}. {sentence(head['reason'])}")
        told = {key: text for key, text in head["findings"].items() if text != head["reason"]}
        lines += [f"{key}: {sentence(text)}" for key, text in told.items()]
        lines += [f"{suggestion(head)}; {SEARCH}"] if head["window"] else []
    lines += ["", LEGEND]
    if len(heads) > 1:
        gains = {name: head["gain"] for name, head in heads.items() if head["gain"]}
        order = sorted(gains, key=lambda name: -gains[name]["value"])
        listed = ", ".join(f"{name} {_short(gains[name], 3)}" for name in order) or "none gains"
        lines.append(f"gain in nats, largest first: {listed}")
    return "\n".join(lines)


def suggestion(head: dict) -> str:
    """The window and weight of a head in one sentence."""
    weight, (low, high) = head["weight"]["value"], head["window"]
    return (
        f"suggested: VP times {low:.3g} to {high:.3g}, weight {weight:.2f} at both stages of a "
        f"step, or {2 * weight:.2f} at the first alone"
    )


def _rows(levels: list[dict], several: bool) -> list[list[str]]:
    columns = {
        "sigma": lambda one: f"{one['sigma']:.3g}",
        "AUC": lambda one: _short(one["auc"], 3),
        "accuracy": lambda one: f"{one['accuracy']['value']:.3f}",
    }
    if "train_auc" in levels[0]:
        columns["training AUC"] = lambda one: _short(one["train_auc"], 3)
    columns |= {
        "loss - ln 2": lambda one: (
            f"{one['loss']['value'] - math.log(2):+.3f} ± {one['loss']['se']:.3f}"
        ),
        "slope": lambda one: _short(one["slope"], 2),
        "ECE": lambda one: f"{one['ece']['value']:.3f} ({one['ece']['expected']:.3f})",
        "size": lambda one: _short(one["correction"], 3),
        "error %": lambda one: _short(relative_change(one), 2),
        "best w": lambda one: _short(one["best_weight"], 2),
        "own": lambda one: _short(one["own"], 2),
        "between": lambda one: _short(one["between"], 2),
    }
    if several:
        columns["cosine"] = lambda one: _short(one["cosine"], 2)
    if "visited" in levels[0]:
        columns["visited"] = lambda one: _short(one["visited"]["auc"], 3)
        columns["gap"] = lambda one: _short(one["visited"]["gap"], 2)
    return [list(columns), *([cell(one) for cell in columns.values()] for one in levels)]


def _short(value: dict | None, digits: int) -> str:
    return "" if value is None else f"{value['value']:.{digits}f} ± {value['se']:.{digits}f}"


def sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
