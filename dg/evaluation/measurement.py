"""Measure sets of images against a reference: features of both, and the metrics between them."""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial

import numpy as np

from dg.data.array_files import array_names
from dg.data.image_stream import ImageStream
from dg.data.reader import kinds_of, open_images, with_suffix
from dg.data.sets import numbers_of_unknown_meaning, sets_in
from dg.evaluation.feature_sets import FeatureSet, collect, load_features
from dg.evaluation.features import Extractor
from dg.evaluation.measure import METRICS, metric_estimates
from dg.evaluation.memorisation import MEMORISATION, count_known
from dg.evaluation.uncertainty import fid_infinity, summarise_repeats
from dg.runtime.downloads import resolve
from dg.runtime.processes import SINGLE_PROCESS, Ranks
from dg.runtime.progress import Progress, silent, unheard

FEW = 16  # images; some metrics are not defined for so few

Part = tuple[ImageStream, np.ndarray]  # a stream and the positions of the images to measure


class Measurement:
    """A measurement and its settings; each process computes its share of the batches.

    extractor    makes the features (`dg.evaluation.features.load_extractor`)
    metrics      names from `dg.evaluation.measure.METRICS`; None: all that images and reference
                 allow
    extrapolate  also extrapolate the distance to infinitely many images
    batch_size   images at once
    notify       takes one line about each assumption and each reduction

    With several processes all call the same methods in the same order; the first one gets the
    results, the others None.

        measurement = Measurement(load_extractor("inception"))
        reference = measurement.reference("cifar10")
        row = measurement.measure("out", measurement.open("out"), reference)
    """

    def __init__(
        self,
        extractor: Extractor,
        metrics: Sequence[str] | None = None,
        extrapolate: bool = False,
        *,
        batch_size: int = 64,
        ranks: Ranks = SINGLE_PROCESS,
        progress: Progress = silent,
        notify: Callable[[str], None] = unheard,
    ):
        if unknown := [name for name in metrics or () if name not in METRICS]:
            raise ValueError(f"{','.join(unknown)}: no such metric; use {', '.join(METRICS)}")
        self.extractor, self.metrics, self.extrapolate = extractor, metrics, extrapolate
        self.ranks, self.progress, self.notify = ranks, progress, notify
        self.collect = partial(
            collect,
            extractor,
            batch_size=batch_size,
            progress=progress,
            ranks=ranks,
            notify=notify,
        )
        names = metrics or METRICS
        self.keep_reference = any(METRICS[name][1] for name in names)
        self.keep_generated = extrapolate or self.keep_reference or "is" in names

    def sources(self, given: Sequence[str]) -> list[str]:
        """The sets to measure: those given, and of a folder that holds several sets each of
        them. ValueError where it does not tell whether its folders are sets or classes."""
        found, sources = [], list(dict.fromkeys(given))
        if len(sources) < len(given):
            self.notify("images given twice are measured once")
        for source in sources:
            sets = sets_in(source)
            if len(sets) > 1:
                others = sum(name[0] != "." for name in os.listdir(source)) - len(sets)
                rest = f"; {others} others in it are left out" if others else ""
                self.notify(f"{source} holds {len(sets)} sets, which are measured one by one{rest}")
            elif names := numbers_of_unknown_meaning(source):
                raise ValueError(
                    f"{source} holds the folders {', '.join(names[:3])}, which may be sets or "
                    "classes; give every set by itself, or mark one set by a dataset.json of "
                    '{"labels": null}'
                )
            found += sets
        return found

    def open(
        self,
        source,
        num_samples: int | None = None,
        seed: int | None = None,
        num_sets: int = 1,
    ) -> list[Part | None]:
        """(stream, positions) of every set of images; [None] where the source holds statistics.

        num_samples  images of a set, the first ones or drawn at random by `seed`; None: all
        num_sets     disjoint sets, one after the other; more than one needs num_samples

        ValueError where there are too few images or they do not fit the extractor.
        """
        if "statistics" in kinds_of(source):
            if num_samples is not None:
                raise ValueError(
                    f"{source} holds statistics of all its images; leave num_samples out"
                )
            return [None]
        stream = open_images(source, notify=self.notify)
        self.extractor.check(stream.name, stream.shape)
        if num_sets > 1:
            stream.positions(num_sets * num_samples)  # refused where there are fewer
        return [
            (stream, stream.positions(num_samples, seed, index * (num_samples or 0)))
            for index in range(num_sets)
        ]

    def find(self, source) -> str:
        """A reference or training set as it is given, or the file of a published name or URL.
        ValueError where there is none."""
        if kinds_of(source):
            return source
        if other := with_suffix(source):
            raise ValueError(f"{source} does not exist; give {other}")
        return str(resolve(source, self.progress, self.notify, suffix=".npz"))

    def reference(self, source) -> FeatureSet | None:
        """Features of the reference, or its statistics; of ADM's reference files both."""
        source = self.find(source)
        kinds = kinds_of(source)
        if "statistics" not in kinds:
            return self.collect(*self.open(source)[0], keep=self.keep_reference)
        found = load_features(source, self.extractor)
        if found.extractor is None:
            self.notify(
                f"{source} does not name the network of its statistics; taken for "
                f"{self.extractor.name}"
            )
        if found.features is None and self.keep_reference and "images" in kinds:
            stream = open_images(source, notify=self.notify)
            collected = self.collect(stream, stream.positions(None), keep=True)
            found = collected and replace(found, features=collected.features)
        return found

    def training(self, source, reference: FeatureSet | None) -> FeatureSet | None:
        """Features of the training images, for authenticity and memorised.

        ValueError where they do not fit the reference, or hold all of its images, which memorised
        takes for unseen ones; of a part of them `notify` is told.
        """
        found = self.reference(source)
        if found is None or reference is None:
            return found  # not the first process
        asked = [name for name in self.metrics or () if name in MEMORISATION] or MEMORISATION
        if found.features is None:
            raise ValueError(
                f"{found.name}: statistics alone; {', '.join(asked)} need the features of every "
                "training image (keep_features stores them)"
            )
        _check_same_features(found.name, None, found, reference)
        if "memorised" in asked and reference.features is not None:
            known, count = count_known(reference.features, found.features), len(reference.features)
            about = f"of the {count} reference images of {reference.name} are training images"
            if known == count:
                raise ValueError(
                    f"all {about} of {found.name}; memorised needs a reference of unseen images"
                )
            if known:
                self.notify(
                    f"{known} {about} of {found.name}; memorised takes them for unseen images "
                    "and comes out too low"
                )
        return found

    def check(
        self,
        source,
        parts: list[Part | None],
        reference: FeatureSet | None,
        training: FeatureSet | None = None,
    ) -> None:
        """ValueError for what cannot be measured, before any feature of `source` is computed."""
        if reference is None:
            return  # not the first process, which finds the same
        asked = self.metrics or (MEMORISATION if training is not None else ())
        single = [name for name in asked if METRICS[name][1]]
        of_both = ", ".join(name for name in single if name != "authenticity")
        if of_both and reference.features is None:
            other = "" if training is None else "; authenticity does not"
            raise ValueError(
                f"{reference.name}: statistics alone; {of_both} need the reference images{other}"
            )
        if single and parts[0] is None and "features" not in array_names(source):
            raise ValueError(f"{source}: statistics alone; {', '.join(single)} needs the images")

    def check_extrapolation(
        self, source, parts: list[Part | None], reference: FeatureSet | None
    ) -> None:
        """ValueError where the extrapolation to infinitely many images lacks images."""
        if reference is None or not self.extrapolate:
            return
        if parts[0] is None:
            raise ValueError(f"{source}: statistics alone; the extrapolation needs the images")
        least, (_, positions) = 4 * len(reference.mu), parts[0]
        if len(positions) < least:
            raise ValueError(
                f"{source}: {len(positions)} images; the extrapolation needs {least} "
                "in these features"
            )

    def measure(
        self,
        source,
        parts: list[Part | None],
        reference: FeatureSet | None,
        training: FeatureSet | None = None,
    ) -> dict | None:
        """Measure one source of images, over all of its sets; returns one row of the results."""
        tables, fingerprints, found = [], [], None
        for part in parts:
            found = (
                self.collect(*part, keep=self.keep_generated)
                if part
                else load_features(source, self.extractor)
            )
            if self.ranks.first:
                _check_same_features(source, part, found, reference)
                tables.append(self._estimates(source, found, reference, training))
                fingerprints.append(found.fingerprint)
        if not self.ranks.first:
            return None
        row = {
            "source": source,
            "num_images": found.num_images,
            "fingerprints": fingerprints,
            "sets": len(parts),
            "metrics": tables[0] if len(tables) == 1 else _over_sets(tables),
        }
        if self.extrapolate:
            line = fid_infinity(found.features, reference.mu, reference.sigma)
            row["fid_infinity"] = asdict(line.estimate) | {
                "sizes": line.sizes.tolist(),
                "values": line.values.tolist(),
                "intercept": line.intercept,
                "slope": line.slope,
            }
        return row

    def _estimates(self, source, found: FeatureSet, reference: FeatureSet, training) -> dict:
        try:
            return metric_estimates(found, reference, self.metrics, training)
        except ValueError as error:
            few = min(found.num_images or np.inf, reference.num_images or np.inf) < FEW
            advice = "; give more images, or choose the metric fd" if few else ""
            raise ValueError(f"{source} against {reference.name}: {error}{advice}") from error

    def results(
        self, reference: FeatureSet, rows: dict[str, dict], training: FeatureSet | None = None
    ) -> dict:
        """The content of a results file without its provenance: the rows by source, and the
        reference."""
        if len({row["num_images"] for row in rows.values()}) > 1:
            sizes = ", ".join(f"{row['num_images']} of {name}" for name, row in rows.items())
            self.notify(f"sets of different sizes, whose distances do not compare: {sizes}")
        measured = {name: row["num_images"] for name, row in rows.items() if "fd" in row["metrics"]}
        known = measured | {f"the reference {reference.name}": measured and reference.num_images}
        for source, count in known.items():
            if count and count < len(reference.mu):
                self.notify(
                    f"{source}: {count} images for {len(reference.mu)} features; a distance of "
                    "fewer images than features says little"
                )
        return {
            "distance": self.extractor.metric.upper(),
            "extractor": self.extractor.describe(),
            "reference": reference.describe(),
            **({} if training is None else {"training": training.describe()}),
            "images": rows,
        }


def _check_same_features(source, part: Part | None, found: FeatureSet, reference: FeatureSet):
    """ValueError where two sets have another number of features."""
    if len(found.mu) != len(reference.mu):
        size = "" if part is None else " of images of {}x{} with {} channels".format(*part[0].shape)
        raise ValueError(
            f"{source}: {len(found.mu)} feature dimensions{size}, but {reference.name} has "
            f"{len(reference.mu)}; compare images of one size in the same features"
        )


def _over_sets(tables):
    return {
        name: summarise_repeats([table[name]["value"] for table in tables]) for name in tables[0]
    }
