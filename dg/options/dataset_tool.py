"""Options of dataset_tool.py."""

import re

import click

from dg.runtime import console


class Resolution(click.ParamType):
    """`64x64`, `64,64` or `64`; (width, height)."""

    name = "resolution"

    def convert(self, value, param, ctx):
        if not isinstance(value, str):
            return value
        match = re.fullmatch(r"(\d{1,5})(?:[x,](\d{1,5}))?", value)
        if match is None or 0 in (size := (int(match[1]), int(match[2] or match[1]))):
            self.fail(f"{value!r} is no size; write for example 64x64", param, ctx)
        return size


OPTIONS = {
    "Files": [
        click.option(
            "--source",
            required=True,
            type=console.InputPath(),
            metavar="PATH|NAME",
            help="Images to read: a folder, zip or npz, the folder of generate.py, or a name such "
            "as cifar10. Class folders are labels.",
        ),
        click.option(
            "--dest",
            required=True,
            type=console.OutputPath(),
            metavar="FILE",
            help="The file to write: a .zip as EDM's, or an .npz that ADM's evaluator reads.",
        ),
        click.option(
            "--max-images",
            "--max_images",
            "most",
            type=click.IntRange(min=1),
            metavar="N",
            help="Take the first N images.  [default: all]",
        ),
    ],
    "Size": [
        click.option(
            "--resolution",
            type=Resolution(),
            metavar="WxH",
            help="Size of the images, for example 64x64.  [default: as they are]",
        ),
        click.option(
            "--transform",
            type=click.Choice(["center-crop", "center-crop-wide", "center-crop-dhariwal"]),
            help="Crop before scaling: the middle square; a band of W x H in a black square of W "
            "x W; or the middle square as ADM makes it.  [default: no crop]",
        ),
    ],
}
