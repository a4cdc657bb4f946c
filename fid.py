#!/usr/bin/env python3
"""Measure images against a reference: FID and other distances, KID, precision and recall, with their
uncertainty.

Options without a command are those of `calc`: `python fid.py calc --help` lists them.

\b
Examples:
  # generated images against the published statistics of CIFAR-10
  python fid.py --images out --ref fid-ref-cifar10-32x32 --num_samples 50000
  # three disjoint seed ranges of 50,000 images, on all GPUs
  torchrun --standalone --nproc_per_node=gpu fid.py calc --images out \\
      --ref fid-ref-cifar10-32x32 --num_samples 50000 --sets 3
  # a table of several sets, and the distance by the number in their names
  python fid.py --images epoch-10 --images epoch-20 --images epoch-30 \\
      --ref cifar10 --plot --outdir measured
  # statistics of your own data
  python fid.py ref --data my-images --dest my-images.npz
  # are generated images nearer to training images than unseen images are?
  python fid.py --images out --ref cifar10:test --train cifar10:train \\
      --metrics authenticity,memorised
  # how do generated images differ from the training images nearest to them?
  python fid.py neighbours --images runs/by-hand/guided --train digits:train \\
      --features pixels --out neighbours.png
  # in the features of a small classifier, where Inception says nothing
  python fid.py --images runs/by-hand/guided --ref digits \\
      --features runs/by-hand/features/classifier.safetensors
  # will this discriminator help? which window and weight?
  python fid.py diagnose --network runs/by-hand/score/network.safetensors \\
      --discriminator_ckpt runs/by-hand/disc/last.safetensors \\
      --data digits:test --images runs/by-hand/heldout --outdir diagnosed
  # bits per dimension of a network on test images
  python fid.py nll --network edm-cifar10-32x32-uncond-vp \\
      --data cifar10:test --num_samples 500
"""

import json as json_module
import time
from contextlib import nullcontext

import click

from dg.options.common import (
    SETTINGS,
    finish,
    head_file,
    input_file,
    processes,
    texts,
    used,
    version,
)
from dg.options.diagnosis import DIAGNOSE, check_diagnosis, diagnosis_of, keep_diagnosis
from dg.options.fid import CALC, NLL, REF, metrics_of
from dg.options.guidance import refuse_unused_classifier
from dg.options.neighbours import NEIGHBOURS, draw_neighbours
from dg.options.network import load
from dg.runtime import console
from dg.runtime.addresses import public
from dg.runtime.pretrained import classifier_of


class CalcByDefault(click.Group):
    """A group that takes options without a subcommand for those of `calc`."""

    def parse_args(self, ctx, args):
        if args and args[0] not in (*self.commands, "--help", "--version"):
            args = ["calc", *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=CalcByDefault,
    **texts(__doc__),
    no_args_is_help=True,
    context_settings=SETTINGS,
)
@version
def main():
    pass


@main.command(**CALC)
def calc(
    images,
    ref,
    train,
    num_samples,
    seed,
    sets,
    metrics,
    fid_infinity,
    as_json,
    outdir,
    plot,
    **extraction,
):
    metrics = metrics and metrics_of(metrics, train)
    if sets > 1 and (num_samples is None or seed is not None):
        raise click.UsageError(
            "--sets needs --num_samples, the size of each set, and no --seed; change the options."
        )
    if sets > 1 and fid_infinity:
        raise click.UsageError("--fid_infinity extrapolates one set of images; leave --sets out.")
    start, outdir = time.perf_counter(), outdir or ("fid-results" if plot else None)
    with processes() as ranks, _owned(outdir, ranks) as folder:  # refused before any work
        measurement = _measurement(ranks, metrics, fid_infinity, **extraction)
        jobs = {}
        for source in measurement.sources(images):  # refused before any work
            jobs[source] = measurement.open(source, num_samples, seed, sets)
        with console.option("--train"):
            train = train and measurement.find(train)
        reference = measurement.reference(ref)
        with console.option("--train"):
            training = train and measurement.training(train, reference)
        for source, parts in jobs.items():
            with console.option("--fid_infinity"):
                measurement.check_extrapolation(source, parts, reference)
            measurement.check(source, parts, reference, training)
        rows = {
            source: measurement.measure(source, parts, reference, training)
            for source, parts in jobs.items()
        }
        if not ranks.first:
            return
        seconds = {"measure": time.perf_counter() - start}
        outcome = measurement.results(reference, rows, training) | _provenance(
            seconds, measurement.extractor.device
        )
        if folder is not None:
            _write(folder, outcome, plot)
    if as_json:
        click.echo(json_module.dumps(outcome, indent=2))
    else:
        from dg.evaluation.tables import measurement_table

        click.echo(measurement_table(outcome))


def _measurement(
    ranks, metrics, extrapolate, features, weights, unpublished_weights, batch, device
):
    """The measurement that the options describe; the first process speaks."""
    from dg.evaluation.features import load_extractor
    from dg.evaluation.measurement import Measurement

    device = console.pick_device(device, ranks.rank)
    on_cpu = 4 if features == "inception" else 16  # larger ones only take memory and time there
    batch = batch or (on_cpu if device.type == "cpu" else 64)
    progress, notify = console.shown_by(ranks)
    with console.option("--features" if weights is None else "--weights"):
        extractor = load_extractor(features, weights, device, unpublished_weights, progress, notify)
    return Measurement(
        extractor,
        metrics,
        extrapolate,
        batch_size=batch,
        ranks=ranks,
        progress=progress,
        notify=notify,
    )


def _provenance(seconds, device):
    from dg.runtime.provenance import provenance

    return provenance(console.command_line(), seconds, device)


def _owned(outdir, ranks):
    """The folder of the results for this run alone; None where none are to be kept."""
    from dg.runtime.run_folder import sole_writer

    return nullcontext() if outdir is None else sole_writer(outdir, ranks)


def _write(folder, outcome, plot):
    """results.json, and the figures that the results allow."""
    from dg.runtime.files import write_json

    write_json(folder / "results.json", outcome)
    names = ["results.json"]
    if plot:
        from dg.evaluation.figures.measurements import draw_measurements

        draw_measurements(folder, outcome)
        names += sorted(path.name for path in folder.glob("*.png"))
    finish([f"{', '.join(names)} in {folder}"])


@main.command(**REF)
def ref(data, dest, num_samples, keep_features, **extraction):
    from dg.data.array_files import is_statistics
    from dg.evaluation.feature_sets import save_features
    from dg.runtime.files import writable_file

    dest = writable_file(dest)
    if dest.exists() and not is_statistics(dest):
        raise click.UsageError(f"--dest {dest} is no file of statistics; give another name.")
    with processes() as ranks:
        measurement = _measurement(ranks, None, False, **extraction)
        (part,) = measurement.open(data, num_samples)
        if part is None:
            raise ValueError(f"{data} holds statistics already; give the images themselves")
        found = measurement.collect(*part, keep=keep_features)
        if ranks.first:
            save_features(dest, found, used())
            lines = [
                f"{dest}: {found.num_images} images, {len(found.mu)} features of "
                f"{measurement.extractor.name}"
            ]
            if not keep_features:
                lines.append(
                    "KID, precision and recall will be missing: they need every image's features "
                    "(--keep_features)"
                )
            same = [
                word
                for name in ("features", "weights")
                if console.given(name)
                for word in (f"--{name}", extraction[name])
            ]
            finish(lines, ["fid.py", "--images", "IMAGES", "--ref", dest, *same])


@main.command(**NEIGHBOURS)
def neighbours(images, train, out, num_samples, k, **extraction):
    with processes() as ranks:
        measurement = _measurement(ranks, None, False, **extraction)
        draw_neighbours(measurement, images, train, out, num_samples, k)


# Options of `nll` that mean nothing for a kind of model.
MEANINGLESS = {
    "DDPM": {"solver", "num_probes", "importance_samples", "w2"},
    "VAE": {"num_steps", "solver", "num_probes", "discriminator_ckpt"},
    "score network": {"importance_samples"},
}


@main.command(**NLL)
def nll(network, data, num_samples, seed, batch, device, as_json, **settings):
    from dg.data.datasets import load_images
    from dg.evaluation.likelihood_estimators import likelihood_estimator
    from dg.runtime.downloads import resolve
    from dg.training_data import random_subset

    start = time.perf_counter()
    names = ("num_steps", "solver", "num_probes", "importance_samples")
    flow = {name: settings.pop(name) for name in names}
    with processes() as ranks:
        device = console.pick_device(device, ranks.rank)
        path = resolve(network, console.progress, console.notify)
        progress, notify = console.shown_by(ranks)
        net = load(path, device, notify, settings)
        estimator = likelihood_estimator(net, **flow)
        console.refuse(MEANINGLESS[estimator.model], f"a {estimator.model}")
        images = load_images(data, notify=notify)
        if num_samples is not None and seed is None:
            images = images.take(num_samples)
        elif num_samples is not None:
            images = random_subset(images, num_samples, seed)
        guidance = _guidance(net, device, **settings)
        likelihood = estimator(images, guidance, batch_size=batch, ranks=ranks, progress=progress)
    if likelihood is None:
        return
    terms = {name: float(values.mean()) for name, values in likelihood.terms.items()}
    if not as_json:
        click.echo(_sentence(likelihood, terms, images, estimator.kind))
        return
    outcome = {
        "network": public(network),
        "data": images.name,
        "fingerprint": images.fingerprint(),
        "num_images": len(images),
        "guided": guidance is not None,
        "bits_per_dim": likelihood.mean,
        "standard_error": likelihood.standard_error,
        "kind": estimator.kind,
        "terms": terms,
        "num_evaluations": float(likelihood.num_evaluations.mean()),
        "num_steps": estimator.num_steps,
    }
    seconds = {"nll": time.perf_counter() - start}
    click.echo(json_module.dumps(outcome | _provenance(seconds, device), indent=2))


def _sentence(likelihood, terms, images, kind):
    listed = "".join(f", {name} {value:.4f}" for name, value in terms.items())
    return (
        f"{likelihood.mean:.4f} ± {likelihood.standard_error:.4f} bits/dim over {len(images)} "
        f"images of {images.name} ({kind}{listed if len(terms) > 1 else ''}; ± one standard error; "
        f"{likelihood.num_evaluations.mean():.0f} evaluations each)"
    )


def _guidance(
    net, device, discriminator_ckpt, pretrained_classifier_ckpt, w1, w2, time_min, time_max
):
    if not discriminator_ckpt:
        return None
    from dg.checkpoints import load_discriminator
    from dg.guidance import DiscriminatorGuidance

    heads = [head_file(name) for name in discriminator_ckpt]
    classifier = input_file(pretrained_classifier_ckpt or classifier_of(discriminator_ckpt))
    discriminator = load_discriminator(classifier, heads, net, device=device)
    refuse_unused_classifier(discriminator)
    return DiscriminatorGuidance(discriminator, (w1, w2), time_min, time_max)


@main.command(**DIAGNOSE)
def diagnose(outdir, store, device, **options):
    from dg.evaluation.diagnosis_report import diagnosis_text

    check_diagnosis(options, store)
    start = time.perf_counter()
    with processes() as ranks, _owned(outdir, ranks) as folder:
        device = console.pick_device(device, ranks.rank)
        outcome = diagnosis_of(options, device, *console.shown_by(ranks))
        if not ranks.first:
            return
        outcome |= _provenance({"diagnose": time.perf_counter() - start}, device)
        click.echo(diagnosis_text(outcome))
        keep_diagnosis(outcome, options, folder, store)


if __name__ == "__main__":
    console.run(main, resumes=False)
