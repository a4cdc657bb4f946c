"""Reproduction B (Kleger and Sartor) as plain data of a setting: six discriminators by its table,
alone and averaged, its fault on purpose, and ensembles whose members differ in more than settings.
"""

from dg.experiments.setting import Setting
from dg.experiments.study import Head, System, Training
from dg.recipes import DiscriminatorTraining

SECTIONS = ("results", "pairs", "discriminators", "tested", "deviations", "run")
HALVES = ("half-0", "half-1")
TEXTS = {
    "results": (
        "Reproduction B averaged the outputs of its members as probabilities, but they were "
        "logits: the clip to [1e-5, 1 - 1e-5] leaves no guidance where their mean m is below 0 or "
        "above 1, and elsewhere multiplies it by 1 / (m (1 - m)), which is 4 or more. The row “D0 "
        "to D5, as in reproduction B” repeats that on purpose and says nothing about ensembles.",
    ),
    "deviations": (
        "Reproduction B boosts samples of negative log ratio; here the setting decides. Its code "
        "also used one network object for all members; here every member has its own.",
    ),
}


def trainings(recipe: DiscriminatorTraining) -> dict[str, Training]:
    """A discriminator on each half of the images, by name."""
    return {
        name: Training("classifier", recipe, part=(index, len(HALVES)))
        for index, name in enumerate(HALVES)
    }


def systems(setting: Setting) -> dict[str, System]:
    """The members alone, the first 2, 4 and 6, the fault; two kinds of features, two halves."""

    def row(system):
        known = dict(source="reproduction-b", system=f"EDM-G++, {system}")
        return known if setting.of_cifar10 and not setting.conditional else None

    members = tuple(Head(name, "last") for name in ("authors", *(f"d{i}" for i in range(1, 6))))
    found = {}
    if setting.released:
        found["released"] = System("released discriminator", (Head("released"),))
    for i, head in enumerate(members):
        own = dict(x=1, published=row("own discriminator")) if i == 0 else {}
        found[f"d{i}"] = System(f"D{i} alone", (head,), **own)
    for n in (2, 4, 6):
        found[f"n{n}"] = System(f"D0 to D{n - 1}, logits averaged", members[:n], x=n)
    kept = dict(average="probabilities")
    found["probabilities"] = System("D0 to D5, probabilities averaged", members, **kept)
    kept = dict(average="mistaken", published=row("ensemble of six"))
    found["mistaken"] = System("D0 to D5, as in reproduction B", members, **kept)
    score, halves = Head("score"), tuple(Head(name, "last") for name in HALVES)
    found["score"] = System("head on the score network's encoder", (score,))
    found["extractors"] = System("D0 and that head, logits averaged", (members[0], score))
    found["halves"] = System("two of D0's recipe, each on half of the images", halves)
    return found
