"""Measure images against a reference: FID and other distances, KID, precision and recall, with their uncertainty.

\b
Examples:
  # generated images against the published statistics of CIFAR-10 (Inception and statistics are downloaded once)
  python fid.py --images out --ref fid-ref-cifar10-32x32 --num_samples 50000
  # three disjoint seed ranges of 50,000: mean, sd and minimum; on all GPUs
  torchrun --standalone --nproc_per_node=gpu fid.py calc --images out --ref fid-ref-cifar10-32x32 --num_samples 50000 --sets 3
  # several sets give a table and a plot of the distance against the number in their names
  python fid.py --images epoch-10 --images epoch-20 --images epoch-30 --ref cifar10 --plot --outdir measured
  # statistics of your own data
  python fid.py ref --data my-images --dest my-images.npz
  # in the features of a small classifier, where Inception says nothing
  python fid.py --images runs/by-hand/guided --ref digits --features runs/by-hand/features/classifier.safetensors
  # bits per dimension of a network on test images
  python fid.py nll --network edm-cifar10-32x32-uncond-vp --data cifar10:test --num_samples 500

Without a subcommand, `calc` is meant.
"""

import json as json_module
import re
import shlex
import sys
import time
from pathlib import Path

import click

from dg.runtime import console
from dg.runtime.console import FLAG


class CalcByDefault(click.Group):
    """A group that takes options without a subcommand for those of `calc`."""

    def parse_args(self, ctx, args):
        if args and args[0] not in (*self.commands, "--help"):
            args = ["calc", *args]
        return super().parse_args(ctx, args)


def extraction(command):
    """The options of every command that computes features."""
    for option in reversed(
        (
            click.option(
                "--features",
                default="inception",
                metavar="NAME|PATH",
                help="inception, dinov2-vit-{s,b,l,g}-14, clip-vit-{b-32,l-14}, vgg16, pixels, or a classifier's file "
                "from `pretrain.py features`.",
            ),
            click.option(
                "--weights",
                type=console.InputPath(),
                metavar="PATH",
                help="File of the extractor's weights.  [default: downloaded once]",
            ),
            click.option(
                "--unpublished_weights",
                is_flag=True,
                help="Accept weights of another SHA-256 than the published.",
            ),
            click.option(
                "--batch",
                "--batch_size",
                "batch",
                type=click.IntRange(min=1),
                help="Images at once.  [default: 64, on a CPU 16]",
            ),
            click.option(
                "--device", help="cpu, cuda, cuda:1 ...  [default: a GPU if there is one]"
            ),
        )
    ):
        command = option(command)
    return command


@click.group(
    cls=CalcByDefault,
    help=__doc__,
    no_args_is_help=True,
    context_settings=dict(max_content_width=110, show_default=True),
)
def main():
    pass


@main.command(
    help="Metrics of generated images against a reference. Distances compare only in the same features, at the "
    "same number of images."
)
@click.option(
    "--images",
    required=True,
    multiple=True,
    type=console.InputPath(),
    metavar="PATH",
    help="Generated images, or their statistics; repeat it for a table.",
)
@click.option(
    "--ref",
    required=True,
    type=console.InputPath(),
    metavar="PATH|NAME|URL",
    help="Reference images, or statistics as npz.",
)
@click.option(
    "--num_samples",
    "--num",
    type=click.IntRange(min=2),
    metavar="N",
    help="Measure the first N images, in the order of their seeds.  [default: all]",
)
@click.option(
    "--seed", type=click.IntRange(min=0), help="Draw the N images at random by this seed instead."
)
@click.option(
    "--sets",
    type=click.IntRange(min=1),
    default=1,
    metavar="K",
    help="Measure K disjoint sets of N images: mean, sd and minimum.",
)
@click.option(
    "--metrics",
    metavar="LIST",
    help="For example fd,kid,precision,recall,density,coverage,is,sfid.  [default: all "
    "that images and reference allow]",
)
@click.option(
    "--fid_infinity", is_flag=True, help="Also extrapolate the distance to infinitely many images."
)
@extraction
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
@click.option("--outdir", metavar="DIR", help="Write results.json there.")
@click.option(
    "--plot",
    **FLAG,
    default=False,
    help="Draw the results as well, into --outdir.  [default there: fid-results]",
)
def calc(
    images,
    ref,
    num_samples,
    seed,
    sets,
    metrics,
    fid_infinity,
    batch,
    as_json,
    outdir,
    plot,
    **extractor_options,
):
    from dg.evaluation.measure import METRICS
    from dg.runtime.processes import process_group

    metrics = metrics and [name.strip() for name in metrics.split(",")]
    if unknown := [name for name in metrics or () if name not in METRICS]:
        raise click.UsageError(
            f"--metrics {','.join(unknown)}: unknown; there are {', '.join(METRICS)}."
        )
    if sets > 1 and (num_samples is None or seed is not None):
        raise click.UsageError(
            "--sets needs --num_samples, the size of each set, and takes no --seed."
        )
    if sets > 1 and fid_infinity:
        raise click.UsageError("--fid_infinity extrapolates one set of images; leave --sets out.")
    start, outdir = time.perf_counter(), outdir or ("fid-results" if plot else None)
    with process_group() as ranks:
        measure = Measurement(ranks, batch, metrics, fid_infinity, **extractor_options)
        jobs = [
            (source, measure.open(source, num_samples, seed, sets)) for source in images
        ]  # refused before any work
        reference = measure.reference(ref)
        measure.check(jobs, reference)
        rows = {source: measure(source, parts, reference) for source, parts in jobs}
        if not ranks.first:
            return
        outcome = measure.outcome(reference, rows, time.perf_counter() - start)
    if as_json:
        click.echo(json_module.dumps(outcome, indent=2))
    else:
        click.echo(text_table(outcome))
    if outdir is not None:
        write(outdir, outcome, plot)


class Measurement:
    """Features of images and reference, and the metrics between them, on this process's share of the batches."""

    def __init__(
        self, ranks, batch, metrics, fid_infinity, features, device, weights, unpublished_weights
    ):
        from dg.evaluation.features import load_extractor
        from dg.evaluation.measure import METRICS

        self.ranks, self.metrics, self.fid_infinity = ranks, metrics, fid_infinity
        self.device = console.pick_device(device, ranks.rank)
        self.batch = batch or (
            16 if self.device.type == "cpu" else 64
        )  # on a CPU larger ones only take memory
        self.progress = console.progress if ranks.first else console.silent
        self.notify = console.notify if ranks.first else lambda line: None
        self.extractor = load_extractor(
            features, weights, self.device, unpublished_weights, self.progress, self.notify
        )
        single = fid_infinity or any(
            METRICS[name][1] or name == "is" for name in metrics or METRICS
        )
        self.keep_generated, self.keep_reference = (
            single,
            any(METRICS[name][1] for name in metrics or METRICS),
        )

    def open(self, source, num_samples, seed, sets):
        """[None] for statistics, else (stream, positions) of every set."""
        from dg.data.reader import kinds_of, open_images

        if "statistics" in kinds_of(source):
            if num_samples is not None:
                raise ValueError(
                    f"{source} holds statistics of all its images; leave --num_samples out"
                )
            return [None]
        stream = open_images(source)
        self.extractor.check(stream.name, stream.shape)
        if sets > 1:
            stream.positions(sets * num_samples)  # refused where there are fewer
        return [
            (stream, stream.positions(num_samples, seed, index * (num_samples or 0)))
            for index in range(sets)
        ]

    def reference(self, source):
        """Features of the reference, or its statistics; of ADM's reference files both."""
        from dataclasses import replace

        from dg.data.reader import kinds_of, open_images
        from dg.evaluation.feature_sets import load_features
        from dg.runtime.downloads import resolve

        source = source if kinds_of(source) else str(resolve(source, self.progress, self.notify))
        kinds = kinds_of(source)
        if "statistics" not in kinds:
            return self.collect(*self.open(source, None, None, 1)[0], self.keep_reference)
        found = load_features(source, self.extractor)
        if found.extractor is None:
            self.notify(
                f"{source} does not tell which network its statistics are of; taken for {self.extractor.name}"
            )
        if found.features is None and self.keep_reference and "images" in kinds:
            stream = open_images(source)
            collected = self.collect(stream, stream.positions(None), True)
            found = collected and replace(found, features=collected.features)
        return found

    def check(self, jobs, reference):
        """Refuse what cannot be measured before the images are looked at."""
        from dg.evaluation.measure import METRICS

        if reference is None:
            return  # not the first process, which finds the same
        single = [name for name in self.metrics or () if METRICS[name][1]]
        if single and reference.features is None:
            raise ValueError(
                f"{reference.name}: statistics alone; {', '.join(single)} need the reference images"
            )
        for source, (part, *_) in jobs:
            if part is None and (self.fid_infinity or single):
                wanted = "--fid_infinity" if self.fid_infinity else ", ".join(single)
                raise ValueError(f"{source}: statistics alone; {wanted} needs the images")
            if self.fid_infinity and len(part[1]) < 4 * len(reference.mu):
                raise ValueError(
                    f"{source}: {len(part[1])} images; --fid_infinity needs {4 * len(reference.mu)} in these "
                    "features"
                )

    def collect(self, stream, positions, keep):
        from dg.evaluation.feature_sets import collect

        return collect(
            self.extractor,
            stream,
            positions,
            self.batch,
            keep,
            self.progress,
            self.ranks,
            self.notify,
        )

    def __call__(self, source, parts, reference):
        """What is known of one set of images, for the results; None at all processes but the first."""
        from dataclasses import asdict

        from dg.evaluation.feature_sets import load_features
        from dg.evaluation.measure import evaluate
        from dg.evaluation.uncertainty import fid_infinity, summarise_repeats

        tables, fingerprints, found = [], [], None
        for part in parts:
            found = (
                self.collect(*part, self.keep_generated)
                if part
                else load_features(source, self.extractor)
            )
            if self.ranks.first:
                tables.append(evaluate(found, reference, self.metrics))
                fingerprints.append(found.fingerprint)
        if not self.ranks.first:
            return None
        row = {
            "source": source,
            "num_images": found.num_images,
            "fingerprints": fingerprints,
            "sets": len(parts),
        }
        row["metrics"] = (
            tables[0]
            if len(tables) == 1
            else {
                name: summarise_repeats([table[name]["value"] for table in tables])
                for name in tables[0]
            }
        )
        if self.fid_infinity:
            line = fid_infinity(found.features, reference.mu, reference.sigma)
            row["fid_infinity"] = asdict(line.estimate) | {
                "sizes": line.sizes.tolist(),
                "values": line.values.tolist(),
                "intercept": line.intercept,
                "slope": line.slope,
            }
        return row

    def outcome(self, reference, rows, seconds):
        """The results file."""
        from dg.experiments.provenance import provenance

        command = shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])
        return {
            "distance": self.extractor.metric.upper(),
            "extractor": self.extractor.describe(),
            "reference": reference.describe(),
            "images": rows,
            **provenance(command, {"measure": seconds}, self.device),
        }


def text_table(outcome):
    """Lines for the terminal: what was compared, then a row for every set of images."""
    from dg.evaluation.measure import METRICS
    from dg.evaluation.report import text_of

    extractor, reference = outcome["extractor"], outcome["reference"]
    weights = "" if extractor["published_weights"] is not False else ", NOT the published weights"
    lines = [
        f"features: {extractor['name']} ({extractor['sha256'][:8]}{weights}); reference: {reference['source']} "
        f"({reference['num_images'] or 'unknown number of'} images)"
    ]
    rows = outcome["images"]
    names = [name for name in METRICS if any(name in row["metrics"] for row in rows.values())]
    titles = [outcome["distance"] if name == "fd" else METRICS[name][0] for name in names]
    cells = [["images", "n", *titles]]
    if infinite := any("fid_infinity" in row for row in rows.values()):
        cells[0].append(f"{outcome['distance']}\N{INFINITY}")
    for source, row in rows.items():
        count = row["num_images"] or "?"
        cells.append(
            [
                source,
                f"{row['sets']} x {count}" if row["sets"] > 1 else str(count),
                *(_cell(row["metrics"].get(name)) for name in names),
            ]
        )
        if infinite:
            line = row["fid_infinity"]
            cells[-1].append(f"{line['value']:.4f} ± {line['standard_error']:.4f}")
    lines.append(text_of(cells))
    if any(row["sets"] > 1 for row in rows.values()):
        lines.append(
            "mean ± sd over the sets (min: the least of them, which falls with their number)"
        )
    elif any(
        "standard_error" in value for row in rows.values() for value in row["metrics"].values()
    ):
        lines.append(
            "± is one standard error; a single distance has none, --sets measures its spread"
        )
    if infinite:
        lines.append(
            f"{outcome['distance']}\N{INFINITY}: ± of the line through these images; over fresh ones it varies about "
            "twice as much"
        )
    return "\n".join(lines)


def _cell(value):
    if value is None:
        return ""
    if "mean" in value:
        return f"{value['mean']:.4f} ± {value['sd']:.4f} (min {value['min']:.4f})"
    spread = value.get("standard_error", value.get("sd_of_splits"))
    return f"{value['value']:.4f}" + (f" ± {spread:.4f}" if spread is not None else "")


def write(outdir, outcome, plot):
    """results.json, and the figures that the results allow."""
    from dg.evaluation import figures
    from dg.runtime.files import writable_folder, write_json

    folder, distance = writable_folder(outdir), outcome["distance"]
    write_json(folder / "results.json", outcome)
    if not plot:
        return
    rows = _short_names(outcome["images"])
    tables = {
        name: {metric: _mean_and_spread(value) for metric, value in row["metrics"].items()}
        for name, row in rows.items()
    }
    titles = {
        "fd": f"{distance} (lower is better)",
        "kid": "KID (lower is better)",
        "precision": "precision (higher is better)",
        "recall": "recall (higher is better)",
    }
    shown = {
        metric: title
        for metric, title in titles.items()
        if any(metric in table for table in tables.values())
    }
    if shown:
        figures.metric_bars(
            folder / "metrics.png", tables, shown, title="Value and 95% interval (over sets: sd)"
        )
    pairs = {
        name: row["metrics"]
        for name, row in rows.items()
        if "low" in row["metrics"].get("precision", {})
    }
    if pairs:
        figures.precision_recall_scatter(folder / "precision-recall.png", pairs)
    if lines := {name: row["fid_infinity"] for name, row in rows.items() if "fid_infinity" in row}:
        figures.distance_against_size(folder / "fid-against-n.png", lines, distance)
    numbers = numbers_in(list(outcome["images"]))
    if numbers and all("fd" in table for table in tables.values()):
        fd = [table["fd"] for table in tables.values()]
        figures.distance_sweep(
            folder / "series.png",
            numbers,
            [row["mean"] for row in fd],
            [row["sd"] or 0 for row in fd],
            xlabel="number in the names",
            ylabel=distance,
            title=f"{distance} against the number in the names",
        )
    console.notify(f"{', '.join(sorted(path.name for path in folder.glob('*.png')))} in {folder}")


def _mean_and_spread(value):
    """For bars: mean and sd over sets, or the value and half of its 95% interval, where it has one."""
    if "mean" in value:
        return value
    return {
        "mean": value["value"],
        "sd": (value["high"] - value["low"]) / 2 if "low" in value else None,
    }


def _short_names(rows):
    """The rows under the last parts of their paths, as many as tell them apart."""
    for count in range(1, 9):
        short = ["/".join(Path(source).parts[-count:]) for source in rows]
        if len(set(short)) == len(rows):
            return dict(zip(short, rows.values(), strict=True))
    return rows


def numbers_in(names):
    """The number that names differ in, such as an epoch; None unless there is exactly one, and more than one name."""
    found = [re.findall(r"\d+(?:\.\d+)?", name) for name in names]
    if len(names) < 2 or len({len(numbers) for numbers in found}) != 1:
        return None
    columns = [
        [float(number) for number in column]
        for column in zip(*found, strict=True)
        if len(set(column)) > 1
    ]
    return columns[0] if len(columns) == 1 and len(set(columns[0])) == len(names) else None


@main.command(
    help="Write the statistics of real images, in EDM's form (mu, sigma) with a note of what made them."
)
@click.option("--data", required=True, metavar="PATH|NAME", help="Reference images.")
@click.option("--dest", required=True, metavar="PATH", help="The npz file to write.")
@click.option(
    "--num_samples",
    "--num",
    type=click.IntRange(min=2),
    metavar="N",
    help="The first N images.  [default: all]",
)
@click.option(
    "--keep_features", is_flag=True, help="Also store every feature, for KID, precision and recall."
)
@extraction
def ref(data, dest, num_samples, keep_features, batch, **extractor_options):
    from dg.evaluation.feature_sets import save_features
    from dg.runtime.processes import process_group

    with process_group() as ranks:
        measure = Measurement(ranks, batch, None, False, **extractor_options)
        (part,) = measure.open(data, num_samples, None, 1)
        if part is None:
            raise ValueError(f"{data} holds statistics already; give the images themselves")
        found = measure.collect(*part, keep_features)
        if ranks.first:
            save_features(dest, found)
            console.notify(
                f"{dest}: {found.num_images} images, {len(found.mu)} features of {measure.extractor.name}"
            )


@main.command(
    help="Bits per dimension of a network on 8-bit images: of a score network by the probability flow, of a DDPM and "
    "a VAE upper bounds, by their variational bounds. With a discriminator, of the guided flow or chain."
)
@click.option(
    "--network", required=True, metavar="PATH|URL|NAME", help="Score network, DDPM or VAE."
)
@click.option("--data", required=True, metavar="PATH|NAME", help="Images, of the network's size.")
@click.option(
    "--num_samples",
    "--num",
    type=click.IntRange(min=1),
    metavar="N",
    help="The first N images.  [default: all]",
)
@click.option(
    "--seed", type=click.IntRange(min=0), help="Draw the N images at random by this seed instead."
)
@click.option(
    "--steps",
    "--num_steps",
    "num_steps",
    type=click.IntRange(min=1),
    help="Heun steps, or those of a DDPM's chain.  [default: 128; of a DDPM all of its own]",
)
@click.option(
    "--solver",
    type=click.Choice(["heun", "rk45"]),
    default="heun",
    help="Fixed steps, or SciPy's adaptive RK45.",
)
@click.option(
    "--num_probes", type=click.IntRange(min=1), default=1, help="Hutchinson's probes per image."
)
@click.option(
    "--importance_samples",
    type=click.IntRange(min=1),
    metavar="K",
    help="Of a VAE: the tighter bound by K samples (Burda et al. 2016) in place of the ELBO.",
)
@click.option(
    "--discriminator_ckpt",
    "--discriminator_checkpoint",
    multiple=True,
    type=console.InputPath(),
    metavar="PATH",
    help="Discriminator head; repeat it for an ensemble.",
)
@click.option(
    "--pretrained_classifier_ckpt",
    type=console.InputPath(),
    metavar="PATH",
    help="ADM classifier under the discriminator, if it has one.",
)
@click.option(
    "--dg_weight_1st_order",
    "--w_dg_1",
    "w1",
    type=float,
    default=1,
    help="Weight at the first stage of a step.",
)
@click.option(
    "--dg_weight_2nd_order",
    "--w_dg_2",
    "w2",
    type=float,
    default=1,
    help="Weight at the second stage.",
)
@click.option(
    "--time_min",
    "--time_mid",
    "time_min",
    type=click.FloatRange(0, 1),
    default=0.01,
    help="Start of the guided VP time window.",
)
@click.option("--time_max", type=click.FloatRange(0, 1), default=1.0, help="End of the window.")
@click.option(
    "--batch",
    "--batch_size",
    "batch",
    type=click.IntRange(min=1),
    default=64,
    help="Images at once.",
)
@click.option("--device", help="cpu, cuda, cuda:1 ...  [default: a GPU if there is one]")
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
def nll(
    network,
    data,
    num_samples,
    seed,
    num_steps,
    solver,
    num_probes,
    importance_samples,
    batch,
    device,
    as_json,
    **options,
):
    from dg.data.datasets import load_images
    from dg.evaluation.bounds import joined
    from dg.experiments.provenance import provenance
    from dg.models.loading import load_model
    from dg.runtime.downloads import resolve
    from dg.runtime.processes import process_group
    from dg.training_data import random_subset

    start = time.perf_counter()
    with process_group() as ranks:
        device = console.pick_device(device, ranks.rank)
        net = load_model(resolve(network, console.progress, console.notify), device)
        measure, kind, num_steps = _measure_of(
            net, num_steps, solver, num_probes, importance_samples
        )
        images = load_images(data)
        if num_samples is not None:
            images = (
                images.take(num_samples)
                if seed is None
                else random_subset(images, num_samples, seed)
            )
        if (images.resolution, images.channels) != (net.img_resolution, net.img_channels):
            raise ValueError(
                f"{images.name}: images of {images.resolution} pixels and {images.channels} channels; the network "
                f"takes {net.img_resolution} pixels and {net.img_channels} channels"
            )
        guidance = _flow_guidance(net, device, **options)
        parts = [
            range(first, min(first + batch, len(images))) for first in range(0, len(images), batch)
        ]
        mine, found = ranks.share(parts), []
        progress = console.progress if ranks.first else console.silent
        for part in progress(mine, desc="likelihood", unit="batch"):
            labels = _one_hot(net, images, part, device)
            found.append(
                measure(
                    images.images[part.start : part.stop],
                    labels,
                    guidance,
                    seeds=list(part),
                    batch_size=batch,
                )
            )
        gathered = ranks.gather(found)
    if gathered is None:
        return
    likelihood = joined([one for rank in gathered for one in rank])
    terms = {
        name: float(values.mean()) for name, values in getattr(likelihood, "terms", {}).items()
    }
    outcome = {
        "network": network,
        "data": images.name,
        "fingerprint": images.fingerprint(),
        "num_images": len(images),
        "guided": guidance is not None,
        "bits_per_dim": likelihood.mean,
        "standard_error": likelihood.standard_error,
        "kind": kind,
        "terms": terms,
        "num_evaluations": float(likelihood.num_evaluations.mean()),
        "num_steps": num_steps,
    }
    if as_json:
        command = shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])
        click.echo(
            json_module.dumps(
                outcome | provenance(command, {"nll": time.perf_counter() - start}, device),
                indent=2,
            )
        )
        return
    parts = (
        "".join(f", {name} {value:.4f}" for name, value in terms.items()) if len(terms) > 1 else ""
    )
    click.echo(
        f"{likelihood.mean:.4f} ± {likelihood.standard_error:.4f} bits/dim over {len(images)} images of {images.name} "
        f"({kind}{parts}; ± one standard error; {likelihood.num_evaluations.mean():.0f} evaluations each)"
    )


def _measure_of(net, num_steps, solver, num_probes, importance_samples):
    """(function of images, labels, guidance that gives their likelihood; what it is; its steps) for a network's kind."""
    from functools import partial

    from dg.evaluation.bounds import ddpm_bound, vae_bound
    from dg.evaluation.likelihood import bits_per_dim
    from dg.models.ddpm import DDPM
    from dg.models.vae import VAE

    if isinstance(net, DDPM):
        console.refuse({"solver", "num_probes", "importance_samples", "w2"}, "a DDPM")
        return (
            partial(ddpm_bound, net, num_steps=num_steps),
            "variational bound",
            num_steps or net.diffusion.num_steps,
        )
    if isinstance(net, VAE):
        console.refuse({"num_steps", "solver", "num_probes", "discriminator_ckpt"}, "a VAE")
        kind = (
            f"importance-weighted bound, K = {importance_samples}"
            if importance_samples
            else "negative ELBO"
        )
        return (
            lambda images, labels, guidance, **batch: vae_bound(
                net, images, num_samples=importance_samples, **batch
            ),
            kind,
            1,
        )
    if hasattr(net, "to_images"):
        raise ValueError(
            "the likelihood of images is not known of a model of latents; give a score network, DDPM or VAE"
        )
    console.refuse({"importance_samples"}, "a score network")
    num_steps = num_steps or 128
    return (
        partial(bits_per_dim, net, num_probes=num_probes, num_steps=num_steps, solver=solver),
        f"probability flow by {solver}",
        num_steps,
    )


def _flow_guidance(
    net, device, discriminator_ckpt, pretrained_classifier_ckpt, w1, w2, time_min, time_max
):
    if not discriminator_ckpt:
        return None
    from dg.checkpoints import load_discriminator
    from dg.guidance import DiscriminatorGuidance

    discriminator = load_discriminator(
        pretrained_classifier_ckpt, list(discriminator_ckpt), net, device=device
    )
    return DiscriminatorGuidance(discriminator, (w1, w2), time_min, time_max)


def _one_hot(net, images, part, device):
    """Labels of the images for a conditional network, None for another."""
    if not net.label_dim:
        return None
    if images.labels is None or images.num_classes > net.label_dim:
        raise ValueError(f"{images.name}: the network needs labels of {net.label_dim} classes")
    import torch

    return torch.eye(net.label_dim, device=device)[
        torch.from_numpy(images.labels[part.start : part.stop]).to(device)
    ]


if __name__ == "__main__":
    console.run(main, resumes=False)
