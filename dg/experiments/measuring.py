"""Stages that measure: features of real images, distances to them, likelihood of test images."""

from dataclasses import replace
from functools import cache

import numpy as np

from dg.data.datasets import ImageSet, load_images
from dg.data.image_stream import stream_of
from dg.evaluation import classifier as classifiers
from dg.evaluation.bounds import Bound
from dg.evaluation.classifier import extract_features
from dg.evaluation.feature_sets import FeatureSet, collect, load_features, save_features
from dg.evaluation.features import Extractor, load_extractor
from dg.evaluation.measure import metric_estimates, metric_values
from dg.evaluation.metrics import feature_distance, statistics
from dg.experiments.context import Context, Paths
from dg.experiments.models import KINDS
from dg.experiments.setting import CORE
from dg.experiments.study import System
from dg.runtime.catalogue import CATALOGUE
from dg.runtime.files import cache_folder, write_json
from dg.runtime.processes import cpu_threads


def make_reference(context: Context, path, paths: Paths) -> None:
    """The extractor where it is trained here, and the features of the real images."""
    s, about, real = context.setting, {}, context.reference_images()
    if s.features == "classifier":
        train = context.images("train")
        train = train.take(s.num_features) if s.num_features else train
        classifier = classifiers.train_classifier(train, s.feature_training, context.progress)
        classifiers.save_classifier(path / "classifier.safetensors", classifier)
        if not s.streamed:
            test = context.images("test") if s.reference_split == "all" else real
            about["test_accuracy"] = classifiers.accuracy(classifier, test)
    meter = Meter(context, {"reference": path})
    found = meter.features(real)
    if s.reference:
        published = load_features(context.resolve(s.reference), meter.extractor)
        found = replace(found, mu=published.mu, sigma=published.sigma)
    save_features(path / "reference.npz", found)
    if "fid" in s.metrics and (inception := meter.inception()):
        found_inception = replace(meter.collect(real, inception), features=None, logits=None)
        save_features(path / "inception.npz", found_inception)
    if "fd_random_vgg" in s.metrics and not s.other_reference:
        other = replace(meter.collect(real, meter.random_vgg()), features=None)
        save_features(path / "random-vgg.npz", other)
    about |= {"num_reference": found.num_images, "feature_dim": len(found.mu)}
    write_json(path / "about.json", meter.extractor.describe() | about)


class Meter:
    """Metrics of sets of images in the features of a setting."""

    def __init__(self, context: Context, paths: Paths):
        self.context, self.setting, self.folder = context, context.setting, paths["reference"]
        name, self.classifier = self.setting.features, None
        if name == "classifier":
            name = str(self.folder / "classifier.safetensors")
            self.classifier = classifiers.load_classifier(name)
        told = dict(progress=context.progress, notify=context.notify)
        self.extractor = load_extractor(name, device=context.device, **told)

    def inception(self) -> Extractor | None:
        """The extractor of the usual FID, if its weights are in the cache."""
        weights = cache_folder() / CATALOGUE["inception-torch-fidelity"].name
        if not weights.exists():
            return None
        return load_extractor("inception", weights, self.context.device)

    def random_vgg(self) -> Extractor:
        """The extractor that nobody has trained."""
        return _random_vgg(str(self.context.device))

    def other_distance(self, images: ImageSet) -> float:
        """Fréchet distance in the features of random VGG."""
        name, extractor = self.setting.other_reference, self.random_vgg()
        path = self.context.resolve(name) if name else self.folder / "random-vgg.npz"
        real = load_features(path, extractor)
        with cpu_threads(self.context.cores, self.context.device):
            seen = self.collect(images, extractor)
        return seen.distance(real)

    def collect(self, images: ImageSet, extractor: Extractor) -> FeatureSet:
        """Features with running sums, whatever the number of images."""
        stream, size = stream_of(images), self.setting.batch_size
        progress = self.context.progress
        return collect(extractor, stream, stream.positions(None), size, progress=progress)

    def features(self, images: ImageSet) -> FeatureSet:
        if self.setting.streamed:
            return self.collect(images, self.extractor)
        found, about = extract_features(self.classifier, images), self.extractor.describe()
        return FeatureSet(images.name, len(images), None, about, *statistics(found), features=found)

    def reference(self) -> FeatureSet:
        return load_features(self.folder / "reference.npz")

    def compare(self, found: FeatureSet, reference: FeatureSet) -> dict[str, float]:
        """The usual four metrics."""
        if not self.setting.streamed:
            return metric_values(found.features, reference.features)
        rows = metric_estimates(found, reference, CORE)
        return {name: row["value"] for name, row in rows.items()}

    def metrics(self, images: ImageSet, reference: FeatureSet) -> dict[str, float]:
        """The usual four metrics, and those that the setting asks for and the images allow."""
        found, context, classifier = self.features(images), self.context, self.classifier
        row = self.compare(found, reference)
        for name in self.setting.metrics:
            if name == "fd_heldout":
                heldout = extract_features(classifier, context.images("test"))
                row[name] = feature_distance(found.features, heldout)
            elif name == "fd_pixels":
                row[name] = feature_distance(pixels(images), pixels(context.reference_images()))
            elif name == "fd_random_vgg":
                row[name] = self.other_distance(images)
            elif name == "agreement" and images.labels is not None:
                told = classifiers.predict(classifier, images)
                row[name] = float((told == images.labels).mean())
            elif name == "fid" and (self.folder / "inception.npz").exists():
                extractor = self.inception()
                real = load_features(self.folder / "inception.npz", extractor)
                seen = self.collect(images, extractor)
                row[name] = seen.distance(real)
        return row


@cache
def _random_vgg(device: str) -> Extractor:
    return load_extractor("random-vgg", device=device)


def pixels(images: ImageSet) -> np.ndarray:
    """Values in [-1, 1], float64 [N, D]."""
    return images.images.reshape(len(images), -1) / 127.5 - 1


def measure_sets(context: Context, path, paths: Paths, sampled: str) -> None:
    """Metrics of every set of a system."""
    meter = Meter(context, paths)
    reference = meter.reference()
    sets = [paths[sampled] / f"set{index}" for index in range(context.setting.num_sets)]
    rows = [meter.metrics(load_images(folder), reference) for folder in sets]
    write_json(path / "metrics.json", rows)


def measure_floor(context: Context, path, paths: Paths) -> None:
    """Real against real: sets of images that the reference does not hold, where there are enough of
    them.

    Where the reference is the training split, it is test images; their distance has the bias of
    their number too.
    """
    meter, s = Meter(context, paths), context.setting
    if s.reference_split == "all":
        rows, size = _halves(meter), len(context.reference_images()) // 2
    else:
        other = context.images("test" if s.reference_split == "train" else "train")
        size = min(s.num_images, len(other) // s.num_sets)
        # Discriminators see the first ones.
        ends = [len(other) - index * size for index in range(s.num_sets)]
        parts = [other.subset(slice(end - size, end)) for end in ends]
        reference = meter.reference()
        rows = [meter.compare(meter.features(part), reference) for part in parts]
        if "fd_random_vgg" in s.metrics:
            for row, part in zip(rows, parts, strict=True):
                row["fd_random_vgg"] = meter.other_distance(part)
    write_json(path / "metrics.json", {"rows": rows, "num_images": size})


def _halves(meter: Meter) -> list[dict]:
    """Random halves of all images; a random part of the training images against held-out ones."""
    s, context, rows = meter.setting, meter.context, []
    images, real = context.reference_images(), meter.reference().features
    splits = (context.images(split) for split in ("train", "test"))
    train, heldout = (extract_features(meter.classifier, data) for data in splits)
    rng = np.random.default_rng(0)
    for _ in range(s.num_sets):
        first, second = np.array_split(rng.permutation(len(real)), 2)
        part = train[rng.permutation(len(train))[: s.num_images]]
        halves = pixels(images.subset(first)), pixels(images.subset(second))
        row = metric_values(real[first], real[second])
        row["fd_heldout"] = feature_distance(part, heldout)
        rows.append(row | {"fd_pixels": feature_distance(*halves)})
    return rows


def measure_likelihood(context: Context, path, paths: Paths, system: System) -> None:
    """Bits per dimension of test images: see `dg.evaluation.bounds` for what is a bound and what is
    not.

    Of a guided probability flow it is that with the mean of the two weights at both stages, without
    boosting.
    """
    s, kind = context.setting, context.setting.models[system.model].kind
    system = context.settled(paths, system)
    test, weights = context.test_images(), None
    net, images = context.model(paths, system.model), test.take(min(s.nll_images, len(test)))
    if system.heads and kind == "edm":
        weights = (sum(context.weights(paths, system)) / 2,) * 2
    guidance = context.guidance(paths, net, system, weights, boosting=False)
    one_hot = context.one_hot(net, images)
    found = KINDS[kind].likelihood(net, images.images, one_hot, guidance, s)
    terms = found.terms if isinstance(found, Bound) else {}
    outcome = {"mean": found.mean, "standard_error": found.standard_error, "n": len(images)}
    outcome["values"] = found.bits_per_dim.tolist()
    outcome["terms"] = {name: float(values.mean()) for name, values in terms.items()}
    write_json(path / "nll.json", outcome)
