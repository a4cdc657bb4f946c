"""Nothing is mixed: a run folder has one writer and one identity, what is read back has its hash,
and a refused command leaves everything as it was."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

import dg
from dg.runtime.files import HOST
from dg.runtime.training_state import load_state
from tests.scripts import (
    GENERATE,
    ROOT,
    TRAIN,
    TWELVE,
    contents,
    run,
    start,
    start_together,
    succeed,
    words,
)

TWO = GENERATE + "--seeds 0-11 --batch 4 "
SCORE = "pretrain score --data digits:train --batch_size 8 --outdir {out} "


def everything(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(command, told, **places):
    """The command ends with one line that tells, and changes nothing in `out`."""
    before = everything(places["out"])
    done = run(command, **places)
    assert done.code == 2 and told in done.lines[-1], done.err
    assert everything(places["out"]) == before
    return done


def wait_for(found, process, seconds=120):
    end = time.monotonic() + seconds
    while not found() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    assert found(), process.stderr.read() if process.poll() is not None else "not in time"


# ---- one writer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second", "shown"),
    [
        ("generate --network {net} --outdir {out} --num_samples 4096 --batch 4", TWO, "*.npz"),
        (SCORE + "--steps 100000 --save_seconds 0", SCORE + "--steps 3 --lr 0.1", "state.pt"),
    ],
    ids=["generate", "pretrain"],
)
def test_a_second_run_in_the_folder_of_one_at_work_is_refused(first, second, shown, at):
    process = start(first, at)
    wait_for(lambda: list(at["out"].glob(shown)), process)
    process.send_signal(signal.SIGSTOP)
    try:
        refused(second, f"is being written by process {process.pid} on {HOST}", **at)
        refused(first, "wait for its end, or use another folder", **at)
    finally:
        process.kill()
        process.communicate()
    hashes = {json.loads(r.read_text())["settings"] for r in at["out"].glob("shards/*.json")}
    assert len(hashes) <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("commands", "told"),
    [
        ([TWO, TWO.replace("--steps 3", "--steps 2")], "other --steps than process 0"),
        ([SCORE + "--steps 3", SCORE + "--steps 4"], "other --steps than process 0"),
    ],
    ids=["generate", "pretrain"],
)
def test_processes_of_other_settings_are_refused(commands, told, at):
    processes = start_together(commands, at)
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], errors
    assert all(f"process 1 of this run has {told}" in error for error in errors)
    assert [path.name for path in at["out"].rglob("*") if path.suffix in (".npz", ".pt")] == []


# ---- one identity


def test_another_version_does_not_finish_a_folder(at, monkeypatch):
    succeed(TWO, **at)
    monkeypatch.setattr(dg, "__version__", "99.0")
    assert "all of them were there already" in succeed(TWO, **at).lines[-1]
    shard = at["out"] / "samples_000004-000007.npz"
    shard.write_bytes(b"damaged")
    told = (
        f"was begun by version {json.loads((at['out'] / 'manifest.json').read_text())['version']}"
    )
    refused(TWO, told, **at)
    shard.unlink()
    (at["out"] / "shards" / "000004-000007.json").unlink()
    refused(TWO, told, **at)
    refused(TWO.replace("0-11", "0-15"), told, **at)
    monkeypatch.undo()
    succeed(TWO, **at)
    assert contents(at["out"]) == contents(at["fake"])


def test_a_training_goes_on_to_more_steps_but_not_to_fewer_nor_in_another_version(at, monkeypatch):
    succeed(SCORE + "--steps 4", **at)
    refused(SCORE + "--steps 3", "4 steps are done, and 3 are asked for", **at)
    monkeypatch.setattr(dg, "__version__", "99.0")
    refused(SCORE + "--steps 5", "of a run with other code version; choose another folder", **at)
    monkeypatch.undo()
    succeed(SCORE + "--steps 5", **at)
    assert load_state(at["out"] / "state.pt")["step"] == 5


def older(folder):
    """Make a store what earlier versions wrote."""
    for path in (folder / "manifest.json", *folder.glob("shards/*.json")):
        found = json.loads(path.read_text())
        found.pop("version"), path.parent == folder or found.pop("settings")
        path.write_text(json.dumps(found))


def test_folders_of_older_versions_are_finished_and_told_once(at):
    succeed(TWO.replace("0-11", "0-7"), **at)
    older(at["out"])
    told = "2 batches of an older version do not tell their settings; they are taken for this run's"
    assert sum(told in line for line in succeed(TWO, **at).lines) == 1
    assert "older version" not in succeed(TWO, **at).err
    for path in at["fake"].glob("*.npz"):
        assert (at["out"] / path.name).read_bytes() == path.read_bytes()


def test_states_of_older_versions_go_on_and_are_told_once(at):
    succeed(SCORE + "--steps 5", **at | {"out": at["tmp"] / "whole"})
    succeed(SCORE + "--steps 3", **at)
    state = load_state(at["out"] / "state.pt")
    state["identity"].pop("code version")
    torch.save(state, at["out"] / "state.pt")
    told = "state.pt: of an older version, without a hash; it is taken as it is"
    assert sum(told in line for line in succeed(SCORE + "--steps 5", **at).lines) == 1
    assert "older version" not in succeed(SCORE + "--steps 5", **at).err
    found, whole = (
        (folder / "network.safetensors").read_bytes() for folder in (at["out"], at["tmp"] / "whole")
    )
    assert found == whole


# ---- what is read back


def test_shards_of_another_run_are_made_again_and_not_read(at):
    succeed(TWO, **at)
    succeed(TWO.replace("--steps 3", "--steps 2"), **at | {"out": at["tmp"] / "other"})
    for name in ("samples_000004-000007.npz", "shards/000004-000007.json"):
        (at["out"] / name).write_bytes((at["tmp"] / "other" / name).read_bytes())
    measure = "fid --images {out} --ref {fake} --features pixels"
    learn = TRAIN + "--data digits:train --sample_dir {out} --num_data 12 --network {net} "
    told = "000004-000007.json is not of the run that made"
    refused(measure, told, **at)
    refused(learn + "--save_dir {tmp}/head", told, **at)
    done = succeed(TWO, **at)
    assert "shards/000004-000007.json was damaged and has been made again" in done.err
    assert contents(at["out"]) == contents(at["fake"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda out: (out / "samples_000008-000011.npz").unlink(), "11.npz is missing"),
        (lambda out: (out / "shards/000008-000011.json").unlink(), "holds 8 of 12 images"),
        (lambda out: (out / "samples_0.npz").write_bytes(b""), "samples_0.npz"),
        (lambda out: flip(out / "samples_000000-000003.npz"), "3.npz has changed"),
        (lambda out: flip(out / "manifest.json", b'"batch size": 4', b'"batch size": 5'), "holds"),
    ],
)
def test_incomplete_foreign_and_damaged_samples_are_not_read(change, told, at):
    succeed(TWO, **at)
    change(at["out"])
    refused("fid --images {out} --ref {fake} --features pixels", told, **at)


def flip(path, old=None, new=None):
    content = path.read_bytes()
    if old is None:
        old, new = content[-300:-299], bytes([content[-300] ^ 1])
        path.write_bytes(content[:-300] + new + content[-299:])
    else:
        assert old in content
        path.write_bytes(content.replace(old, new))


def test_a_lost_manifest_is_written_again(at):
    succeed(TWO, **at)
    (at["out"] / "manifest.json").unlink()
    succeed(TWO, **at)
    assert contents(at["out"]) == contents(at["fake"])


# ---- a refused command has no effect


def test_a_refused_extension_keeps_the_short_shard(at):
    succeed(TWO.replace("0-11", "0-9"), **at)
    np.savez(at["out"] / "foreign.npz", samples=np.zeros([1, 8, 8, 1], np.uint8))
    refused(TWO, "foreign.npz is not an image of this run; use another folder", **at)


def test_a_table_of_labels_that_is_somebody_elses_is_kept(at):
    at["out"].mkdir()
    (at["out"] / "dataset.json").write_text("mine")
    refused(TWO, "dataset.json is not an image of this run", **at)


def test_a_picture_of_the_users_is_not_replaced_by_the_grid(at):
    at["out"].mkdir()
    Image.new("L", (3, 3)).save(at["out"] / "grid.png")
    before = (at["out"] / "grid.png").read_bytes()
    done = succeed(TWO, **at)
    assert "grid.png is another picture, or an older version's; move it away" in done.err
    assert (at["out"] / "grid.png").read_bytes() == before


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("fid ref --data {out}/a.npz --dest {out}/a.npz", "is what --data reads"),
        ("fid ref --data digits --dest {out}/a.npz", "is no file of statistics"),
        ("fid ref --data digits --dest {out}/both.npz", "is no file of statistics"),
        ("pretrain score --data {out} --outdir {out} --steps 1", "is what --data reads"),
        ("pretrain convert --network {out}/net --out {out}/net", "is what --network reads"),
        (TRAIN + "--data digits --sample_dir {out} --save_dir {out} --network {net}", "reads"),
        (
            "reproduce digits --profile smoke --runs {out} --fresh --stage x",
            "there is no stage 'x'",
        ),
    ],
)
def test_what_is_read_is_not_written_to(command, told, at):
    (at["out"] / "digits-smoke").mkdir(parents=True)
    (at["out"] / "digits-smoke" / "file").touch()
    images = np.zeros([4, 8, 8, 1], np.uint8)
    np.savez(at["out"] / "a.npz", samples=images)
    np.savez(at["out"] / "both.npz", samples=images, mu=np.zeros(3), sigma=np.eye(3))
    (at["out"] / "net").write_bytes(at["net"].read_bytes())
    command = command.replace("{out}/a.npz --dest", "{tmp}/out/../out/a.npz --dest")
    refused(command, told, **at)


def test_a_folder_may_be_called_as_a_data_set(at, monkeypatch):
    monkeypatch.chdir(at["tmp"])
    for _ in range(2):
        succeed("pretrain score --data digits --batch_size 8 --steps 1 --outdir digits", **at)


@pytest.mark.slow
def test_results_are_written_before_they_are_told(at):
    command = "fid --images {fake} --ref digits:heldout --features pixels --outdir {out}"
    script, *arguments = words(command, at)
    reading, writing = os.pipe()
    os.close(reading)  # nobody reads, as of `| head -c 0`
    done = subprocess.run(
        [sys.executable, f"{script}.py", *arguments], cwd=ROOT, stdout=writing, timeout=300
    )
    os.close(writing)
    assert done.returncode != 0
    assert json.loads((at["out"] / "results.json").read_text())["images"]


# ---- left-overs


def left_over(path):
    path.with_name(f".{path.name}.{HOST}.{os.getpid()}-0123abcd.tmp").write_bytes(b"half")


@pytest.mark.parametrize(
    ("command", "names"),
    [
        (TWO, ["manifest.json", "shards/000000-000003.json", "samples_000000-000003.npz"]),
        (SCORE + "--steps 1", ["state.pt", "log.jsonl", "training.json"]),
        (TRAIN + TWELVE + "--network {net} --save_dir {out}", ["curves.png", "best.safetensors"]),
        ("fid --images {fake} --ref {fake} --features pixels --outdir {out}", ["results.json"]),
    ],
    ids=["generate", "pretrain", "train", "fid"],
)
def test_what_killed_runs_have_left_is_swept_away(command, names, at):
    (at["out"] / "shards").mkdir(parents=True)
    for name in names:
        left_over(at["out"] / name)
    succeed(command, **at)
    assert not list(at["out"].rglob("*.tmp")) and not list(at["out"].rglob(".lock"))


# ---- waiting

IMPATIENT = """
import runpy, sys
import dg.runtime.waiting as waiting
waiting.SETTLED_SECONDS, waiting.TOLD_SECONDS, waiting.GRACE_SECONDS = 1, 2, 2
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "number", "code"), [(0, "TERM", 143), (1, "INT", 130)])
def test_a_process_that_waits_for_one_that_never_came_says_so_and_hears_signals(
    rank, number, code, at
):
    heard = "import signal; signal.signal(2, signal.default_int_handler)" + IMPATIENT
    (process,) = start_together(TWO, at, heard, ranks=[rank])
    line = process.stderr.readline()
    whom = "process 0 of this run at 127.0.0.1" if rank else "the other 1 processes of this run"
    assert line.startswith("waiting for ") and whom in line and "s so far" in line
    process.send_signal(getattr(signal, f"SIG{number}"))
    error = process.communicate(timeout=60)[1]
    assert process.returncode == code and "the same command again goes on" in error


@pytest.mark.slow
def test_a_training_that_waits_for_a_stopped_process_names_it_and_ends_when_asked(at):
    command = SCORE + "--steps 100000 --save_seconds 0"
    processes = start_together(command, at, IMPATIENT)
    wait_for((at["out"] / "state.pt").exists, processes[0])
    processes[1].send_signal(signal.SIGSTOP)
    try:
        lines = iter(processes[0].stderr.readline, "")
        line = next(line for line in lines if line.startswith("waiting"))
        assert "waiting for process 1 of this run" in line
        processes[0].terminate()
        error = processes[0].communicate(timeout=60)[1]
        assert processes[0].returncode == 0 and "stopped in good order" in error
        assert load_state(at["out"] / "state.pt")["step"] > 0
    finally:
        processes[1].kill()
        processes[1].communicate()
