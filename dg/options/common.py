"""What the declarations of all scripts share."""

import os
import platform
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from importlib import metadata
from itertools import product

import click

from dg import __version__
from dg.runtime import console
from dg.runtime.processes import process_group

SETTINGS = dict(max_content_width=110, show_default=True)  # of every command
version = click.version_option(__version__, message="%(prog)s %(version)s")


def declared(options):
    """A decorator that declares these options on a command, in their order; the command does not
    write to what it reads."""

    def decorate(function):
        @wraps(function)
        def command(**values):
            _check_apart(click.get_current_context())
            return function(**values)

        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _check_apart(context):
    """UsageError where an option names a place to write to that another one names to read from."""
    reads, writes = (
        [
            (option.opts[0], value)
            for option in context.command.params
            if isinstance(option.type, kind) and context.params.get(option.name)
            for value in _listed(context.params[option.name])
        ]
        for kind in (console.InputPath, console.OutputPath)
    )
    for (target, place), (source, read) in product(writes, reads):
        if any(_same(name, place) for name in (read, read.rpartition(":")[0])):  # before a split
            raise click.UsageError(f"{target} {place} is what {source} reads; give another place.")


def _same(name, place):
    """Whether a name that is read from is the path of a place that is there."""
    if not (os.path.exists(name) and os.path.exists(place) and os.path.samefile(name, place)):
        return False
    from dg.data.named_sets import SPLITS

    return name not in SPLITS


def _listed(value):
    return value if isinstance(value, (list, tuple)) else [value]


@contextmanager
def processes(on_gpus=False):
    """The processes of this run, as of `process_group`; they say where they wait for long, and hear
    signals meanwhile. ValueError where they have not been given the same options; devices may
    differ."""
    context = click.get_current_context()
    options = {option.name: option.opts[0] for option in context.command.params}
    given = {options[name]: value for name, value in context.params.items() if name != "device"}
    with process_group(on_gpus, console.notify, console.asked) as ranks:
        ranks.agree(given | {"code version": __version__})
        yield ranks


def input_file(name):
    """The local file that a path, URL or published name stands for; None for None."""
    from dg.runtime.downloads import resolve

    return name and resolve(name, console.progress, console.notify)


def head_file(name):
    """The file of a discriminator; of a folder that train.py has written its best head, or the last
    where it has kept no images to tell."""
    from dg.checkpoints import trained_head

    path = input_file(name)
    if not path.is_dir() or not trained_head(path).is_file():
        return path
    if console.speaks():
        console.notify(f"{name}: the discriminator {trained_head(path).name} in it is taken")
    return trained_head(path)


def computable(settings, device, asked):
    """Settings of a training, in float32 where a preset asks for bfloat16 that the device is slow
    in.

    device  a name, or None for the device that is taken by default
    asked   whether an option asks for the precision, which is then kept
    """
    if asked or settings.precision != "bfloat16":
        return settings
    from dg.precision import has_bfloat16

    device = console.pick_device(device)
    if has_bfloat16(device):
        return settings
    if console.speaks():
        console.notify(
            f"computing in float32: the preset asks for bfloat16, for which this {device.type} has "
            "no instructions (--bf16 insists)"
        )
    return replace(settings, precision="float32")


def used():
    """What the current command was given, for the files that say how something was made."""
    context = click.get_current_context()
    paths = {
        option.opts[0]: context.params[option.name]
        for option in context.command.params
        if isinstance(option.type, (console.InputPath, console.OutputPath))
        and context.params.get(option.name)
    }
    versions = {name: metadata.version(name) for name in ("torch", "numpy")}
    return {
        "command": console.command_line(),
        "paths": paths,
        "versions": {"discriminator-guidance": __version__, "python": platform.python_version()}
        | versions,
    }


def precision_of(bf16, fp16):
    """The precision that the two flags ask for; None where neither says."""
    if bf16 and fp16:
        raise click.UsageError("--bf16 and --fp16: give one of them.")
    if bf16 is None and fp16 is None:
        return None
    return "bfloat16" if bf16 else "float16" if fp16 else "float32"
