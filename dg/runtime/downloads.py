"""Files by path, short name or URL: fetched once into the cache folder, continued where broken off,
checked."""

import contextlib
import difflib
import hashlib
import io
import os
import tempfile
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from dg.runtime.catalogue import CATALOGUE, Source
from dg.runtime.files import cache_folder, one_line, read_json, sha256_of, write_json
from dg.runtime.pretrained import pretrained_file, pretrained_names
from dg.runtime.progress import silent, unheard

TIMEOUT = (15, 60)  # seconds to connect, seconds without a byte
PIECE = 1 << 20  # bytes between two steps of the progress bar


def resolve(name, progress=silent, notify=None, suffix=None):
    """Return the Path of a local file for a path (as given), the name of a file in pretrained/, a
    short name of the catalogue, or an http(s) URL.

    progress  called like tqdm(pieces, desc=, total=, initial=, unit="MiB") around a download
    notify    called with one line: the file's licence before a download, and its SHA-256 if nobody
              has published one
    suffix    of the files that fit, such as ".npz": no others are suggested for an unknown name

    A file that has no published SHA-256 is trusted at its first use, and must not change
    afterwards. Whatever goes wrong is a ValueError of one line that says which file to get from
    where and where to put it.
    """
    name = os.fspath(name)
    if os.path.exists(name):
        return Path(name)
    if found := pretrained_file(name):
        return found
    notify = notify or unheard
    source = _find(name, suffix)
    target = cache_folder() / source.name
    if not target.exists():
        with _locked(target):
            if not target.exists():  # another process may have fetched it meanwhile
                notify(f"{source.name}: licence {source.licence}")
                fetch = _fetch_drive if source.member else _fetch_url
                return _accept(fetch(source, target, progress), target, source, notify)
    return _accept(target, target, source, notify)


def _find(name, suffix=None):
    for short, source in CATALOGUE.items():
        if name in (short, source.name) or (name == source.url and not source.member):
            return source
    url = urlsplit(name)
    if url.scheme in ("http", "https") and url.netloc:
        # the hash keeps apart what different servers call the same
        path = PurePosixPath(unquote(url.path))
        tag = hashlib.sha256(name.encode()).hexdigest()[:8]
        page = f"{url.scheme}://{url.netloc}"
        return Source(f"{path.stem or 'download'}-{tag}{path.suffix}", name, f"unknown, see {page}")
    near = difflib.get_close_matches(*_likely(name, suffix), n=3, cutoff=0.5)
    hint = (
        f"did you mean {' or '.join(near)}?"
        if near
        else "give a path, an http(s) URL or a short name"
    )
    raise ValueError(f"{name} does not exist and is no known file; {hint}")


def _likely(name, suffix):
    """(the name to compare, short names of the catalogue whose files are of that suffix)"""
    suffixes = {short: PurePosixPath(source.name).suffix for short, source in CATALOGUE.items()}
    suffixes |= {short: PurePosixPath(file).suffix for short, file in pretrained_names().items()}
    path = PurePosixPath(name)
    if path.suffix in suffixes.values():
        name, suffix = path.stem, suffix or path.suffix
    return name, [short for short in suffixes if suffix in (None, suffixes[short])]


@contextlib.contextmanager
def _locked(target):
    """Let one process at a time fetch a file, where the file system can lock; without, the hashes
    still guard."""
    with open(target.with_name(f".{target.name}.lock"), "ab") as file:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _accept(path, target, source, notify):
    """Check a complete file and give it its final name; a wrong one is set aside, not deleted."""
    record = target.with_name(f"{target.name}.json")
    found = sha256_of(path)
    wanted = source.sha256 or (read_json(record).get("sha256") if record.exists() else None)
    if wanted not in (None, found):
        rejected = target.with_name(f"{target.name}.{found[:8]}.rejected")
        os.replace(path, rejected)
        hint = (
            "" if source.sha256 else f", or delete {record} first if its publisher has changed it"
        )
        raise ValueError(
            f"{target.name} from {source.url} has SHA-256 {found}, not {wanted}; it was set aside "
            f"as {rejected}; run again to fetch it anew{hint}"
        )
    if wanted is None:
        write_json(record, {"url": source.url, "sha256": found, "bytes": path.stat().st_size})
        notify(f"{target.name}: no published SHA-256, trusting {found} from now on")
    if path != target:
        os.replace(path, target)
    return target


# ---- http


def _fetch_url(source, target, progress):
    """Return the path of the complete download, which still has a temporary name."""
    import requests

    while True:
        before = _fetched(target)
        try:
            return _connect(source.url, target, progress)
        except requests.RequestException as error:  # an OSError too, so it comes first
            response = getattr(error, "response", None)
            reason = type(error).__name__ if response is None else f"HTTP {response.status_code}"
            if (
                have := _fetched(target)
            ) <= before:  # as long as every connection brings something, go on
                raise ValueError(
                    f"cannot download {source.url} ({reason}, {have} bytes so far); run again to "
                    f"continue, or get the file from there and save it as {target}"
                ) from error
        except OSError as error:
            raise ValueError(
                f"cannot write {target} ({error.strerror}); free some space and run again"
            ) from error


def _fetched(target):
    return sum(part.stat().st_size for part in target.parent.glob(f"{target.name}.*.part"))


def _connect(url, target, progress):
    """Fetch what is missing over one connection, or two if a part is there already."""
    import requests

    headers = {"Accept-Encoding": "identity"}  # lengths and ranges are those of the file
    with requests.get(url, stream=True, timeout=TIMEOUT, headers=headers) as response:
        response.raise_for_status()
        total = int(response.headers.get("Content-Length", 0))
        version = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        tag = hashlib.sha256(f"{version} {total}".encode()).hexdigest()[:8]
        # a changed file never continues an older one
        part = target.with_name(f"{target.name}.{tag}.part")
        have = part.stat().st_size if part.exists() else 0
        if not 0 < have <= total:
            return _receive(response, part, 0, total, progress)
    if have == total:
        return part
    with requests.get(
        url, stream=True, timeout=TIMEOUT, headers={**headers, "Range": f"bytes={have}-"}
    ) as response:
        response.raise_for_status()
        continued = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        return _receive(response, part, have if continued else 0, total, progress)


def _receive(response, part, have, total, progress):
    import requests

    pieces = response.iter_content(PIECE)
    steps = {
        "desc": part.name.rsplit(".", 2)[0],
        "total": -(-total // PIECE) or None,
        "initial": have // PIECE,
    }
    with open(part, "ab" if have else "wb") as file:
        for piece in progress(pieces, unit="MiB", **steps):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    if total and part.stat().st_size != total:
        raise requests.ConnectionError("cut short")
    return part


# ---- Google Drive


def _fetch_drive(source, target, progress):
    """Fetch the Google Drive folder with gdown and return its one wanted file, under a temporary
    name."""
    part = target.with_name(f"{target.name}.part")
    try:
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            import gdown

            with contextlib.redirect_stdout(io.StringIO()):
                gdown.download_folder(url=source.url, output=folder, quiet=True)
            found = [path for path in Path(folder).rglob(source.member) if path.is_file()]
            if len(found) != 1:
                raise FileNotFoundError(f"the folder holds {len(found)} files {source.member}")
            os.replace(found[0], part)
    except Exception as error:  # gdown has many, and Google refuses in many ways
        reason = (
            "gdown is not installed: pip install gdown"
            if isinstance(error, ImportError)
            else one_line(error)
        )
        raise ValueError(
            f"cannot fetch {source.member} from Google Drive ({reason}); "
            f"or open {source.url} in a browser, download {source.member} and save it as {target}"
        ) from error
    return part
