"""Files that are complete or absent, JSON, hashes, and the folders they stand in."""

import atexit
import dataclasses
import errno
import getpass
import glob
import hashlib
import json
import math
import os
import platform
import re
import secrets
import shutil
import tempfile
import time
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

from tensor_files.reading import FileError, open_file, shown

HOST = platform.node().replace(".", "-") or "localhost"
FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# another machine's locks may not be seen here, so its temporaries go by age
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
        with _open_locked(temporary) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)  # locked until now, so that nobody takes it for left over
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
    """A name for a temporary that no other writer takes."""
    return f"{HOST}.{os.getpid()}-{secrets.token_hex(4)}"


def _open_locked(temporary):
    """A new file, locked as long as its writer lives."""
    while True:
        file = open(temporary, "xb")  # noqa: SIM115
        if lock(file) is not False and temporary.exists():
            return file
        file.close()  # one that sweeps left-overs away has been quicker than the lock
        temporary.unlink(missing_ok=True)


def lock(file) -> bool | None:
    """Lock an open file until it is closed or its process has ended, however that ends.

    False where another process, or another opening of the file, has it locked; None where the file
    system cannot lock.
    """
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None


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


def changed_names(there: dict, here: dict) -> list[str]:
    """The names, in their order, whose values differ; one that is missing has the value None."""
    return [name for name in {**there, **here} if there.get(name) != here.get(name)]


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
        probe.unlink(missing_ok=True)
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
    remove_stale_temporaries(path.parent, glob.escape(path.name))
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


def remove_stale_temporaries(folder, of="*"):
    """Remove what killed writers left in `folder` and in the folders in it, never the temporary of
    a process that still runs; `of` a pattern of file names.

    A writer holds a lock on its temporary, so that it is known to live in whatever container it
    runs. Where the file system cannot lock, and of another machine, only old ones go.
    """
    found = (Path(folder).glob(f"{below}.{of}.*.tmp") for below in ("", "*/"))
    for path in chain.from_iterable(found):
        parts = path.name.rsplit(".", 3)  # ".name", host, "pid-token", "tmp"
        if len(parts) < 4 or not re.fullmatch(r"\d+-[0-9a-f]{8}", parts[2]):
            continue  # somebody else's
        with suppress(OSError), open(path, "rb") as file:  # its writer may finish meanwhile
            if (free := lock(file)) is False:
                continue
            age = time.time() - path.stat().st_mtime
            if (free and parts[1] == HOST) or age > FOREIGN_TEMPORARY_SECONDS:
                path.unlink()


def one_line(error: BaseException) -> str:
    """The text of an exception without its line breaks; its class where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
