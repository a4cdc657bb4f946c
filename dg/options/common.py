"""Shared by the options of all scripts: help with headings, files by name, closing lines."""

import os
import platform
import shlex
from contextlib import contextmanager
from importlib import metadata
from itertools import chain, product

import click

from dg import __version__
from dg.runtime import console
from dg.runtime.addresses import public
from dg.runtime.processes import process_group

SETTINGS = dict(max_content_width=110, show_default=True)  # of every command
version = click.version_option(__version__, message="%(prog)s %(version)s")
DEVICE = click.option(
    "--device",
    metavar="DEVICE",
    help="Device to compute on: cpu, cuda, cuda:1 ...  [default: a GPU if there is one]",
)
WIDEST = 30  # columns of an option's name in a help text; the text of a longer one starts below


class Command(click.Command):
    """A command whose help lists the options under headings, and which does not write to what it
    reads.

    sections  {heading: options, as `click.option` declares them}
    """

    def __init__(self, *args, sections, **kwargs):
        super().__init__(*args, **kwargs)
        self.sections = {heading: _declared(options) for heading, options in sections.items()}
        self.params = [*chain(*self.sections.values()), *self.params]

    def invoke(self, ctx):
        _check_apart(ctx)
        return super().invoke(ctx)

    def format_options(self, ctx, formatter):
        listed = [*chain(*self.sections.values())]
        others = [param for param in self.get_params(ctx) if param not in listed]
        rows = {
            heading: [
                param.get_help_record(ctx) for param in params if param.param_type_name == "option"
            ]
            for heading, params in (*self.sections.items(), ("Help", others))
        }
        width = min(WIDEST, max(len(name) for name, _ in chain(*rows.values())))
        for heading, section in rows.items():
            with formatter.section(heading):
                formatter.write_dl([(f"{name:<{width}}", text) for name, text in section], WIDEST)


def texts(docstring):
    """Help and epilog of a command; the epilog begins where the examples do."""
    text, mark, examples = docstring.partition("\b\nExamples:")
    return dict(help=text, epilog=mark + examples)


def _declared(options):
    """The options as click's objects."""
    holder = click.Command(None)
    for option in options:
        option(holder)
    return holder.params


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
    """The file of a discriminator's head. A folder of train.py stands for its best head, or for the
    last if it has no validation images."""
    from dg.checkpoints import trained_head

    path = input_file(name)
    if not path.is_dir() or not trained_head(path).is_file():
        return path
    if console.speaks():
        console.notify(f"{name}: the discriminator {trained_head(path).name} in it is taken")
    return trained_head(path)


def finish(lines, *following):
    """Tell how a command ended, in at most four lines.

    lines      sentences: the work done, and where its files are
    following  commands to type next, each as its words; None is none. Words in capitals stand for
               names that the user chooses
    """
    for line in lines:
        console.notify(line)
    for words in following:
        if words:
            console.notify(f"next: {shlex.join(['python', *map(str, words)])}")


def computable(settings, device, asked):
    """Settings of a training, in float32 if the preset asks for bfloat16 and the device has no
    instructions for it.

    device  a name, or None for the device that is taken by default
    asked   whether an option asks for the precision, which is then kept
    """
    if asked or settings.precision != "bfloat16":  # torch need not be imported
        return settings
    from dg import precision

    device = console.pick_device(device)
    found = precision.computable(settings, device)
    if found is not settings and console.speaks():
        console.notify(
            f"computing in float32: the preset asks for bfloat16, for which this {device.type} has "
            "no instructions (--bf16 insists)"
        )
    return found


def used():
    """The current command, its paths and the versions, for files that record how a result was
    made."""
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
    """The precision that the two flags ask for; None if neither is given."""
    if bf16 and fp16:
        raise click.UsageError("--bf16 and --fp16 are both given; give one of them.")
    if bf16 is None and fp16 is None:
        return None
    return "bfloat16" if bf16 else "float16" if fp16 else "float32"
