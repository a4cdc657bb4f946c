"""Run the scripts by their command lines and keep what they print."""

import contextlib
import importlib
import io
import json
import os
import re
import runpy
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest

from dg.data.datasets import load_images
from dg.runtime import console
from tests.warm import ROOT, Started

# Runs a script that tells its progress after every item, and not every 30 s.
TOLD = """
import runpy, sys
from dg.runtime import console
console.PLAIN_SECONDS = 0
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
BAR = re.compile(r"[\w :.-]+:\s+\d+%\|[^|]*\|[^\[\n]*\[[^\]]*\]")  # one state of a tqdm bar

NEXT = "next: "


class Done(NamedTuple):
    """What a script left behind: its exit code and the text of both streams."""

    code: int
    out: str
    err: str

    @property
    def lines(self):
        """Lines on standard error, without progress bars and the commands to type next."""
        return [line for line in self._lines if not line.startswith(NEXT)]

    @property
    def following(self):
        """The commands to type next."""
        return [line.removeprefix(NEXT) for line in self._lines if line.startswith(NEXT)]

    @property
    def _lines(self):
        lines = BAR.sub("", self.err.replace("\r", "\n")).splitlines()
        return [line for line in lines if line.strip()]


def words(command, places):
    return [word.format_map(places) for word in shlex.split(command)]


def run(command, **places):
    """Run `generate --seeds 0-3 --network {net}` in this process, names in braces from `places`."""
    script, *arguments = words(command, places)
    return _left(script, arguments, lambda: console.run(importlib.import_module(script).main))


def run_file(command, **places):
    """The same by the script's file, from its first line to its last."""
    script, *arguments = words(command, places)
    file = str(ROOT / f"{script}.py")
    return _left(script, arguments, lambda: runpy.run_path(file, run_name="__main__"))


def _left(script, arguments, call):
    """What a call leaves behind that ends like a script."""
    out, err, handler = io.StringIO(), io.StringIO(), signal.getsignal(signal.SIGTERM)
    try:
        with (
            mock.patch.object(sys, "argv", [f"{script}.py", *arguments]),
            pytest.raises(SystemExit) as left,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            call()
    finally:
        signal.signal(signal.SIGTERM, handler)
    return Done(left.value.code, out.getvalue(), err.getvalue())


def succeed(command, **places):
    done = run(command, **places)
    assert done.code == 0, done.err
    return done


def leads_to(done, *commands):
    """Check what a script tells to type next, and that the options there exist."""
    assert done.following == [f"python {command}" for command in commands]
    for command in commands:
        succeed(f"{command.replace('.py', '', 1)} --help")


def start(command, places, code=None, environment=None):
    """A script in a process of its own that has imported everything already.

    code         run in its place, which finds the script and its options in sys.argv from 1 on
    environment  variables beside those of this process
    """
    argv = [*(["-c"] if code else []), *_argv(command, places)]
    return Started(argv, code, {**os.environ, **(environment or {})})


def start_together(command, places, code=None, world=2, ranks=None):
    """A script in several such processes, as torchrun starts them.

    command  or a list of commands, of a process each
    ranks    which of the processes are started; None: all
    """
    commands = [command] * world if isinstance(command, str) else command
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        group = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free.getsockname()[1]),
            "WORLD_SIZE": str(world),
        }
    return [
        start(commands[rank], places, code, group | {"RANK": str(rank)})
        for rank in (range(world) if ranks is None else ranks)
    ]


def _argv(command, places):
    script, *arguments = words(command, places)
    return [f"{script}.py", *arguments]


def run_apart(command, python=(), **places):
    """The same in a process of its own."""
    script, *arguments = words(command, places)
    process = subprocess.run(
        [sys.executable, *python, f"{script}.py", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return Done(process.returncode, process.stdout, process.stderr)


def pixels(folder):
    """Images in ascending order of their seeds, as integers that can be subtracted."""
    return load_images(folder).images.astype(int)


def contents(folder):
    """The content of every file but the grid, which a run may leave out; without paths and
    commands."""

    def content(path):
        if path.name not in ("manifest.json", "training.json"):
            return path.read_bytes()
        record = json.loads(path.read_text())
        return json.dumps({name: record[name] for name in record if name not in ("runs", "used")})

    return {
        str(path.relative_to(folder)): content(path)
        for path in Path(folder).rglob("*")
        if path.is_file() and path.name != "grid.png"
    }


# One epoch of three steps that leaves a head whose guidance can be seen.
TRAIN = "train --epoch 1 --batch_size 4 --lr 0.01 --ema_halflife 0 --eval_images 20 "
TWELVE = "--data digits:train --sample_dir {fake} --num_data 12 "
GENERATE = "generate --network {net} --outdir {out} --steps 3 "
