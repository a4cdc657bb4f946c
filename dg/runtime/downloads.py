"""Files by path, short name or URL: fetched once into the cache folder, continued where broken off,
checked."""

import contextlib
import difflib
import hashlib
import io
import os
import re
import tempfile
import time
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from dg.runtime.addresses import public
from dg.runtime.catalogue import CATALOGUE, Source
from dg.runtime.files import cache_folder, one_line, read_json, sha256_of, write_json
from dg.runtime.pretrained import pretrained_file, pretrained_names
from dg.runtime.progress import silent, unheard
from tensor_files.reading import open_file

TIMEOUT = (15, 60)  # seconds to connect, seconds without a byte
PIECE = 1 << 20  # bytes between two steps of the progress bar
SLOW_SECONDS, LEAST_BYTES = 120, 1 << 16  # of that time: a slower server is given up
MOST_SECONDS = 24 * 3600  # of one connection
MOST_CONNECTIONS = 100  # of one run, each of which brings something
MOST_GIB = 8  # of a file, unless the environment variable DG_MAX_DOWNLOAD says another number
PAGE = re.compile(rb"\s*(<!doctype|<html|<head|<\?xml|<body)", re.IGNORECASE)


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
        tag = hashlib.sha256(public(name).encode()).hexdigest()[:8]
        page = public(f"{url.scheme}://{url.netloc}")
        return Source(f"{path.stem or 'download'}-{tag}{path.suffix}", name, f"unknown, see {page}")
    near = difflib.get_close_matches(*_likely(name, suffix), n=3, cutoff=0.5)
    hint = (
        f"did you mean {' or '.join(near)}?"
        if near
        else "give a path, an http(s) URL or a short name"
    )
    raise ValueError(f"{public(name)} does not exist and is no known file; {hint}")


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
    known = read_json(record) if record.exists() else {}
    if not isinstance(known, dict):
        raise ValueError(f"{record} is no record of a download; delete it to trust {target} anew")
    found = sha256_of(path)
    wanted, page = source.sha256 or known.get("sha256"), public(source.url)
    if PAGE.match(_head(path)):
        rejected = _set_aside(path, target, found)
        if known.get("sha256") == found:
            record.unlink()
        raise ValueError(
            f"{target.name} from {page} is a web page, not the file; it was set aside as "
            f"{rejected}; get the file in a browser and save it as {target}"
        )
    if wanted not in (None, found):
        rejected = _set_aside(path, target, found)
        hint = (
            "" if source.sha256 else f", or delete {record} first if its publisher has changed it"
        )
        raise ValueError(
            f"{target.name} from {page} has SHA-256 {found}, not {wanted}; it was set aside "
            f"as {rejected}; run again to fetch it anew{hint}"
        )
    if wanted is None:
        write_json(record, {"url": page, "sha256": found, "bytes": path.stat().st_size})
        notify(f"{target.name}: no published SHA-256, trusting {found} from now on")
    if path != target:
        os.replace(path, target)
    return target


def _set_aside(path, target, found):
    rejected = target.with_name(f"{target.name}.{found[:8]}.rejected")
    os.replace(path, rejected)
    return rejected


def _head(path):
    with open_file(path) as file:
        return file.read(256)


# ---- http


def _fetch_url(source, target, progress):
    """Return the path of the complete download, which still has a temporary name."""
    import requests

    limit, version = _limit(), None
    for _ in range(MOST_CONNECTIONS):
        before = _fetched(target)
        try:
            with _connection(source.url) as response:
                part = _part_of(response, target, limit)
                if version not in (None, part):
                    raise _Refused("the file changes while it is fetched")
                version = part
                return _complete(source.url, response, part, limit, progress)
        except _Refused as error:
            reason = str(error)
        except requests.RequestException as error:  # an OSError too, so it comes first
            response = getattr(error, "response", None)
            reason = type(error).__name__ if response is None else f"HTTP {response.status_code}"
            if _fetched(target) > before:  # as long as every connection brings something, go on
                continue
        except OSError as error:
            raise ValueError(
                f"cannot write {target} ({error.strerror}); free some space and run again"
            ) from error
        break
    else:
        reason = f"{MOST_CONNECTIONS} connections broke off"
    raise ValueError(
        f"cannot download {public(source.url)} ({reason}, {_fetched(target)} bytes so far); run "
        f"again to continue, or get the file from there and save it as {target}"
    )


class _Refused(Exception):
    """An answer that is not taken, in words."""


def _limit():
    """The largest size of a file, in bytes."""
    said = os.environ.get("DG_MAX_DOWNLOAD") or MOST_GIB
    try:
        return int(float(said) * 2**30)
    except (ValueError, OverflowError):
        raise ValueError(f"DG_MAX_DOWNLOAD is {said}; give a number of GiB") from None


def _fetched(target):
    return sum(part.stat().st_size for part in target.parent.glob(f"{target.name}.*.part"))


def _connection(url, **headers):
    import requests

    # lengths and ranges are those of the file
    headers = {"Accept-Encoding": "identity", **headers}
    response = requests.get(url, stream=True, timeout=TIMEOUT, headers=headers)
    response.raise_for_status()
    return response


def _length(response):
    """The bytes that an answer announces, 0 where it does not."""
    said = response.headers.get("Content-Length", "0")
    return int(said) if said.isascii() and said.isdigit() else 0


def _part_of(response, target, limit):
    """Where the download is kept; those of other versions of the file are removed."""
    if (total := _length(response)) > limit:
        raise _Refused(
            f"{total:,} bytes, more than the {limit / 2**30:g} GiB that DG_MAX_DOWNLOAD allows"
        )
    version = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
    tag = hashlib.sha256(f"{version} {total}".encode()).hexdigest()[:8]
    part = target.with_name(f"{target.name}.{tag}.part")
    for other in target.parent.glob(f"{target.name}.*.part"):
        if other != part:
            other.unlink()
    return part


def _complete(url, response, part, limit, progress):
    """Fetch what is missing over this connection, or another if a part is there already."""
    total = _length(response)
    have = part.stat().st_size if part.exists() else 0
    if not 0 < have <= total:
        return _receive(response, part, 0, total, limit, progress)
    if have == total:
        return part
    with _connection(url, Range=f"bytes={have}-") as rest:
        continued = rest.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        return _receive(rest, part, have if continued else 0, total, limit, progress)


def _receive(response, part, have, total, limit, progress):
    import requests

    steps = {
        "desc": part.name.rsplit(".", 2)[0],
        "total": -(-total // PIECE) or None,
        "initial": have // PIECE,
    }
    with open(part, "ab" if have else "wb") as file:
        for piece in progress(_pieces(response), unit="MiB", **steps):
            file.write(piece)
            if file.tell() > (total or limit):
                part.unlink()
                raise _Refused(f"it goes on beyond {total or limit:,} bytes")
        file.flush()
        os.fsync(file.fileno())
    if total and part.stat().st_size != total:
        raise requests.ConnectionError("cut short")
    return part


def _pieces(response):
    """The bytes of an answer; RequestException where it breaks off, or is too slow in the end."""
    import requests

    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise _Refused("the server packs it, though asked not to")
    start = since = time.monotonic()
    piece, brought = bytearray(), 0
    while True:
        try:
            data = response.raw.read1(PIECE)
        except Exception as error:  # of urllib3
            yield bytes(piece)
            raise requests.ConnectionError(type(error).__name__) from error
        if not data:
            break
        piece, brought, now = piece + data, brought + len(data), time.monotonic()
        if len(piece) >= PIECE:
            yield bytes(piece)
            piece = bytearray()
        if now - since > SLOW_SECONDS:
            if brought < LEAST_BYTES:
                raise _Refused(f"only {brought} bytes in {now - since:.0f} seconds")
            brought, since = 0, now
        if now - start > MOST_SECONDS:
            raise _Refused(f"not complete after {MOST_SECONDS / 3600:g} hours")
    yield bytes(piece)


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
            if found[0].stat().st_size > _limit():
                raise ValueError("larger than DG_MAX_DOWNLOAD allows")
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
