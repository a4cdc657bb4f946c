"""What a script does with signals and with errors, and on which device it computes."""

import os
import signal
import sys
from types import SimpleNamespace

import click
import pytest
import torch

from dg.runtime import console
from dg.runtime.progress import Stopped, silent


@pytest.fixture(autouse=True)
def restored():
    """The handlers as they were; SIGINT is heeded, which a job in the background would not do."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    console._asked.clear()


SIGNALS = (signal.SIGTERM, signal.SIGINT)
ENDS = {signal.SIGTERM: console.Terminated, signal.SIGINT: KeyboardInterrupt}


def terminate(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


def leave(work, monkeypatch, capsys):
    """(exit code, standard error) of a script whose command does `work`."""
    monkeypatch.setattr(sys, "argv", ["somewhere/script.py"])
    with pytest.raises(SystemExit) as left:
        console.run(click.Command("script", callback=work))
    # click ends the line of an interrupt's ^C
    return left.value.code, capsys.readouterr().err.lstrip("\n")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_a_stoppable_loop_between_two_items(number):
    before, done = signal.getsignal(number), []
    with pytest.raises(Stopped):
        for item in console.stoppable(silent)(range(5)):
            if item == 2:
                terminate(number)
            done.append(item)
    assert done == [0, 1, 2] and signal.getsignal(number) is before


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_at_the_last_item_ends_nothing(number):
    for item in console.stoppable(silent)(range(3)):
        if item == 2:
            terminate(number)


def test_a_signal_at_the_last_item_ends_the_next_loop():
    loops, done = console.stoppable(silent), []
    with pytest.raises(Stopped):
        for outer in loops(range(3)):
            for item in loops(range(2)):
                done.append((outer, item))
                if done == [(0, 0), (0, 1)]:
                    terminate(signal.SIGTERM)
    assert done == [(0, 0), (0, 1)]


@pytest.mark.parametrize("second", SIGNALS)
@pytest.mark.parametrize("first", SIGNALS)
def test_a_second_signal_ends_at_once(first, second):
    with pytest.raises(ENDS[second]):
        for _ in console.stoppable(silent)(range(5)):
            terminate(first)
            terminate(second)


def test_under_torchrun_one_ctrl_c_arrives_twice_and_counts_once(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(Stopped):
        for _ in console.stoppable(silent)(range(5)):
            terminate(signal.SIGINT)
            terminate(signal.SIGINT)
    monkeypatch.setattr(console, "SAME_SECONDS", 0)
    with pytest.raises(KeyboardInterrupt):
        for _ in console.stoppable(silent)(range(5)):
            terminate(signal.SIGINT)
            terminate(signal.SIGINT)


def test_a_signal_that_is_ignored_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for _ in console.stoppable(silent)(range(3)):
        terminate(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def interrupt_a_loop():
    for _ in console.stoppable(silent)(range(3)):
        terminate(signal.SIGINT)


def test_processes_that_work_in_step_end_where_any_of_them_was_asked():
    asked, done = [], []

    def agree(mine):
        asked.append(mine)
        return len(asked) == 4  # another process says so

    with pytest.raises(Stopped):
        for item in console.stoppable(silent, agree)(range(9)):
            if item == 2:
                terminate()
            done.append(item)
    assert asked == [False, False, False, True] and done == [0, 1, 2]


def fail(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("work", "code", "told"),
    [
        (terminate, 143, "terminated; the same command again goes on"),
        (fail(KeyboardInterrupt()), 130, "interrupted; the same command again goes on"),
        (interrupt_a_loop, 130, "stopped in good order; the same command again goes on"),
        (fail(Stopped()), 0, "stopped in good order; the same command again goes on"),
        (fail(ValueError("no such\nfile")), 2, "no such file"),
        (fail(ConnectionError("another process has ended")), 1, "another process has ended"),
        (fail(click.UsageError("give --seeds")), 2, "give --seeds"),
    ],
)
def test_every_end_has_its_code_and_one_line(work, code, told, monkeypatch, capsys):
    found, line = leave(work, monkeypatch, capsys)
    assert found == code and line.startswith(f"script.py: {told}") and line.count("\n") == 1


def test_of_several_processes_that_stop_the_first_speaks(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert leave(fail(Stopped()), monkeypatch, capsys) == (0, "")


def test_a_process_computes_on_the_gpu_of_its_place_on_its_machine(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch, "zeros", lambda size, device: SimpleNamespace(device=device))
    assert console.pick_device(None, 6) == "cuda:2"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert console.pick_device(None, 6) == "cuda:1" and console.pick_device("cuda:3", 6) == "cuda:3"


def test_without_a_terminal_progress_is_a_plain_line_now_and_then(monkeypatch, capsys):
    now = iter(range(0, 10_000, 16))
    monkeypatch.setattr(console.time, "monotonic", lambda: next(now))
    assert list(console.progress(range(4, 9), desc="images", total=9, initial=4, unit="batch")) == [
        *range(4, 9)
    ]
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines() == [
        "images: 6/9 batch, 0:00:32 so far, about 0:00:48 left",
        "images: 8/9 batch, 0:01:04 so far, about 0:00:16 left",
    ]
    assert list(console.progress((c for c in "ab"), desc="pieces")) == ["a", "b"]
    assert capsys.readouterr().err == "pieces: 2 it, 0:00:32 so far\n"


def test_on_a_terminal_progress_is_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(console.progress(range(3), desc="images")) == [0, 1, 2]
    assert "images: 100%" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "x.py: out of memory; give less at once"),
        (OverflowError("int too large"), "x.py: int too large; DG_DEBUG=1"),
        (torch.OutOfMemoryError("CUDA out of memory.\nTried"), "Tried; give less at once"),
        (RuntimeError("[enforce fail] PytorchStreamWriter failed\nframe #0"), "; free some space"),
        (RuntimeError("The server socket\nAddress already in use"), "set MASTER_PORT to another"),
        (OSError(28, "No space left on device"), "; free some space on the disk"),
    ],
    ids=repr,
)
def test_errors_of_the_system_and_of_torch_are_one_line(error, told, capsys, monkeypatch):
    def fail():
        raise error

    monkeypatch.setattr(sys, "argv", ["x.py"])
    monkeypatch.delenv("DG_DEBUG", raising=False)
    with pytest.raises(SystemExit) as left:
        console.run(click.Command("x", callback=fail))
    lines = capsys.readouterr().err.splitlines()
    assert left.value.code == 1 and len(lines) == 1 and told in lines[0]
    monkeypatch.setenv("DG_DEBUG", "1")
    with pytest.raises(type(error)):
        console.run(click.Command("x", callback=fail))


def test_passwords_are_neither_shown_nor_kept(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x.py", "--network", "https://me:hunter2@host/a.pkl"])
    assert console.command_line() == "python x.py --network https://host/a.pkl"
    console.notify("https://me:hunter2@host/a.pkl is there")
    assert capsys.readouterr().err == "https://host/a.pkl is there\n"
