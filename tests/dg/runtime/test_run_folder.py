"""A run folder has one writer, in whatever process, container or state it is."""

import json
import os
import signal
import subprocess
import sys

import pytest

from dg.runtime import files, run_folder
from dg.runtime.files import atomic_write
from dg.runtime.run_folder import LOCK, sole_writer

HOLD = """
import sys
from dg.runtime.files import atomic_write
from dg.runtime.run_folder import sole_writer
with sole_writer(sys.argv[1]) as folder, atomic_write(folder / "a.bin") as file:
    file.write(b"half"), file.flush(), print("ready", flush=True), sys.stdin.read()
"""


def hold(folder, *wrapper):
    """Another process that writes to the folder, until its standard input ends."""
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    child = subprocess.Popen([*wrapper, sys.executable, "-c", HOLD, folder], **pipes)
    assert child.stdout.readline() == "ready\n"
    return child


def test_a_folder_has_one_writer_and_is_free_when_that_has_ended(tmp_path):
    child, told = hold(tmp_path), f"{tmp_path} is being written by process"
    with pytest.raises(ValueError, match=told) as caught, sole_writer(tmp_path):
        pass
    assert f"process {child.pid} on {files.HOST}, since 20" in str(caught.value)
    assert "wait for its end, or use another folder" in str(caught.value)
    assert len(list(tmp_path.glob(".a.bin.*.tmp"))) == 1, "its temporary stays"
    child.communicate("")
    with sole_writer(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("stopped", [False, True])
def test_a_killed_owner_is_succeeded_and_swept_up_after(tmp_path, stopped):
    child = hold(tmp_path)
    if stopped:
        child.send_signal(signal.SIGSTOP)
        with pytest.raises(ValueError, match="is being written"), sole_writer(tmp_path):
            pass
    child.kill()
    child.communicate()
    assert len(list(tmp_path.glob(".a.bin.*.tmp"))) == 1 and (tmp_path / LOCK).exists()
    with sole_writer(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_owner_in_another_container_of_the_same_name_is_seen(tmp_path):
    apart = ("unshare", "--pid", "--fork", "--kill-child")
    if subprocess.run([*apart, "true"], capture_output=True).returncode:
        pytest.skip("process numbers of its own are not permitted here")
    child = hold(tmp_path, *apart)
    with pytest.raises(ValueError, match="is being written by process 1 on"), sole_writer(tmp_path):
        pass
    files.remove_stale_temporaries(tmp_path)
    child.communicate("")
    assert (tmp_path / "a.bin").read_bytes() == b"half"


def test_a_process_may_enter_again_and_leaves_with_the_last_exit(tmp_path):
    with sole_writer(tmp_path / "new"):
        with sole_writer(tmp_path / "new" / ".." / "new"):
            pass
        assert (tmp_path / "new" / LOCK).exists()
        with pytest.raises(KeyError), sole_writer(tmp_path / "new"):
            raise KeyError
        assert (tmp_path / "new" / LOCK).exists()
    assert not list((tmp_path / "new").iterdir())


def record(pid, host=files.HOST, started="1"):
    return json.dumps({"pid": pid, "host": host, "since": "2026-01-01", "started": started})


def test_where_the_file_system_cannot_lock_the_record_tells(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "lock", lambda file: None)
    mine = run_folder._start_of(os.getpid())
    for text, free in (
        ("", True),
        ("not JSON", True),
        (record(os.getpid(), started=mine), False),
        (record(os.getpid(), started="0"), True),  # the number of one that has ended
        (record(2**30), True),
        (record(os.getpid(), "another-host"), False),
    ):
        (tmp_path / LOCK).write_text(text)
        if free:
            with sole_writer(tmp_path):
                pass
        else:
            with pytest.raises(ValueError, match=r"if that has ended, delete .*\.lock"):
                sole_writer(tmp_path).__enter__()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file, not a folder"), sole_writer(tmp_path / "file"):
        pass


def test_writing_within_is_not_swept_away_by_entering_again(tmp_path):
    with sole_writer(tmp_path), atomic_write(tmp_path / "a") as file:
        files.remove_stale_temporaries(tmp_path)
        with sole_writer(tmp_path):
            file.write(b"whole")
    assert (tmp_path / "a").read_bytes() == b"whole"
