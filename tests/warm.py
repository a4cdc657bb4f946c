"""Processes that start warm: one process imports what the scripts need and forks for each of them.

A test that starts and kills many processes does not wait for torch each time. Each of them has its
own process number, streams and environment, and ends like a script that Python has started; what
the interpreter itself does at its start is tested elsewhere.
"""

import atexit
import functools
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parent.parent
IMPORTED = (
    *("torch", "torch._dynamo", "torch.distributed", "scipy.linalg", "scipy.stats", "PIL.Image"),
    *("sklearn.datasets", "sklearn.metrics", "matplotlib.figure"),
    *("matplotlib.backends.backend_agg", "diffusers", "diffusers.models", "tqdm"),
    *("generate", "train", "fid", "pretrain", "reproduce", "dg.models.loading"),
    *("dg.experiments.runner", "dg.training", "dg.pretraining.score", "dg.evaluation.report"),
)


class Started:
    """A process that was started warm, with the methods of `subprocess.Popen` that tests need."""

    def __init__(self, argv: list[str], code: str | None, environment: dict[str, str]):
        pipes = [os.pipe() for _ in range(2)]
        request = {"argv": argv, "code": code, "environment": environment}
        self.pid, self.returncode = _ask(request, [writing for _, writing in pipes]), None
        for _, writing in pipes:
            os.close(writing)
        self.stdout, self.stderr = (os.fdopen(reading) for reading, _ in pipes)

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = _ask({"pid": self.pid})
        return self.returncode

    def wait(self) -> int:
        while self.poll() is None:
            time.sleep(0.005)
        return self.returncode

    def communicate(self, timeout: float = 600) -> tuple[str, str]:
        """What is left to read of standard output and of standard error."""
        late = threading.Timer(timeout, self.kill)
        late.start()
        with self.stdout, self.stderr:
            error = self.stderr.read()
            out = self.stdout.read()
        self.wait()
        late.cancel()
        return out, error

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@functools.cache
def _server() -> socket.socket:
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "tests.warm", str(theirs.fileno())]
    subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()])
    theirs.close()
    return ours


def _ask(request: dict, files: list[int] | None = None) -> int | None:
    line = json.dumps(request).encode() + b"\n"
    if files:  # they come with the first byte
        socket.send_fds(_server(), [line[:1]], files)
        line = line[1:]
    _server().sendall(line)
    answer = b""
    while not answer.endswith(b"\n"):
        part = _server().recv(100)
        assert part, "the process that starts the others has ended"
        answer += part
    return json.loads(answer)


def _serve(sock: socket.socket) -> None:
    """Start a process for every request, or say how one has ended, until nobody asks any more."""
    while True:
        line, files, *_ = socket.recv_fds(sock, 1, 2)
        while line and not line.endswith(b"\n"):
            line += sock.recv(1 << 16)
        if not line:
            return
        request = json.loads(line)
        if "pid" in request:
            ended, status = os.waitpid(request["pid"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if ended else None
        else:
            answer = os.fork()
            if not answer:
                sock.close()
                _become(files, **request)
            for file in files:
                os.close(file)
        sock.sendall(json.dumps(answer).encode() + b"\n")


def _become(files: list[int], argv: list[str], code: str | None, environment: dict) -> None:
    """Run a script, or the code that stands for one, and end like it."""
    for place, file in enumerate(files, start=1):
        os.dup2(file, place)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv, left = argv, 0
    try:
        if code is None:
            runpy.run_path(argv[0], run_name="__main__")
        else:
            exec(compile(code, "-c", "exec"), {"__name__": "__main__"})
    except SystemExit as error:
        left = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        left = 1
    with suppress(BaseException):
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(left)


if __name__ == "__main__":
    for name in IMPORTED:
        with suppress(ImportError):  # of what a test may lack
            importlib.import_module(name)
    _serve(socket.socket(fileno=int(sys.argv[1])))
