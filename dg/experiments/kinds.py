"""The study of kinds of discriminators at equal training compute, as plain data of a setting.

Every kind has its own recipe, and as many multiply-adds as the head on the classifier takes by the
default recipe. A further round is a head on the classifier that learns to tell the images of the
rounds before from real ones; all rounds guide together. Weights are chosen on other seeds and other
real images than those of the table.
"""

from dataclasses import replace
from itertools import pairwise

from dg.experiments.methods import Methods
from dg.experiments.setting import Setting
from dg.experiments.study import Head, System, Training
from dg.recipes import DiscriminatorTraining

SECTIONS = ("kinds", "pairs", "choices", "discriminators", "deviations", "run")
REFERENCE = "default"  # the training of the first round, whose compute the others have
FIRST, ROUNDS = "classifier", 3
OTHERS = {
    "score": "head on the score encoder",
    "finetuned": "score encoder, trained throughout",
    "lora": "head on the score encoder, LoRA",
    "scratch": "from scratch",
    "difference": "score difference, no gradient",
}


def trainings(
    setting: Setting, default: DiscriminatorTraining, score: DiscriminatorTraining
) -> dict[str, Training]:
    """Every other kind, as long as the default recipe on the classifier, and the further rounds."""
    like, rank = Training("classifier", default), setting.lora_ranks[0]
    found = {
        "score": Training("score", score),
        "finetuned": Training("finetuned", default),
        "lora": Training("score", replace(score, lora_rank=rank)),
        "scratch": Training("none", default, setting.pixel_widths[0]),
        "difference": Training("score", replace(score, loss="difference")),
    }
    found = {f"kind-{name}": replace(one, like=like) for name, one in found.items()}
    return found | {name: replace(like, system=one) for one, name in pairwise(rounds())}


def rounds() -> list[str]:
    """The systems of the rounds."""
    return [FIRST, *(f"round-{number}" for number in range(2, ROUNDS + 1))]


def systems(setting: Setting) -> dict[str, System]:
    """Each kind alone, then the rounds. The score difference has half the weights of the others: at
    the first stage alone 2 is exact."""
    weights = Methods(setting).weights
    halves = tuple(weight / 2 for weight in weights)
    found = {FIRST: _kind(FIRST, "head on the classifier", (Head(REFERENCE),), weights)}
    for name, line in OTHERS.items():
        tried = halves if name == "difference" else weights
        found[name] = _kind(name, line, (Head(f"kind-{name}"),), tried)
    heads = found[FIRST].heads
    for number, name in enumerate(rounds()[1:], 2):
        heads += (Head(name),)
        found[name] = _kind(name, f"head on the classifier, {number} rounds", heads, weights)
    return found


def _kind(name: str, line: str, heads: tuple[Head, ...], weights) -> System:
    """The system that takes one of the weights; the log ratios of several rounds add up."""
    told = dict(boosting=False, average="sum" if len(heads) > 1 else "logits")
    options = (System(f"weight {w:g}", heads, (w, 0.0), **told) for w in weights)
    return System(line, heads, line=line, options=tuple(options), choice=name)
