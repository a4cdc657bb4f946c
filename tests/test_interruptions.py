"""Nothing is lost: kills at random moments, requests to end, full and read-only disks, damaged
shards.

Every run that was disturbed ends, when it is given again, with the bytes of one that was not.
"""

import errno
import json
import os
import random
import signal
import subprocess
import time

import numpy as np
import pytest
from safetensors.torch import load_file

from dg.runtime.files import sha256_of
from tests.scripts import (
    GENERATE,
    TRAIN,
    TWELVE,
    contents,
    run,
    run_apart,
    start,
    start_together,
    succeed,
)

# ---- generate.py

MANY = "generate --network {net} --outdir {out} --num_samples 512 --batch 8 --steps 6 --grid 0"


def complete(folder):
    """The records of a store's complete batches; every one of them agrees with its shard."""
    records = sorted((folder / "shards").glob("*.json"))
    for record in records:
        for name, digest in json.loads(record.read_text())["files"].items():
            assert sha256_of(folder / name) == digest
    return len(records)


def wait_for_more(folder, count, processes, seconds=60):
    """Until there are more than `count` complete batches, or a process has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and all(process.poll() is None for process in processes):
        if len(list((folder / "shards").glob("*.json"))) > count:
            return
        time.sleep(0.01)


@pytest.mark.slow
def test_twenty_kills_of_two_processes_leave_the_bytes_of_an_undisturbed_run(at):
    moments, done, kills = random.Random(20), 0, 0
    while kills < 20:
        processes = start_together(MANY, at)
        if moments.random() < 0.75:  # else while it starts
            wait_for_more(at["out"], done, processes)
        for process in moments.sample(processes, 2):
            time.sleep(moments.uniform(0, 0.15))
            kills += process.poll() is None and not kills >= 20
            process.kill()
        for process in processes:
            process.communicate()
        before, done = done, complete(at["out"])
        assert done >= before
    assert done < 64, "every kill is to meet a run at work"
    succeed(MANY, **at)
    succeed(MANY, **at | {"out": at["tmp"] / "undisturbed"})
    assert contents(at["out"]) == contents(at["tmp"] / "undisturbed")
    assert len(contents(at["out"])) == 1 + 2 * 64


@pytest.mark.slow
def test_when_one_process_is_killed_the_other_says_so_and_a_rerun_finishes(at):
    processes = start_together(MANY, at)
    wait_for_more(at["out"], 4, processes)
    processes[1].kill()
    errors = [process.communicate()[1] for process in processes]
    assert processes[0].returncode == 1
    assert (
        "generate.py: another process of this run has ended; the same command again goes on"
        in errors[0]
    )
    assert complete(at["out"]) >= 62, "at most the batch it drew and the one it saved are lost"
    succeed(MANY, **at)
    assert complete(at["out"]) == 64


@pytest.mark.slow
def test_sigterm_ends_all_processes_in_good_order(at):
    processes = start_together(MANY, at)
    wait_for_more(at["out"], 4, processes)
    processes[1].terminate()  # one is enough: it tells the others
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert "generate.py: stopped in good order" in errors[0] and "stopped" not in errors[1]
    assert 4 < complete(at["out"]) < 64


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (errno.ENOSPC, "No space left on device; free some space and run again"),
        (errno.EROFS, "Read-only file system; choose another place"),
    ],
)
def test_a_disk_that_fails_in_the_middle_is_one_line_and_leaves_what_was_complete(
    code, told, at, monkeypatch
):
    replace, shards = os.replace, []

    def fail_at_the_second(source, target):
        shards.extend([target] if str(target).endswith(".npz") else [])
        if len(shards) == 2:
            raise OSError(code, os.strerror(code), str(source))
        replace(source, target)

    command = GENERATE + "--seeds 0-11 --batch 4"
    monkeypatch.setattr(os, "replace", fail_at_the_second)
    done = run(command, **at)
    monkeypatch.undo()
    assert done.code == 2 and len(done.lines) == 2 and told in done.lines[1]
    assert [path.name for path in at["out"].glob("*.npz")] == [
        "samples_000000-000003.npz"
    ] and complete(at["out"]) == 1
    assert not list(at["out"].glob(".*.tmp"))
    succeed(command, **at)
    assert contents(at["out"]) == contents(at["fake"])


@pytest.fixture
def small_disk(at):
    """`out` on a file system of 64 KiB."""
    at["out"].mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", at["out"]], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting is not permitted here")
    yield at
    subprocess.run(["umount", at["out"]], check=True)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_room_finishes_the_run(small_disk):
    at, command = small_disk, GENERATE + "--num_samples 48 --batch 4 --grid 0"
    done = run_apart(command, **at)
    assert (
        done.code == 2
        and len(done.lines) == 2
        and "No space left on device; free some space" in done.lines[1]
    )
    assert 0 < complete(at["out"]) < 12
    subprocess.run(["mount", "-o", "remount,size=1m", at["out"]], check=True)
    succeed(command, **at)
    succeed(command, **at | {"out": at["tmp"] / "whole"})
    assert contents(at["out"]) == contents(at["tmp"] / "whole")


def test_a_read_only_disk_is_one_line_before_any_work(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk["out"]], check=True)
    done = run(GENERATE + "--seeds 0-3", **small_disk)
    assert (
        done.code == 2
        and len(done.lines) == 1
        and "Read-only file system; choose another folder" in done.lines[0]
    )


def test_a_flipped_bit_and_a_truncated_shard_are_named_and_made_again(at):
    command = GENERATE + "--seeds 0-11 --batch 4"
    succeed(command, **at)
    flipped, truncated, _ = sorted(at["out"].glob("*.npz"))
    content = bytearray(flipped.read_bytes())
    content[np.random.default_rng(0).integers(len(content))] ^= 1
    flipped.write_bytes(content)
    truncated.write_bytes(truncated.read_bytes()[:-1])
    done = succeed(command, **at)
    assert done.lines[1:3] == [
        f"{path.name} was damaged and has been made again" for path in (flipped, truncated)
    ]
    assert contents(at["out"]) == contents(at["fake"])


# ---- fid.py, pretrain.py latents and reproduce.py

MEASURE = "fid --images {fake} --ref digits --features {features} --outdir {out} --plot"


def kill(command, at, moments, seconds):
    """Start a command and kill it, after `seconds` at the most; whether that met it at work."""
    process = start(command, at)
    end = time.monotonic() + moments.uniform(0, seconds)
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    met = process.poll() is None
    process.kill()
    process.communicate()
    return met


def kill_at_renames(command, at, names):
    """Kill a command just before the first file of each of these names takes its name, in turn."""
    for name in names:
        process = start(command, at, KILLED.format(name))
        _, error = process.communicate()
        assert process.returncode == -signal.SIGKILL, error
        assert list(at["out"].rglob(f".*{name}.*.tmp"))


KILLED = """
import os, runpy, signal, sys
replace = os.replace

def replace_or_die(source, target):
    if str(target).endswith({!r}):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

os.replace, sys.argv = replace_or_die, sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_killed_measurements_leave_whole_files_and_a_rerun_measures_the_same(at):
    succeed(MEASURE, **at | {"out": at["tmp"] / "undisturbed"})
    kill_at_renames(MEASURE, at, ["results.json", ".png"])
    moments = random.Random(5)
    for _ in range(4):
        kill(MEASURE, at, moments, 3)
        if (at["out"] / "results.json").exists():
            json.loads((at["out"] / "results.json").read_text())
    succeed(MEASURE, **at)
    found, whole = (
        json.loads((folder / "results.json").read_text())
        for folder in (at["out"], at["tmp"] / "undisturbed")
    )
    assert found["images"] == whole["images"] and found["reference"] == whole["reference"]
    names = [
        {path.name for path in folder.iterdir()}
        for folder in (at["out"], at["tmp"] / "undisturbed")
    ]
    assert names[0] == names[1] >= {"results.json"}


@pytest.mark.slow
@pytest.mark.diffusers
def test_killed_encodings_end_with_the_bytes_of_an_undisturbed_one(at):
    pytest.importorskip("diffusers")
    from tests.tiny_vae import tiny_vae

    tiny_vae().save_pretrained(at["tmp"] / "vae")
    np.savez(
        at["tmp"] / "images.npz",
        images=np.random.default_rng(0).integers(0, 256, [24, 16, 16, 3], dtype=np.uint8),
    )
    command = "pretrain latents --data {tmp}/images.npz --vae {tmp}/vae --outdir {out} "
    command += "--resolution 16 --batch 4"
    succeed(command, **at | {"out": at["tmp"] / "undisturbed"})
    shards = ["manifest.json", "-00000003.npz", "000000-000003.json", "-00000011.npz"]
    kill_at_renames(command, at, shards)
    for _ in range(3):
        kill(command, at, random.Random(6), 4)
    succeed(command, **at)
    assert contents(at["out"]) == contents(at["tmp"] / "undisturbed")


@pytest.mark.slow
def test_killed_experiments_end_with_the_numbers_of_an_undisturbed_one(at):
    command = "reproduce digits --profile smoke --runs {out} --results {out}/results"
    succeed(command, **at | {"out": at["tmp"] / "undisturbed"})
    names = ["state.pt", "best.safetensors", "results.json"]
    kill_at_renames(command, at, names)
    moments = random.Random(8)
    for _ in range(2):
        kill(command, at, moments, 10)
    succeed(command, **at)
    found, whole = (
        json.loads((folder / "results/digits-smoke/results.json").read_text())
        for folder in (at["out"], at["tmp"] / "undisturbed")
    )
    assert found["metrics"] == whole["metrics"] and found["selection"] == whole["selection"]
    assert not list(at["out"].rglob("*.tmp")) and not list(at["out"].rglob(".lock"))


# ---- train.py and pretrain.py

SCORE = (
    "pretrain score --data digits:train --batch_size 8 --steps 60 --save_seconds 0 --outdir {out}"
)
HEAD = (TRAIN + TWELVE + "--network {net} --save_dir {out} --epoch 12").replace("--epoch 1 ", "")
# Runs a script that saves its training state after every step.
SAVING = """
import runpy, sys
import dg.pretraining.engine
dg.pretraining.engine.Every = lambda seconds: lambda: True
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
# Runs a script that sends itself a signal in its third optimisation step.
ASKED = """
import os, runpy, signal, sys
import torch
signal.signal(signal.SIGINT, signal.default_int_handler)  # also in the background
number, *sys.argv = sys.argv[1:]
step, steps = torch.optim.Adam.step, []

def step_and_ask(*args, **kwargs):
    steps.append(1)
    if len(steps) == 3:
        os.kill(os.getpid(), int(number))
    return step(*args, **kwargs)

torch.optim.Adam.step = step_and_ask
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def weights(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


@pytest.mark.slow
@pytest.mark.parametrize("command", [SCORE, HEAD], ids=["pretrain", "train"])
def test_killed_trainings_end_with_the_weights_of_an_undisturbed_one(command, at):
    moments, kills = random.Random(7), 0
    while kills < 20:
        process = start(command, at, SAVING)
        found = (
            (at["out"] / "state.pt").stat().st_mtime_ns if (at["out"] / "state.pt").exists() else 0
        )
        while process.poll() is None and not (
            (at["out"] / "state.pt").exists()
            and (at["out"] / "state.pt").stat().st_mtime_ns > found
        ):
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.05))
        kills += 1
        process.kill()
        process.communicate()
    succeed(command, **at)
    succeed(command, **at | {"out": at["tmp"] / "undisturbed"})
    assert weights(at["out"]) == weights(at["tmp"] / "undisturbed") != {}


def wait_for_the_first_state(folder, processes):
    """Until a training runs in all its processes, or one of them has ended."""
    while not (folder / "state.pt").exists() and all(p.poll() is None for p in processes):
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        SCORE.replace("60", "6").replace("_seconds 0", "_seconds 600"),
        HEAD.replace("--epoch 12", "--epoch 2"),
    ],
    ids=["pretrain", "train"],
)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_saves_a_training_and_ends_in_good_order(command, number, code, at):
    done = run_apart(command, ["-c", ASKED, str(int(number))], **at)
    assert (
        done.code == code
        and "stopped in good order; the same command again goes on" in done.lines[-1]
    )
    assert (at["out"] / "state.pt").exists()
    succeed(command, **at)
    succeed(command, **at | {"out": at["tmp"] / "undisturbed"})
    assert weights(at["out"]) == weights(at["tmp"] / "undisturbed") != {}


@pytest.mark.slow
def test_a_signal_ends_an_experiment_in_good_order(at):
    command = "reproduce digits --profile smoke --runs {out} --results {tmp}/results"
    done = run_apart(command, ["-c", ASKED, str(int(signal.SIGINT))], **at)
    assert done.code == 130 and len(list(at["out"].glob("*/score-*/state.pt"))) == 1
    assert done.lines[-1].startswith("reproduce.py: stopped in good order; the same command again")


@pytest.mark.slow
def test_what_begins_anew_does_not_say_that_it_goes_on(at):
    command = "pretrain features --data digits:train --outdir {out}"
    done = run_apart(command, ["-c", ASKED, str(int(signal.SIGINT))], **at)
    assert done.code == 130 and done.lines == ["pretrain.py: interrupted; give the command again"]


@pytest.mark.slow
def test_two_processes_train_what_one_trains(at):
    command = HEAD.replace("--epoch 12", "--epoch 2")
    succeed(command, **at)
    processes = start_together(command, at | {"out": at["tmp"] / "two"})
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert "last.safetensors" in errors[0] and errors[1] == ""
    assert sorted(path.name for path in at["out"].iterdir()) == sorted(
        path.name for path in (at["tmp"] / "two").iterdir()
    )
    for name in ("best", "last"):
        one, two = (
            load_file(folder / f"{name}.safetensors") for folder in (at["out"], at["tmp"] / "two")
        )
        assert all((one[key] - two[key]).abs().max() < 1e-4 for key in one)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [SCORE.replace("60", "20000"), HEAD.replace("--epoch 12", "--epoch 4000")],
    ids=["pretrain", "train"],
)
@pytest.mark.parametrize("asked", [0, 1])
def test_all_processes_of_a_training_end_where_one_is_asked(command, asked, at):
    processes = start_together(command, at, SAVING)
    wait_for_the_first_state(at["out"], processes)
    processes[asked].terminate()
    errors = [process.communicate(timeout=600)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert "stopped in good order" in errors[0] and "stopped" not in errors[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [SCORE.replace("60", "20000"), HEAD.replace("--epoch 12", "--epoch 4000")],
    ids=["pretrain", "train"],
)
def test_a_training_that_is_left_alone_says_so(command, at):
    processes = start_together(command, at, SAVING)
    wait_for_the_first_state(at["out"], processes)
    processes[1].kill()
    error = processes[0].communicate(timeout=600)[1]
    processes[1].communicate()
    assert (
        processes[0].returncode == 1
        and "another process of this run has ended; the same command again goes on" in error
    )
    assert (at["out"] / "state.pt").exists()
