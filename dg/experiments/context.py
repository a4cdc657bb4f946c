"""What the stages of an experiment share: images, networks, guidances, how samples are drawn."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from dg.checkpoints import holds_difference, load_difference, load_discriminator
from dg.data.datasets import SPLITS, ImageSet, load_images, pooled, to_float
from dg.discriminator import Discriminator, LogRatio, ScoreDifference
from dg.experiments.setting import Setting
from dg.experiments.study import Study, System
from dg.guidance import BOOSTING, Autoguidance, DifferenceGuidance, DiscriminatorGuidance
from dg.models.loading import load_model
from dg.runtime.downloads import resolve
from dg.runtime.files import read_json
from dg.runtime.processes import Ranks
from dg.runtime.progress import Progress, silent, unheard
from dg.sampling import ScoreModel, fill_store, needs_log_ratio

ORDER_SEED = 0  # data files may be sorted by class
SUGGESTION = "suggestion.json"  # of the diagnosis
SAMPLE = 8  # real images that a pass is counted on
Paths = dict[str, Path]  # folders of stages, by name


@dataclass(frozen=True)
class Experiment:
    """A study in a setting, on the data at `data` (None: the setting's).

    name          of the folder of its results
    study_name    None: the name
    setting_name  None: the name
    """

    name: str
    setting: Setting
    study: Study
    data: str | None = None
    study_name: str | None = None
    setting_name: str | None = None

    @property
    def source(self) -> str:
        """The data set. ValueError where there is none."""
        source = self.data or self.setting.data
        if source is None:
            raise ValueError(
                f"the setting {self.setting_name or self.name} has no data of its own; give the "
                "path of a data set"
            )
        return source


@dataclass
class Context:
    """An experiment on a device; images are loaded once."""

    experiment: Experiment
    device: object = "cpu"
    progress: Progress = silent
    notify: Callable[[str], None] = unheard
    loaded: dict[str, ImageSet] = field(default_factory=dict)

    @cached_property
    def setting(self) -> Setting:
        """That of the experiment, with the study's models among its own."""
        setting = self.experiment.setting
        return replace(setting, models=setting.models | self.study.models)

    @property
    def cores(self) -> int:
        """Batches of images that are drawn at a time."""
        return os.cpu_count() or 1 if torch.device(self.device).type == "cpu" else 1

    @property
    def ranks(self) -> Ranks:
        """This process, whose lines are told."""
        return Ranks(notify=self.notify)

    @property
    def study(self) -> Study:
        return self.experiment.study

    def images(self, split: str) -> ImageSet:
        """The images of a split, "train", "test" or "all", in an order by a fixed seed."""
        if split not in self.loaded:
            data, order = self._load(split), self.setting.order
            if order != "file":
                rng = np.random.default_rng(ORDER_SEED)
                if order == "shared" and split == "test":
                    rng.permutation(len(self.images("train")))  # which comes first
                data = data.subset(rng.permutation(len(data)))
            self.loaded[split] = data
        return self.loaded[split]

    def _load(self, split: str) -> ImageSet:
        source, size = self.experiment.source, self.setting.pool
        if split == "all":
            return load_images(source)
        known = SPLITS.get(source)
        data = load_images(source, split="heldout" if known and split not in known else split)
        return pooled(data, size) if size > 1 else data

    def reference_images(self) -> ImageSet:
        """The real images that distances are measured to."""
        images, most = self.images(self.setting.reference_split), self.setting.num_reference
        return images.take(min(most, len(images))) if most else images

    def test_images(self) -> ImageSet:
        """The images that likelihoods are measured on: the reference where that is a part of the
        test split."""
        return (
            self.images("test") if self.setting.num_reference is None else self.reference_images()
        )

    def few_images(self) -> torch.Tensor:
        """A few real images, as networks see them."""
        images = to_float(self.images("train").images[:SAMPLE])
        # With channels last in memory, torch 2.10 ends the process in the backward pass of a group
        # norm whose input needs no gradient, such as a head's on frozen features. Grey images count
        # as both, so `contiguous` leaves them.
        return images.clone(memory_format=torch.contiguous_format).to(self.device)

    def one_hot(self, net, images: ImageSet) -> torch.Tensor | None:
        """The classes of images for a conditional network, None for another one."""
        if not net.label_dim:
            return None
        classes = torch.from_numpy(images.labels).to(self.device)
        return torch.eye(net.label_dim, device=self.device)[classes]

    def resolve(self, name):
        return resolve(name, self.progress, self.notify)

    def model(self, paths: Paths, name: str = "score"):
        """A model of the setting, frozen."""
        return load_model(self.network_file(paths, name), self.device, self.notify)

    def network_file(self, paths: Paths, name: str) -> Path:
        """The file of a model."""
        published = self.setting.models[name].published
        return self.resolve(published) if published else paths[name] / "network.safetensors"

    def classifier_path(self, paths: Paths):
        if "classifier" not in paths:
            return None
        published = self.setting.classifier
        return self.resolve(published) if published else paths["classifier"] / "classifier.pt"

    def boosted(self, system: System) -> bool:
        return self.setting.boosting if system.boosting is None else system.boosting

    def weights(self, paths: Paths, system: System) -> tuple[float, float]:
        """First- and second-order weights of a guided system."""
        if system.weights == "chosen":
            return (read_json(paths["weights"] / "weights.json")["chosen"], 0.0)
        if system.weights == "suggested":
            return tuple(read_json(paths["suggestion"] / SUGGESTION)["weights"])
        return system.weights or self.setting.weights

    def window(self, paths: Paths, system: System) -> tuple[float, float]:
        """VP times of a guided system."""
        if system.weights == "suggested":
            return tuple(read_json(paths["suggestion"] / SUGGESTION)["window"])
        return system.window or self.setting.window

    def settled(self, paths: Paths, system: System) -> System:
        """The way in which a system is sampled, after a choice between its options."""
        if not system.options:
            return system
        return system.options[read_json(paths[f"choice-{system.choice}"] / "choice.json")["index"]]

    def discriminator(
        self, paths: Paths, net, system: System
    ) -> Discriminator | ScoreDifference | None:
        """The discriminator of a system, or the score difference; None for one without heads."""
        if not system.heads:
            return None
        given = self.setting.given
        files = [
            self.resolve(given[head.training])
            if head.training in given
            else paths[f"train-{head.training}"] / f"{head.checkpoint}.safetensors"
            for head in system.heads
        ]
        if len(files) == 1 and holds_difference(files[0]):
            return load_difference(files[0], net, self.device)
        lora = files[0].with_name(f"lora_{system.heads[0].checkpoint}.safetensors")
        loading = dict(lora_path=lora if lora.exists() else None, average=system.average)
        return load_discriminator(
            self.classifier_path(paths), files, net, device=self.device, **loading
        )

    def guidance(
        self, paths: Paths, net, system: System, weights=None, boosting: bool = True
    ) -> DiscriminatorGuidance | None:
        """The guidance of a system, None for an unguided one."""
        discriminator = self.discriminator(paths, net, system)
        return discriminator and self.guided_by(discriminator, paths, system, weights, boosting)

    def guided_by(
        self, discriminator, paths: Paths, system: System, weights=None, boosting: bool = True
    ) -> DiscriminatorGuidance | None:
        """The guidance of a system by its discriminator, None where its weights are 0."""
        weights = weights or self.weights(paths, system)
        if not any(weights):
            return None
        boosted = boosting and self.boosted(system)
        boost = replace(BOOSTING["authors"], S_churn=system.S_churn) if boosted else None
        sparse = dict(every=system.every, between=system.between)
        window = self.window(paths, system)
        if isinstance(discriminator, ScoreDifference):
            if boosted:
                raise ValueError(
                    f"“{system.title}” boosts samples by a log ratio, which a difference of scores "
                    "does not give; set its boosting to False"
                )
            return DifferenceGuidance(discriminator, weights, *window, **sparse)
        return DiscriminatorGuidance(discriminator, weights, *window, boost, **sparse)

    def sampling(self, system: System):
        """How a system is sampled."""
        sampling = system.sampling or self.setting.models[system.model].sampling
        return replace(sampling, num_steps=system.num_steps) if system.num_steps else sampling

    def drawn_by(self, paths: Paths, system: System):
        """(model, sampling, discriminator, guidance) that draw the images of a settled system. The
        model has the log ratio where the sampler asks for it."""
        net, sampling = self.model(paths, system.model), self.sampling(system)
        discriminator = self.discriminator(paths, net, system)
        guidance = discriminator and self.guided_by(discriminator, paths, system)
        if system.guide:
            name, weight = system.guide
            away = Autoguidance(self.model(paths, name), 1 + weight)
            guidance = away + guidance if guidance else away
        if needs_log_ratio(sampling):
            net = ScoreModel(net, LogRatio(discriminator))
        return net, sampling, discriminator, guidance

    def num_evaluations(self, system: System) -> int:
        """Evaluations of the network for one image; the fewest where states are rejected."""
        model = self.setting.models[system.model]
        if system.sampling:
            model = replace(model, sampling=system.sampling)
        return model.num_evaluations(system.num_steps)

    def sample(self, path, net, sampling, seeds: Sequence[int], guidance=None) -> None:
        """Fill the store at `path` with the images of seeds."""
        size = self.setting.batch_size
        run = dict(device=self.device, progress=self.progress, at_once=self.cores)
        fill_store(path, net, sampling, seeds, size, guidance, ranks=self.ranks, **run)
