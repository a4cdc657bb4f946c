"""How the scripts talk: options shared between them, progress bars, one line for an error, exit
codes.

Exit codes: 0 done, or ended in good order on SIGTERM (see `stoppable`); 2 the command or its input
was wrong; 1 anything else; 130 ended by Ctrl-C, in good order or at once; 143 terminated at once.
"""

import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import click

from dg.runtime.addresses import public
from dg.runtime.allocator import keep_memory
from dg.runtime.files import name_user
from dg.runtime.processes import Ranks
from dg.runtime.progress import Progress, Stopped, plain_lines, silent, unheard
from tensor_files.reading import shown

__all__ = [
    "FLAG",
    "InputPath",
    "OutputPath",
    "allow_tf32",
    "as_notice",
    "command_line",
    "compute_exactly",
    "given",
    "notify",
    "option",
    "pick_device",
    "progress",
    "refuse",
    "run",
    "shown_by",
    "silent",
    "speaks",
    "stoppable",
]


class Flag(click.Option):
    """An option whose value may be left out: `--x`, `--x 1`, `--x=True`, `--x=0`."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._flag_needs_value = True  # click 8.3 forgets it where the option has a default


FLAG = dict(cls=Flag, is_flag=False, flag_value="1", type=click.BOOL, metavar="[BOOL]")


class Terminated(BaseException):
    """SIGTERM arrived."""


def given(name):
    """Whether the command line of the current command gives this option."""
    source = click.get_current_context().get_parameter_source(name)
    return source == click.core.ParameterSource.COMMANDLINE


def refuse(names, what):
    """Refuse options that are given although they mean nothing for `what`."""
    for option in click.get_current_context().command.params:
        if option.name in names and given(option.name):
            raise click.UsageError(f"{option.opts[0]} means nothing for {what}; leave it out.")


@contextmanager
def option(name: str):
    """A ValueError raised within becomes a usage error that begins with the option's name."""
    try:
        yield
    except ValueError as error:
        raise click.UsageError(f"{name}: {error}") from error


class InputPath(click.ParamType):
    """A path, name or URL; an absolute path that is not there is looked for in the current folder.

    The authors' code puts the current folder in front of every path, and the commands they publish
    count on it.
    """

    name = "path"

    def convert(self, value, param, ctx):
        value = _at_home(value)
        path = Path(value)
        inside = Path(*path.parts[1:])
        if not path.is_absolute() or path.exists() or inside == Path() or not inside.exists():
            return value
        notify(f"{value} does not exist; taking {inside} in the current folder")
        return str(inside)


class OutputPath(click.ParamType):
    """A file or folder to write; `~` is the user's home, also where the shell leaves it alone:
    `--outdir=~/x`."""

    name = "path"

    def convert(self, value, param, ctx):
        found = _at_home(value)
        if str(found).startswith("~"):
            told = "that home folder is not known; write the path in full, or with ./ before it"
            self.fail(f"{value}: {told}", param, ctx)
        return found


def _at_home(value):
    return os.path.expanduser(value) if isinstance(value, str) else value


def progress(iterable, **kwargs):
    """tqdm on standard error, or a plain line every 30 s where that is no terminal; nothing where
    there is nothing to do."""
    if not sys.stderr.isatty():
        return plain_lines(iterable, notify, PLAIN_SECONDS, **kwargs)
    from tqdm import tqdm

    return tqdm(
        iterable, file=sys.stderr, dynamic_ncols=True, disable=kwargs.get("total") == 0, **kwargs
    )


PLAIN_SECONDS = 30  # between two lines


def stoppable(progress: Progress, agree: Callable[[bool], bool] = bool) -> Progress:
    """A progress whose loop ends in good order on SIGTERM and Ctrl-C: the item in work is finished,
    then `Stopped` is raised.

    agree  of processes that work in step: whether any of them has been asked (`Ranks.any`), so that
           all end together

    A second signal ends at once. One that is ignored, as Ctrl-C is by jobs in the background, stays
    ignored. One that arrives at the last item of a loop ends the next loop of this progress.
    """
    _asked.clear()

    def iterate(iterable, **kwargs):
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        heeded = [number for number in before if before[number] is not signal.SIG_IGN]
        for number in heeded:
            signal.signal(number, _ask)
        try:
            for item in progress(iterable, **kwargs):
                if agree(bool(_asked)):
                    raise Stopped
                yield item
        finally:
            for number in heeded:
                signal.signal(number, before[number])

    return iterate


_asked = {}  # what signals have left for a stoppable loop to find: number -> when
SAME_SECONDS = 1  # torchrun passes on the Ctrl-C that its processes get from the terminal too


def asked() -> bool:
    """Whether a signal has asked this process to end in good order."""
    return bool(_asked)


def _ask(number, frame):
    now = time.monotonic()
    if _asked and not (_of_several() and now - min(_asked.values()) < SAME_SECONDS):
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        _terminate(number, frame)
    _asked.setdefault(number, now)
    if number == signal.SIGINT and speaks():  # not through a stream, which may be at work itself
        os.write(2, b"\nfinishing what is in work; Ctrl-C again stops at once\n")


def _of_several():
    return os.environ.get("WORLD_SIZE", "1") != "1"


def speaks() -> bool:
    """Whether this process tells what all of them do: of several the first."""
    return os.environ.get("RANK", "0") == "0"


def notify(line: str) -> None:
    """One line for the person at the terminal; standard output stays clean."""
    click.echo(public(line), err=True)


def shown_by(ranks: Ranks) -> tuple[Progress, Callable[[str], None]]:
    """(`progress`, `notify`) of this process: of several the first one speaks."""
    return (progress, notify) if ranks.first else (silent, unheard)


def command_line() -> str:
    """The command as it was given, for the files that say how something was made."""
    return public(shlex.join(["python", os.path.basename(sys.argv[0]), *sys.argv[1:]]))


@contextmanager
def as_notice(what: str):
    """A failure within, to write what is no more than an extra, is told in one line and
    forgiven."""
    try:
        yield
    except (ValueError, OSError) as error:
        notify(f"{what} has not been written: {' '.join(str(error).split())}")


def pick_device(name: str | None, rank: int = 0):
    """The device to compute on: the one asked for, else this rank's GPU if there is one. ValueError
    if it is not there."""
    import torch

    if name is None:
        local = int(os.environ.get("LOCAL_RANK", rank))  # among the processes of this machine
        name = f"cuda:{local % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
    try:
        return torch.zeros(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ValueError(
            f"--device {name}: not available here; use cpu or leave the option out"
        ) from None


def compute_exactly() -> None:
    """Full float32 on GPUs: neither TF32 nor autotuned algorithms that differ from run to run."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False


def allow_tf32() -> None:
    """Let GPUs round the factors of matrix products and convolutions to TF32, as the authors' code
    for ImageNet does."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True


def run(command: click.Command, resumes: bool = True) -> None:
    """Run a script's command and leave with its exit code; a user sees one line for whatever he can
    mend.

    resumes  whether the command goes on where it was interrupted
    """
    signal.signal(signal.SIGTERM, _terminate)
    keep_memory()
    name_user()
    name = os.path.basename(sys.argv[0])
    again = (
        "the same command again goes on where this one stopped"
        if resumes
        else "give the command again"
    )
    try:
        code = command.main(standalone_mode=False) or 0
    except click.ClickException as error:
        _leave(f"{name}: {error.format_message()}", 2)
    except (KeyboardInterrupt, click.Abort):
        _leave(f"{name}: interrupted; {again}", 130)
    except Terminated:
        _leave(f"{name}: terminated; {again}", 143)
    except Stopped:
        told = f"{name}: stopped in good order; {again}"
        _leave(told if speaks() else "", 130 if signal.SIGINT in _asked else 0)
    except (ValueError, OSError, MemoryError, OverflowError, RuntimeError) as error:
        if os.environ.get("DG_DEBUG"):
            raise
        _leave(f"{name}: {_told(error)}", 2 if isinstance(error, ValueError) else 1)
    _exit(code)


ADVICE = {  # what a message of the system or of torch holds -> what to do
    "out of memory|not enough memory|allocate memory": "give less at once, such as a smaller batch",
    "No space left|PytorchStreamWriter|quota exceeded": "free some space on the disk",
    "EADDRINUSE|[Aa]ddress already in use": "the port is taken, set MASTER_PORT to another",
}


def _told(error: Exception) -> str:
    """An error in one line. Our own say what to do; torch's and the system's are cut, as torch
    tells them in many lines."""
    if isinstance(error, ValueError):
        return str(error)
    text = "out of memory" if isinstance(error, MemoryError) and not str(error) else shown(error)
    advice = [todo for words, todo in ADVICE.items() if re.search(words, str(error) or text)]
    return f"{text}; {(advice or ['DG_DEBUG=1 before the command shows where'])[0]}"


def _terminate(number, frame):
    raise Terminated


def _leave(message: str, code: int) -> None:
    if "tqdm" in sys.modules:
        for bar in list(sys.modules["tqdm"].tqdm._instances):
            bar.close()  # ends its line, so that the message has its own
    if message:
        click.echo(public(" ".join(message.split())), err=True)
    _exit(code)


def _exit(code: int) -> None:
    """Of several processes each ends at once: a thread of gloo that outlives the interpreter would
    abort it now and then."""
    if not _of_several():
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
