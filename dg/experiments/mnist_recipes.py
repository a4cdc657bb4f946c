"""The authors' recipe for the discriminator against the default one, on MNIST with networks trained here.

One score network; three discriminators for it: the authors' recipe on the features of an ADM classifier (its last epoch),
the default recipe on the same features (its best epoch), and the default recipe on the score network's own encoder. The
same seeds are sampled unguided and with each. Small on purpose: what two CPU cores do in half an hour.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

import edm
from dg.discriminator import build_discriminator, load_discriminator
from dg.evaluation import figures
from dg.evaluation.classifier import (
    ClassifierTraining,
    accuracy,
    extract_features,
    load_classifier,
    save_classifier,
    train_classifier,
)
from dg.evaluation.measure import measure
from dg.evaluation.report import Card, Code, Document, Note, Picture, Section, Table, write_markdown, write_report
from dg.experiments.common import compare, one_thread, sample, summarise
from dg.experiments.provenance import provenance
from dg.experiments.stages import Stages
from dg.guidance import DiscriminatorGuidance
from dg.noisy_classifier import NoisyClassifierTraining, train_noisy_classifier
from dg.pretraining import ScoreTraining, build_score_network, train_score_network
from dg.recipes import PRESETS, DiscriminatorTraining
from dg.runtime.datasets import ImageSet, load_images
from dg.runtime.files import atomic_write, read_json, write_json
from dg.sampling import Sampling
from dg.training import best_entry, train_discriminator

FAKE_SEED = 1_000_000
METRICS = {"fd": "FD", "kid": "KID", "precision": "precision", "recall": "recall"}


@dataclass(frozen=True)
class Recipe:
    """One way to a discriminator."""

    title: str
    extractor: str  # "classifier" or "score"
    training: DiscriminatorTraining
    checkpoint: str  # "best" or "last"
    weight: float = 2.0  # first-order guidance weight, the authors' in all


@dataclass(frozen=True)
class Settings:
    """Everything the numbers depend on. The epochs are the authors' 60 cut to the budget, the same for all recipes."""

    pool: int = 2  # MNIST is averaged over squares of so many pixels: 14 x 14 instead of 28 x 28
    network: tuple = (("model_type", "SongUNet"), ("model_channels", 24), ("channel_mult", (1, 2)), ("num_blocks", 1),
                      ("attn_resolutions", (7,)), ("dropout", 0.0))
    score: ScoreTraining = ScoreTraining(steps=1200, batch_size=64, ema_halflife=10_000)
    classifier: NoisyClassifierTraining = NoisyClassifierTraining(steps=400, batch_size=64, channel_mult=(1, 2))
    features: ClassifierTraining = ClassifierTraining(epochs=2, batch_size=128)
    sampling: Sampling = Sampling(num_steps=12)
    num_data: int = 2000  # real and generated images each, for the discriminators
    num_features: int = 10_000  # training images of the feature classifier
    num_images: int = 500
    num_sets: int = 3
    num_reference: int = 10_000  # test images
    epochs: int = 24
    batch_size: int = 100
    shuffle_seed: int = 0

    def recipes(self) -> dict[str, Recipe]:
        authors = replace(PRESETS["authors-uncond"], epochs=self.epochs, split=(0.8, 0.1, 0.1), keep_every=0)
        default = replace(PRESETS["default"], epochs=self.epochs, eval_images=300)
        return {
            "authors": Recipe("authors' recipe, ADM features", "classifier", replace(authors, eval_images=300), "last"),
            "default_classifier": Recipe("default recipe, ADM features", "classifier", default, "best"),
            "default_score": Recipe("default recipe, score encoder", "score", default, "best"),
        }


PROFILES = {
    "full": Settings(),
    "smoke": Settings(score=ScoreTraining(steps=4, batch_size=8), sampling=Sampling(num_steps=2), num_data=80,
                      classifier=NoisyClassifierTraining(steps=2, batch_size=8, channel_mult=(1, 2)),
                      features=ClassifierTraining(epochs=1),
                      num_features=200, num_images=30, num_sets=2, num_reference=200, epochs=1, batch_size=30),
}


def run(settings: Settings, folder: Path, results: Path, command: str, device, progress, notify, data=None) -> dict:
    """Run what is not cached; write results.json, pictures and report; return the results. `data`: MNIST, as load_images."""
    experiment = Recipes(settings, Stages(folder, progress, notify), device, data or "mnist")
    with one_thread(device):
        paths = experiment.run_all()
        outcome = experiment.results(paths) | provenance(command, experiment.stages.seconds, device)
        write_json(results / "results.json", outcome)
        draw(results, outcome, experiment, paths)
    document = describe(results, outcome)
    write_report(results / "report.html", document)
    write_markdown(results / "report.md", document)
    return outcome


class Recipes:
    """The stages, each a method that fills a folder."""

    def __init__(self, settings: Settings, stages: Stages, device, data):
        self.settings, self.stages, self.device = settings, stages, device
        # A file may be sorted by class, and parts of it are taken below.
        train, test = (shuffled(load_images(data, split=split), settings.shuffle_seed) for split in ("train", "test"))
        self.train, self.test = pooled(train, settings.pool), pooled(test.take(settings.num_reference), settings.pool)

    def run_all(self) -> dict[str, Path]:
        s, stage, paths = self.settings, self.stages.run, {}
        order = {"shuffle_seed": s.shuffle_seed}
        paths["features"] = stage("features", asdict(s.features) | {"n": s.num_features} | order, [], self.make_features)
        paths["score"] = stage("score", asdict(s.score) | dict(s.network), [], self.make_score)
        net = edm.load_network(paths["score"] / "network.safetensors", self.device)
        paths["classifier"] = stage("classifier", asdict(s.classifier), [], self.make_classifier)
        sampling = asdict(s.sampling) | {"batch_size": s.batch_size}
        paths["fake"] = stage("fake", sampling | {"n": s.num_data}, ["score"],
                              lambda path: self.sample(path, net, FAKE_SEED, s.num_data))
        sets = sampling | {"n": s.num_images, "sets": s.num_sets}
        paths["unguided"] = stage("unguided", sets, ["score"], lambda path: self.sample_sets(path, net))
        for name, recipe in s.recipes().items():
            paths[f"train_{name}"] = stage(
                f"train_{name}", asdict(recipe.training) | {"extractor": recipe.extractor} | order, ["fake", "classifier"],
                lambda path, recipe=recipe: self.train_head(path, recipe, net, paths))
            paths[name] = stage(name, sets | {"weight": recipe.weight, "checkpoint": recipe.checkpoint}, [f"train_{name}"],
                                lambda path, recipe=recipe, name=name: self.sample_sets(
                                    path, net, self.guidance(paths, name, recipe, net)))
        paths["measure"] = stage("measure", {"metrics": list(METRICS)}, list(paths), lambda path: self.measure(path, paths))
        return paths

    def make_features(self, path):
        data = self.train.take(self.settings.num_features)
        save_classifier(path / "classifier.safetensors", train_classifier(data, self.settings.features, self.stages.progress))

    def make_score(self, path):
        s = self.settings
        network = dict(s.network) | {"sigma_data": round(float(self.train.images.std()) / 127.5, 3)}
        net = build_score_network(self.train, network, s.score.seed).to(self.device)
        net, _ = train_score_network(net, self.train, s.score, path / "state.pt", self.stages.progress)
        with atomic_write(path / "network.safetensors") as file:
            edm.save_network(file, net)

    def make_classifier(self, path):
        model, log = train_noisy_classifier(self.train, self.settings.classifier, self.device, self.stages.progress)
        with atomic_write(path / "classifier.pt") as file:
            torch.save(model.state_dict(), file)
        write_json(path / "log.json", log)

    def train_head(self, path, recipe: Recipe, net, paths):
        real, fake = self.train.take(self.settings.num_data), load_images(paths["fake"])
        width = 64 if recipe.extractor == "classifier" else 32  # attention in the ADM head takes 64 channels
        discriminator = build_discriminator(recipe.extractor, real, net, paths["classifier"] / "classifier.pt", width=width,
                                            device=self.device)
        train_discriminator(discriminator, real, fake, recipe.training, path, progress=self.stages.progress)

    def guidance(self, paths, name, recipe: Recipe, net):
        head = paths[f"train_{name}"] / f"{recipe.checkpoint}.safetensors"
        discriminator = load_discriminator(paths["classifier"] / "classifier.pt", head, net, device=self.device)
        return DiscriminatorGuidance(discriminator, (recipe.weight, 0.0))

    def sample(self, path, net, first_seed, count, guidance=None):
        sample(path, net, self.settings.sampling, first_seed, count, self.settings.batch_size, guidance, self.device,
               progress=self.stages.progress)

    def sample_sets(self, path, net, guidance=None):
        for index in range(self.settings.num_sets):
            self.sample(path / f"set{index}", net, index * self.settings.num_images, self.settings.num_images, guidance)

    def measure(self, path, paths):
        model = load_classifier(paths["features"] / "classifier.safetensors")
        reference = extract_features(model, self.test)
        metrics = {name: summarise([measure(extract_features(model, load_images(paths[name] / f"set{index}")), reference)
                                    for index in range(self.settings.num_sets)])
                   for name in ("unguided", *self.settings.recipes())}
        n = self.settings.num_images
        real = [extract_features(model, self.train.subset(slice(len(self.train) - (i + 1) * n, len(self.train) - i * n)))
                for i in range(self.settings.num_sets)]
        metrics["floor"] = summarise([measure(features, reference) for features in real])
        write_json(path / "metrics.json", {"metrics": metrics, "accuracy": accuracy(model, self.test)})

    def results(self, paths) -> dict:
        measured = read_json(paths["measure"] / "metrics.json")
        metrics, recipes = measured["metrics"], self.settings.recipes()
        logs = {name: _log(paths[f"train_{name}"]) for name in recipes}
        classifier = read_json(paths["classifier"] / "log.json")
        return {
            "experiment": "mnist-recipes", "metrics": metrics,
            "comparison": {name: compare(metrics[name], metrics["unguided"]) for name in recipes},
            "recipes": {name: {"title": recipe.title, "checkpoint": recipe.checkpoint, "log": logs[name],
                               "best_epoch": best_entry(logs[name])["epoch"]} for name, recipe in recipes.items()},
            "extractor": {"name": "small classifier trained on MNIST training images (not Inception)",
                          "test_accuracy": measured["accuracy"]},
            "noisy_classifier": classifier[-1] if classifier else {},
            "settings": asdict(self.settings),
        }


def shuffled(data: ImageSet, seed: int) -> ImageSet:
    """The same images in an order that depends on the seed alone."""
    return data.subset(np.random.default_rng(seed).permutation(len(data)))


def pooled(data: ImageSet, size: int) -> ImageSet:
    """Images averaged over squares of `size` pixels."""
    n, height, width, channels = data.images.shape
    squares = data.images.reshape(n, height // size, size, width // size, size, channels)
    return replace(data, images=squares.mean(axis=(2, 4)).round().astype(np.uint8), name=f"{data.name} / {size}")


def _log(folder) -> list[dict]:
    keys = ("epoch", "step", "train_loss", "valid_loss", "train_accuracy", "valid_accuracy", "valid_auc", "valid_ece")
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: entry[key] for key in keys if key in entry} for entry in entries]


def draw(folder, outcome, experiment, paths) -> None:
    """The pictures: curves and images of every recipe, bars of the distances."""
    for name, recipe in outcome["recipes"].items():
        used = recipe["log"][-1]["step"] if recipe["checkpoint"] == "last" else None  # None: of the lowest validation loss
        figures.training_curves(folder / f"curves_{name}.png", recipe["log"], used, title=recipe["title"])
    for name in ("unguided", *outcome["recipes"]):
        images = load_images(paths[name] / "set0").images
        figures.image_grid(folder / f"{name}.png", images[:60], columns=15, scale=1)
    named = {"unguided": outcome["metrics"]["unguided"], "floor": outcome["metrics"]["floor"]}
    named |= {recipe["title"]: outcome["metrics"][name] for name, recipe in outcome["recipes"].items()}
    figures.metric_bars(folder / "metrics.png", named, {"fd": "FD (lower is better)", "kid": "KID (lower is better)"})


def text_table(outcome) -> str:
    lines = [f"{'':<34}" + "".join(f"{title:>18}" for title in METRICS.values())]
    return "\n".join(lines + [f"{row[0]:<34}" + "".join(f"{cell:>18}" for cell in row[1:]) for row in rows(outcome)])


def rows(outcome: dict) -> list[list[str]]:
    """Cells of the metrics table: title, then mean ± sd of every metric."""
    titles = {"unguided": "unguided", **{n: r["title"] for n, r in outcome["recipes"].items()}, "floor": "real against real"}
    return [[title, *(f"{outcome['metrics'][name][m]['mean']:.3f} ± {outcome['metrics'][name][m]['sd']:.3f}" for m in METRICS)]
            for name, title in titles.items()]


def describe(folder, outcome) -> Document:
    """The report as plain data."""
    s, metrics = outcome["settings"], outcome["metrics"]
    cards = [Card(recipe["title"], f"{100 * (outcome['comparison'][name]['fd']['ratio'] - 1):+.0f}%",
                  f"FD {metrics[name]['fd']['mean']:.2f}; unguided {metrics['unguided']['fd']['mean']:.2f}")
             for name, recipe in outcome["recipes"].items()]
    curves = [Picture(folder / f"curves_{name}.png", f"{recipe['title']}: validation is best at epoch {recipe['best_epoch']}; "
                                                     f"sampling uses the {recipe['checkpoint']} one.")
              for name, recipe in outcome["recipes"].items()]
    grids = [Picture(folder / f"{name}.png", title) for name, title in
             {"unguided": "Unguided.", **{n: r["title"] + ", same seeds." for n, r in outcome["recipes"].items()}}.items()]
    hardware = outcome["hardware"]
    return Document(
        "Two recipes for the discriminator, on MNIST",
        f"A small score network of MNIST averaged to 14 × 14 pixels, {s['num_data']:,} real and as many generated images for "
        f"the discriminators, {s['epochs']} epochs each, first-order weight 2. Mean and sd over {s['num_sets']} sets of "
        f"{s['num_images']} images.",
        cards, [
            Section("Results", [
                Table(["", *METRICS.values()], rows(outcome), caption="Against the MNIST test images."),
                Picture(folder / "metrics.png", "Distances; the line is real (training) against real (test) images."),
                Note("The features are those of a small classifier trained on MNIST; it names "
                     f"{100 * outcome['extractor']['test_accuracy']:.1f}% of the test images, and is no Inception network.")]),
            Section("Training and validation", curves),
            Section("Images", grids),
            Section("How it was run", [
                Code(outcome["command"]),
                Table(["stage", "seconds"], [[name, f"{value:.0f}"] for name, value in outcome["seconds"].items()]),
                f"{hardware['cpu']}, {hardware['cores']} cores, {hardware['threads']} threads; torch "
                f"{outcome['versions']['torch']}."])])
