"""What the rows of `python -m benchmarks.prediction` say.

    python -m benchmarks.prediction_report docs/results/prediction

Rank correlations of numbers of a discriminator with the Fréchet distance of the images that it
guides, and the distance of the checkpoint that a number chooses within each training. The intervals
are of a bootstrap over trainings, since the heads of one training are no independent draws. The
command computes both from the rows in results.json, keeps them there, and writes report.md and
prediction.png anew.
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from statistics import mean

from dg.evaluation.figures.prediction import predictors_against_distance
from dg.evaluation.report import Document, Picture, Section, Table, text_of, write_markdown
from dg.evaluation.significance import bootstrapped_mean, rank_correlation
from dg.runtime.files import read_json, write_json

# What is to predict the distance; each is expected to rise or fall with it as its sign says.
PREDICTORS = {
    "valid_loss": 1,
    "auc": -1,
    "loss": 1,
    "epoch": -1,
    "gain": -1,
    "gain_between": -1,
    "best_gain": -1,
}
LEGEND = (
    "valid_loss: of the training, on its validation images. auc, loss: mean over noise levels, on "
    "images that no head has seen. gain: fall of the denoising error on real images at weight 1; "
    "gain_between: the same for the share between real and generated images; best_gain: in the "
    "suggested window at the suggested weight [nats]."
)
# Ways to choose a checkpoint of a training, and the sign of what is least at the chosen one.
CHOICES = {
    "gain": ("largest gain", -1),
    "valid_loss": ("lowest valid_loss", 1),
    "auc": ("largest auc", -1),
    "epoch": ("last epoch", -1),
    "fd": ("the distance itself, the best possible", 1),
}


def training_name(row: dict) -> str:
    return row["name"].split("/")[0]


def summaries(rows: list[dict]) -> dict[str, dict]:
    return {"correlations": correlations(rows), "choices": choices(rows)}


def correlations(rows: list[dict]) -> dict[str, dict]:
    """Rank correlation of every predictor with the distance, over the heads that have it; none
    where all are of one training."""
    found = {}
    for name, sign in PREDICTORS.items():
        known = [row for row in rows if row.get(name) is not None]
        x, y = [row[name] for row in known], [row["fd"] for row in known]
        units = list(map(training_name, known))
        if len(known) >= 3 and all(len(set(values)) > 1 for values in (x, y, units)):
            found[name] = asdict(rank_correlation(x, y, units)) | {"expected": sign}
    return found


def choices(rows: list[dict]) -> dict[str, dict]:
    """For every way to choose, the mean distance of the chosen checkpoints over the trainings, and
    that less the one by validation loss; none where fewer than two trainings have a choice.

    A training counts that has two or more heads whose numbers are all known.
    """
    trainings: dict[str, list[dict]] = {}
    for row in rows:
        if all(row.get(name) is not None for name in CHOICES):
            trainings.setdefault(training_name(row), []).append(row)
    several = [heads for heads in trainings.values() if len(heads) > 1]
    if len(several) < 2:
        return {}
    chosen = {
        name: [min(heads, key=lambda row: sign * row[name])["fd"] for heads in several]
        for name, (_, sign) in CHOICES.items()
    }
    found = {}
    for name, fds in chosen.items():
        less = [a - b for a, b in zip(fds, chosen["valid_loss"], strict=True)]
        found[name] = {"distance": asdict(bootstrapped_mean(fds))}
        if name != "valid_loss":
            found[name] |= {"less_valid_loss": asdict(bootstrapped_mean(less))}
    return found


def tables(outcome: dict) -> dict[str, tuple[list[str], list[list[str]]]]:
    """(columns, rows) by title: correlations, choices, verdicts, heads."""

    def cell(value):
        return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

    def with_interval(one, form):
        low, high = f"{one['low']:{form}}", f"{one['high']:{form}}"
        return [f"{one['value']:{form}}", f"{low} to {high}"]

    correlated = [
        [
            name,
            *with_interval(one, "+.2f"),
            "above 0" if one["expected"] > 0 else "below 0",
            str(one["n"]),
        ]
        for name, one in outcome["correlations"].items()
    ]
    chosen = [
        [
            CHOICES[name][0],
            *with_interval(one["distance"], ".3f"),
            *(with_interval(one["less_valid_loss"], "+.3f") if len(one) > 1 else ["", ""]),
        ]
        for name, one in outcome["choices"].items()
    ]
    by_verdict: dict[str, list[float]] = {}
    for row in outcome["rows"]:
        by_verdict.setdefault(row["verdict"], []).append(row["fd"])
    verdicts = [
        [name, str(len(fds)), str(sum(fd < outcome["unguided"] for fd in fds)), cell(mean(fds))]
        for name, fds in sorted(by_verdict.items())
    ]
    columns = ("fd", *PREDICTORS, "verdict")
    rows = sorted(outcome["rows"], key=lambda row: row["fd"])
    heads = [[row["name"], *(cell(row.get(one)) for one in columns)] for row in rows]
    return {
        "Rank correlation with the distance": (
            ["predictor", "Spearman", "95% interval", "expected", "heads"],
            correlated,
        ),
        "The checkpoint that is chosen within a training": (
            ["chosen by", "mean distance", "95% interval", "less valid_loss's", "95% interval"],
            chosen,
        ),
        "Verdicts of the diagnosis": (
            ["verdict", "heads", "nearer than unguided", "mean distance"],
            verdicts,
        ),
        "Discriminators": (["head", *columns], heads),
    }


def document(outcome: dict, folder: Path) -> Document:
    """The report, and what its numbers are of."""
    found, rows, unguided = (outcome[name] for name in ("correlations", "rows", "unguided"))
    settings = outcome["settings"]
    better = sum(row["fd"] < unguided for row in rows)
    lead = (
        f"{better} of {len(rows)} discriminators bring images nearer than the unguided ones, whose "
        f"distance is {unguided:.3f}."
    )
    if found:
        closest = max(found, key=lambda name: found[name]["value"] * found[name]["expected"])
        one = found[closest]
        lead += (
            f" Of {len(found)} predictors, {closest} goes with the distance most closely: rank "
            f"correlation {one['value']:+.2f}, 95% interval {one['low']:+.2f} to {one['high']:+.2f}."
        )
    about = (
        f"{settings['network']}, weight ({settings['weight']:g}, 0), {settings['images']} guided "
        f"images of the same seeds for every discriminator, distance to {settings['ref']} in the "
        f"features {settings['features']}. Diagnosed on {settings['num']} images of each kind at "
        "most. The intervals are of a bootstrap over the "
        f"{len(set(map(training_name, rows)))} trainings. {LEGEND}"
    )
    picture = Picture(
        folder / "prediction.png", "A point is a discriminator; the line is no guidance."
    )
    sections = [Section("Predictors", [picture])]
    sections += [
        Section(title, [Table(*parts)]) for title, parts in tables(outcome).items() if parts[1]
    ]
    return Document("Which number predicts how well a discriminator guides?", lead, about, sections)


def publish(outcome: dict, folder: Path) -> None:
    """Draw and write the report, and print its tables."""
    path = folder / "prediction.png"
    predictors_against_distance(path, outcome["rows"], outcome["correlations"], outcome["unguided"])
    write_markdown(folder / "report.md", document(outcome, folder))
    for title, (columns, rows) in tables(outcome).items():
        print(f"\n{title}\n{text_of([columns, *rows])}")


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder of results.json")
    path = (folder := parser.parse_args(argv).folder) / "results.json"
    outcome = read_json(path)
    outcome |= summaries(outcome["rows"])
    write_json(path, outcome)
    publish(outcome, folder)


if __name__ == "__main__":
    main()
