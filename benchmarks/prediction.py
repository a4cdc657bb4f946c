"""Which number of a discriminator predicts how well it guides?

    python -m benchmarks.prediction runs/prediction --network mnist-14 \\
        --classifier mnist-14-noisy-classifier --data mnist-small-14:test \\
        --fake runs/prediction/heldout --ref mnist-small-14:test --features mnist-14-features \\
        --num 400 --images 500 --images-in runs/prediction --out docs/results/prediction

`python -m benchmarks.prediction_heads` makes the heads. Every head in the `train-*` folders of
experiments' run folders (best, last and kept epochs), or in the folders and files that are given,
is diagnosed on held-out images, and the images of held-out seeds that it guides are measured. A row
has validation loss, AUC, epoch and the gain of the corrected denoising error beside the Fréchet
distance. Rows stand in results.json; a head that is there already, with the same settings, is left
alone, and an interrupted set of images goes on where it was. report.md and prediction.png show
them; `python -m benchmarks.prediction_report` writes these two again.
"""

import argparse
import json
from pathlib import Path

import edm
from benchmarks.prediction_report import publish, summaries
from dg.checkpoints import FORMAT, load_discriminator
from dg.data.datasets import load_images, open_images, stream_of
from dg.data.latents import load_set
from dg.evaluation.diagnosis import diagnose
from dg.evaluation.feature_sets import collect
from dg.evaluation.features import load_extractor
from dg.guidance import DiscriminatorGuidance
from dg.runtime.console import pick_device
from dg.runtime.downloads import resolve
from dg.runtime.files import read_json, sha256_of, write_json
from dg.runtime.provenance import provenance
from dg.sampling import Sampling, fill_store
from dg.training import best_entry
from edm.checkpoint import read_safetensors

PATTERNS = ("best.safetensors", "last.safetensors", "epoch_*.safetensors")


def heads_in(places: list[Path]) -> list[Path]:
    """The heads of folders of trainings, of run folders of experiments, and files themselves."""
    found = []
    for place in places:
        if place.is_file():
            found.append(place)
            continue
        trainings = sorted(path for path in place.rglob("train-*") if path.is_dir()) or [place]
        for training in trainings:
            found += [file for pattern in PATTERNS for file in sorted(training.glob(pattern))]
    if not found:
        raise SystemExit(f"no head in {', '.join(map(str, places))}; give folders of trainings")
    return list(dict.fromkeys(found))


def training_of(head: Path) -> dict:
    """Epoch of a head, and the validation loss that its log has for it; None where unknown."""
    config, _ = read_safetensors(head, FORMAT)
    epoch, log = config.get("training", {}).get("epoch"), head.with_name("log.jsonl")
    entries = read_json_lines(log) if log.is_file() else []
    entry = next((one for one in entries if one["epoch"] == epoch), {})
    return {
        "epoch": epoch,
        "valid_loss": entry.get("valid_loss"),
        "best_epoch": best_entry(entries)["epoch"] if entries else None,
    }


def read_json_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Prediction:
    """The network, the images and the features that all heads share."""

    def __init__(self, args):
        self.args, self.device = args, pick_device(args.device)
        self.net = edm.load_network(resolve(args.network), self.device)
        self.classifier = args.classifier and resolve(args.classifier)
        self.extractor = load_extractor(args.features, device=self.device)
        real, fake = load_set(args.data), load_set(args.fake)
        self.sets = tuple(one.take(min(len(one), args.num)) for one in (real, fake))
        reference = open_images(args.ref)
        self.reference = collect(self.extractor, reference, reference.positions(None), args.batch)

    def settings(self) -> dict:
        """What a row depends on besides its head."""
        ours = {name: value for name, value in vars(self.args).items() if name in SETTINGS}
        return ours | {"sets": [one.fingerprint() for one in self.sets]}

    def row(self, head: Path, digest: str) -> dict:
        lora = head.with_name(f"lora_{head.name}")
        discriminator = load_discriminator(
            self.classifier,
            head,
            self.net,
            device=self.device,
            lora_path=lora if lora.exists() else None,
        )
        run = dict(batch_size=self.args.batch, device=self.device)
        found = diagnose(self.net, {"head": discriminator}, *self.sets, num_visited=0, **run)
        diagnosis = found["heads"]["head"]
        levels = diagnosis["levels"]
        means = {
            name: sum(one[name]["value"] for one in levels) / len(levels)
            for name in ("auc", "loss")
        }
        gains = {
            "gain": diagnosis["gain_at_weight_1"]["value"],
            "gain_between": diagnosis["gain_between"]["value"],
            "best_gain": diagnosis["gain"]["value"] if diagnosis["gain"] else 0.0,
        }
        row = training_of(head) | means | gains
        row |= {"verdict": diagnosis["verdict"], "weight": diagnosis["weight"]}
        guidance = DiscriminatorGuidance(discriminator, (self.args.weight, 0.0))
        return row | {"fd": self.distance(guidance, digest)}

    def distance(self, guidance, name: str) -> float:
        """Fréchet distance of images of the held-out seeds to the reference."""
        args = self.args
        folder = (args.images_in or args.out) / f"images-{name}"
        seeds = range(args.first_seed, args.first_seed + args.images)
        fill_store(folder, self.net, Sampling(), seeds, args.batch, guidance, device=self.device)
        images = stream_of(load_images(str(folder)))
        return collect(self.extractor, images, images.positions(None), args.batch).distance(
            self.reference
        )


SETTINGS = ("network", "classifier", "features", "ref", "num", "images", "first_seed", "weight")


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("heads", type=Path, nargs="+", help="run folders, trainings or files")
    parser.add_argument("--network", required=True, help="score network that is guided")
    parser.add_argument("--classifier", help="classifier under the heads")
    parser.add_argument("--data", required=True, help="held-out real images of the diagnosis")
    parser.add_argument("--fake", required=True, help="held-out generated images of the diagnosis")
    parser.add_argument("--ref", required=True, help="reference images of the distance")
    parser.add_argument("--features", default="random-vgg", help="features of the distance")
    parser.add_argument("--num", type=int, default=2000, help="images of a kind to diagnose on")
    parser.add_argument("--images", type=int, default=2000, help="guided images of a head")
    parser.add_argument("--first-seed", type=int, default=5_000_000, help="of the guided images")
    parser.add_argument("--weight", type=float, default=2.0, help="first-order guidance weight")
    parser.add_argument("--batch", type=int, default=100, help="images computed at once")
    parser.add_argument("--device", help="device to compute on")
    parser.add_argument("--images-in", type=Path, help="folder of guided images; else --out")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    args = parser.parse_args(argv)
    heads, path = heads_in(args.heads), args.out / "results.json"
    args.out.mkdir(parents=True, exist_ok=True)
    prediction = Prediction(args)
    settings = prediction.settings()
    old = read_json(path) if path.is_file() else {}
    if old and old["settings"] != settings:
        raise SystemExit(f"{path} was made with other settings; give another --out")
    rows, unguided = old.get("rows", []), old.get("unguided")
    if unguided is None:
        unguided = prediction.distance(None, "unguided")
    for number, head in enumerate(heads, 1):
        digest = sha256_of(head)[:12]
        if any(row["sha256"] == digest for row in rows):
            continue
        name = f"{head.parent.name}/{head.stem}"
        rows.append({"name": name, "sha256": digest} | prediction.row(head, digest))
        print(f"{number} of {len(heads)}: {name}: {rows[-1]['fd']:.4f}", flush=True)
        write_json(path, {"settings": settings, "unguided": unguided, "rows": rows})
    outcome = {"settings": settings, "unguided": unguided, "rows": rows}
    outcome |= summaries(rows)
    write_json(path, outcome | provenance("python -m benchmarks.prediction", {}, prediction.device))
    publish(outcome, args.out)


if __name__ == "__main__":
    main()
