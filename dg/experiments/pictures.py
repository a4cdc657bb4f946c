"""The pictures of a report; everything they show comes from the results file and the stages' own
folders."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

import edm
from dg.data.datasets import load_images, to_float, to_uint8
from dg.evaluation import figures
from dg.evaluation.report import Picture
from dg.evaluation.trajectory import TrajectoryRecorder
from dg.experiments.context import Context, Paths
from dg.experiments.models import KINDS
from dg.experiments.tables import distance_name, metric_names, pairs
from dg.models.discrete_sampling import as_cond_fn
from dg.models.vae_sampling import interpolate
from dg.runtime.randomness import step_generator
from dg.sampling import draw_images

HISTOGRAM_SIGMAS = (0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True, eq=False)
class Source:
    """What a report is made of: where it goes, the results, and the stages' folders."""

    folder: Path
    outcome: dict
    context: Context
    paths: Paths

    def picture(self, name: str, caption: str) -> Picture:
        return Picture(self.folder / f"{name}.png", caption)

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.png"

    def title(self, system: str) -> str:
        return self.outcome["systems"][system]["title"]

    @cache  # noqa: B019
    def images(self, system: str) -> np.ndarray:
        """The first set of a system, uint8 [N, H, W, C]; the same seeds for all systems, from 0
        on."""
        return load_images(self.paths[f"sample-{system}"] / "set0").images

    def name(self, kind: str, base: str) -> str:
        """Of a picture of a pair of systems."""
        return kind if len(pairs(self.outcome)) == 1 else f"{kind}-{base}"


def fair_floor(outcome: dict) -> bool:
    """Whether real against real has as many images as the systems, so that its distance is a floor
    for theirs."""
    settings = outcome["settings"]
    return settings["reference_split"] == "all" or outcome["floor_images"] >= settings["num_images"]


def bars(source: Source) -> list[Picture]:
    outcome, distance = source.outcome, distance_name(source.outcome)
    named = {source.title(name): outcome["metrics"][name] for name in outcome["systems"]}
    fair = fair_floor(outcome)
    named |= {"floor": outcome["metrics"]["floor"]} if fair else {}
    titles = {"fd": f"{distance} (lower is better)"}
    if "fd_heldout" in metric_names(outcome):
        titles["fd_heldout"] = f"{distance} held out (lower is better)"
    if len(named) < 9:
        titles["kid"] = "KID (lower is better)"
    if "costs" in outcome["sections"]:
        titles["recall"] = "recall (higher is better)"
    figures.metric_bars(source.path("metrics"), named, titles)
    told = "; the line is the floor, real against real images." if fair else "."
    return [source.picture("metrics", f"Distances of all systems{told}")]


def sweep(source: Source) -> list[Picture]:
    """Distance against what was varied."""
    outcome, distance = source.outcome, distance_name(source.outcome)
    swept = {name: s["x"] for name, s in outcome["systems"].items() if s["x"] is not None}
    if len(swept) < 2:
        return []
    entries, base = (
        [outcome["metrics"][name]["fd"] for name in swept],
        outcome["metrics"]["unguided"]["fd"],
    )
    figures.distance_sweep(
        source.path("sweep"),
        list(swept.values()),
        [entry["mean"] for entry in entries],
        [entry["sd"] for entry in entries],
        (base["mean"], base["sd"]),
        xlabel=outcome["xlabel"],
        ylabel=distance,
        title=outcome["title"],
    )
    sets = outcome["settings"]["num_sets"]
    caption = f"{distance}, mean and sd over {sets} sets; the band is the unguided model."
    return [source.picture("sweep", caption)]


def selection(source: Source) -> list[Picture]:
    """Distance of the selection sets against the guidance weight."""
    chosen, table = (source.outcome["selection"][name] for name in ("chosen", "fd"))
    (_, base), *others = table
    figures.distance_sweep(
        source.path("weights"),
        [weight for weight, _ in others],
        [fd for _, fd in others],
        [0.0] * len(others),
        baseline=(base, 0.0),
        chosen=chosen,
        ylabel="FD to training images",
        title="Choice of the guidance weight (seeds of its own)",
    )
    caption = (
        "Chosen on seeds of their own, against the training images; the numbers above use neither."
    )
    return [source.picture("weights", caption)]


def costs(source: Source) -> list[Picture]:
    """Distance against the time of sampling."""
    outcome, settings = source.outcome, source.outcome["settings"]
    points = {
        system["title"]: {"seconds": outcome["costs"][name]["seconds_per_1000"]}
        | {key: outcome["metrics"][name]["fd"][key] for key in ("mean", "sd")}
        for name, system in outcome["systems"].items()
    }
    figures.quality_against_cost(source.path("cost"), points, distance_name(outcome))
    images, hardware = settings["num_sets"] * settings["num_images"], outcome["hardware"]
    machine = hardware.get("gpu") or hardware["cpu"]
    caption = (
        f"Sampling time against distance; time of {images:,} images on {machine}, one process "
    )
    caption += "per model."
    return [source.picture("cost", caption)]


def changed(source: Source, base: str, guided: str, count: int) -> list[int]:
    """Seeds of the images that guidance changes most."""
    before, after = source.images(base), source.images(guided)
    changes = np.abs(after.astype(int) - before).mean(axis=(1, 2, 3))
    return np.argsort(-changes)[:count].tolist()


def before_and_after(source: Source) -> list[Picture]:
    """Pairs of the same seeds, and the first images of both systems."""
    found, shown = [], pairs(source.outcome)
    for base, guided in shown.items():
        before, after = source.images(base), source.images(guided)
        random = np.random.default_rng(0).permutation(len(before))[:8].tolist()
        panels = {"Most changed": changed(source, base, guided, 8), "Random": random}
        name = source.name("pairs", base)
        figures.paired_grid(source.path(name), before, after, panels)
        titles = f"{source.title(base)} and {source.title(guided)}"
        found.append(source.picture(name, f"{titles}: most changed pairs beside random ones."))
    if len(shown) == 1 and "images" not in source.outcome["sections"]:
        for name, system in zip(("unguided", "guided"), (base, guided), strict=True):
            found.append(grid(source, name, system, f"The first images, {source.title(system)}."))
    return found


def grid(source: Source, name: str, system: str, caption: str) -> Picture:
    """The first hundred images of a system."""
    images = source.images(system)[:100]
    columns, scale = min(len(images), 20), max(1, round(32 / images.shape[1]))
    figures.image_grid(source.path(name), images, columns=columns, scale=scale)
    return source.picture(name, caption)


def grids(source: Source) -> list[Picture]:
    """The first images of every system, and of a VAE what lies between test images."""
    found = [
        grid(source, name, name, f"{source.title(name)}, not selected.")
        for name in source.outcome["systems"]
    ]
    for name, model in source.context.setting.models.items():
        if model.kind == "vae":
            vae = source.context.model(source.paths, name)
            test = source.context.images("test").images
            strips = [interpolate(vae, test[i], test[i + 1], 10) for i in range(0, 8, 2)]
            figures.image_grid(source.path("interpolation"), np.concatenate(strips), columns=10)
            caption = "VAE: from one test image to another on the great circle between their codes."
            found.append(source.picture("interpolation", caption))
    return found


def strips(source: Source) -> list[Picture]:
    """Denoised images along the way, without and with guidance."""
    found, context = [], source.context
    for base, guided in pairs(source.outcome).items():
        seeds, rows, labels, levels = changed(source, base, guided, 3), {}, [], []
        for name in (base, guided):
            system = context.study.systems[name]
            net = context.model(source.paths, system.model)
            guidance = context.guidance(source.paths, net, system)
            record = _TRAJECTORIES[context.setting.models[system.model].kind]
            denoised, sigmas = record(
                net, seeds, context.sampling(system), guidance, context.device
            )
            every = max(len(sigmas) // 9, 1)
            levels = sigmas[::every]
            rows[name] = np.stack([to_uint8(step) for step in denoised[::every]], axis=1)
        labels = [f"seed {seed}, {source.title(name)}" for seed in seeds for name in rows]
        images = np.stack([rows[name][i] for i in range(len(seeds)) for name in rows])
        name = source.name("strips", base)
        title = "Denoised image, step by step"
        figures.denoising_strips(source.path(name), images, levels, labels, title=title)
        caption = (
            f"{source.title(base)}: the denoised image at falling noise level; guidance acts at "
        )
        caption += "every step."
        found.append(source.picture(name, caption))
    return found


@torch.no_grad()
def _edm_trajectory(net, seeds, sampling, guidance, device):
    """(denoised images, noise levels) of every step."""
    recorder = TrajectoryRecorder(guidance)
    draw_images(net, seeds, sampling, recorder, device=device)
    return recorder.denoised, recorder.sigmas


@torch.no_grad()
def _ddpm_trajectory(model, seeds, sampling, guidance, device):
    """Predicted clean images of DDIM steps, and their noise levels at EDM scale."""
    diffusion, denoised = model.respaced(str(sampling.num_steps)), []
    rnd, size = edm.StackedRandomGenerator(device, seeds), model.img_resolution
    noise = rnd.randn([len(seeds), model.img_channels, size, size], device=device)
    classes = one_hot = None
    if model.label_dim:
        classes = rnd.randint(model.label_dim, size=[len(seeds)], device=device)
        one_hot = torch.eye(model.label_dim, device=device)[classes]
    if guidance is not None:
        guidance.begin(noise)
    diffusion.ddim_sample_loop(
        model.net,
        noise.to(torch.float64),
        randn_like=rnd.randn_like,
        denoised_fn=lambda x: denoised.append(x) or x,
        cond_fn=guidance and as_cond_fn(guidance, diffusion, one_hot),
        model_kwargs={} if classes is None else {"y": classes},
    )
    alpha_bar = diffusion.schedule.alphas_cumprod[::-1]
    return denoised, np.sqrt((1 - alpha_bar) / alpha_bar)


_TRAJECTORIES = {"edm": _edm_trajectory, "ddpm": _ddpm_trajectory}


def curves(source: Source) -> list[Picture]:
    """Training of every discriminator of more than one epoch."""
    trainings, found = source.outcome["trainings"], []
    for training, entry in trainings.items():
        if len(entry["log"]) > 1:
            name = f"curves-{training}"
            title = f"Discriminator: {training}"
            figures.training_curves(source.path(name), entry["log"], title=title)
            best = entry["best_epoch"]
            caption = f"{training}: loss and accuracy; validation loss is lowest at epoch {best}."
            found.append(source.picture(name, caption))
    return found


@torch.no_grad()
def log_ratios(source: Source) -> list[Picture]:
    """Histograms of the log ratio of held-out real and of generated images, of an unconditional
    discriminator."""
    ((base, guided),) = pairs(source.outcome).items()
    context, device = source.context, source.context.device
    system, heldout = context.study.systems[guided], context.images("test").images
    net = context.model(source.paths, system.model)
    discriminator = context.guidance(source.paths, net, system).discriminator
    clean = {"real": heldout, "fake": source.images(base)[: len(heldout)]}
    ratios = {name: [] for name in clean}
    for index, sigma in enumerate(HISTOGRAM_SIGMAS):
        for name, images in clean.items():
            x = to_float(images)
            generator = step_generator(0, f"histogram-{name}", index)
            noisy = (x + sigma * torch.randn(x.shape, generator=generator)).to(device)
            ratios[name].append(
                discriminator(noisy, torch.tensor(sigma, device=device)).cpu().numpy()
            )
    figures.log_ratio_histograms(
        source.path("log_ratio"), HISTOGRAM_SIGMAS, ratios["real"], ratios["fake"]
    )
    caption = "Held-out real against new generated images, which training has not seen."
    return [source.picture("log_ratio", caption)]


def losses(source: Source) -> list[Picture]:
    """Training of the models."""
    models, settings = source.outcome["models"], source.outcome["settings"]
    panels = {
        settings["models"][name]["title"]: {
            "ylabel": KINDS[settings["models"][name]["kind"]].loss,
            "log": model["log"],
        }
        for name, model in models.items()
    }
    figures.loss_curves(source.path("losses"), panels)
    caption = (
        "Losses are on different scales: compare shapes. The test loss is of the averaged weights "
        "on "
        f"{settings['num_test_loss']} test images with the same noise every time."
    )
    return [source.picture("losses", caption)]
