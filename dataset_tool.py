#!/usr/bin/env python3
"""Make a data set of squares of one size: crop and scale images, and write them with their labels to
one file.

Options are those of EDM's dataset_tool.py.

\b
Examples:
  # a folder of photographs, with class folders as labels
  python dataset_tool.py --source photographs --dest data/photographs-64.zip \\
      --resolution 64x64 --transform center-crop
  # samples for ADM's evaluator
  python dataset_tool.py --source out --dest out.npz
"""

import click

from dg.options.common import SETTINGS, Command, finish, texts, version
from dg.options.dataset_tool import OPTIONS
from dg.runtime import console


@click.command(cls=Command, sections=OPTIONS, **texts(__doc__), context_settings=SETTINGS)
@version
def main(source, dest, most, resolution, transform):
    from dg.data.conversion import convert
    from dg.data.crops import transform_of
    from dg.data.datasets import open_images

    with console.option("--resolution" if resolution else "--transform"):
        transform = transform_of(transform, resolution)
    stream = open_images(source, notify=console.notify)
    count = convert(stream, dest, transform, most, console.progress, console.notify)
    finish([f"{dest}: {count} images"])


if __name__ == "__main__":
    console.run(main, resumes=False)
