"""MNIST: EDM against DDPM and VAE in training time, sampling speed, likelihood and distance, and what guidance adds.

The guidance is that of a U-Net discriminator trained from scratch on pixels, one per diffusion model. Each model has a
branch of stages of its own, from training to samples; on a CPU two processes work on different branches. Report in
`mnist_report`.
"""

import multiprocessing
import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import edm
from dg.checkpoints import load_discriminator
from dg.data.datasets import load_images, to_float
from dg.data.image_stream import stream_of
from dg.discriminator import build_discriminator
from dg.evaluation.bounds import ddpm_bound, vae_bound
from dg.evaluation.classifier import (
    ClassifierTraining,
    accuracy,
    extract_features,
    load_classifier,
    predict,
    save_classifier,
    train_classifier,
)
from dg.evaluation.feature_sets import collect
from dg.evaluation.features import load_extractor
from dg.evaluation.likelihood import bits_per_dim
from dg.evaluation.measure import measure
from dg.evaluation.metrics import frechet_distance
from dg.evaluation.report import text_of
from dg.evaluation.uncertainty import summarise_repeats
from dg.experiments import mnist_report
from dg.experiments.common import compare, one_thread, sample, training_log
from dg.experiments.mnist_report import MODELS, SYSTEMS
from dg.experiments.pipeline import Stage, Stages
from dg.experiments.provenance import provenance
from dg.guidance import DiscriminatorGuidance
from dg.models.ddpm import load_ddpm, save_ddpm
from dg.models.discrete_sampling import DDPMSampling
from dg.models.vae import elbo, load_vae, save_vae
from dg.models.vae_sampling import VAESampling
from dg.pretraining.ddpm import train_ddpm
from dg.pretraining.presets import (
    DDPM_PRESETS,
    SCORE_PRESETS,
    VAE_PRESETS,
    DDPMTraining,
    ScoreTraining,
    VAETraining,
)
from dg.pretraining.score import build_score_network, train_score_network
from dg.pretraining.vae import train_vae
from dg.recipes import PRESETS, DiscriminatorTraining
from dg.runtime.catalogue import CATALOGUE
from dg.runtime.files import atomic_write, cache_folder, plain, read_json, write_json
from dg.runtime.randomness import step_generator
from dg.sampling import Sampling
from dg.training import train_discriminator
from guided_diffusion import training_losses

METRICS = ("fd", "kid", "precision", "recall")
FAKE_SEED, ORDER_SEED, TEST_LOSS_IMAGES = 10_000_000, 0, 256


@dataclass(frozen=True)
class Settings:
    """Everything the numbers depend on. The defaults are for a GPU."""

    conditional: bool = False
    edm: tuple[dict, ScoreTraining] = (
        SCORE_PRESETS["mnist"][0] | dict(model_channels=64),
        replace(
            SCORE_PRESETS["mnist"][1],
            steps=23_450,
            batch_size=256,
            lr=1e-3,
            ema_halflife=50_000,
            precision="bfloat16",
        ),
    )
    ddpm: tuple[dict, DDPMTraining] = (
        DDPM_PRESETS["mnist-ddpm"][0],
        replace(DDPM_PRESETS["mnist-ddpm"][1], precision="bfloat16"),
    )
    vae: tuple[dict, VAETraining] = (
        VAE_PRESETS["mnist-vae"][0] | dict(width=64),
        VAETraining(steps=46_900),
    )
    edm_discriminator: DiscriminatorTraining = replace(PRESETS["default"], epochs=15)
    ddpm_discriminator: DiscriminatorTraining = replace(PRESETS["default"], epochs=15)
    head_width: int = 64
    weight: float = 1.0  # of the log ratio's gradient; at Heun's two stages on average
    features: ClassifierTraining = ClassifierTraining(epochs=6, batch_size=128)
    edm_sampling: Sampling = Sampling()
    ddpm_sampling: DDPMSampling = DDPMSampling("ddim", num_steps=100)
    num_data: int = 20_000  # real and as many generated images for a discriminator
    num_images: int = 10_000  # images of a measured set
    num_sets: int = 3
    num_reference: int = 10_000  # test images
    nll_images: int = 1000  # test images whose likelihood under a diffusion model is computed
    nll_steps: int = 128
    batch_size: int = 250
    budget: str = "one GPU"


# What two CPU cores do in 90 minutes: every model sees 96,000 images, 1.6 epochs where MNISTDiffusion takes a hundred.
CPU = Settings(
    edm=(SCORE_PRESETS["mnist"][0], replace(SCORE_PRESETS["mnist"][1], steps=1500)),
    ddpm=(
        DDPM_PRESETS["mnist-ddpm-small"][0],
        replace(DDPM_PRESETS["mnist-ddpm-small"][1], steps=1500, batch_size=64),
    ),
    vae=(VAE_PRESETS["mnist-vae"][0], VAETraining(steps=1500, batch_size=64)),
    # EDM's images are harder to tell from real ones: after 10 epochs its discriminator had learned little.
    edm_discriminator=replace(PRESETS["default"], epochs=20, eval_images=300),
    ddpm_discriminator=replace(PRESETS["default"], epochs=10, eval_images=300),
    head_width=32,
    features=ClassifierTraining(epochs=2, batch_size=128),
    edm_sampling=Sampling(num_steps=12),
    ddpm_sampling=DDPMSampling("ddim", num_steps=25),
    num_data=2000,
    num_images=500,
    nll_images=32,
    nll_steps=64,
    batch_size=100,
    budget="90 minutes on two CPU cores",
)
SMOKE = replace(
    CPU,
    edm=(SCORE_PRESETS["digits"][0], ScoreTraining(steps=4, batch_size=8)),
    ddpm=(
        DDPM_PRESETS["digits-ddpm"][0],
        replace(DDPM_PRESETS["digits-ddpm"][1], steps=3, batch_size=8, num_steps=20),
    ),
    vae=(VAE_PRESETS["digits-vae"][0], VAETraining(steps=3, batch_size=8)),
    features=ClassifierTraining(epochs=1),
    edm_discriminator=replace(PRESETS["default"], epochs=1, eval_images=20),
    ddpm_discriminator=replace(PRESETS["default"], epochs=1, eval_images=20),
    edm_sampling=Sampling(num_steps=3),
    ddpm_sampling=DDPMSampling("ddim", num_steps=4),
    num_data=160,
    num_images=40,
    num_sets=2,
    num_reference=200,
    nll_images=4,
    nll_steps=3,
    batch_size=40,
    budget="seconds; meaningless",
)
PROFILES = {"full": None, "smoke": SMOKE}  # None: by the device


def run(
    settings: Settings | None,
    folder: Path,
    results: Path,
    command: str,
    device,
    progress,
    notify,
    data=None,
    conditional: bool = False,
) -> dict:
    """Run what is not cached; write results.json, pictures and report; return the results.

    settings  None: for a GPU or for a CPU, as the device is
    data      MNIST as `load_images` takes it; None: torchvision's download, or the embedded digits where that fails
    """
    gpu = torch.device(device).type == "cuda"
    settings = settings or (Settings() if gpu else CPU)
    settings = replace(settings, conditional=conditional)
    if data is None:
        data = "digits" if settings.budget == SMOKE.budget else _mnist_or_digits(notify)
    stages = Stages(folder, progress, notify)
    with one_thread(device):
        experiment, helper = Comparison(settings, stages, device, data), None
        if not gpu and (os.cpu_count() or 1) > 1:
            spawn = multiprocessing.get_context("spawn")
            helper = spawn.Process(
                target=_second_process, args=(settings, folder, device, data), daemon=True
            )
            helper.start()
        try:
            for branch in ("edm", "vae"):
                stages.run_all(experiment.branch(branch))
            if helper is not None:
                helper.join()
        finally:
            if helper is not None:
                helper.kill()
        paths = stages.run_all(
            experiment.plan()
        )  # whatever the second process has done is not done again
        outcome = experiment.results(paths) | provenance(command, stages.seconds, device)
        write_json(results / "results.json", outcome)
        mnist_report.write(results, outcome, experiment, paths)
    return outcome


def _mnist_or_digits(notify) -> str:
    try:
        load_images("mnist", 1)
    except ValueError as error:
        notify(f"{error}; going on with the embedded digits (8 x 8), give --data PATH for MNIST")
        return "digits"
    return "mnist"


def _second_process(settings, folder, device, data) -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is the first process's to handle, which then ends this one
    with one_thread(device):
        stages = Stages(folder)
        stages.run_all(Comparison(settings, stages, device, data).branch("ddpm"))


class Comparison:
    """The stages, each a method that fills a folder."""

    def __init__(self, settings: Settings, stages: Stages, device, data):
        self.settings, self.stages, self.device = settings, stages, device
        order = np.random.default_rng(
            ORDER_SEED
        )  # a file may be sorted by class, and parts of it are taken below
        splits = ("train", "heldout" if data == "digits" else "test")
        self.train, test = (
            images.subset(order.permutation(len(images)))
            for images in (load_images(data, split=split) for split in splits)
        )
        self.test = test.take(min(settings.num_reference, len(test)))
        self.identity = {"data": self.train.fingerprint()}

    # The plan -------------------------------------------------------------------------------------------------------------

    def branch(self, model: str) -> list[Stage]:
        """From the training of a model to its samples and their likelihood."""
        s = self.settings
        settings = {
            "model": plain(getattr(s, model)),
            "conditional": s.conditional and model != "vae",
        } | self.identity
        sets = {"num_images": s.num_images, "num_sets": s.num_sets, "batch_size": s.batch_size}
        nll = {
            "nll_images": s.nll_images,
            "nll_steps": s.nll_steps,
            "test": self.test.fingerprint(),
        }
        sampling = {"sampling": plain(self.sampling(model))}
        stages = [
            Stage(f"train-{model}", settings, [], getattr(self, f"train_{model}")),
            Stage(
                f"sample-{model}",
                sampling | sets,
                [f"train-{model}"],
                lambda path, paths: self.sample_sets(path, paths, model),
            ),
            Stage(
                f"nll-{model}",
                nll,
                [f"train-{model}"],
                lambda path, paths: self.likelihood(path, paths, model),
            ),
        ]
        if model == "vae":
            return stages
        guided, discriminator = (
            f"{model}_guided",
            plain(self.training(model)) | {"width": s.head_width, "num_data": s.num_data},
        )
        return [
            *stages,
            Stage(
                f"fake-{model}",
                sampling | {"num_data": s.num_data},
                [f"train-{model}"],
                lambda path, paths: self.sample(path, paths, model, FAKE_SEED, s.num_data),
            ),
            Stage(
                f"discriminator-{model}",
                discriminator,
                [f"fake-{model}"],
                lambda path, paths: self.train_discriminator(path, paths, model),
            ),
            Stage(
                f"sample-{guided}",
                sampling | sets | {"weight": s.weight},
                [f"train-{model}", f"discriminator-{model}"],
                lambda path, paths: self.sample_sets(path, paths, guided),
            ),
            Stage(
                f"nll-{guided}",
                nll | {"weight": s.weight},
                [f"train-{model}", f"discriminator-{model}"],
                lambda path, paths: self.likelihood(path, paths, guided),
            ),
        ]

    def plan(self) -> list[Stage]:
        """Everything: the branches, the feature classifier, the measurements."""
        s = self.settings
        plan = [stage for model in MODELS for stage in self.branch(model)]
        features = Stage("features", plain(s.features) | self.identity, [], self.make_features)
        needs = ["features", *(f"sample-{system}" for system in SYSTEMS)]
        return [
            *plan,
            features,
            Stage(
                "measure",
                {"metrics": METRICS, "test": self.test.fingerprint()},
                needs,
                self.measure,
            ),
        ]

    # Models ---------------------------------------------------------------------------------------------------------------

    def sampling(self, model):
        return {
            "edm": self.settings.edm_sampling,
            "ddpm": self.settings.ddpm_sampling,
            "vae": VAESampling(),
        }[model]

    def train_edm(self, path, paths):
        network, settings = self.settings.edm
        net = build_score_network(self.train, network, settings.seed, self.settings.conditional).to(
            self.device
        )
        loss = edm.EDMLoss(settings.P_mean, settings.P_std, net.sigma_data)

        def observe(average, x, classes, generator):
            one_hot = (
                torch.eye(average.label_dim, device=self.device)[classes]
                if average.label_dim
                else None
            )
            return loss(average, x, one_hot, generator=generator).mean().item()

        net, log = train_score_network(
            net,
            self.train,
            settings,
            path / "state.pt",
            self.stages.progress,
            observe=self.watch(observe),
        )
        self.save(path, edm.save_network, net, log)

    def train_ddpm(self, path, paths):
        network, settings = self.settings.ddpm

        def observe(average, x, classes, generator):
            t = torch.randint(average.diffusion.num_steps, [len(x)], generator=generator).to(
                self.device
            )
            noise = torch.randn(x.shape, generator=generator).to(self.device)
            kwargs = {"y": classes} if average.label_dim else {}
            return (
                training_losses(average.diffusion, average.net, x, t, noise, kwargs)
                .loss.mean()
                .item()
            )

        model, log = train_ddpm(
            self.train,
            network,
            settings,
            self.settings.conditional,
            self.device,
            path / "state.pt",
            self.stages.progress,
            observe=self.watch(observe),
        )
        self.save(path, save_ddpm, model, log)

    def train_vae(self, path, paths):
        network, settings = self.settings.vae

        def observe(model, x, classes, generator):
            noise = torch.randn(len(x), model.latent_dim, generator=generator).to(self.device)
            return sum(part.mean().item() for part in elbo(model, x, noise)) / (
                x[0].numel() * np.log(2)
            )

        model, log = train_vae(
            self.train,
            network,
            settings,
            self.device,
            path / "state.pt",
            self.stages.progress,
            observe=self.watch(observe),
        )
        self.save(path, save_vae, model, log)

    def watch(self, loss):
        """Loss of a model on a fixed part of the test images, with the same noise every time."""
        images = self.test.take(min(TEST_LOSS_IMAGES, len(self.test)))
        x, classes = (
            to_float(images.images).to(self.device),
            torch.from_numpy(images.labels).to(self.device),
        )

        @torch.no_grad()
        def observe(model):
            mode = model.training
            value = loss(model.eval(), x, classes, step_generator(0, "test loss", 0))
            model.train(mode)
            return {"test_loss": value}

        return observe

    def save(self, path, write, model, log):
        with atomic_write(path / "model.safetensors") as file:
            write(file, model)
        write_json(
            path / "log.json",
            {"log": log, "parameters": sum(p.numel() for p in model.parameters())},
        )

    def load(self, paths, model):
        reader = {"edm": edm.load_network, "ddpm": load_ddpm, "vae": load_vae}[model]
        return reader(paths[f"train-{model}"] / "model.safetensors", self.device)

    def training(self, model) -> DiscriminatorTraining:
        return getattr(self.settings, f"{model}_discriminator")

    # Guidance and samples -------------------------------------------------------------------------------------------------

    def train_discriminator(self, path, paths, model):
        s, fake = self.settings, load_images(paths[f"fake-{model}"])
        width = (
            s.head_width if self.train.resolution > 16 else 64
        )  # a single level, whose attention takes 64 channels
        settings = replace(self.training(model), conditional=s.conditional)
        discriminator = build_discriminator(
            "none",
            self.train,
            conditional=s.conditional,
            width=width,
            seed=settings.seed,
            device=self.device,
        )
        train_discriminator(
            discriminator,
            self.train.take(s.num_data),
            fake,
            settings,
            path,
            progress=self.stages.progress,
        )

    def guidance(self, paths, system, weights=None):
        """The guidance of a system, None for an unguided one."""
        model, _, guided = system.partition("_")
        if not guided:
            return None
        discriminator = load_discriminator(
            None, paths[f"discriminator-{model}"] / "best.safetensors", device=self.device
        )
        w = self.settings.weight
        return DiscriminatorGuidance(
            discriminator, weights or ((2 * w, 0.0) if model == "edm" else (w, 0.0))
        )

    def sample(self, path, paths, system, first_seed, count):
        model = system.split("_")[0]
        sample(
            path,
            self.load(paths, model),
            self.sampling(model),
            first_seed,
            count,
            self.settings.batch_size,
            self.guidance(paths, system),
            self.device,
            progress=self.stages.progress,
        )

    def sample_sets(self, path, paths, system):
        for index in range(self.settings.num_sets):
            self.sample(
                path / f"set{index}",
                paths,
                system,
                index * self.settings.num_images,
                self.settings.num_images,
            )

    def likelihood(self, path, paths, system):
        """Bits per dimension of test images: see `dg.evaluation.bounds` for what is a bound and what is not."""
        s, model, net = self.settings, system.split("_")[0], self.load(paths, system.split("_")[0])
        images = self.test.take(min(s.nll_images, len(self.test)))
        one_hot = (
            torch.eye(net.label_dim, device=self.device)[torch.from_numpy(images.labels)]
            if net.label_dim
            else None
        )
        if model == "vae":
            found = vae_bound(net, images.images, batch_size=s.batch_size)
        elif model == "ddpm":
            found = ddpm_bound(
                net, images.images, one_hot, self.guidance(paths, system), batch_size=s.batch_size
            )
        else:
            found = bits_per_dim(
                net,
                images.images,
                one_hot,
                self.guidance(paths, system, (s.weight, s.weight)),
                num_steps=s.nll_steps,
                batch_size=s.batch_size,
            )
        terms = {name: float(values.mean()) for name, values in getattr(found, "terms", {}).items()}
        write_json(
            path / "nll.json",
            {
                "mean": found.mean,
                "standard_error": found.standard_error,
                "n": len(images),
                "terms": terms,
            },
        )

    # Measuring ------------------------------------------------------------------------------------------------------------

    def make_features(self, path, paths):
        save_classifier(
            path / "classifier.safetensors",
            train_classifier(self.train, self.settings.features, self.stages.progress),
        )

    def measure(self, path, paths):
        s, model = self.settings, load_classifier(paths["features"] / "classifier.safetensors")
        reference, metrics = extract_features(model, self.test), {}
        inception = self.inception()
        for system in SYSTEMS:
            rows = []
            for index in range(s.num_sets):
                images = load_images(paths[f"sample-{system}"] / f"set{index}")
                row = measure(extract_features(model, images), reference)
                if inception is not None:
                    row["fid"] = inception(images)
                if images.labels is not None:
                    row["agreement"] = float((predict(model, images) == images.labels).mean())
                rows.append(row)
            metrics[system] = {
                name: summarise_repeats([row[name] for row in rows]) for name in rows[0]
            }
        size = min(s.num_images, len(self.train) // s.num_sets)
        ends = [len(self.train) - index * size for index in range(s.num_sets)]
        rows = [
            measure(extract_features(model, self.train.subset(slice(end - size, end))), reference)
            for end in ends
        ]
        metrics["floor"] = {
            name: summarise_repeats([row[name] for row in rows]) for name in METRICS
        }
        write_json(
            path / "metrics.json", {"metrics": metrics, "accuracy": accuracy(model, self.test)}
        )

    def inception(self):
        """FID of a set of images against the test images, where Inception's weights are in the cache folder; else None."""
        weights = cache_folder() / CATALOGUE["inception-torch-fidelity"].name
        if not weights.exists():
            return None
        extractor = load_extractor("inception", weights, self.device)

        def statistics_of(images):
            stream = stream_of(images)
            return collect(
                extractor, stream, stream.positions(None), keep=False, progress=self.stages.progress
            )

        real = statistics_of(self.test)

        def fid(images) -> float:
            found = statistics_of(images)
            return frechet_distance(found.mu, found.sigma, real.mu, real.sigma)

        return fid

    def results(self, paths) -> dict:
        """The results file, but for what it ran on."""
        s, seconds, measured = (
            self.settings,
            self.stages.seconds,
            read_json(paths["measure"] / "metrics.json"),
        )
        metrics, logs = (
            measured["metrics"],
            {model: read_json(paths[f"train-{model}"] / "log.json") for model in MODELS},
        )
        total = s.num_images * s.num_sets
        systems = {}
        for name, title in SYSTEMS.items():
            model = name.split("_")[0]
            steps = {
                "edm": s.edm_sampling.num_evaluations,
                "ddpm": s.ddpm_sampling.num_steps,
                "vae": 1,
            }[model]
            guidance = self.guidance(paths, name)
            of_head = sum(p.numel() for p in guidance.discriminator.parameters()) if guidance else 0
            systems[name] = {
                "title": title,
                "parameters": logs[model]["parameters"] + of_head,
                "num_evaluations": steps,
                "training_seconds": seconds[f"train-{model}"]
                + (
                    seconds[f"fake-{model}"] + seconds[f"discriminator-{model}"]
                    if "_" in name
                    else 0
                ),
                "seconds_per_1000": 1000 * seconds[f"sample-{name}"] / total,
                "nll": read_json(paths[f"nll-{name}"] / "nll.json"),
            }
        return {
            "experiment": "mnist-cond" if s.conditional else "mnist",
            "data": Path(self.train.name).name,
            "metrics": metrics,
            "systems": systems,
            "logs": {model: logs[model]["log"] for model in MODELS},
            "discriminators": {
                model: training_log(paths[f"discriminator-{model}"]) for model in ("edm", "ddpm")
            },
            "comparison": {
                model: compare(
                    {m: metrics[f"{model}_guided"][m] for m in METRICS},
                    {m: metrics[model][m] for m in METRICS},
                )
                for model in ("edm", "ddpm")
            },
            "extractor": {
                "name": f"small classifier trained on {Path(self.train.name).name} (not Inception)",
                "test_accuracy": measured["accuracy"],
            },
            "settings": plain(s),
        }


def text_table(outcome: dict) -> str:
    """The metrics for a terminal."""
    return text_of([mnist_report.COLUMNS, *mnist_report.rows(outcome)])
