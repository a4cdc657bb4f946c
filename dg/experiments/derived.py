"""Score networks that a study makes of the setting's own: trained on with its images, merged, or
chosen from others."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import edm
from dg.data.datasets import load_images
from dg.experiments.context import Context, Paths
from dg.experiments.costs import Cost, tuning_cost
from dg.experiments.making import images_stage
from dg.experiments.pipeline import Stage
from dg.experiments.setting import Model, Setting
from dg.models.merging import merge
from dg.precision import computable
from dg.pretraining.ddo import DDO
from dg.pretraining.presets import ScoreTraining
from dg.pretraining.score import train_score_network
from dg.runtime.files import atomic_write, plain, read_json

OWN = "own-images"  # the stage of the images that the setting's network has drawn of itself
NUM_OWN = 6000  # of them, as Neon's authors take for CIFAR-10
OWN_SEED = 4_000_000  # of the first, beyond that of the discriminators' images


@dataclass(frozen=True)
class Tuned(Model):
    """The setting's network trained on, with its own images.

    ddo  (alpha, beta): against them, on the real images of the discriminators (DDO); None: on them
         alone
    """

    settings: ScoreTraining = ScoreTraining()
    ddo: tuple[float, float] | None = None

    @property
    def needs(self) -> list[str]:
        return ["score", OWN]

    @property
    def images_seen(self) -> int:
        """In all steps; with DDO a step has two kinds of images."""
        return self.settings.steps * self.settings.batch_size * (2 if self.ddo else 1)

    @property
    def evaluations(self) -> int:
        """Forward passes of the training. A backward pass counts as two; with DDO the frozen copy
        has one too."""
        return self.images_seen * (4 if self.ddo else 3)


@dataclass(frozen=True)
class Merged(Model):
    """(1 + weight) "score" - weight `second`, of weights of networks (Neon)."""

    second: str = ""
    weight: float = 0.0

    @property
    def needs(self) -> list[str]:
        return ["score", self.second]


@dataclass(frozen=True)
class Chosen(Model):
    """The network of the option that was chosen for a system."""

    choice: str = ""

    @property
    def needs(self) -> list[str]:
        return [f"choice-{self.choice}"]


def with_sources(models: dict[str, Model], names: set[str]) -> set[str]:
    """The names of models, and of those that they are made of."""
    found = set(names)
    for name in names:
        if isinstance(model := models[name], Tuned | Merged):
            found |= with_sources(models, {need for need in model.needs if need in models})
    return found


def stages(context: Context, name: str, data: dict) -> list[Stage]:
    """The stage of a derived model, after that of the images that it learns from."""
    setting, model = context.setting, context.setting.models[name]
    if isinstance(model, Tuned):
        settings = data | {"training": plain(model.settings), "ddo": model.ddo}
        settings |= {"num_data": num_real(setting)} if model.ddo else {}
        make, cost = make_tuned, tuning_cost(setting, model.evaluations)
    elif isinstance(model, Merged):
        settings, make, cost = {"weight": model.weight}, make_merged, Cost()
    else:
        settings, make, cost = {"choice": model.choice}, make_chosen, Cost()
    made = Stage(name, settings, model.needs, partial(make, context, name=name), cost, model.title)
    return [*([_own_images(context)] if isinstance(model, Tuned) else []), made]


def num_real(setting: Setting) -> int:
    """Real images of DDO: as many as a discriminator has."""
    return setting.num_real or setting.num_data


def _own_images(context: Context) -> Stage:
    setting = context.setting
    number = min(NUM_OWN, 2 * setting.num_data)
    title = "images of the network's own"
    return images_stage(context, OWN, "score", setting.fake_seed + OWN_SEED, number, title)


def make_tuned(context: Context, path: Path, paths: Paths, name: str) -> None:
    """The network trained on."""
    model, own = context.setting.models[name], load_images(paths[OWN])
    net = context.model(paths).requires_grad_(True)
    settings = computable(model.settings, context.device)
    if not net.init_kwargs.get("augment_dim"):
        settings = replace(settings, augment=0.0)
    run = dict(state_path=path / "state.pt", progress=context.progress, ranks=context.ranks)
    images = own
    if model.ddo:
        images = context.images("train").take(num_real(context.setting))
        run["ddo"] = DDO(own, *model.ddo)
    net, _ = train_score_network(net, images, settings, **run)
    with atomic_write(path / "network.safetensors") as file:
        edm.save_network(file, net)


def make_merged(context: Context, path: Path, paths: Paths, name: str) -> None:
    """The merged network."""
    model = context.setting.models[name]
    files = [context.network_file(paths, source) for source in ("score", model.second)]
    with atomic_write(path / "network.safetensors") as file:
        merge(*files, model.weight, file)


def make_chosen(context: Context, path: Path, paths: Paths, name: str) -> None:
    """A copy of the chosen network."""
    choice = context.setting.models[name].choice
    index = read_json(paths[f"choice-{choice}"] / "choice.json")["index"]
    model = context.study.systems[choice].options[index].model
    with atomic_write(path / "network.safetensors") as file:
        file.write(context.network_file(paths, model).read_bytes())
