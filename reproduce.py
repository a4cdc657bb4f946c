"""Run a named experiment from end to end: results table, pictures, report.

\b
Examples:
  python reproduce.py                    # digits: minutes on a laptop's CPU, nothing to download
  python reproduce.py digits --fresh     # the same, forgetting earlier runs
  python reproduce.py two-gaussians      # every loss of the discriminator against the closed form
  python reproduce.py mnist-recipes --data mnist.npz    # the authors' recipe against the default one

Stages that are done are not repeated; after an interruption the same command goes on.
"""

import shlex
import sys
from pathlib import Path

import click

from dg.runtime import console

EXPERIMENTS = {  # name: module of dg.experiments
    "digits": "digits",
    "two-gaussians": "two_gaussians",
    "mnist-recipes": "mnist_recipes",
}


@click.command(help=__doc__, context_settings=dict(max_content_width=110, show_default=True))
@click.argument("name", default="digits", metavar="[NAME]")
@click.option("--profile", type=click.Choice(["full", "smoke"]), default="full",
              help="smoke: tiny and meaningless, to see that everything runs.")
@click.option("--fresh", is_flag=True, help="Forget what earlier runs made.")
@click.option("--data", metavar="PATH", help="Data set of the experiment, where it is not embedded or downloaded.")
@click.option("--runs", default="runs", metavar="DIR", help="Where intermediate files stay.")
@click.option("--results", default="results", metavar="DIR", help="Where results.json, pictures and report go.")
@click.option("--publish", is_flag=True, help="Copy results and pictures to docs/results/NAME, fill the README.")
@click.option("--device", help="cpu, cuda, cuda:1 ...  [default: a GPU if there is one]")
def main(name, profile, fresh, data, runs, results, publish, device):
    if name not in EXPERIMENTS:
        raise click.UsageError(f"there is no experiment {name!r}; there are: {', '.join(EXPERIMENTS)}.")
    from importlib import import_module

    from dg.experiments.stages import Stages
    from dg.runtime.files import writable_folder

    experiment = import_module(f"dg.experiments.{EXPERIMENTS[name]}")
    suffix = name if profile == "full" else f"{name}-{profile}"
    run_folder, result_folder = (writable_folder(Path(base) / suffix) for base in (runs, results))
    if fresh:
        Stages(run_folder).clear()
    command = shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])
    outcome = experiment.run(experiment.PROFILES[profile], run_folder, result_folder, command,
                             console.pick_device(device), console.progress, console.notify, data)
    click.echo(experiment.text_table(outcome))
    click.echo(f"report: {result_folder / 'report.html'}")
    if publish:
        from dg.experiments import publish as publishing
        from dg.experiments import readme

        click.echo(f"published to {publishing.publish(result_folder, name)}")
        readme.fill()


if __name__ == "__main__":
    console.run(main)
