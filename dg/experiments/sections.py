"""The sections of a report by name: a title, and the function that makes its content."""

import numpy as np

from dg.evaluation.figures.style import mean_sd
from dg.evaluation.published import first_matching, published_rows
from dg.evaluation.report import Code, Note, Table
from dg.evaluation.significance import one_sample_t, smallest_detectable_difference
from dg.evaluation.tables import how_it_was_run
from dg.experiments import (
    cost_report,
    failures_report,
    gains_report,
    kinds_report,
    methods_report,
    pictures,
    suggestion_report,
    tables,
)
from dg.experiments.models import KINDS
from dg.experiments.pictures import Source


def results(source: Source) -> list:
    """The table of all systems and one picture, then the tests and how to read them."""
    outcome, shown = source.outcome, tables.pairs(source.outcome)
    names, guided = list(outcome["systems"]), list(shown.values())
    highlight = names.index(guided[0]) if len(guided) == 1 else None
    items = [Table(tables.columns(outcome), tables.rows(outcome), highlight=highlight)]
    items += [*pictures.glance(source), reading(outcome)]
    compared = tables.tests(outcome) if "guidance" not in outcome["sections"] else []
    if compared:
        sets, distance = outcome["settings"]["num_sets"], tables.distance_name(outcome)
        told = f"Paired t tests over {sets} sets; p is two-sided, not corrected for many systems."
        headings = ["against unguided, paired by seeds", f"difference of {distance}", "sd"]
        headings += ["95% interval", "t", "p"]
        items.append(Table(headings, compared, caption=told))
    if outcome["tests"] == "significance":
        items += _significance(outcome)
    return items + _longer_training(outcome)


def reading(outcome: dict) -> str:
    """What the numbers of the table are."""
    settings, extractor = outcome["settings"], outcome["extractor"]
    meant = f"{tables.distance_name(outcome)}: Fréchet distance to real images."
    text = "".join(f"{line} " for line in outcome["texts"].get("caption", (meant,)))
    text += f"Features: {extractor['name']}"
    if "test_accuracy" in extractor:
        text += f", which names {100 * extractor['test_accuracy']:.1f}% of the test images"
    text += ". "
    if extractor["name"] != "inception":
        text += "No Inception FID: compare within this table only. "
    for metric, title, form in (
        ("fid", "In Inception's features, FID", "{:.2f}"),
        ("agreement", "Classifier agreement with the asked class", "{:.1%}"),
    ):
        values = {
            system["title"]: outcome["metrics"][name][metric]["mean"]
            for name, system in outcome["systems"].items()
            if metric in outcome["metrics"][name]
        }
        named = ", ".join(f"{name} {form.format(value)}" for name, value in values.items())
        text += f"{title}: {named}. " if values else ""
    text += _likelihood_caption(outcome) if "nll" in tables.metric_names(outcome) else ""
    text += f"Real against real: {outcome['floor_images']:,} images per set"
    if not pictures.fair_floor(outcome):
        text += ", fewer than of the systems: its distance has a larger bias and is no floor for "
        text += "theirs"
    if settings["features"] == "classifier" and settings["reference_split"] == "test":
        text += "; training images, which the feature classifier may have learned from"
    return text + "."


def _likelihood_caption(outcome: dict) -> str:
    if "likelihood" in outcome["sections"]:
        return "bits/dim: ± one standard error, see below. "
    text = (
        "bits/dim: likelihood of test images by the probability flow, ± one standard error. The "
        "guided flow has the mean of the two weights at both stages and no boosting. "
    )
    network = outcome["settings"]["models"]["score"]
    if not network["training"] and outcome["settings"]["data"] == "cifar10":
        known = ", ".join(
            f"{row['system']} {row['value']:g} ({row['source']})"
            for row in published_rows()
            if row["metric"] == "nll" and row["system"].startswith("EDM")
        )
        text += f"Published: {known}. "
    return text


def _significance(outcome: dict) -> list:
    """Several trainings against the unguided mean, as reproduction A did."""
    base = outcome["metrics"]["unguided"]["fd"]["mean"]
    means = [outcome["metrics"][name]["fd"]["mean"] for name in outcome["comparison"]]
    if len(means) < 2 or not np.std(means):
        return []
    test, sd, n = one_sample_t(means, base), float(np.std(means, ddof=1)), len(means)
    found = smallest_detectable_difference(sd, n)
    return [
        f"The {n} trainings differ in their seed alone. Their mean is {np.mean(means):.4f} "
        f"(sd {sd:.4f}, n = {n}), the unguided distance {base:.4f}: t = {test.t:.2f}, "
        f"p = {test.p:.2g}, {test.effect_name} = {test.effect:.2f}. So many trainings find a "
        f"difference of {found:.4f} with 80% power at the 5% level. Reproduction A published "
        "t = -26.42 for six discriminators (mean 1.8433, sd 0.01082, against 1.96).",
        Note(
            "The test takes the unguided distance as exactly known and the seeds of sampling as "
            "shared. It compares trainings, not other sampling seeds."
        ),
    ]


def _longer_training(outcome: dict) -> list:
    """Guidance against more steps of the same network, where a system is that network."""
    settings, costs, shown = outcome["settings"], outcome["costs"], tables.pairs(outcome)
    models, systems = settings["models"], outcome["systems"]
    longer = [name for name in systems if models[systems[name]["model"]]["continues"]]
    if not longer or not shown:
        return []
    (name, *_), ((base, guided),) = longer, shown.items()
    more = models[systems[name]["model"]]
    steps = [model["training"][1]["steps"] for model in (models[more["continues"]], more)]
    seconds = {which: costs[which]["training_seconds"] for which in (base, guided, name)}
    slower = costs[guided]["seconds_per_1000"] - costs[base]["seconds_per_1000"]
    sampling = settings["num_images"] * settings["num_sets"] / 1000 * slower
    fd = {which: outcome["metrics"][which]["fd"]["mean"] for which in (guided, name)}
    return [
        Note(
            f"Would the time be better spent on the network? The row “{systems[name]['title']}” is "
            f"the same network after {steps[1] - steps[0]} more steps than its {steps[0]}, which "
            f"took {seconds[name] - seconds[base]:.0f} s; generating the discriminator's training "
            "images, training it and sampling with it took "
            f"{seconds[guided] - seconds[base] + sampling:.0f} s. FD: {fd[name]:.2f} with longer "
            f"training, {fd[guided]:.2f} with guidance. Where a network can still be trained, "
            "train it; guidance is for networks that are given."
        )
    ]


def costs(source: Source) -> list:
    """What every system takes, and who is best where."""
    outcome = source.outcome
    told = "Parameters and training of a guided model include its discriminator and its images."
    caption = (
        "sd: that of the two values together, over the sets. For bits/dim it is the standard error "
        "over the same test images, and a bound stands against an estimate. Times were measured "
        "once."
    )
    best = ["", "best", "", "next", "ahead by"]
    return [
        Table(["", *tables.COSTS], tables.cost_rows(outcome), caption=told),
        Table(best, tables.winners(outcome), align="llrlr", caption=caption),
        *pictures.costs(source),
    ]


def guidance(source: Source) -> list:
    """What guidance does to each model."""
    distance = tables.distance_name(source.outcome)
    columns = ["", distance, "guided", "change", "better by", "p (paired)", "recall"]
    caption = "Both systems start from equal seeds. Better by: mean of the paired differences over "
    caption += "their sd."
    return [Table(columns, tables.guidance_rows(source.outcome), caption=caption)]


def discriminators(source: Source) -> list:
    """Curves of the discriminators, and what their validation says of what guidance can do."""
    said = []
    for name, training in source.outcome["trainings"].items():
        best, log = training["best_epoch"], training["log"]
        last, entry = log[-1]["epoch"], next(entry for entry in log if entry["epoch"] == best)
        late = " (still falling)"
        if "valid_auc" in entry:
            told = f"{name} {entry['valid_auc']:.2f} at epoch {best} of {last}"
            said.append(told + (late if best == last > 1 else ""))
    text = "A discriminator can correct only what it sees. Its AUC on validation images, where the "
    text += f"loss is lowest (0.5: it sees nothing): {'; '.join(said)}."
    if any(told.endswith(late) for told in said):
        text += " Where the loss is still falling, longer training would teach it more."
    return [*([text] if said else []), *pictures.curves(source)]


def tested(source: Source) -> list:
    """How well the discriminator of every system tells test images from generated ones."""
    outcome, rows = source.outcome, []
    known = {name: _published_test(outcome, name) for name in outcome["tested"]}
    for name, found in outcome["tested"].items():
        values = [found[key] for key in ("loss", "accuracy", "auc", "precision", "recall")]
        cells = ["" if value is None else f"{value:.3f}" for value in values]
        more = [" / ".join(known[name])] if any(known.values()) else []
        rows.append([outcome["systems"][name]["title"], *cells, *more])
    columns = ["test images", "loss", "accuracy", "AUC", "precision", "recall"]
    columns += ["published precision / recall"] if any(known.values()) else []
    caption = (
        "Test images of the training, the same noise for all. “Real” is the answer where the log "
        "ratio is above 0. A precision is left out where no image is called real. "
    )
    if any(known.values()):
        caption += "Published: reproduction B, on a test split of its own; the noise is not told. "
        caption += "Released discriminators were trained on all real images."
    return [Table(columns, rows, align="l" + "r" * (len(columns) - 1), caption=caption)]


def _published_test(outcome: dict, name: str) -> list[str]:
    """Precision and recall as published of the discriminator of a system, or nothing."""
    for row in tables.published(outcome, name, outcome["systems"][name]):
        if row["source"] == "reproduction-b":
            system = f"discriminator on its test split: {row['system'].removeprefix('EDM-G++, ')}"
            metrics = ("precision", "recall")
            found = first_matching([dict(system=system, metric=metric) for metric in metrics])
            return [f"{one['value']:.3f}" for one in found]
    return []


def likelihood(source: Source) -> list:
    """Bits per dimension, and what they are of each kind of model."""
    outcome, rows = source.outcome, []
    for name, system in outcome["systems"].items():
        if (nll := outcome["metrics"][name].get("nll")) is None:
            continue
        kind = outcome["settings"]["models"][system["model"]]["kind"]
        terms = ", ".join(f"{term} {value:.2f}" for term, value in nll["terms"].items())
        value = mean_sd(nll["mean"], nll["standard_error"])
        rows.append([system["title"], KINDS[kind].measures, f"{nll['n']:,}", value, terms])
    return [
        "All values are bits per dimension of the 8-bit images as they are, without padding; "
        "uniform noise has 8. EDM: likelihood of uniformly dequantised images by the probability "
        "flow, with Heun steps and Hutchinson's trace. This is an estimate, not a bound; guidance "
        "has the same weight at both stages. DDPM: the variational bound with the discretised "
        "Gaussian decoder. VAE: the ELBO with discretised logistic pixels. A higher bound may be "
        "loose rather than its model worse.",
        Table(["", "measure", "images", "bits/dim", "terms"], rows, align="llrrl"),
    ]


def bounds(source: Source) -> list:
    """The bounds of the models along their training: on one scale, which their losses are not."""
    outcome, rows = source.outcome, []
    if not outcome.get("bounds"):
        return []
    for name, entries in outcome["bounds"].items():
        for entry in entries:
            both = [entry["training"], entry["test"]]
            cells = [mean_sd(one["mean"], one["standard_error"]) for one in both]
            gap = both[1]["mean"] - both[0]["mean"]
            title = outcome["settings"]["models"][name]["title"]
            rows.append([title, f"{entry['step']:,}", *cells, f"{gap:+.2f}"])
    numbers = sorted({one["n"] for entry in entries for one in (entry["training"], entry["test"])})
    caption = (
        f"± one standard error over {' and '.join(f'{n:,}' for n in numbers)} images of each kind. "
        "The bound of a DDPM is estimated without bias from "
        f"{outcome['settings']['bound_terms']} of its terms for each image. Its weights are the "
        "averaged ones."
    )
    columns = ["", "training steps", "training images", "test images", "difference"]
    return [*pictures.bounds(source), Table(columns, rows, caption=caption)]


def deviations(source: Source) -> list:
    """What is not as published, or cannot be claimed."""
    outcome, settings = source.outcome, source.outcome["settings"]
    found, models = list(settings["deviations"]), settings["models"]
    if settings["budget"] and settings["num_images"] * settings["num_sets"] < 10_000:
        found.append(
            f"The sets are {settings['num_sets']} of {settings['num_images']} images, not one of "
            "10,000. Distances have the bias of that number, and so has real against real."
        )
    if "score" in models and not models["score"]["published"]:
        found.append(
            "The score network and the noise-aware classifier were trained here; no published "
            "weights were used."
        )
    if outcome["extractor"].get("published_weights") is False:
        found.append("The feature extractor does not have the published weights.")
    return [
        *found,
        "Discriminators trained here see 80% of the images (10% validation, 10% test); the authors "
        "use all of them.",
        "Guidance uses logits without the authors' clip of the probability.",
    ]


def run(source: Source) -> list:
    """Command, machine, times, and the same by hand where there is a way."""
    outcome = source.outcome
    extra = ["The complete settings stand in results.json beside this report."]
    if outcome.get("side_by_side"):
        extra.insert(0, "On a CPU two processes worked side by side.")
    for commands in outcome["texts"].get("by hand", ()):
        weight = outcome["selection"]["chosen"] if outcome["selection"] else 0.0
        extra += ["The same experiment by hand:", Code(commands.format(weight=weight))]
    return how_it_was_run(outcome, extra=extra).items


SECTIONS = {
    "results": ("Results", results),
    "methods": ("Results", methods_report.methods),
    "failures": ("Results", failures_report.failures),
    "gain": ("Results", cost_report.gain),
    "gains": ("Results", gains_report.gains),
    "kinds": ("Results", kinds_report.kinds),
    "choices": ("Choice of the settings", methods_report.choices),
    "costs": ("Results", costs),
    "guidance": ("What guidance does", guidance),
    "pairs": ("Same seeds, before and after", pictures.before_and_after),
    "strips": ("Same seeds, before and after", pictures.strips),
    "discriminators": ("The discriminators", discriminators),
    "tested": ("The discriminators", tested),
    "ratios": ("The discriminators", pictures.ratios),
    "selection": ("The guidance weight", pictures.selection),
    "suggestion": ("The guidance weight", suggestion_report.suggested),
    "likelihood": ("Likelihood", likelihood),
    "bounds": ("Training of the models", bounds),
    "models": ("Training of the models", pictures.losses),
    "images": ("Images", pictures.grids),
    "deviations": ("Deviations", deviations),
    "run": ("How it was run", run),
}
