import errno
import getpass
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from dg.runtime import files


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), files.atomic_write(path) as file:
        file.write(b"new")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_nothing_has_the_final_name_before_the_end(tmp_path):
    path = tmp_path / "a.bin"
    with files.atomic_write(path) as file:
        file.write(b"x" * 100_000)
        file.flush()
        assert not path.exists()
    assert path.stat().st_size == 100_000
    path.with_name("b").touch()
    # not the 0600 of a private temporary
    assert path.stat().st_mode == path.with_name("b").stat().st_mode


def test_full_disk_is_one_line_and_nothing_remains(tmp_path):
    script = (
        "import resource, sys\n"
        "from dg.runtime.files import atomic_write\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        "    with atomic_write(sys.argv[1]) as file: file.write(b'x' * 100_000)\n"
        "except ValueError as error: print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "a"], capture_output=True, text=True
    )
    assert run.stdout.count("\n") == 1 and "free some space" in run.stdout, run.stderr
    assert list(tmp_path.iterdir()) == []


def test_full_disk_found_at_fsync(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ValueError, match="No space left"):
        files.write_text(tmp_path / "a", "x")
    assert list(tmp_path.iterdir()) == []


def test_missing_folder_and_folder_in_the_way(tmp_path):
    with pytest.raises(ValueError, match="cannot write"):
        files.write_text(tmp_path / "missing" / "a", "x")
    (tmp_path / "taken").mkdir()
    with pytest.raises(ValueError, match="cannot write"):
        files.write_text(tmp_path / "taken", "x")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


def test_readers_never_see_half_of_a_file(tmp_path):
    path, stop, seen = tmp_path / "a", threading.Event(), set()

    def read():
        while not stop.is_set():
            seen.add(path.read_bytes())

    files.write_text(path, "a" * 200_000)
    reader = threading.Thread(target=read)
    reader.start()
    for letter in "bcbcbcbcbc":
        files.write_text(path, letter * 200_000)
    stop.set()
    reader.join()
    assert seen <= {letter.encode() * 200_000 for letter in "abc"}


def test_temporaries_of_a_killed_process_go_and_live_ones_stay(tmp_path):
    script = (
        "import sys\nfrom dg.runtime.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as file:\n"
        "    file.write(b'half'); file.flush(); print('ready', flush=True); sys.stdin.read()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / "a.npz"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    child.stdout.readline()
    files.remove_stale_temporaries(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1  # its writer lives
    child.send_signal(signal.SIGKILL)
    child.communicate()
    (tmp_path / ".someone-elses.tmp").touch()
    files.remove_stale_temporaries(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [".someone-elses.tmp"]


def test_temporaries_of_others_are_left_alone(tmp_path):
    (tmp_path / ".a.npz.another-host.999999999-00000000.tmp").touch()  # perhaps it is running there
    (tmp_path / f".a.{files.HOST}.tmp").touch()  # of another program
    old = tmp_path / ".b.npz.another-host.999999999-00000000.tmp"
    old.touch()
    os.utime(old, (0, 0))
    files.remove_stale_temporaries(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2 and not old.exists()


def test_a_number_that_another_process_has_taken_over_keeps_no_temporary(tmp_path):
    (tmp_path / "shards").mkdir()
    left = tmp_path / "shards" / f".a.json.{files.HOST}.{os.getpid()}-00000000.tmp"
    left.touch()  # as of a container in which numbers begin anew
    files.remove_stale_temporaries(tmp_path)
    assert not left.exists()


def test_a_file_that_is_to_be_written_is_rid_of_its_own_temporaries(tmp_path):
    left = [tmp_path / f".{name}.{files.HOST}.1-00000000.tmp" for name in ("a[1].npz", "b.npz")]
    for path in left:
        path.touch()
    files.writable_file(tmp_path / "a[1].npz")
    assert list(tmp_path.iterdir()) == left[1:]


def test_where_the_file_system_cannot_lock_only_old_temporaries_go(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "lock", lambda file: None)
    new, old = (tmp_path / f".{name}.{files.HOST}.1-00000000.tmp" for name in "ab")
    for path in (new, old):
        path.touch()
    os.utime(old, (0, 0))
    files.write_text(tmp_path / "c", "written all the same")
    files.remove_stale_temporaries(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [new.name, "c"]


def test_a_writer_whose_new_temporary_is_swept_away_takes_another(tmp_path, monkeypatch):
    lock, swept = files.lock, []

    def sweep_first(file):
        if not swept:
            swept.append(os.unlink(file.name))
        return lock(file)

    monkeypatch.setattr(files, "lock", sweep_first)
    files.write_text(tmp_path / "a", "text")
    assert (tmp_path / "a").read_text() == "text" and len(list(tmp_path.iterdir())) == 1


def test_json_round_trip_of_what_settings_hold(tmp_path):
    files.write_json(
        tmp_path / "a.json", {"S_max": np.inf, "w": (2, 0), "n": np.int64(3), "path": tmp_path}
    )
    assert files.read_json(tmp_path / "a.json") == {
        "S_max": "inf",
        "w": [2, 0],
        "n": 3,
        "path": str(tmp_path),
    }


def test_broken_json_is_one_line(tmp_path):
    (tmp_path / "a.json").write_text('{"steps": 1')
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00")
    for name, match in [
        ("a.json", "not valid JSON"),
        ("b.json", "not valid JSON"),
        ("c.json", "cannot read"),
    ]:
        with pytest.raises(ValueError, match=match) as caught:
            files.read_json(tmp_path / name)
        assert "\n" not in str(caught.value) and name in str(caught.value)


def test_settings_hash_ignores_order_and_sees_values():
    assert files.settings_hash({"a": 1, "b": [1, 2]}) == files.settings_hash(
        {"b": (1, 2), "a": np.int64(1)}
    )
    assert files.settings_hash({"a": 1}) != files.settings_hash({"a": 2})
    assert len(files.settings_hash({})) == 12


def test_sha256_of(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert (
        files.sha256_of(tmp_path / "a")
        == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_writable_folder(tmp_path):
    assert files.writable_folder(tmp_path / "a" / "b").is_dir()
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").touch()
    for bad in [tmp_path / "file", tmp_path / "file" / "below", "/proc/x", "/proc"]:
        with pytest.raises(ValueError, match="choose another folder") as caught:
            files.writable_folder(bad)
        assert "\n" not in str(caught.value)


def test_importing_files_loads_nothing_heavy():
    script = (
        "import sys, dg.runtime.files, dg.runtime.downloads, dg.data.sample_store\n"
        "print({'torch', 'sklearn', 'torchvision', 'PIL', 'requests', 'gdown'} & set(sys.modules) "
        "or 'light')"
    )
    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout
        == "light\n"
    )


def test_without_a_home_folder_the_setting_to_make_is_named(monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("DG_CACHE_DIR", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    with pytest.raises(ValueError, match=r"no home folder .* DG_CACHE_DIR"):
        files.cache_folder()


def test_a_user_without_a_name_goes_by_a_number(monkeypatch):
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setenv("LOGNAME", "")  # put back afterwards
    files.name_user()
    assert getpass.getuser() == f"uid-{os.getuid()}"


def test_figures_need_no_home_folder(monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setenv("LOGNAME", "somebody")
    monkeypatch.setenv("MPLCONFIGDIR", "given")
    files.name_user()
    assert os.environ["MPLCONFIGDIR"] == "given"
    monkeypatch.delenv("MPLCONFIGDIR")
    files.name_user()
    folder = os.environ["MPLCONFIGDIR"]
    assert os.access(folder, os.W_OK) and not os.listdir(folder)


def unknown(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
