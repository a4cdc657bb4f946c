"""The studies: a question, the discriminators it takes and the systems it compares, as plain data of a setting.

Discriminators have the same name in every study of a setting, so that they are trained once.
"""

from collections.abc import Callable
from dataclasses import replace

from dg.experiments.settings import Setting
from dg.experiments.study import Head, Study, System, Training
from dg.recipes import PRESETS

FROM_SCRATCH = ("pixels", "pixels-wide")  # discriminators, one for each of a setting's widths
UNGUIDED = {"unguided": System("unguided")}


def trainings(setting: Setting) -> dict[str, Training]:
    """Every discriminator that a study may ask for."""

    def scaled(settings, **changes):
        epochs = max(1, round(settings.epochs * setting.epoch_scale))
        return replace(
            settings,
            epochs=epochs,
            split=(0.8, 0.1, 0.1),
            eval_images=setting.eval_images,
            conditional=setting.conditional,
            **changes,
        )

    authors = scaled(PRESETS["authors-cond" if setting.conditional else "authors-uncond"])
    default = replace(
        PRESETS["default"],
        conditional=setting.conditional,
        eval_images=setting.eval_images,
        epochs=PRESETS["default"].epochs if setting.epoch_scale else 1,
    )
    kept = {60: 5, 250: 25}.get(
        authors.epochs, max(1, authors.epochs // 5)
    )  # where Figure 3 has points
    made = {"authors": replace(authors, keep_every=kept), "default": default}
    made |= {f"d{i}": scaled(PRESETS[f"kth-d{i}"]) for i in range(1, 6)}
    made |= {
        f"lora-{rank}": replace(authors, lora_rank=rank, keep_every=0)
        for rank in setting.lora_ranks
    }
    made |= {
        f"authors-seed-{seed}": replace(authors, seed=seed, keep_every=0)
        for seed in range(1, setting.num_members)
    }
    found = {name: Training("classifier", settings) for name, settings in made.items()}
    score = replace(
        PRESETS["score"],
        conditional=setting.conditional,
        eval_images=setting.eval_images,
        epochs=PRESETS["score"].epochs if setting.epoch_scale else 1,
    )
    as_long = replace(default, epochs=score.epochs)
    return (
        found
        | {
            "default-score": Training("score", default),
            "score": Training("score", score),
            "score-wide": Training("score", score, 128),
            "as-long": Training("classifier", as_long),
        }
        | {
            name: Training("none", as_long, width)
            for name, width in zip(FROM_SCRATCH, setting.pixel_widths, strict=False)
        }
    )


def recipes(setting):
    """The main table: unguided, the authors' released head, their recipe trained here, the default recipe."""
    systems = dict(UNGUIDED)
    if setting.released:
        systems["released"] = System("authors' released discriminator", (Head("released"),))
    systems |= {
        "authors": System("authors' recipe", (Head("authors", "last"),)),
        "guided": System("default recipe", (Head("default"),)),
        "default-score": System("default recipe, score encoder", (Head("default-score"),)),
        "score": System("score recipe, score encoder", (Head("score"),)),
    }
    return Study(
        "Discriminator guidance",
        "Does guidance bring generated images closer to the real ones, and which recipe for "
        "the discriminator does it best?",
        systems,
        nll=True,
    )


def extractors(setting):
    """What the head sees: features of a classifier, of the score network itself, or the noisy images alone."""
    systems = {
        "score": System("score network's encoder", (Head("score"),)),
        "score-4": System("score network's encoder, weight 4", (Head("score"),), (4.0, 0.0)),
        "score-wide": System(
            "score network's encoder, head of 128 channels", (Head("score-wide"),)
        ),
        "as-long": System("noisy-image classifier", (Head("as-long"),)),
        "as-long-4": System("noisy-image classifier, weight 4", (Head("as-long"),), (4.0, 0.0)),
    }
    systems |= {
        name: System(f"from scratch, {width} channels", (Head(name),))
        for name, width in zip(FROM_SCRATCH, setting.pixel_widths, strict=False)
    }
    return Study(
        "What the discriminator sees",
        "Is the score network's own encoder as good a basis as a network of its own? "
        "(All heads see equally many images; the classifier was trained on labels before.)",
        UNGUIDED | systems,
    )


def epochs(setting):
    """Paper, Fig. 3: distance against the epoch of the discriminator."""
    last = trainings(setting)["authors"].settings
    kept = range(last.keep_every, last.epochs + 1, last.keep_every)
    systems = {
        f"epoch-{epoch}": System(
            f"epoch {epoch}",
            (Head("authors", f"epoch_{epoch:03d}"),),
            x=epoch,
            published=dict(source="paper-figure-3", epoch=epoch)
            if setting.published_network and not setting.conditional
            else None,
        )
        for epoch in kept
    }
    return Study(
        "Epochs of the discriminator",
        "How long should the discriminator be trained? (Paper, Figure 3.)",
        UNGUIDED | systems,
        "epoch of the discriminator",
    )


def selection(setting):
    """Which checkpoint of a discriminator to use."""
    settings = trainings(setting)["authors"].settings
    fixed = min(2 * settings.keep_every, settings.epochs)
    systems = {
        "authors-best": System(
            "authors' recipe, lowest validation loss", (Head("authors", "best"),)
        ),
        "authors-fixed": System(
            f"authors' recipe, epoch {fixed}", (Head("authors", f"epoch_{fixed:03d}"),)
        ),
        "authors-last": System("authors' recipe, last epoch", (Head("authors", "last"),)),
        "default-best": System("default recipe, lowest validation loss", (Head("default"),)),
        "default-last": System("default recipe, last epoch", (Head("default", "last"),)),
    }
    return Study(
        "Choice of the checkpoint",
        "Is the checkpoint of lowest validation loss the one that guides best?",
        UNGUIDED | systems,
    )


def weights(setting):
    """First- and second-order weights."""
    head = (Head("default"),)
    systems = {
        f"w{w:g}": System(f"weights ({w:g}, 0)", head, (w, 0.0), x=w)
        for w in (0.5, 1.0, 2.0, 4.0, 6.0)
    }
    systems |= {
        "w1-1": System("weights (1, 1)", head, (1.0, 1.0)),
        "w2-2": System("weights (2, 2)", head, (2.0, 2.0)),
    }
    return Study(
        "Guidance weights",
        "How strong should the guidance be, and is (2, 0) as good as (1, 1) at half the calls?",
        UNGUIDED | systems,
        "first-order weight, second-order weight 0",
    )


def window(setting):
    """The window of VP time in which guidance acts."""
    systems = {
        f"{low:g}-{high:g}": System(
            f"VP time {low:g} to {high:g}", (Head("default"),), window=(low, high)
        )
        for low, high in ((0.01, 1.0), (0.0, 1.0), (0.1, 1.0), (0.3, 1.0), (0.01, 0.6), (0.01, 0.3))
    }
    return Study(
        "Window of noise levels", "At which noise levels does guidance help?", UNGUIDED | systems
    )


def churn(setting):
    """S_churn of boosted samples, as reproduction A swept it."""

    def published(value):
        few = (
            setting.num_images == 10_000
        )  # the sweep was published for 10,000 images, its best value for 50,000 as well
        known = (0, 2, 4, 10) if few else (2,)
        return (
            dict(source="reproduction-a", metric="fid-10k" if few else "fid", S_churn=int(value))
            if value in known
            else None
        )

    head = (Head("released" if setting.released else "default"),)
    systems = {"guided": System("no boosting", head, boosting=False)}
    systems |= {
        f"churn-{value:g}": System(
            f"boosted, S_churn {value:g}",
            head,
            boosting=True,
            S_churn=value,
            x=value,
            published=published(value) if setting.released and setting.conditional else None,
        )
        for value in setting.churns
    }
    return Study(
        "Churn of boosted samples",
        "How much noise should samples get back that look generated?",
        UNGUIDED | systems,
        "S_churn of boosted samples",
    )


def steps(setting):
    """Distance against the number of network evaluations, unguided and guided."""
    systems = {}
    for count in (5, 9, 12, 18, 27):
        evaluations = 2 * count - 1
        systems[f"unguided-{count}"] = System(
            f"unguided, {evaluations} evaluations", num_steps=count
        )
        systems[f"guided-{count}"] = System(
            f"guided, {evaluations} evaluations", (Head("default"),), num_steps=count, x=evaluations
        )
    return Study(
        "Sampling steps",
        "Does guidance save network evaluations?",
        UNGUIDED | systems,
        "network evaluations per image",
    )


def significance(setting):
    """n discriminators, from other seeds of the training, against the unguided model on the same seeds."""
    names = ["authors", *(f"authors-seed-{seed}" for seed in range(1, setting.num_members))]
    systems = {
        name: System(f"authors' recipe, training seed {seed}", (Head(name, "last"),))
        for seed, name in enumerate(names)
    }
    return Study(
        "Significance",
        "Is the improvement larger than what another training of the discriminator changes?",
        UNGUIDED | systems,
        tests="significance",
    )


def lora(setting):
    """A low-rank update of the frozen classifier, trained with the head."""

    def published(rank):
        return dict(
            source="reproduction-a",
            system=f"EDM-G++, LoRA rank {rank}",
            metric="fid",
            conditional=setting.conditional,
        )

    systems = {"authors": System("frozen classifier", (Head("authors", "last"),))}
    systems |= {
        f"lora-{rank}": System(
            f"LoRA, rank {rank}",
            (Head(f"lora-{rank}", "last"),),
            published=published(rank) if setting.published_network else None,
        )
        for rank in setting.lora_ranks
    }
    return Study(
        "LoRA on the classifier", "Does it help to adapt the frozen classifier?", UNGUIDED | systems
    )


def ensemble(setting):
    """The members of reproduction B alone and together, with the right average and with the one that failed."""
    members = [Head("authors", "last"), *(Head(f"d{i}", "last") for i in range(1, 6))]
    systems = {f"d{i}": System(f"D{i} alone", (head,)) for i, head in enumerate(members)}
    systems |= {
        f"n{n}": System(f"D0 to D{n - 1}, logits averaged", tuple(members[:n]), x=n)
        for n in range(2, 7)
    }
    published = dict(source="reproduction-b", system="EDM-G++, ensemble of six")
    systems["probabilities"] = System(
        "D0 to D5, probabilities averaged",
        tuple(members),
        average="probabilities",
        published=published if setting.published_network and not setting.conditional else None,
    )
    systems["d0"] = replace(systems["d0"], x=1)
    return Study(
        "Ensembles",
        "Do several discriminators guide better than one? (Reproduction B found 14.35 where "
        "one gave 1.88.)",
        UNGUIDED | systems,
        "members, logits averaged",
    )


STUDIES: dict[str, Callable[[Setting], Study]] = {
    "recipes": recipes,
    "extractors": extractors,
    "epochs": epochs,
    "selection": selection,
    "weights": weights,
    "window": window,
    "churn": churn,
    "steps": steps,
    "significance": significance,
    "lora": lora,
    "ensemble": ensemble,
}


def build(name: str, setting: Setting) -> Study:
    """The study with the trainings that it needs."""
    study = STUDIES[name](setting)
    needed = {head.training for system in study.systems.values() for head in system.heads} - {
        "released"
    }
    known = trainings(setting)
    return replace(study, trainings={key: known[key] for key in known if key in needed})
