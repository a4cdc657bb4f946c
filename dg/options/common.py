"""What the declarations of all scripts share."""

import platform
from dataclasses import replace
from importlib import metadata

import click

from dg import __version__
from dg.runtime import console
from dg.runtime.addresses import public

SETTINGS = dict(max_content_width=110, show_default=True)  # of every command
version = click.version_option(__version__, message="%(prog)s %(version)s")


def declared(options):
    """A decorator that declares these options on a command, in their order."""

    def decorate(command):
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


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
        option.opts[0]: _public(context.params[option.name])
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


def _public(given):
    """A path or address, or several, without passwords."""
    several = isinstance(given, tuple | list)
    return [public(str(one)) for one in given] if several else public(str(given))


def precision_of(bf16, fp16):
    """The precision that the two flags ask for; None where neither says."""
    if bf16 and fp16:
        raise click.UsageError("--bf16 and --fp16: give one of them.")
    if bf16 is None and fp16 is None:
        return None
    return "bfloat16" if bf16 else "float16" if fp16 else "float32"
