"""The studies: a question, the discriminators it takes and the systems it compares, as plain data
of a setting.

Discriminators have the same name in every study of a setting, so that they are trained once.
"""

from collections.abc import Callable
from dataclasses import replace

from dg.experiments.settings import Setting
from dg.experiments.study import Head, Study, System, Training
from dg.recipes import PRESETS

FROM_SCRATCH = ("pixels", "pixels-wide")  # discriminators, one for each of a setting's widths


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
    authors, as_long = replace(authors, keep_every=0), replace(default, epochs=score.epochs)
    made |= {f"lora-{rank}": replace(authors, lora_rank=rank) for rank in setting.lora_ranks}
    for seed in range(1, setting.num_members):
        made[f"authors-seed-{seed}"] = replace(authors, seed=seed)
    made["as-long"] = as_long
    found = {name: Training("classifier", settings) for name, settings in made.items()}
    found |= {
        "default-score": Training("score", default),
        "score": Training("score", score),
        "score-wide": Training("score", score, 128),
    }
    for name, width in _from_scratch(setting):
        found[name] = Training("none", as_long, width)
    return found


def _study(title: str, question: str, systems: dict[str, System], xlabel=None, **options) -> Study:
    """A study of some systems beside the unguided one."""
    return Study(title, question, {"unguided": System("unguided")} | systems, xlabel, **options)


def _from_scratch(setting: Setting):
    """(name, channels) of the discriminators that see noisy images alone."""
    return zip(FROM_SCRATCH, setting.pixel_widths, strict=False)


def recipes(setting):
    """The main table: unguided, the authors' released head, their recipe trained here, the default
    recipe."""
    systems = {
        "authors": System("authors' recipe", (Head("authors", "last"),)),
        "guided": System("default recipe", (Head("default"),)),
        "default-score": System("default recipe, score encoder", (Head("default-score"),)),
        "score": System("score recipe, score encoder", (Head("score"),)),
    }
    if setting.released:
        released = System("authors' released discriminator", (Head("released"),))
        systems = {"released": released} | systems
    return _study(
        "Discriminator guidance",
        "Does guidance bring generated images closer to the real ones, and which recipe for "
        "the discriminator does it best?",
        systems,
        nll=True,
    )


def extractors(setting):
    """What the head sees: features of a classifier, of the score network itself, or the noisy
    images alone."""
    score, classifier, strong = (Head("score"),), (Head("as-long"),), (4.0, 0.0)
    wide = System("score network's encoder, head of 128 channels", (Head("score-wide"),))
    systems = {
        "score": System("score network's encoder", score),
        "score-4": System("score network's encoder, weight 4", score, strong),
        "score-wide": wide,
        "as-long": System("noisy-image classifier", classifier),
        "as-long-4": System("noisy-image classifier, weight 4", classifier, strong),
    }
    for name, width in _from_scratch(setting):
        systems[name] = System(f"from scratch, {width} channels", (Head(name),))
    return _study(
        "What the discriminator sees",
        "Is the score network's own encoder as good a basis as a network of its own? "
        "(All heads see equally many images; the classifier was trained on labels before.)",
        systems,
    )


def epochs(setting):
    """Paper, Fig. 3: distance against the epoch of the discriminator."""
    last = trainings(setting)["authors"].settings
    known = setting.published_network and not setting.conditional
    systems = {}
    for epoch in range(last.keep_every, last.epochs + 1, last.keep_every):
        head = (Head("authors", f"epoch_{epoch:03d}"),)
        row = dict(source="paper-figure-3", epoch=epoch) if known else None
        systems[f"epoch-{epoch}"] = System(f"epoch {epoch}", head, x=epoch, published=row)
    return _study(
        "Epochs of the discriminator",
        "How long should the discriminator be trained? (Paper, Figure 3.)",
        systems,
        "epoch of the discriminator",
    )


def selection(setting):
    """Which checkpoint of a discriminator to use."""
    settings = trainings(setting)["authors"].settings
    fixed = min(2 * settings.keep_every, settings.epochs)
    systems = {
        f"{recipe}-{name}": System(f"{title}, {which}", (Head(recipe, checkpoint),))
        for recipe, title, name, which, checkpoint in (
            ("authors", "authors' recipe", "best", "lowest validation loss", "best"),
            ("authors", "authors' recipe", "fixed", f"epoch {fixed}", f"epoch_{fixed:03d}"),
            ("authors", "authors' recipe", "last", "last epoch", "last"),
            ("default", "default recipe", "best", "lowest validation loss", "best"),
            ("default", "default recipe", "last", "last epoch", "last"),
        )
    }
    return _study(
        "Choice of the checkpoint",
        "Is the checkpoint of lowest validation loss the one that guides best?",
        systems,
    )


def weights(setting):
    """First- and second-order weights."""
    head = (Head("default"),)
    systems = {
        f"w{w:g}": System(f"weights ({w:g}, 0)", head, (w, 0.0), x=w)
        for w in (0.5, 1.0, 2.0, 4.0, 6.0)
    }
    for w in (1, 2):
        systems[f"w{w}-{w}"] = System(f"weights ({w}, {w})", head, (float(w), float(w)))
    return _study(
        "Guidance weights",
        "How strong should the guidance be, and is (2, 0) as good as (1, 1) at half the calls?",
        systems,
        "first-order weight, second-order weight 0",
    )


def window(setting):
    """The window of VP time in which guidance acts."""
    head = (Head("default"),)
    systems = {
        f"{low:g}-{high:g}": System(f"VP time {low:g} to {high:g}", head, window=(low, high))
        for low, high in ((0.01, 1.0), (0.0, 1.0), (0.1, 1.0), (0.3, 1.0), (0.01, 0.6), (0.01, 0.3))
    }
    return _study("Window of noise levels", "At which noise levels does guidance help?", systems)


def churn(setting):
    """S_churn of boosted samples, as reproduction A swept it."""
    head = (Head("released" if setting.released else "default"),)
    # The sweep was published for 10,000 images, its best value for 50,000 as well.
    few = setting.num_images == 10_000
    known = (0, 2, 4, 10) if few else (2,)
    systems = {"guided": System("no boosting", head, boosting=False)}
    for value in setting.churns:
        row = None
        if setting.released and setting.conditional and value in known:
            metric = "fid-10k" if few else "fid"
            row = dict(source="reproduction-a", metric=metric, S_churn=int(value))
        title = f"boosted, S_churn {value:g}"
        systems[f"churn-{value:g}"] = System(
            title, head, boosting=True, S_churn=value, x=value, published=row
        )
    return _study(
        "Churn of boosted samples",
        "How much noise should samples get back that look generated?",
        systems,
        "S_churn of boosted samples",
    )


def steps(setting):
    """Distance against the number of network evaluations, unguided and guided."""
    systems = {}
    for count in (5, 9, 12, 18, 27):
        n = 2 * count - 1
        guided = System(f"guided, {n} evaluations", (Head("default"),), num_steps=count, x=n)
        systems[f"unguided-{count}"] = System(f"unguided, {n} evaluations", num_steps=count)
        systems[f"guided-{count}"] = guided
    return _study(
        "Sampling steps",
        "Does guidance save network evaluations?",
        systems,
        "network evaluations per image",
    )


def significance(setting):
    """n discriminators, from other seeds of the training, against the unguided model on the same
    seeds."""
    names = ["authors", *(f"authors-seed-{seed}" for seed in range(1, setting.num_members))]
    systems = {
        name: System(f"authors' recipe, training seed {seed}", (Head(name, "last"),))
        for seed, name in enumerate(names)
    }
    return _study(
        "Significance",
        "Is the improvement larger than what another training of the discriminator changes?",
        systems,
        tests="significance",
    )


def lora(setting):
    """A low-rank update of the frozen classifier, trained with the head."""
    systems = {"authors": System("frozen classifier", (Head("authors", "last"),))}
    for rank in setting.lora_ranks:
        row = dict(source="reproduction-a", system=f"EDM-G++, LoRA rank {rank}", metric="fid")
        row["conditional"] = setting.conditional
        systems[f"lora-{rank}"] = System(
            f"LoRA, rank {rank}",
            (Head(f"lora-{rank}", "last"),),
            published=row if setting.published_network else None,
        )
    question = "Does it help to adapt the frozen classifier?"
    return _study("LoRA on the classifier", question, systems)


def ensemble(setting):
    """The members of reproduction B alone and together, with the right average and with the one
    that failed."""
    members = tuple(Head(name, "last") for name in ("authors", *(f"d{i}" for i in range(1, 6))))
    systems = {f"d{i}": System(f"D{i} alone", (head,)) for i, head in enumerate(members)}
    systems["d0"] = replace(systems["d0"], x=1)
    for n in range(2, 7):
        systems[f"n{n}"] = System(f"D0 to D{n - 1}, logits averaged", members[:n], x=n)
    row = dict(source="reproduction-b", system="EDM-G++, ensemble of six")
    known = setting.published_network and not setting.conditional
    systems["probabilities"] = System(
        "D0 to D5, probabilities averaged",
        members,
        average="probabilities",
        published=row if known else None,
    )
    return _study(
        "Ensembles",
        "Do several discriminators guide better than one? (Reproduction B found 14.35 where one "
        "gave 1.88.)",
        systems,
        "members, logits averaged",
    )


ALL = (recipes, extractors, epochs, selection, weights, window, churn, steps, significance, lora)
STUDIES: dict[str, Callable[[Setting], Study]] = {
    study.__name__: study for study in (*ALL, ensemble)
}


def build(name: str, setting: Setting) -> Study:
    """The study with the trainings that it needs."""
    study = STUDIES[name](setting)
    needed = {head.training for system in study.systems.values() for head in system.heads} - {
        "released"
    }
    known = trainings(setting)
    return replace(study, trainings={key: known[key] for key in known if key in needed})
