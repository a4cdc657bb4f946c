"""The bound of a model along its training: snapshots at doublings of its steps, and a stage that
measures each on training and on test images."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from dg.evaluation.bounds import Bound
from dg.experiments.context import Context, Paths
from dg.experiments.costs import bounds_cost
from dg.experiments.models import KINDS
from dg.experiments.pipeline import Stage
from dg.experiments.setting import Setting
from dg.models.loading import load_model
from dg.runtime.files import atomic_write, read_json, write_json


def places(setting: Setting, name: str) -> list[int]:
    """Steps after which a model of the setting is measured, its last one among them; none where it
    is not trained here or has no bound."""
    model = setting.models[name]
    if model.published or KINDS[model.kind].bound is None:
        return []
    steps = model.training[1].steps
    return sorted({-(-steps // 2**halvings) for halvings in range(setting.num_snapshots)})


def snapshot_file(folder: Path, step: int, last: int) -> Path:
    """Where the network after `step` of `last` steps stands in the folder of its training."""
    return folder / ("network.safetensors" if step == last else f"network-{step:06d}.safetensors")


def keeper(folder: Path, setting: Setting, name: str) -> Callable | None:
    """What a training calls with (network, steps done) after every step, so that snapshots are
    kept; None where there are none."""
    *early, last = places(setting, name) or [0]
    save = KINDS[setting.models[name].kind].save

    def keep(network, step: int) -> None:
        if step in early:
            with atomic_write(snapshot_file(folder, step, last)) as file:
                save(file, network)

    return keep if early else None


def stage(context: Context, name: str, data: dict) -> Stage:
    """The bounds of a model. `data`: what identifies the images."""
    s = context.setting
    settings = data | {"places": places(s, name), "images": s.bound_images, "of": s.num_reference}
    settings |= {"terms": s.bound_terms}
    make = partial(measure, context, name=name)
    cost, title = bounds_cost(s, name, len(places(s, name))), s.models[name].title
    return Stage(f"bounds-{name}", settings, [name], make, cost, title, "bounds")


def measure(context: Context, path: Path, paths: Paths, name: str) -> None:
    """Bounds of every snapshot; those that are measured already are left alone."""
    s, found = context.setting, []
    kind, steps = KINDS[s.models[name].kind], places(s, name)
    images = {"training": context.images("train"), "test": context.test_images()}
    for step in context.progress(steps, desc=f"bounds of {name}", unit="snapshot"):
        file = path / f"{step:06d}.json"
        if not file.exists():
            net = load_model(snapshot_file(paths[name], step, steps[-1]), context.device)
            entry = {"step": step}
            for which, part in images.items():
                part = part.take(min(s.bound_images, len(part)))
                entry[which] = summary(kind.bound(net, part.images, context.one_hot(net, part), s))
            write_json(file, entry)
        found.append(read_json(file))
    write_json(path / "bounds.json", found)


def summary(bound: Bound) -> dict:
    """Mean, standard error and number of images."""
    return {
        "mean": bound.mean,
        "standard_error": bound.standard_error,
        "n": len(bound.bits_per_dim),
    }
