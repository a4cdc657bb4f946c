"""Run a study in a world: stages from data to measured systems, each cached; results file and report at the end."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import edm
from dg.checkpoints import load_discriminator
from dg.data.datasets import SPLITS, ImageSet, load_images
from dg.data.image_stream import stream_of
from dg.discriminator import build_discriminator
from dg.evaluation.classifier import save_classifier, train_classifier
from dg.evaluation.feature_sets import FeatureSet, collect, load_features, save_features
from dg.evaluation.features import load_extractor
from dg.evaluation.likelihood import bits_per_dim
from dg.evaluation.measure import evaluate
from dg.evaluation.uncertainty import summarise_repeats
from dg.experiments.common import compare, one_thread, sample, training_log
from dg.experiments.costs import generation_cost, likelihood_cost, training_cost
from dg.experiments.pipeline import Stage, Stages
from dg.experiments.provenance import provenance
from dg.experiments.settings import Setting
from dg.experiments.studies import Study, System, build
from dg.guidance import BOOSTING, DiscriminatorGuidance
from dg.pretraining.noisy_classifier import train_noisy_classifier
from dg.pretraining.score import build_score_network, train_score_network
from dg.runtime.downloads import resolve
from dg.runtime.files import atomic_write, plain, read_json, settings_hash, sha256_of, write_json
from dg.training import train_discriminator

FAKE_SEED = 10_000_000  # of the discriminators' training images, far from the measured ones
METRICS = ("fd", "kid", "precision", "recall")
ORDER_SEED = 0  # data files may be sorted by class


@dataclass(frozen=True)
class Request:
    """What to run: a study by name, in a world, on the data at `data` (None: the world's)."""

    name: str
    world_name: str
    world: Setting
    data: str | None = None

    @property
    def folder(self) -> str:
        return self.world_name if self.name == "recipes" else f"{self.name}-{self.world_name}"


class StudyRun:
    """The stages of a study, each a method that fills a folder through the same library calls as the scripts."""

    def __init__(self, request: Request, stages: Stages, device):
        self.request, self.world, self.stages, self.device = request, request.world, stages, device
        self.study: Study = build(request.name, self.world)
        self.source = request.data or self.world.data
        if self.source is None:
            raise ValueError(
                f"the world {request.world_name} has no default data; give --data PATH"
            )
        self.stage_names, self.loaded = {}, {}

    # The plan -------------------------------------------------------------------------------------------------------------

    def plan(self) -> list[Stage]:
        """All stages in an order in which they can be run; nothing is loaded for it."""
        w, study = self.world, self.study
        data = {"data": _content(self.source), "pool": w.pool, "order": ORDER_SEED}
        sampling = plain(w.sampling) | {"batch_size": w.batch_size}
        score = (
            {"network": w.network}
            if w.network
            else {"score": plain(w.score), "conditional": w.conditional} | data
        )
        plan = [Stage("score", score, [], self.make_score, training_cost(w))]
        if any(t.extractor == "classifier" for t in study.trainings.values()) or self._uses(
            "released"
        ):
            settings = (
                {"classifier": w.classifier} if w.classifier else plain(w.noisy_classifier) | data
            )
            plan.append(Stage("classifier", settings, [], self.make_classifier))
        plan.append(
            Stage(
                "reference",
                data
                | {
                    "features": w.features,
                    "training": plain(w.feature_training),
                    "num_features": w.num_features,
                    "reference": w.reference,
                    "split": w.reference_split,
                },
                [],
                self.make_reference,
            )
        )
        if study.trainings:
            plan.append(
                Stage(
                    "fake",
                    sampling | {"num_images": w.num_data},
                    ["score"],
                    self.make_fake,
                    generation_cost(w, w.num_data),
                )
            )
        for name, training in study.trainings.items():
            needs = ["fake"] + (["classifier"] if training.extractor == "classifier" else [])
            settings = (
                plain(training) | data | {"num_data": w.num_data, "width": self.width(training)}
            )
            plan.append(
                Stage(
                    f"train-{name}",
                    settings,
                    needs,
                    lambda path, paths, name=name: self.make_discriminator(path, paths, name),
                    training_cost(w, training.settings.epochs),
                )
            )
        sets = {"num_images": w.num_images, "num_sets": w.num_sets}
        for name, system in study.systems.items():
            plan += self._system_stages(name, system, sampling | sets, data)
        floor = {"floor": True} | sets
        return [*plan, Stage("measure-floor", floor, ["reference"], self.measure_floor)]

    def _system_stages(self, name, system: System, settings, data):
        w, needs = self.world, ["score"]
        if system.heads:
            settings = (
                settings
                | plain(replace(system, title="", x=None, published=None))
                | {
                    "weights": plain(system.weights or w.weights),
                    "boosting": self._boosting(system),
                }
            )
            needs += ["classifier"] * (self._extractor(system) == "classifier")
            needs += [
                f"train-{head.training}" for head in system.heads if head.training != "released"
            ]
            settings |= (
                {"released": w.released}
                if any(head.training == "released" for head in system.heads)
                else {}
            )
        settings = settings | {"num_steps": system.num_steps or w.sampling.num_steps}
        label = settings_hash(settings)[:8]  # the same system has the same stage in every study
        drawn, measured = f"sample-{label}", f"measure-{label}"
        self.stage_names[name] = (drawn, measured, f"nll-{label}")
        stages = [
            Stage(
                drawn,
                settings,
                needs,
                lambda path, paths: self.sample_sets(path, paths, system),
                generation_cost(w, w.num_images * w.num_sets, bool(system.heads), system.num_steps),
                system.title,
            ),
            Stage(
                measured,
                {"metrics": METRICS},
                [drawn, "reference"],
                lambda path, paths: self.measure(path, paths, drawn),
                title=system.title,
            ),
        ]
        if self.study.nll and w.nll_images:
            stages.append(
                Stage(
                    f"nll-{label}",
                    data | {"images": w.nll_images, "steps": w.nll_steps},
                    [drawn],
                    lambda path, paths: self.measure_nll(path, paths, system),
                    likelihood_cost(w),
                    system.title,
                )
            )
        return stages

    def _uses(self, training: str) -> bool:
        return any(
            head.training == training
            for system in self.study.systems.values()
            for head in system.heads
        )

    def _extractor(self, system: System) -> str:
        kinds = {
            "classifier"
            if head.training == "released"
            else self.study.trainings[head.training].extractor
            for head in system.heads
        }
        return kinds.pop()

    def _boosting(self, system: System) -> bool:
        return self.world.boosting if system.boosting is None else system.boosting

    # Making ---------------------------------------------------------------------------------------------------------------

    def images(self, split: str) -> ImageSet:
        """A split of the data, in an order that depends on nothing but a fixed seed."""
        if split not in self.loaded:
            known = SPLITS.get(self.source)
            split_there = "heldout" if known and split == "test" and "test" not in known else split
            data = load_images(self.source, split=split_there)
            data = data.subset(np.random.default_rng(ORDER_SEED).permutation(len(data)))
            self.loaded[split] = pooled(data, self.world.pool) if self.world.pool > 1 else data
        return self.loaded[split]

    def resolve(self, name):
        return resolve(name, self.stages.progress, self.stages.notify)

    def net(self, paths):
        path = (
            self.resolve(self.world.network)
            if self.world.network
            else paths["score"] / "network.safetensors"
        )
        return edm.load_network(path, self.device)

    def classifier_path(self, paths):
        if "classifier" not in paths:
            return None
        return (
            self.resolve(self.world.classifier)
            if self.world.classifier
            else paths["classifier"] / "classifier.pt"
        )

    def make_score(self, path, paths):
        if self.world.network:
            self.resolve(self.world.network)
            return
        train, (network, settings) = self.images("train"), self.world.score
        if network.get("precond", "edm") == "edm" and "sigma_data" not in network:
            network = network | {"sigma_data": round(float(train.images.std()) / 127.5, 3)}
        net = build_score_network(train, network, settings.seed, self.world.conditional).to(
            self.device
        )
        net, log = train_score_network(
            net, train, settings, path / "state.pt", self.stages.progress
        )
        with atomic_write(path / "network.safetensors") as file:
            edm.save_network(file, net)
        write_json(path / "log.json", log)

    def make_classifier(self, path, paths):
        if self.world.classifier:
            self.resolve(self.world.classifier)
            return
        model, log = train_noisy_classifier(
            self.images("train"),
            self.world.noisy_classifier,
            self.device,
            self.stages.progress,
            path / "state.pt",
        )
        with atomic_write(path / "classifier.pt") as file:
            torch.save(model.state_dict(), file)
        write_json(path / "log.json", log)

    def make_reference(self, path, paths):
        """The extractor where it is trained here, and the features of the real images."""
        w = self.world
        if w.features == "classifier":
            train = self.images("train")
            train = train.take(w.num_features) if w.num_features else train
            save_classifier(
                path / "classifier.safetensors",
                train_classifier(train, w.feature_training, self.stages.progress),
            )
        extractor = self.extractor({"reference": path})
        found = self.features(extractor, self.images(w.reference_split))
        if w.reference:
            published = load_features(self.resolve(w.reference), extractor)
            found = replace(found, mu=published.mu, sigma=published.sigma)
        save_features(path / "reference.npz", found)
        write_json(path / "about.json", extractor.describe() | {"num_reference": found.num_images})

    def extractor(self, paths):
        name = self.world.features
        path = str(paths["reference"] / "classifier.safetensors") if name == "classifier" else name
        return load_extractor(
            path, device=self.device, progress=self.stages.progress, notify=self.stages.notify
        )

    def features(self, extractor, images: ImageSet) -> FeatureSet:
        stream = stream_of(images)
        return collect(
            extractor,
            stream,
            stream.positions(None),
            self.world.batch_size,
            progress=self.stages.progress,
        )

    def make_fake(self, path, paths):
        self.sample(path, self.net(paths), FAKE_SEED, self.world.num_data)

    def make_discriminator(self, path, paths, name):
        training, net = self.study.trainings[name], self.net(paths)
        real, fake = self.images("train").take(self.world.num_data), load_images(paths["fake"])
        discriminator = build_discriminator(
            training.extractor,
            real,
            net,
            self.classifier_path(paths),
            self.world.conditional,
            self.width(training),
            training.settings.seed,
            self.device,
        )
        train_discriminator(
            discriminator,
            real,
            fake,
            training.settings,
            path,
            progress=self.stages.progress,
            net=net,
        )

    def width(self, training) -> int | None:
        return training.width or (
            self.world.head_width if training.extractor == "classifier" else None
        )

    def guidance(
        self, paths, net, system: System, weights=None, boosting=True
    ) -> DiscriminatorGuidance | None:
        if not system.heads:
            return None
        files = [
            self.resolve(self.world.released)
            if head.training == "released"
            else paths[f"train-{head.training}"] / f"{head.checkpoint}.safetensors"
            for head in system.heads
        ]
        lora = files[0].with_name(f"lora_{system.heads[0].checkpoint}.safetensors")
        discriminator = load_discriminator(
            self.classifier_path(paths),
            files,
            net,
            device=self.device,
            lora_path=lora if lora.exists() else None,
            average=system.average,
        )
        boost = (
            replace(BOOSTING["authors"], S_churn=system.S_churn)
            if boosting and self._boosting(system)
            else None
        )
        return DiscriminatorGuidance(
            discriminator, weights or system.weights or self.world.weights, *system.window, boost
        )

    def sample(self, path, net, first_seed, count, guidance=None, num_steps=None):
        sampling = replace(
            self.world.sampling, num_steps=num_steps or self.world.sampling.num_steps
        )
        sample(
            path,
            net,
            sampling,
            first_seed,
            count,
            self.world.batch_size,
            guidance,
            self.device,
            progress=self.stages.progress,
        )

    def sample_sets(self, path, paths, system: System):
        net = self.net(paths)
        guidance = self.guidance(paths, net, system)
        for index in range(self.world.num_sets):
            self.sample(
                path / f"set{index}",
                net,
                index * self.world.num_images,
                self.world.num_images,
                guidance,
                system.num_steps,
            )

    # Measuring ------------------------------------------------------------------------------------------------------------

    def measure(self, path, paths, drawn):
        extractor, reference = (
            self.extractor(paths),
            load_features(paths["reference"] / "reference.npz"),
        )
        write_json(
            path / "metrics.json",
            [
                self.metrics(extractor, load_images(paths[drawn] / f"set{index}"), reference)
                for index in range(self.world.num_sets)
            ],
        )

    def metrics(self, extractor, images, reference) -> dict:
        table = evaluate(self.features(extractor, images), reference, METRICS)
        return {name: value["value"] for name, value in table.items()}

    def measure_floor(self, path, paths):
        """Real against real: sets of images that the reference does not hold, where there are enough of them.

        Where the reference is the training split, it is test images; their distance has the bias of their number too.
        """
        extractor, reference = (
            self.extractor(paths),
            load_features(paths["reference"] / "reference.npz"),
        )
        other = self.images("test" if self.world.reference_split == "train" else "train")
        size = min(self.world.num_images, len(other) // self.world.num_sets)
        ends = [
            len(other) - index * size for index in range(self.world.num_sets)
        ]  # discriminators see the first ones
        rows = [
            self.metrics(extractor, other.subset(slice(end - size, end)), reference) for end in ends
        ]
        write_json(path / "metrics.json", {"rows": rows, "num_images": size})

    def measure_nll(self, path, paths, system: System):
        """Bits per dimension of test images; guided, of the flow with the mean of the two weights at both stages."""
        net, images = self.net(paths), self.images("test").take(self.world.nll_images)
        weight = sum(system.weights or self.world.weights) / 2
        guidance = self.guidance(paths, net, system, (weight, weight), boosting=False)
        labels = None
        if net.label_dim:
            labels = torch.eye(net.label_dim, device=self.device)[
                torch.from_numpy(images.labels).to(self.device)
            ]
        found = bits_per_dim(
            net,
            images.images,
            labels,
            guidance,
            num_steps=self.world.nll_steps,
            batch_size=self.world.batch_size,
        )
        write_json(
            path / "nll.json",
            {
                "mean": found.mean,
                "standard_error": found.standard_error,
                "n": len(images),
                "values": found.bits_per_dim.tolist(),
            },
        )

    # Results --------------------------------------------------------------------------------------------------------------

    def results(self, paths) -> dict:
        """The results file, but for what it ran on."""
        metrics = {}
        for name, (_, measured, nll) in self.stage_names.items():
            rows = read_json(paths[measured] / "metrics.json")
            metrics[name] = {
                metric: summarise_repeats([row[metric] for row in rows]) for metric in METRICS
            }
            if nll in paths:
                metrics[name]["nll"] = read_json(paths[nll] / "nll.json")
        floor = read_json(paths["measure-floor"] / "metrics.json")
        metrics["floor"] = {
            metric: summarise_repeats([row[metric] for row in floor["rows"]]) for metric in METRICS
        }
        base = {metric: metrics["unguided"][metric] for metric in METRICS}
        extractor = read_json(paths["reference"] / "about.json")
        if extractor["name"] == "classifier":
            extractor["name"] = (
                f"small classifier trained on the training images of {Path(self.source).name}"
            )
        return {
            "experiment": self.request.folder,
            "study": self.request.name,
            "world": self.request.world_name,
            "title": self.study.title,
            "question": self.study.question,
            "setting": self.world.title,
            "metrics": metrics,
            "systems": {name: plain(system) for name, system in self.study.systems.items()},
            "comparison": {
                name: compare({m: metrics[name][m] for m in METRICS}, base)
                for name in self.study.systems
                if name != "unguided"
            },
            "floor_images": floor["num_images"],
            "xlabel": self.study.xlabel,
            "tests": self.study.tests,
            "trainings": {
                name: training_log(paths[f"train-{name}"]) for name in self.study.trainings
            },
            "extractor": extractor,
            "settings": plain(self.world),
        }


def run(
    request: Request,
    folder: Path,
    results: Path,
    command: str,
    device,
    progress,
    notify,
    only: str | None = None,
) -> dict | None:
    """Run what is not cached in `folder`; write results.json, pictures and report to `results`; return the results.

    only  the name of a stage: run it and what it needs, and nothing else; returns None
    """
    from dg.experiments import study_report

    stages = Stages(folder, progress, notify)
    study = StudyRun(request, stages, device)
    with one_thread(device):
        paths = stages.run_all(study.plan(), only)
        if only:
            return None
        outcome = study.results(paths) | provenance(command, stages.seconds, device)
        write_json(results / "results.json", outcome)
        images = {
            name: lambda drawn=drawn: load_images(paths[drawn] / "set0").images
            for name, (drawn, *_) in study.stage_names.items()
        }
        study_report.write(results, outcome, images)
    return outcome


def _content(source) -> list:
    """What a stage depends on, of a data set: its content (of a folder the names and sizes), not where it lies."""
    path = Path(source)
    if path.is_dir():
        files = sorted(
            [file.relative_to(path).as_posix(), file.stat().st_size]
            for file in path.rglob("*")
            if file.is_file()
        )
        return [path.name, settings_hash(files)]
    return [path.name, sha256_of(path)] if path.is_file() else [path.name]


def pooled(data: ImageSet, size: int) -> ImageSet:
    """Images averaged over squares of `size` pixels."""
    n, height, width, channels = data.images.shape
    squares = data.images.reshape(n, height // size, size, width // size, size, channels)
    return replace(
        data,
        images=squares.mean(axis=(2, 4)).round().astype(np.uint8),
        name=f"{data.name} / {size}",
    )
