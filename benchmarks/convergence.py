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
import re
from pathlib import Path

import edm
from dg.data.datasets import load_images, open_images, stream_of
from dg.data.image_stream import ImageStream
from dg.evaluation.feature_sets import FeatureSet, collect
from dg.evaluation.features import load_extractor
from dg.evaluation.figures import convergence
from dg.evaluation.measure import metric_estimates
from dg.evaluation.uncertainty import summarise
from dg.runtime import pretrained
from dg.runtime.files import read_json, write_json
from dg.runtime.processes import cpu_threads
from dg.runtime.provenance import provenance
from dg.sampling import Sampling, fill_store

CORE = ("fd", "kid", "precision", "recall")
BATCH = 250


def features_of(extractor, images: ImageStream) -> FeatureSet:
    return collect(extractor, images, images.positions(None), BATCH)


def point(path: Path, images: int, references: dict, extractors: dict, args) -> dict:
    """The distances of a snapshot; `references` and `extractors` by name of the features."""
    net, folder = edm.load_network(path), path.with_name(f"images-{path.stem}")
    made = fill_store(folder, net, Sampling(), range(args.images), BATCH, at_once=args.threads)
    drawn = load_images(str(folder))
    found = features_of(extractors["classifier"], stream_of(drawn))
    row = {"images": images, "seconds": made.seconds, "fd": found.distance(references["train"])}
    sets = []
    for first in range(0, args.sets * args.per_set, args.per_set):
        part = stream_of(drawn.subset(slice(first, first + args.per_set)))
        seen = {name: features_of(extractor, part) for name, extractor in extractors.items()}
        estimates = metric_estimates(seen["classifier"], references["classifier"], CORE)
        metrics = {name: entry["value"] for name, entry in estimates.items()}
        metrics["fd_random_vgg"] = seen["random-vgg"].distance(references["random-vgg"])
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
    points = curves.get(args.name, {}).get("points", [])
    extractors = {"classifier": load_extractor(args.features)}
    extractors["random-vgg"] = load_extractor("random-vgg")
    test = open_images(args.test)
    references = {name: features_of(extractor, test) for name, extractor in extractors.items()}
    references["train"] = features_of(extractors["classifier"], open_images(args.train))
    known = {one["images"] for one in points}
    wanted = {int(number) for number in args.kimg.split(",") if number}
    for file in sorted(args.snapshots.glob("network-snapshot-*.safetensors")):
        kimg = int(re.search(r"(\d+)\.safetensors$", file.name)[1])
        if 1000 * kimg in known or (wanted and kimg not in wanted):
            continue
        with cpu_threads(1):
            points.append(point(file, 1000 * kimg, references, extractors, args))
        points.sort(key=lambda one: one["images"])
        spent = {"sampling": sum(one["seconds"] for one in points)}
        command = f"python -m benchmarks.convergence {args.name}"
        curves[args.name] = {"points": points} | provenance(command, spent, "cpu")
        write_json(path, curves)
    convergence(args.out / "convergence.png", {n: one["points"] for n, one in curves.items()})


if __name__ == "__main__":
    main()
