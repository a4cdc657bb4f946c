"""Files that are complete or absent, JSON, hashes, and the folders they stand in."""

import atexit
import dataclasses
import errno
import getpass
import hashlib
import json
import math
import os
import platform
import secrets
import shutil
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from tensor_files.reading import FileError, open_file, shown

HOST = platform.node().replace(".", "-") or "localhost"
FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# another machine's process cannot be looked up, so its temporaries go by age
FOREIGN_TEMPORARY_SECONDS = 24 * 3600


@contextmanager
def atomic_write(path):
    """Yield a binary file that takes the name `path` only once everything in it is on the disk.

    The temporary stands in the same folder, so the final rename cannot cross file systems. On any
    failure it is removed and an older file of that name stays as it was. A full disk, or a place
    that cannot be written, is a ValueError.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{_owner()}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            raise ValueError(
                f"cannot write {path}: {error.strerror}; free some space and run again"
            ) from error
        # could not be opened, or not renamed
        if isinstance(error, OSError) and error.filename == str(temporary):
            raise ValueError(
                f"cannot write {path}: {error.strerror}; choose another place"
            ) from error
        raise


def _owner():
    """Name the writing process in a temporary's name, so that `remove_stale_temporaries` can ask
    whether it lives."""
    return f"{HOST}.{os.getpid()}-{secrets.token_hex(4)}"


def write_text(path, text):
    """Write `text` as UTF-8, completely or not at all."""
    with atomic_write(path) as file:
        file.write(text.encode("utf-8"))


def write_json(path, obj):
    """Write `obj` as indented JSON, completely or not at all; values as in `plain`."""
    write_text(path, json.dumps(plain(obj), indent=2, allow_nan=False) + "\n")


def read_json(path):
    """Read a JSON file; one that is missing, unreadable or not JSON is a ValueError of one line."""
    try:
        with open_file(path) as file:
            return json.loads(file.read())
    except FileError as error:
        raise ValueError(f"{path}: {error}") from error
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        reason = shown(error)
        raise ValueError(f"{path} is not valid JSON ({reason}); restore it or delete it") from error


def plain(obj):
    """Reduce `obj` to what JSON can hold: dataclasses, tuples, paths, numpy scalars and arrays; inf
    and nan become strings."""
    if dataclasses.is_dataclass(obj):
        obj = dataclasses.asdict(obj)
    if isinstance(obj, dict):
        return {str(key): plain(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [plain(value) for value in obj]
    if hasattr(obj, "tolist"):  # numpy and torch, without importing either
        return plain(obj.tolist())
    if isinstance(obj, os.PathLike):
        return os.fspath(obj)
    if isinstance(obj, float) and not math.isfinite(obj):
        return str(obj)
    return obj


def settings_hash(obj):
    """Return 12 hex digits that depend on the values in `obj` only, not on the order of its
    keys."""
    canonical = json.dumps(plain(obj), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()[:12]


def sha256_of(path):
    """Return the SHA-256 of a file as 64 hex digits, reading it in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def content_of(source) -> list:
    """What identifies the data at a path, wherever it lies: its content, of a folder the names and
    sizes; of a name that is no path the name."""
    path = Path(source)
    if path.is_dir():
        files = [file for file in path.rglob("*") if file.is_file()]
        sizes = [[file.relative_to(path).as_posix(), file.stat().st_size] for file in files]
        return [path.name, settings_hash(sorted(sizes))]
    return [path.name, sha256_of(path)] if path.is_file() else [path.name]


def writable_folder(path):
    """Create the folder `path` if need be and return it as a Path; a ValueError when it cannot be
    written."""
    path = Path(path)
    probe = path / f".probe.{_owner()}.tmp"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()  # permission bits do not tell: root ignores them, read-only mounts have none
        probe.unlink()
    except FileExistsError as error:
        raise ValueError(f"{path} is a file, not a folder; choose another folder") from error
    except OSError as error:
        raise ValueError(
            f"cannot write to the folder {path}: {error.strerror}; choose another folder"
        ) from error
    return path


def writable_file(path):
    """Create the folder of a file that is to be written, and return the file's Path; a ValueError
    when that cannot be."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"cannot write {path}: it is a folder; give the name of a file")
    try:
        writable_folder(path.parent)
    except ValueError as error:
        raise ValueError(f"cannot write {path}: {error}") from error
    return path


def cache_folder():
    """Return the folder of downloads and data sets: DG_CACHE_DIR, or
    ~/.cache/discriminator-guidance."""
    try:
        return writable_folder(
            Path(os.environ.get("DG_CACHE_DIR") or "~/.cache/discriminator-guidance").expanduser()
        )
    except RuntimeError:
        raise ValueError(
            "this user has no home folder to keep downloads in; set the environment variable "
            "DG_CACHE_DIR to a folder"
        ) from None


def name_user() -> None:
    """Let a user without an entry in the system's list go by a number, as in many containers.

    torch asks for a name, to call a folder after, when optimizers or compilers are made; matplotlib
    for a home, of which it needs no more than a folder that ends with the process.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        os.environ["LOGNAME"] = f"uid-{os.getuid()}"
    try:
        Path.home()
    except RuntimeError:
        if "MPLCONFIGDIR" not in os.environ:
            os.environ["MPLCONFIGDIR"] = folder = tempfile.mkdtemp(prefix="matplotlib-")
            atexit.register(shutil.rmtree, folder, ignore_errors=True)


def remove_stale_temporaries(folder):
    """Remove what killed writers left in `folder` (not below it), never the temporary of a process
    that still runs."""
    for path in Path(folder).glob(".*.tmp"):
        parts = path.name.rsplit(".", 3)  # ".name", host, "pid-token", "tmp"
        pid = parts[2].split("-")[0] if len(parts) == 4 else ""
        if pid.isdigit() and _abandoned(path, parts[1], int(pid)):
            path.unlink(missing_ok=True)


def _abandoned(path, host, pid):
    try:
        if host != HOST:
            return time.time() - path.stat().st_mtime > FOREIGN_TEMPORARY_SECONDS
        os.kill(pid, 0)  # signal 0 only asks whether the process exists
    except ProcessLookupError:
        return True
    except OSError:  # it exists and is another user's, or its writer has finished meanwhile
        return False
    return False


def one_line(error: BaseException) -> str:
    """The text of an exception without its line breaks; its class where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
