"""ImageNet at 256 pixels: DiT-XL/2-G++ and ADM-G++ (Kim et al. 2023, section 5), from published
files to a table.

The discriminator of DiT learns on latents, that of ADM on pixels; each stands on a frozen
noisy-image classifier, ADM's being the one that guides as well. Everything that generates is cut
into parts of consecutive seeds, so that machines which share nothing but a file system can take
every n-th part.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dg.checkpoints import load_discriminator, trained_head
from dg.data.latents import load_set
from dg.data.reader import load_images, open_images
from dg.data.stores import merged, store_crops
from dg.discriminator import build_discriminator
from dg.evaluation.feature_sets import load_features, save_features
from dg.evaluation.features import load_extractor
from dg.evaluation.measure import available, metric_estimates
from dg.evaluation.measurement import Measurement
from dg.evaluation.uncertainty import summarise
from dg.experiments import imagenet_report
from dg.experiments.costs import Cost
from dg.experiments.imagenet_settings import Setting, System
from dg.experiments.pipeline import Stage, Stages, needed
from dg.guidance import DiscriminatorGuidance
from dg.models.discrete_sampling import DDPMSampling
from dg.models.dit import load_vae
from dg.models.loading import load_model
from dg.pretraining.latents import Encoding, encode, latent_store
from dg.runtime.downloads import resolve
from dg.runtime.files import plain, read_json, write_json
from dg.runtime.progress import Progress
from dg.runtime.provenance import provenance
from dg.runtime.run_folder import sole_writer
from dg.sampling import describe, fill_store
from dg.training import train_discriminator, training_log
from guided_diffusion import load_encoder

FAKE_SEED = 10_000_000  # of the discriminator's training images, far from the measured ones
PICTURES = "pictures.json"  # what stage `real` was made of
METRICS = ("fd", "sfid", "is", "precision", "recall")
ENCODED = 256  # images of a batch of latents
# Operations per second of an A100 in float32 with TF32: a third of its peak; a guess.
SUSTAINED = 50e12


@dataclass
class ImageNetRun:
    """The stages, each a method that fills a folder through the same library calls as the scripts.

    data   the training images: class folders, or what `open_images` takes
    shard  (i, n): make every n-th part of what is generated, from the i-th on, and no more; None:
           make all
    """

    name: str
    setting: Setting
    data: object
    progress: Progress
    notify: Callable[[str], None] | None
    device: object
    shard: tuple[int, int] | None = None

    def plan(self) -> list[Stage]:
        """All stages in an order in which they can be run; nothing is loaded for it."""
        s = self.setting
        real = {"data": Path(self.data).name, "vae": s.vae, "resolution": s.resolution}
        real |= {} if s.vae else {"num_images": s.num_data}
        title = "training images, cropped" + (" and encoded" if s.vae else "")
        plan = [Stage("real", real, [], self.make_real, title=title)]
        led = {} if s.vae else {"classifier": s.classifier}
        plan.append(self._images("fake-images", s.num_data, s.fake, led, "for the discriminator"))
        if s.vae:
            files = {"network": s.network, "vae": s.vae, "resolution": s.resolution}
            make = self.make_fake_latents
            plan.append(Stage("fake", files, ["fake-images"], make, title="encoded again"))
        recipe, needs = plain(s.recipe) | {"classifier": s.classifier}, ["real", plan[-1].name]
        plan.append(Stage("train", recipe, needs, self.make_discriminator, title="discriminator"))
        reference = {"reference": s.reference, "features": s.features}
        plan.append(Stage("reference", reference, [], self.make_reference))
        for name, system in s.systems.items():
            settings = {"classifier": s.classifier, "head": system.head, "weight": system.weight}
            settings["time_min"] = system.time_min
            told, needs = (settings, system.title, system.head), [f"sample-{name}", "reference"]
            plan.append(self._images(needs[0], s.num_images, system.sampling, *told))
            make = partial(self.measure, name=name)
            plan.append(Stage(f"measure-{name}", {"metrics": METRICS}, needs, make))
        return plan

    def _images(self, name, count, sampling, settings, title, head=None) -> Stage:
        """A stage that generates images."""
        s = self.setting
        files = {"network": s.network, "vae": s.vae, "sampling": plain(sampling.kwargs())}
        settings |= files | {"num_images": count, "part": s.part, "batch_size": s.batch_size}
        make = partial(self.make_images, name=name.removeprefix("sample-"))
        cost = self._cost(count, sampling, head is not None)
        return Stage(name, settings, ["train"] if head == "trained" else [], make, cost, title)

    def _cost(self, images: int, sampling: DDPMSampling, guided: bool = False) -> Cost:
        """Of images: classifier-free guidance evaluates twice, gradients are the classifier's."""
        network, gradient = self.setting.operations
        per_step = network * (2 if {sampling.LT_cfg, sampling.ST_cfg} - {None, 1.0} else 1)
        per_step += gradient * (bool(sampling.classifier_scale) + guided)
        evaluations = images * (sampling.num_steps or 1000)
        hours = 2 * evaluations * per_step / SUSTAINED / 3600
        return Cost(images, evaluations, hours, images * 3 * self.setting.resolution**2)

    def resolve(self, name):
        return resolve(name, self.progress, self.notify)

    def model(self):
        """The diffusion model with its decoder or the classifier that guides it."""
        s, model = self.setting, load_model(self.resolve(self.setting.network), self.device)
        if s.vae:
            return model.with_vae(load_vae(self.resolve(s.vae), self.device))
        return model.with_classifier(load_encoder(self.resolve(s.classifier), self.device))

    def make_real(self, path, paths):
        """Latents of all training images, or random crops of some; and which images these are."""
        pictures = open_images(self.data)
        if pictures.labels is None:
            raise ValueError(
                f"{pictures.name}: has no labels; give a folder with a sub-folder for each class"
            )
        if self.setting.vae:
            self.encode(path / "latents", pictures)
        else:
            sizes = (self.setting.num_data, self.setting.resolution, self.setting.part)
            store_crops(path / "images", pictures, *sizes, self.progress)
        write_json(path / PICTURES, {"fingerprint": pictures.fingerprint()})

    def check_real(self, path):
        """ValueError where a stage was made of other images: its key knows the folder's name."""
        if not (path / PICTURES).exists():
            return
        if read_json(path / PICTURES)["fingerprint"] != open_images(self.data).fingerprint():
            raise ValueError(
                f"{path} was made of other images than those of {self.data}; give those, or "
                "another folder for the stages"
            )

    def make_fake_latents(self, path, paths):
        self.encode(path / "latents", open_images(merged(paths["fake-images"])))

    def encode(self, path, pictures):
        vae = load_vae(self.resolve(self.setting.vae), self.device)
        settings = Encoding(self.setting.resolution)
        store = latent_store(path, pictures, vae, settings, ENCODED)
        encode(vae, pictures, store, settings, self.device, self.progress, notify=self.notify)

    def make_discriminator(self, path, paths):
        """The head on the frozen classifier, on latents or on images."""
        s, recipe = self.setting, self.setting.recipe
        real = load_set(paths["real"] / ("latents" if s.vae else "images"))
        fake = load_set(paths["fake"] / "latents" if s.vae else merged(paths["fake-images"]))
        made = dict(conditional=recipe.conditional, seed=recipe.seed, device=self.device)
        classifier = self.resolve(s.classifier)
        discriminator = build_discriminator("classifier", real, None, classifier, **made)
        train_discriminator(discriminator, real, fake, recipe, path, progress=self.progress)

    def guidance(self, paths, system: System) -> DiscriminatorGuidance | None:
        if system.head is None:
            return None
        trained = system.head == "trained"
        head = trained_head(paths["train"]) if trained else self.resolve(system.head)
        classifier = self.resolve(self.setting.classifier)
        discriminator = load_discriminator(classifier, head, device=self.device)
        return DiscriminatorGuidance(discriminator, (system.weight, 0.0), system.time_min)

    def make_images(self, path, paths, name):
        """The parts of a set of images that this process is to make."""
        s, model, fake = self.setting, self.model(), name == "fake-images"
        system = System("", s.fake) if fake else s.systems[name]
        count, seed = (s.num_data, FAKE_SEED) if fake else (s.num_images, 0)
        guidance, (first, step) = self.guidance(paths, system), self.shard or (0, 1)
        run = dict(described=describe(model, system.sampling, guidance), progress=self.progress)
        for part in range(first, -(-count // s.part), step):
            seeds = range(seed + part * s.part, seed + min((part + 1) * s.part, count))
            folder, sizes = path / f"part-{part:04d}", (seeds, s.batch_size)
            fill_store(folder, model, system.sampling, *sizes, guidance, device=self.device, **run)

    def measurement(self) -> Measurement:
        told = dict(progress=self.progress, notify=self.notify)
        return Measurement(
            load_extractor(self.setting.features, device=self.device, **told), **told
        )

    def make_reference(self, path, paths):
        """ADM's reference batch: statistics of the training set, and images for recall."""
        measurement = self.measurement()
        found = measurement.reference(self.setting.reference)
        save_features(path / "reference.npz", found)
        about = measurement.extractor.describe() | {"num_reference": found.num_images}
        write_json(path / "about.json", about)

    def measure(self, path, paths, name):
        measurement = self.measurement()
        (part,) = measurement.open(merged(paths[f"sample-{name}"]))
        generated = measurement.collect(*part)
        reference = load_features(paths["reference"] / "reference.npz")
        wanted = [metric for metric in available(generated, reference) if metric in METRICS]
        write_json(path / "metrics.json", metric_estimates(generated, reference, wanted))

    def results(self, paths) -> dict:
        """The results file, but for what it ran on."""
        metrics = {}
        for name in self.setting.systems:
            found = read_json(paths[f"measure-{name}"] / "metrics.json")
            metrics[name] = summarise([{metric: row["value"] for metric, row in found.items()}])
        return {
            "experiment": self.name,
            "title": self.setting.title,
            "metrics": metrics,
            "settings": plain(self.setting),
            "extractor": read_json(paths["reference"] / "about.json"),
            "training": training_log(paths["train"]),
        }


def run(
    imagenet: ImageNetRun, folder: Path, results: Path, command: str, only: str | None = None
) -> dict | None:
    """Run what is not cached in `folder`; write results.json and report to `results`; return the
    results.

    only  the name of a stage: run it and what it needs, and nothing else; returns None
    """
    stages, plan = Stages(folder, imagenet.notify), imagenet.plan()
    if imagenet.shard:
        _run_shard(imagenet, stages, plan, only)
        return None
    wanted = None if only is None else [only]
    if wanted is None or "real" in needed(plan, wanted):
        imagenet.check_real(stages.path(plan[0]))
    paths = stages.run_all(plan, wanted)
    if only:
        return None
    outcome = imagenet.results(paths) | provenance(command, stages.seconds, imagenet.device)
    shown = imagenet_report.shown(outcome)
    firsts = {name: paths[f"sample-{name}"] / "part-0000" for name in shown}
    grids = {name: load_images(first).images for name, first in firsts.items()}
    with sole_writer(results):
        imagenet_report.write(results, outcome, grids)
    return outcome


def _run_shard(imagenet: ImageNetRun, stages: Stages, plan: list[Stage], only: str | None) -> None:
    """This machine's parts of one stage; run without a part afterwards, the stage finds all parts
    and is done.

    ValueError for a stage that makes no images, or needs one that is not done: machines would do
    the same work at once.
    """
    generate = ("fake-images", "sample-")
    chosen = {stage.name: stage for stage in plan if stage.name.startswith(generate)}
    if only not in chosen:
        names = ", ".join(chosen)
        raise ValueError(f"parts are of a stage that generates; name one of {names}")
    done = {stage.name: finished for stage, finished in stages.overview(plan)}
    if missing := [need for need in chosen[only].needs if not done[need]]:
        raise ValueError(
            f"{only} needs {missing[0]}, which is not done; run {missing[0]} first, on one machine"
        )
    paths = {stage.name: stages.path(stage) for stage in plan}
    paths[only].mkdir(parents=True, exist_ok=True)
    chosen[only].make(paths[only], paths)
