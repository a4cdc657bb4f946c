"""The study of methods together: guidance on top of what changes the network (Neon, SIMS, DDO) or
the sampler (Restart, rejection), as plain data of a setting.

Hyper-parameters are chosen on other seeds and other real images than those of the table.
"""

from dataclasses import replace

from dg.experiments import methods as lines
from dg.experiments.derived import Chosen, Merged, Tuned
from dg.experiments.setting import Model, Setting
from dg.experiments.study import Head, System, Training
from dg.recipes import DiscriminatorTraining

SECTIONS = ("gains", "pairs", "choices", "discriminators", "deviations", "run")
ASIDE = ("rejection-2", "guided-rejection-2")
LENGTHS = {"own-short": 0.25, "own": 1.0}  # of the setting's tuning: networks of their own images
NEON = (0.5, 1.0, 1.5, 2.0)  # weights, as far as its authors went
SIMS = (0.5, 1.0, 2.0)
DDO = {"ddo-weak": 0.05, "ddo-strong": 0.5}  # beta, by name of the network
DDO_LENGTH = 0.25  # of the setting's tuning
FRESH = "default-neon"  # the discriminator of Neon's images


def models(setting: Setting) -> dict[str, Model]:
    """Networks made of the setting's own, by name."""
    full = setting.tuning

    def tuned(title: str, share: float, **how) -> Tuned:
        settings = replace(full, steps=max(1, round(share * full.steps)))
        return Tuned(title=title, settings=settings, sampling=sampling, **how)

    sampling, found = setting.models["score"].sampling, {}
    for name, share in LENGTHS.items():
        found[name] = tuned("network of its own images", share)
        for weight in NEON:
            title = f"Neon, weight {weight:g}"
            merged = Merged(title=title, sampling=sampling, second=name, weight=weight)
            found[f"neon-{name}-{weight:g}"] = merged
    for name, beta in DDO.items():
        found[name] = tuned(f"DDO, beta {beta:g}", DDO_LENGTH, ddo=(1.0, beta))
    return found | {"neon": Chosen(title="Neon, as chosen", sampling=sampling, choice="neon")}


def trainings(recipe: DiscriminatorTraining) -> dict[str, Training]:
    """A discriminator of the images of Neon's network."""
    return {FRESH: Training("classifier", recipe, model="neon")}


def systems(setting: Setting) -> dict[str, System]:
    """Every method alone, then guidance on top of it."""
    head, made = (lines.given_head(setting),), lines.Methods(setting)
    short = dict(window=lines.SHORT, boosting=False)
    steps = {name: share * setting.tuning.steps for name, share in LENGTHS.items()}

    def guided(title: str, heads: tuple[Head, ...] = head, **how) -> list[System]:
        return [
            System(f"{title}weight {w:g}", heads, (w, 0.0), **short, **how) for w in made.weights
        ]

    alone = {
        "guidance": ("guidance", guided("")),
        "neon": ("Neon", _neon(steps)),
        "sims": ("SIMS", _sims(steps)),
        "ddo": ("DDO", [System(f"beta {beta:g}", model=name) for name, beta in DDO.items()]),
    }
    both = {
        "guided-neon": ("Neon and guidance", guided("", model="neon")),
        "fresh-neon": (
            "Neon and guidance, new discriminator",
            guided("", (Head(FRESH),), model="neon"),
        ),
        "guided-sims": (
            "SIMS and guidance",
            [option for away in SIMS for option in guided(f"SIMS {away:g}, ", guide=("own", away))],
        ),
    }
    found = {name: _chosen(name, *told) for name, told in alone.items()}
    samplers = made.systems()
    found |= {name: samplers[name] for name in ("restart-2", "rejection-2")}
    for name, told in both.items():
        found[name] = replace(_chosen(name, *told), parts=("guidance", name.split("-")[1]))
    for name in ("restart-2", "rejection-2"):
        system = samplers[f"guided-{name}"]
        found[f"guided-{name}"] = replace(system, parts=("guidance", name))
    return found


def _neon(steps: dict[str, float]) -> list[System]:
    return [
        System(f"{steps[name]:.0f} steps, weight {weight:g}", model=f"neon-{name}-{weight:g}")
        for name in LENGTHS
        for weight in NEON
    ]


def _sims(steps: dict[str, float]) -> list[System]:
    return [
        System(f"{steps[name]:.0f} steps, weight {weight:g}", guide=(name, weight))
        for name in LENGTHS
        for weight in SIMS
    ]


def _chosen(name: str, line: str, options: list[System]) -> System:
    """The system that is one of the options."""
    model, heads = options[0].model, options[0].heads
    model = model if all(one.model == model for one in options) else "score"
    told = dict(model=model, line=line, options=tuple(options), choice=name)
    return System(line, heads, **told)
