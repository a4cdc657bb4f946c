"""Measure images: Fréchet distance, KID, precision and recall against a reference, in the features of a classifier.

\b
Examples:
  python fid.py --images runs/by-hand/guided --ref digits --features runs/by-hand/features/classifier.safetensors
  python fid.py --images runs/by-hand/guided --ref digits:heldout --features .../classifier.safetensors --json

Distances in a small classifier's features are no Inception FID: compare them only with others in the same features.
"""

import json as json_module

import click

from dg.runtime import console


@click.command(help=__doc__, context_settings=dict(max_content_width=110, show_default=True))
@click.option("--images", required=True, multiple=True, metavar="PATH", help="Generated images; repeat it for a table.")
@click.option("--ref", required=True, metavar="PATH|NAME", help="Reference images.")
@click.option("--features", required=True, metavar="PATH", help="Feature classifier, from `pretrain.py features`.")
@click.option("--num_samples", type=click.IntRange(min=2), metavar="N", help="Use the first N generated images.")
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
def main(images, ref, features, num_samples, as_json):
    from dg.evaluation.classifier import extract_features, load_classifier
    from dg.evaluation.measure import measure
    from dg.runtime.datasets import load_images

    model = load_classifier(features)
    reference = extract_features(model, load_images(ref))
    rows = {}
    for source in images:
        generated = load_images(source, num_samples)
        rows[source] = {"n": len(generated)} | measure(extract_features(model, generated), reference)
    if as_json:
        click.echo(json_module.dumps({"reference": ref, "n_reference": len(reference), "features": features,
                                      "metrics": rows}, indent=2))
        return
    click.echo(f"{'images':<32} {'n':>7} {'FD':>9} {'KID':>9} {'precision':>9} {'recall':>9}")
    for source, row in rows.items():
        click.echo(f"{source:<32} {row['n']:>7} {row['fd']:9.4f} {row['kid']:9.4f} {row['precision']:9.4f} "
                   f"{row['recall']:9.4f}")


if __name__ == "__main__":
    console.run(main)
