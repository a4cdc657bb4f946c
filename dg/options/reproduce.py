"""Options of reproduce.py."""

import click

from dg.experiments.registry import SETTINGS

OPTIONS = (
    click.option(
        "--setting",
        "--world",
        type=click.Choice(SETTINGS),
        help="Where to run a study: data, networks, sizes. Also --world.  [default: "
        "cifar10-uncond, churn: cifar10-cond]",
    ),
    click.option(
        "--profile",
        type=click.Choice(["full", "smoke"]),
        default="full",
        help="smoke: tiny and meaningless, to see that everything runs.",
    ),
    click.option(
        "--dry-run",
        is_flag=True,
        help="Print the stages and what they would cost, and run nothing.",
    ),
    click.option(
        "--stage", metavar="STAGE", help="Run this stage and what it needs, and nothing else."
    ),
    click.option(
        "--samples",
        type=click.IntRange(min=2),
        metavar="N",
        help="Images of every system in all.  [default: the setting's]",
    ),
    click.option(
        "--seeds-per-set",
        type=click.IntRange(min=2),
        metavar="N",
        help="Images of a measured set; --samples / N sets.  [default: the setting's]",
    ),
    click.option(
        "--shard",
        metavar="I/N",
        help="Of imagenet: make only every N-th part of the images of --stage, from part I on, "
        "counted from 0. Without it afterwards the rest is made and measured.",
    ),
    click.option(
        "--fresh",
        is_flag=True,
        help="Forget what earlier runs made; of a study: everything in its setting.",
    ),
    click.option(
        "--data",
        metavar="PATH",
        help="Data set of the experiment, where it is not embedded or downloaded.",
    ),
    click.option("--runs", default="runs", metavar="DIR", help="Where intermediate files stay."),
    click.option(
        "--results",
        default="results",
        metavar="DIR",
        help="Where results.json, pictures and report go.",
    ),
    click.option(
        "--publish",
        is_flag=True,
        help="Copy results and pictures to docs/results/NAME, fill the README.",
    ),
    click.option("--device", help="cpu, cuda, cuda:1 ...  [default: a GPU if there is one]"),
)


def reproduce_options(command):
    """All options of the command, in the order of its help."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command
