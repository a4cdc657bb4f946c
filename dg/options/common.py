"""What the declarations of all scripts share."""

import click

from dg import __version__
from dg.runtime import console

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
