"""Options of fid.py neighbours, and the sheet that they ask for."""

import click

from dg.options.common import Command, finish
from dg.options.fid import COMPUTATION, FEATURES
from dg.runtime import console

SHOWN = 16  # images of a sheet, where no number is given

NEIGHBOURS = dict(
    cls=Command,
    help="Draw generated images, each beside the training images that are nearest to it in the "
    "features.",
    sections={
        "Images": [
            click.option(
                "--images",
                required=True,
                type=console.InputPath(),
                metavar="PATH",
                help="Generated images.",
            ),
            click.option(
                "--train",
                required=True,
                type=console.InputPath(),
                metavar="PATH|NAME",
                help="Training images of the generator.",
            ),
            click.option(
                "--num_samples",
                "--num",
                type=click.IntRange(min=2),
                metavar="N",
                help=f"Number of generated images, the first N.  [default: {SHOWN}, or all]",
            ),
            click.option(
                "--k",
                type=click.IntRange(min=1),
                default=5,
                metavar="K",
                help="Number of training images beside each.",
            ),
        ],
        "Features": FEATURES,
        "Output": [
            click.option(
                "--out",
                required=True,
                type=console.OutputPath(),
                metavar="PATH",
                help="The PNG file to write.",
            ),
        ],
        "Computation": COMPUTATION,
    },
)


def draw_neighbours(measurement, images, train, out, num_samples, k):
    """Write the sheet, and tell how far the nearest images are."""
    import numpy as np

    from dg.data.reader import open_images
    from dg.evaluation.figures import neighbour_sheet
    from dg.evaluation.memorisation import nearest_training
    from dg.runtime.files import writable_file

    out, notify = writable_file(out), measurement.notify
    streams = [open_images(source, notify=notify) for source in (images, train)]
    sizes = [stream.shape for stream in streams]
    if sizes[0] != sizes[1]:
        found = ["{}x{} with {} channels".format(*size) for size in sizes]
        raise ValueError(
            f"{streams[0].name} has images of {found[0]}, but {streams[1].name} of {found[1]}; "
            "give images of one size"
        )
    generated, training = streams
    shown = generated.positions(num_samples or min(SHOWN, len(generated)))
    given = [(generated, shown), (training, training.positions(None))]
    found = [measurement.collect(*part) for part in given]
    if not measurement.ranks.first:
        return
    distances, index = nearest_training(*(one.features for one in found), k)
    every, place = np.unique(index, return_inverse=True)
    beside = training.read(every)[place.reshape(index.shape)]
    neighbour_sheet(out, generated.read(shown), beside)
    nearest = distances[:, 0]
    told = f"their nearest ones are at {nearest.min():.3g} to {nearest.max():.3g}"
    name = measurement.extractor.name
    finish(
        [
            f"{out}: {len(shown)} images of {generated.name}, each with the {k} nearest of "
            f"{len(training)} training images (features: {name}); {told}"
        ],
        ["fid.py", "--images", images, "--ref", "UNSEEN", "--train", train],
    )
