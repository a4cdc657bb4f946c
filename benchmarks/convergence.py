"""Whether a network's training has come to its end: distance of its snapshots to the training
images, in pretrained/curves.json and pretrained/convergence.png.

    python -m benchmarks.convergence mnist-14 --snapshots runs/mnist-14 --train mnist-14:train \\
        --test mnist-14:test --features mnist-14-features

Every snapshot (network-snapshot-KIMG.safetensors of `pretrain.py score --snap`) draws the images of
the same seeds in 18 steps. `fd` is the Fréchet distance of all of them to all training images in
the features of the classifier; `unguided` has the metrics of the quickstart's table: the same seeds
in its sets, against the test images. A snapshot that is in the file already is left alone.
"""

import argparse
import json
import re
from pathlib import Path

import numpy as np

import edm
from dg.data.datasets import load_images, open_images, stream_of
from dg.evaluation.feature_sets import FeatureSet, collect
from dg.evaluation.features import load_extractor
from dg.evaluation.figures import convergence
from dg.evaluation.measure import metric_estimates
from dg.evaluation.metrics import frechet_distance
from dg.evaluation.uncertainty import summarise
from dg.runtime import pretrained
from dg.runtime.files import read_json, write_json
from dg.runtime.processes import cpu_threads
from dg.runtime.provenance import provenance
from dg.sampling import Sampling, fill_store

CORE = ("fd", "kid", "precision", "recall")


def features_of(extractor, images, batch: int = 250) -> FeatureSet:
    """Features of an ImageSet, or of whatever `open_images` reads."""
    stream = open_images(images) if isinstance(images, str) else stream_of(images)
    return collect(extractor, stream, stream.positions(None), batch)


def point(path: Path, images: int, references: dict, extractors: dict, args) -> dict:
    """The distances of a snapshot."""
    net, folder = edm.load_network(path), path.with_name(f"images-{path.stem}")
    seeds, threads = range(args.images), {"at_once": args.threads}
    made = fill_store(folder, net, Sampling(), seeds, 250, **threads)
    drawn, row = load_images(str(folder)), {"images": images, "seconds": made.seconds}
    for name, extractor in extractors.items():
        found = features_of(extractor, drawn)
        train = references[name, "train"]
        if train is not None:
            row["fd"] = frechet_distance(found.mu, found.sigma, train.mu, train.sigma)
    sets = []
    for first in range(0, args.sets * args.per_set, args.per_set):
        part = drawn.subset(slice(first, first + args.per_set))
        found = {name: features_of(extractor, part) for name, extractor in extractors.items()}
        estimates = metric_estimates(found["classifier"], references["classifier", "test"], CORE)
        metrics = {name: entry["value"] for name, entry in estimates.items()}
        seen, real = found["random-vgg"], references["random-vgg", "test"]
        metrics["fd_random_vgg"] = frechet_distance(seen.mu, seen.sigma, real.mu, real.sigma)
        sets.append(metrics)
    return row | {"unguided": summarise(sets)}


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="of the network in pretrained/")
    parser.add_argument("--snapshots", type=Path, required=True, help="folder of the training")
    parser.add_argument("--train", required=True, help="its training images")
    parser.add_argument("--test", required=True, help="test images")
    parser.add_argument("--features", required=True, help="the classifier's file or name")
    parser.add_argument("--kimg", default="", help="64,128,...: those snapshots alone")
    parser.add_argument("--images", type=int, default=5000, help="images of a snapshot")
    parser.add_argument("--sets", type=int, default=3, help="sets of the table")
    parser.add_argument("--per-set", type=int, default=500, help="images of a set")
    parser.add_argument("--threads", type=int, default=1, help="batches at a time")
    parser.add_argument("--out", type=Path, default=pretrained.FOLDER, help="folder of the curves")
    args = parser.parse_args(argv)
    path = args.out / pretrained.CURVES
    curves = read_json(path) if path.is_file() else {}
    entry = curves.setdefault(args.name, {"points": []})
    extractors = {name: load_extractor(name) for name in ("random-vgg",)}
    extractors["classifier"] = load_extractor(args.features)
    references = {
        ("classifier", "train"): features_of(extractors["classifier"], args.train),
        ("random-vgg", "train"): None,
    }
    for name, extractor in extractors.items():
        references[name, "test"] = features_of(extractor, args.test)
    known = {one["images"] for one in entry["points"]}
    wanted = {int(number) for number in args.kimg.split(",") if number}
    for file in sorted(args.snapshots.glob("network-snapshot-*.safetensors")):
        kimg = int(re.search(r"(\d+)\.safetensors$", file.name)[1])
        if 1000 * kimg in known or (wanted and kimg not in wanted):
            continue
        with cpu_threads(1):
            entry["points"].append(point(file, 1000 * kimg, references, extractors, args))
        entry["points"].sort(key=lambda one: one["images"])
        spent = {"sampling": float(np.sum([one["seconds"] for one in entry["points"]]))}
        command = f"python -m benchmarks.convergence {args.name}"
        write_json(path, curves | {args.name: entry | provenance(command, spent, "cpu")})
        curves = json.loads(path.read_text(encoding="utf-8"))
        entry = curves[args.name]
    convergence(args.out / "convergence.png", {n: one["points"] for n, one in curves.items()})


if __name__ == "__main__":
    main()
