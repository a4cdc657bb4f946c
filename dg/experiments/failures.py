"""The study of failures: what is left of the gain of each method whose discriminator has seen few
images, as plain data of a setting.

One number of images is varied, that of the other kind is the setting's. All trainings are as long
as the default recipe's, in steps. The methods are set as the study of methods chose on the network
that ships.
"""

import math
from collections.abc import Iterable
from dataclasses import replace

from dg.experiments.methods import (
    GUIDED_RESTART,
    GUIDED_SHORT,
    KEPT,
    REJECTION,
    RESTART,
    SHORT,
    Methods,
)
from dg.experiments.setting import Setting
from dg.experiments.study import Head, Kept, System, Training
from dg.recipes import DiscriminatorTraining
from dg.samplers.restart import RestartSampling

SECTIONS = ("failures", "discriminators", "deviations", "run")
BASE = "default"  # the training with the setting's numbers of images
# Other numbers of images, in that of the setting.
SHARES = {"real": (0.04, 0.2, 2.0), "fake": (0.1, 0.4, 2.0)}
MOST = 60_000  # images that any of the settings has
WEIGHT, QUANTILE, KEPT_IMAGES = (4.0, 0.0), 0.9, Kept(0.5, 0.1)
INTERVAL = [3, 2, 0.3, 1.0]  # levels, repeats and noise levels of Restart


def trainings(setting: Setting, recipe: DiscriminatorTraining) -> dict[str, Training]:
    """The default recipe on other numbers of images, by name; none where these are not varied."""
    if not setting.vary_numbers:
        return {}
    numbers = {"real": setting.num_real or setting.num_data, "fake": setting.num_data}
    least = math.ceil(recipe.batch_size / 2 / recipe.split[0])  # half a batch to train on
    found = {}
    for kind, shares in SHARES.items():
        for share in shares:
            number = max(least, round(share * numbers[kind]))
            used = numbers | {kind: number}
            epochs = recipe.epochs * max(numbers.values()) / max(used.values())
            settings = replace(recipe, epochs=max(1, round(epochs)), unequal=True)
            told = dict(num_real=used["real"], num_fake=used["fake"])
            if number <= MOST:
                found[f"{kind}-{number}"] = Training("classifier", settings, **told)
    return found


def systems(setting: Setting, names: Iterable[str]) -> dict[str, System]:
    """Restart alone, and every method with every discriminator of these names."""
    made, off = Methods(setting), dict(weights=(0.0, 0.0))
    restart = RestartSampling(made.base, restart=INTERVAL)
    guided = dict(weights=WEIGHT, window=SHORT)
    methods = {
        "guided": System(GUIDED_SHORT, **guided),
        "rejection": System(REJECTION, sampling=made.with_rejection(made.base, QUANTILE), **off),
        "kept": System(KEPT, kept=KEPT_IMAGES, **off),
        "guided-restart": System(GUIDED_RESTART, sampling=restart, against="restart", **guided),
    }
    found = {"restart": System(RESTART, sampling=restart)}
    for name in names:
        head = dict(heads=(Head(name, "last"),), boosting=False)
        for method, system in methods.items():
            told = dict(title=f"{system.title}, {name}", line=system.title)
            found[f"{method}-{name}"] = replace(system, **told, **head)
    return found
