"""The default experiment: discriminator guidance on the real hand-written digits inside scikit-learn, in minutes on a CPU.

Score network -> generated images -> discriminator on the score network's own encoder -> guided images of the same seeds
-> distances in the features of a digit classifier. Settings below; pictures and report in `digits_report`.
"""

import multiprocessing
import os
import signal
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

import edm
from dg.checkpoints import load_discriminator
from dg.data.datasets import load_images
from dg.discriminator import build_discriminator
from dg.evaluation.classifier import (
    ClassifierTraining,
    accuracy,
    extract_features,
    load_classifier,
    save_classifier,
    train_classifier,
)
from dg.evaluation.measure import measure
from dg.experiments.common import compare, distance, one_thread, sample, summarise
from dg.experiments.digits_report import METRICS, text_table, write
from dg.experiments.pipeline import Stages
from dg.experiments.provenance import provenance
from dg.guidance import DiscriminatorGuidance
from dg.pretraining.score import (
    SCORE_PRESETS,
    ScoreTraining,
    build_score_network,
    train_score_network,
)
from dg.runtime.files import atomic_write, read_json, write_json
from dg.sampling import Sampling
from dg.training import PRESETS, DiscriminatorTraining, train_discriminator

__all__ = ["PROFILES", "Digits", "Settings", "run", "text_table"]


@dataclass(frozen=True)
class Settings:
    """Everything the numbers depend on."""

    score: ScoreTraining = SCORE_PRESETS["digits"][1]
    features: ClassifierTraining = ClassifierTraining()
    discriminator: DiscriminatorTraining = PRESETS["digits"]
    sampling: Sampling = Sampling()
    num_fake: int = 3000  # generated images the discriminator learns from
    num_images: int = 1000  # images per measured set
    num_sets: int = 3  # measured sets, of different seeds
    weights: tuple[float, ...] = (1.0, 2.0, 4.0, 6.0)  # first-order guidance weights to choose from
    num_selection: int = 500  # images, of seeds used for nothing else, to choose the weight by
    longer_steps: int = 800  # further steps of the score network in the time that guidance took
    batch_size: int = 250


PROFILES = {
    "full": Settings(),
    "smoke": Settings(
        score=replace(SCORE_PRESETS["digits"][1], steps=6),
        features=ClassifierTraining(epochs=1),
        discriminator=replace(PRESETS["digits"], epochs=2),
        sampling=Sampling(num_steps=3),
        num_fake=160,
        num_images=80,
        num_sets=2,
        weights=(1.0, 2.0),
        num_selection=80,
        longer_steps=2,
        batch_size=80,
    ),
}
TIME_MAX = (
    0.6  # VP time of sigma 6, which the noise levels of the discriminator's training seldom exceed
)
# Seeds of the sets, far apart: what one set learned from or was chosen by is never measured.
FAKE_SEED, SELECTION_SEED = 1_000_000, 2_000_000


def run(
    settings: Settings,
    folder: Path,
    results: Path,
    command: str,
    device,
    progress,
    notify,
    data=None,
) -> dict:
    """Run what is not cached in `folder`; write results.json, pictures and report to `results`; return the results.

    On a CPU every process computes on one thread, which is reproducible and, for networks this small, as fast; the
    comparison with longer training does not depend on guidance, so a second process makes it meanwhile. `data` is not
    taken: the digits are embedded.
    """
    if data is not None:
        raise ValueError(
            f"--data {data}: the experiment digits uses the embedded digits; leave the option out"
        )
    stages = Stages(folder, progress, notify)
    experiment, helper = Digits(settings, stages, device), None
    with one_thread(device):
        paths = experiment.train_networks()
        if torch.device(device).type == "cpu" and (os.cpu_count() or 1) > 1:
            spawn = multiprocessing.get_context("spawn")
            helper = spawn.Process(target=_unguided, args=(settings, folder, device), daemon=True)
            helper.start()
        try:
            paths |= experiment.guide(paths)
            if helper is not None:
                helper.join()
        finally:
            if helper is not None:
                helper.kill()
        paths |= experiment.leave_unguided(paths)  # whatever the helper has done is not done again
        paths["measure"] = stages.run(
            "measure",
            {"metrics": list(METRICS)},
            list(paths),
            lambda path: experiment.measure(path, paths),
        )
        outcome = experiment.results(paths) | provenance(command, stages.seconds, device)
        write_json(results / "results.json", outcome)
        write(results, outcome, experiment, paths)
    return outcome


def _unguided(settings: Settings, folder: Path, device) -> None:
    """The second process."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is the first process's to handle, which then ends this one
    with one_thread(device):
        experiment = Digits(settings, Stages(folder), device)
        experiment.leave_unguided(experiment.train_networks())


class Digits:
    """The stages, each a method that fills a folder through the same library calls as the scripts."""

    def __init__(self, settings: Settings, stages: Stages, device):
        self.settings, self.stages, self.device = settings, stages, device
        self.sampling = asdict(settings.sampling) | {"batch_size": settings.batch_size}
        self.sets = {"num_images": settings.num_images, "num_sets": settings.num_sets}
        self.train, self.heldout, self.real = (
            load_images(f"digits{part}") for part in (":train", ":heldout", "")
        )

    def train_networks(self) -> dict[str, Path]:
        """Folders of the feature classifier and the score network."""
        s, network = self.settings, SCORE_PRESETS["digits"][0]
        return {
            "features": self.stages.run("features", asdict(s.features), [], self.make_features),
            "score": self.stages.run(
                "score", {"network": network} | asdict(s.score), [], self.make_score
            ),
        }

    def guide(self, paths) -> dict[str, Path]:
        """Folders of all that guidance takes: its training images, discriminator, weight, guided sets."""
        s, stage, made = self.settings, self.stages.run, {}
        net = edm.load_network(paths["score"] / "network.safetensors", self.device)
        made["fake"] = stage(
            "fake",
            self.sampling | {"num_images": s.num_fake},
            ["score"],
            lambda path: self.sample(path, net, FAKE_SEED, s.num_fake),
        )
        made["discriminator"] = stage(
            "discriminator",
            asdict(s.discriminator),
            ["fake"],
            lambda path: self.make_discriminator(path, net, made["fake"]),
        )
        discriminator = load_discriminator(
            None, made["discriminator"] / "best.safetensors", net, device=self.device
        )
        window = {"time_max": TIME_MAX}
        made["weights"] = stage(
            "weights",
            self.sampling | window | {"weights": s.weights, "num_images": s.num_selection},
            ["features", "discriminator"],
            lambda path: self.choose_weight(path, net, discriminator, paths["features"]),
        )
        weight = read_json(made["weights"] / "weights.json")["chosen"]
        guidance = DiscriminatorGuidance(discriminator, (weight, 0.0), time_max=TIME_MAX)
        made["guided"] = stage(
            "guided",
            self.sampling | self.sets | window | {"weight": weight},
            ["discriminator"],
            lambda path: self.sample_sets(path, net, guidance),
        )
        return made

    def leave_unguided(self, paths) -> dict[str, Path]:
        """Folders of the unguided sets, of the network as it is and of the same network trained longer."""
        s, stage, made = self.settings, self.stages.run, {}
        net = edm.load_network(paths["score"] / "network.safetensors", self.device)
        made["unguided"] = stage(
            "unguided",
            self.sampling | self.sets,
            ["score"],
            lambda path: self.sample_sets(path, net),
        )
        made["longer_training"] = stage(
            "longer_training",
            {"steps": s.longer_steps},
            ["score"],
            lambda path: self.train_longer(path, paths["score"]),
        )
        longer = edm.load_network(made["longer_training"] / "network.safetensors", self.device)
        made["longer"] = stage(
            "longer",
            self.sampling | self.sets,
            ["longer_training"],
            lambda path: self.sample_sets(path, longer),
        )
        return made

    def make_features(self, path):
        save_classifier(
            path / "classifier.safetensors",
            train_classifier(self.train, self.settings.features, self.stages.progress),
        )

    def make_score(self, path):
        net = build_score_network(
            self.train, SCORE_PRESETS["digits"][0], self.settings.score.seed
        ).to(self.device)
        self._finish_score(path, net, self.settings.score)

    def train_longer(self, path, score_path):
        """Go on from the end of the score network's training for `longer_steps` more."""
        if not (path / "state.pt").exists():
            with atomic_write(path / "state.pt") as file:
                file.write((score_path / "state.pt").read_bytes())
        net = build_score_network(
            self.train, SCORE_PRESETS["digits"][0], self.settings.score.seed
        ).to(self.device)
        score = self.settings.score
        self._finish_score(
            path, net, replace(score, steps=score.steps + self.settings.longer_steps)
        )

    def _finish_score(self, path, net, settings):
        net, log = train_score_network(
            net, self.train, settings, path / "state.pt", self.stages.progress
        )
        with atomic_write(path / "network.safetensors") as file:
            edm.save_network(file, net)
        write_json(path / "log.json", log)

    def sample(self, path, net, first_seed, num_images, guidance=None):
        """One store of samples."""
        sample(
            path,
            net,
            self.settings.sampling,
            first_seed,
            num_images,
            self.settings.batch_size,
            guidance,
            self.device,
            progress=self.stages.progress,
        )

    def sample_sets(self, path, net, guidance=None):
        """The measured sets; the same seeds for every system."""
        for index, first_seed in enumerate(self.set_seeds()):
            self.sample(path / f"set{index}", net, first_seed, self.settings.num_images, guidance)

    def set_seeds(self) -> list[int]:
        return [index * self.settings.num_images for index in range(self.settings.num_sets)]

    def make_discriminator(self, path, net, fake_path):
        discriminator = build_discriminator(
            "score", self.train, net, seed=self.settings.discriminator.seed, device=self.device
        )
        train_discriminator(
            discriminator,
            self.train,
            load_images(fake_path),
            self.settings.discriminator,
            path,
            progress=self.stages.progress,
        )

    def choose_weight(self, path, net, discriminator, features_path):
        """Distance of a selection set to the real training images, for every weight; the least one is chosen."""
        model, table = load_classifier(features_path / "classifier.safetensors"), {}
        reference = extract_features(model, self.train)
        for weight in (0.0, *self.settings.weights):
            guidance = (
                DiscriminatorGuidance(discriminator, (weight, 0.0), time_max=TIME_MAX)
                if weight
                else None
            )
            self.sample(
                path / f"w{weight:g}", net, SELECTION_SEED, self.settings.num_selection, guidance
            )
            features = extract_features(model, load_images(path / f"w{weight:g}"))
            table[weight] = distance(features, reference)
        chosen = min(self.settings.weights, key=table.get)
        write_json(
            path / "weights.json", {"chosen": chosen, "fd": [[w, fd] for w, fd in table.items()]}
        )

    def measure(self, path, paths):
        """Metrics of every system, with the floor of real against real images."""
        model = load_classifier(paths["features"] / "classifier.safetensors")
        real, heldout = extract_features(model, self.real), extract_features(model, self.heldout)
        metrics = {}
        for system in ("unguided", "guided", "longer"):
            rows = []
            for index in range(self.settings.num_sets):
                images = load_images(paths[system] / f"set{index}")
                features = extract_features(model, images)
                rows.append(
                    measure(features, real)
                    | {
                        "fd_heldout": distance(features, heldout),
                        "fd_pixels": distance(_pixels(images), _pixels(self.real)),
                    }
                )
            metrics[system] = summarise(rows)
        metrics["floor"] = summarise(self.floor(model, real, heldout))
        write_json(
            path / "metrics.json",
            {
                "metrics": metrics,
                "feature_dim": int(real.shape[1]),
                "heldout_accuracy": accuracy(model, self.heldout),
            },
        )

    def floor(self, model, real, heldout) -> list[dict]:
        """Real against real: random halves of all images, and a random part of the training images against held-out."""
        rng, rows, train = np.random.default_rng(0), [], extract_features(model, self.train)
        for _ in range(self.settings.num_sets):
            first, second = np.array_split(rng.permutation(len(real)), 2)
            part = train[rng.permutation(len(train))[: self.settings.num_images]]
            rows.append(
                measure(real[first], real[second])
                | {
                    "fd_heldout": distance(part, heldout),
                    "fd_pixels": distance(
                        _pixels(self.real.subset(first)), _pixels(self.real.subset(second))
                    ),
                }
            )
        return rows

    def results(self, paths) -> dict:
        """The results file, but for what it ran on."""
        measured, seconds = read_json(paths["measure"] / "metrics.json"), self.stages.seconds
        metrics = measured["metrics"]
        return {
            "experiment": "digits",
            "metrics": metrics,
            "comparison": compare(metrics["guided"], metrics["unguided"]),
            "selection": read_json(paths["weights"] / "weights.json"),
            "extractor": {
                "name": "classifier trained on digits:train (not Inception: compare within this table only)",
                "feature_dim": measured["feature_dim"],
                "heldout_accuracy": measured["heldout_accuracy"],
            },
            "guidance_seconds": seconds["fake"]
            + seconds["discriminator"]
            + seconds["guided"]
            - seconds["unguided"],
            "settings": asdict(self.settings) | {"time_max": TIME_MAX},
        }


def _pixels(images) -> np.ndarray:
    return images.images.reshape(len(images), -1) / 127.5 - 1
