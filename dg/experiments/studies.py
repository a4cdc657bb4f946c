"""The studies: a question, the discriminators it takes and the systems it compares, as plain data
of a setting.

Discriminators have the same name in every study of a setting, so that they are trained once.
"""

from collections.abc import Callable
from dataclasses import replace

from dg.experiments import ensembles as several
from dg.experiments import failures as few
from dg.experiments import gains as together
from dg.experiments import kinds as each
from dg.experiments import less_guidance as less
from dg.experiments import methods as lines
from dg.experiments.setting import Setting
from dg.experiments.study import Head, Study, System, Training
from dg.recipes import PRESETS

FROM_SCRATCH = ("pixels", "pixels-wide")  # discriminators, one for each of a setting's widths
STUDIES: dict[str, Callable[[Setting], Study]] = {}


def study(title: str, question: str, xlabel: str | None = None, **options) -> Callable:
    """Make a study of a function that gives the systems beside the unguided one."""

    def registered(systems_in):
        def made(setting: Setting) -> Study:
            systems = {"unguided": System("unguided")} | systems_in(setting)
            return Study(title, question, systems, xlabel, **options)

        STUDIES[systems_in.__name__.replace("_", "-")] = made
        return made

    return registered


def build(name: str, setting: Setting) -> Study:
    """The study with the trainings that it needs."""
    made = STUDIES[name](setting)
    needed = {head.training for system in made.systems.values() for head in system.heads}
    known = trainings(setting).items()
    made = replace(made, trainings={key: training for key, training in known if key in needed})
    extra = together.models(setting) if made.used_models - set(setting.models) else {}
    return replace(made, models=extra)


def trainings(setting: Setting) -> dict[str, Training]:
    """Every discriminator that a study may ask for."""
    common = dict(conditional=setting.conditional, eval_images=setting.eval_images)

    def scaled(settings, **changes):
        epochs = max(1, round(settings.epochs * setting.epoch_scale))
        return replace(settings, epochs=epochs, split=(0.8, 0.1, 0.1), **common, **changes)

    def unscaled(settings):
        return replace(settings, epochs=settings.epochs if setting.epoch_scale else 1, **common)

    authors = scaled(PRESETS["authors-cond" if setting.conditional else "authors-uncond"])
    default, score = unscaled(PRESETS["default"]), unscaled(PRESETS["score"])
    # Of the published lengths those epochs where Figure 3 has points.
    kept = {60: 5, 250: 25}.get(authors.epochs, max(1, authors.epochs // 5))
    made = {"authors": replace(authors, keep_every=kept), "default": default}
    made |= {f"d{i}": scaled(PRESETS[f"kth-d{i}"]) for i in range(1, 6)}
    authors = replace(authors, keep_every=0)
    made |= {f"lora-{rank}": replace(authors, lora_rank=rank) for rank in setting.lora_ranks}
    seeds = range(1, setting.num_members)
    made |= {f"authors-seed-{seed}": replace(authors, seed=seed) for seed in seeds}
    made["as-long"] = as_long = replace(default, epochs=score.epochs)
    found = {name: Training("classifier", settings) for name, settings in made.items()}
    found |= {
        "default-score": Training("score", default),
        "score": Training("score", score),
        "score-wide": Training("score", score, 128),
        "score-narrow": Training("score", score, 16),
    }
    found |= few.trainings(setting, default) | several.trainings(authors)
    found |= together.trainings(default) | each.trainings(setting, default, score)
    widths = _from_scratch(setting)
    return found | {name: Training("none", as_long, width) for name, width in widths}


def _from_scratch(setting: Setting):
    """(name, channels) of the discriminators that see noisy images alone."""
    return zip(FROM_SCRATCH, setting.pixel_widths, strict=False)


@study(
    "Discriminator guidance",
    "Does guidance bring generated images closer to the real ones, and which recipe for the "
    "discriminator does it best?",
    nll=True,
)
def recipes(setting):
    """The main table: the released head, the authors' recipe, the default recipe."""
    known, steps = {}, setting.published_steps
    if steps:
        told = f"unguided, {setting.models['score'].num_evaluations(steps)} evaluations"
        known["unguided-published"] = System(told, num_steps=steps)
    if setting.released:
        known["released"] = System("released discriminator", (Head("released"),))
    return known | {
        "authors": System("authors' recipe", (Head("authors", "last"),)),
        "guided": System("default recipe", (Head("default"),)),
        "default-score": System("default recipe, score encoder", (Head("default-score"),)),
        "score": System("score recipe, score encoder", (Head("score"),)),
    }


@study(
    "What the discriminator sees",
    "Is the score network's own encoder as good a basis as a network of its own? (All heads see "
    "equally many images; the classifier was trained on labels before.)",
)
def extractors(setting):
    """Features of a classifier, of the score network itself, or the noisy images alone."""
    score, classifier, strong = (Head("score"),), (Head("as-long"),), (4.0, 0.0)
    wide = System("score network's encoder, head of 128 channels", (Head("score-wide"),))
    return {
        "score": System("score network's encoder", score),
        "score-4": System("score network's encoder, weight 4", score, strong),
        "score-wide": wide,
        "as-long": System("noisy-image classifier", classifier),
        "as-long-4": System("noisy-image classifier, weight 4", classifier, strong),
    } | {
        name: System(f"from scratch, {width} channels", (Head(name),))
        for name, width in _from_scratch(setting)
    }


@study(
    "Epochs of the discriminator",
    "How long should the discriminator be trained? (Paper, Figure 3.)",
    "epoch of the discriminator",
)
def epochs(setting):
    last, systems = trainings(setting)["authors"].settings, {}
    for epoch in range(last.keep_every, last.epochs + 1, last.keep_every):
        head = (Head("authors", f"epoch_{epoch:03d}"),)
        row = dict(source="paper-figure-3", epoch=epoch) if _unconditional(setting) else None
        systems[f"epoch-{epoch}"] = System(f"epoch {epoch}", head, x=epoch, published=row)
    return systems


def _unconditional(setting: Setting) -> bool:
    """Whether the network is the published unconditional one."""
    return setting.of_cifar10 and not setting.conditional


@study(
    "Choice of the checkpoint",
    "Is the checkpoint of lowest validation loss the one that guides best?",
)
def selection(setting):
    settings = trainings(setting)["authors"].settings
    fixed = min(2 * settings.keep_every, settings.epochs)
    found = {"best": ("lowest validation loss", "best"), "last": ("last epoch", "last")}
    middle = {"fixed": (f"epoch {fixed}", f"epoch_{fixed:03d}")}
    known = {"authors": ("authors' recipe", {"best": found["best"]} | middle | found)}
    known["default"] = ("default recipe", found)
    return {
        f"{recipe}-{name}": System(f"{title}, {which}", (Head(recipe, checkpoint),))
        for recipe, (title, checkpoints) in known.items()
        for name, (which, checkpoint) in checkpoints.items()
    }


@study(
    "Guidance weights",
    "How strong should the guidance be, and is (2, 0) as good as (1, 1) at half the calls?",
    "first-order weight, second-order weight 0",
)
def weights(setting):
    head, swept = (Head("default"),), (0.5, 1.0, 2.0, 4.0, 6.0)
    systems = {f"w{w:g}": System(f"weights ({w:g}, 0)", head, (w, 0.0), x=w) for w in swept}
    return systems | {
        f"w{w:g}-{w:g}": System(f"weights ({w:g}, {w:g})", head, (w, w)) for w in (1.0, 2.0)
    }


@study("Window of noise levels", "At which noise levels does guidance help?")
def window(setting):
    windows = ((0.01, 1.0), (0.0, 1.0), (0.1, 1.0), (0.3, 1.0), (0.01, 0.6), (0.01, 0.3))
    return {
        f"{low:g}-{high:g}": System(
            f"VP time {low:g} to {high:g}", (Head("default"),), window=(low, high)
        )
        for low, high in windows
    }


@study(
    "Churn of boosted samples",
    "How much noise should samples get back that look generated?",
    "S_churn of boosted samples",
)
def churn(setting):
    """S_churn of boosted samples, as reproduction A swept it."""
    head = (Head("released" if setting.released else "default"),)
    # The sweep was published for 10,000 images, its best value for 50,000 as well.
    metric, known = ("fid-10k", (0, 2, 4, 10)) if setting.num_images == 10_000 else ("fid", (2,))
    known = known if setting.released and setting.conditional else ()
    systems = {"guided": System("no boosting", head, boosting=False)}
    for value in setting.churns:
        row = dict(source="reproduction-a", metric=metric, S_churn=int(value))
        told = dict(x=value, published=row if value in known else None)
        boosted = System(f"boosted, S_churn {value:g}", head, boosting=True, S_churn=value, **told)
        systems[f"churn-{value:g}"] = boosted
    return systems


@study(
    "Sampling steps",
    "Does guidance save network evaluations?",
    "network evaluations per image",
    sections=("results", "guidance", "pairs", "discriminators", "deviations", "run"),
)
def steps(setting):
    """Distance against the number of network evaluations, unguided and guided."""
    systems = {}
    for count in (5, 9, 12, 18, 27):
        n, base = 2 * count - 1, f"unguided-{count}"
        at = dict(num_steps=count, x=n)
        systems[base] = System(f"unguided, {n} evaluations", **at)
        guided = System(f"guided, {n} evaluations", (Head("default"),), against=base, **at)
        systems[f"guided-{count}"] = guided
    return systems


@study(
    "Significance",
    "Is the improvement larger than what another training of the discriminator changes?",
    tests="significance",
)
def significance(setting):
    """Discriminators that differ in the seed of their training alone."""
    names = ["authors", *(f"authors-seed-{seed}" for seed in range(1, setting.num_members))]
    return {
        name: System(f"authors' recipe, training seed {seed}", (Head(name, "last"),))
        for seed, name in enumerate(names)
    }


@study("LoRA on the classifier", "Does it help to adapt the frozen classifier?")
def lora(setting):
    """A low-rank update of the frozen classifier, trained with the head."""
    systems = {"authors": System("frozen classifier", (Head("authors", "last"),))}
    for rank in setting.lora_ranks:
        row = dict(source="reproduction-a", system=f"EDM-G++, LoRA rank {rank}", metric="fid")
        row = row | dict(conditional=setting.conditional) if setting.of_cifar10 else None
        head = (Head(f"lora-{rank}", "last"),)
        systems[f"lora-{rank}"] = System(f"LoRA, rank {rank}", head, published=row)
    return systems


@study(
    "Ensembles",
    "Do several discriminators guide better than one? (Reproduction B found 14.35 where one gave "
    "1.88.)",
    "members, logits averaged",
    tested=True,
    sections=several.SECTIONS,
    texts=several.TEXTS,
)
def ensemble(setting):
    """Reproduction B's members alone and together, its fault, and members that differ more."""
    return several.systems(setting)


@study(
    "Samplers and guidance at equal compute",
    "Which way to sample brings images nearest to real ones for the multiply-adds of an image?",
    compute=True,
    aside=lines.ASIDE,
    sections=lines.SECTIONS,
)
def methods(setting):
    """Unguided, Restart, guidance, rejection, particles and combinations at a few amounts of
    compute."""
    return lines.Methods(setting).systems()


@study(
    "Gains together",
    "What does guidance add to methods that change the network (Neon, SIMS) or the sampler "
    "(Restart, rejection)? DDO, which is its own discriminator, stands beside them.",
    compute=True,
    aside=together.ASIDE,
    sections=together.SECTIONS,
)
def gains_add_up(setting):
    """Each method alone and with guidance, its settings chosen on other seeds."""
    return together.systems(setting)


@study(
    "The discriminator that is given",
    "What does the discriminator change that comes with the network?",
    sections=("results", "pairs", "strips", "ratios", "selection", "suggestion", "run"),
)
def given(setting):
    """One that ships or is published; where weights are searched, also as the diagnosis says."""
    head, searched = (lines.given_head(setting),), bool(setting.candidates)
    found = {"guided": System("guided", head, *(("chosen", lines.SHORT) if searched else ()))}
    suggested = System("guided as the diagnosis suggests", head, "suggested")
    return found | ({"suggested": suggested} if searched else {})


@study(
    "Failures",
    "Where does each method lose its gain: how many real and how many generated images does its "
    "discriminator have to see?",
    heldout=True,
    sections=few.SECTIONS,
)
def failures(setting):
    """Guidance, rejection and guidance with Restart, by discriminators of few images."""
    names = few.trainings(setting, PRESETS["default"])
    return few.systems(setting, [few.BASE, *names])


@study(
    "Less guidance for the same gain",
    "How much of the gain of guidance is left where the discriminator is evaluated less often, or "
    "is smaller?",
    compute=True,
    sections=less.SECTIONS,
)
def cost(setting):
    """The setting's guidance and both orders; fewer steps, other windows, smaller heads."""
    return less.systems(setting)


@study(
    "Kinds of discriminators at equal training compute",
    "Which kind of discriminator guides best where all see the same real images and train for "
    "equally many multiply-adds, and does a second or a third round help?",
    compute=True,
    heldout=True,
    sections=each.SECTIONS,
)
def kinds(setting):
    """Every kind with its own recipe and a chosen weight, then further rounds of the first."""
    return each.systems(setting)
