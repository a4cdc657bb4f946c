import hashlib
import re
import sys
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from dg.runtime import downloads
from dg.runtime.catalogue import CATALOGUE, Source
from dg.runtime.files import read_json, write_json

CONTENT = np.random.RandomState(0).bytes(300_000)


class Handler(BaseHTTPRequestHandler):
    """One file, with ranges; the server's `plan` says after how many bytes each answer breaks
    off."""

    def do_GET(self):  # the name is http.server's
        server = self.server
        server.requests.append(self.headers.get("Range"))
        if self.path.startswith("/missing"):
            return self.send_error(404)
        start = 0
        if server.ranges and self.headers.get("Range"):
            start = (
                0
                if server.ranges == "other"
                else int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            )
            self.send_response(206)
            self.send_header(
                "Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}"
            )
        else:
            self.send_response(200)
        body = server.content[start:]
        self.send_header("Content-Length", str(len(body)))
        tag = hashlib.sha256(server.content).hexdigest()
        self.send_header("ETag", f"{tag}{len(server.requests)}" if server.changing else tag)
        self.end_headers()
        self.wfile.write(body[: server.plan.pop(0)] if server.plan else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DG_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(downloads, "PIECE", 10_000)
    return tmp_path / "cache"


@pytest.fixture
def server(cache):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.plan, server.requests, server.ranges = CONTENT, [], [], True
    server.changing = False
    server.url = f"http://127.0.0.1:{server.server_port}/a.pkl"
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    ).start()
    yield server
    server.shutdown()
    server.server_close()


def catalogue(monkeypatch, url, sha256=None, member=None):
    monkeypatch.setitem(
        CATALOGUE, "trial", Source("trial.pkl", url, "MIT (nobody)", sha256, member)
    )


def refused(match, name):
    with pytest.raises(ValueError, match=match) as caught:
        downloads.resolve(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_path_is_used_as_given(tmp_path, cache):
    (tmp_path / "a.pkl").touch()
    assert downloads.resolve(tmp_path / "a.pkl") == tmp_path / "a.pkl"
    assert not cache.exists()


def test_fetched_once_and_trusted_on_first_use(cache, server):
    lines, steps = [], []

    def progress(pieces, **kwargs):
        steps.append(kwargs)
        return pieces

    path = downloads.resolve(server.url, progress, lines.append)
    assert path.read_bytes() == CONTENT and path.parent == cache and path.name.startswith("a-")
    assert steps == [{"desc": path.name, "total": 30, "initial": 0, "unit": "MiB"}]
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert lines == [
        f"{path.name}: licence unknown, see http://127.0.0.1:{server.server_port}",
        f"{path.name}: no published SHA-256, trusting {digest} from now on",
    ]
    assert read_json(f"{path}.json") == {"url": server.url, "sha256": digest, "bytes": len(CONTENT)}
    assert downloads.resolve(server.url, notify=lines.append) == path
    assert len(server.requests) == 1 and len(lines) == 2  # nothing fetched, nothing said again
    assert not list(cache.glob("*.part"))
    assert downloads.resolve(server.url.replace("a.pkl", "b/a.pkl")) != path


def test_a_cached_file_that_changed_is_set_aside(cache, server):
    path = downloads.resolve(server.url)
    path.write_bytes(b"changed")
    message = refused("set aside", server.url)
    digests = [hashlib.sha256(content).hexdigest() for content in (b"changed", CONTENT)]
    assert all(digest in message for digest in digests) and not path.exists()
    assert [p.read_bytes() for p in cache.glob("*.rejected")] == [b"changed"]
    assert downloads.resolve(server.url).read_bytes() == CONTENT


def test_a_wrong_download_never_has_the_final_name(cache, server, monkeypatch):
    catalogue(monkeypatch, server.url, sha256="0" * 64)
    for _ in range(2):
        assert "0" * 64 in refused("trial.pkl from .* has SHA-256 [0-9a-f]{64}, not 0{64}", "trial")
    assert not (cache / "trial.pkl").exists()
    assert [p.read_bytes() for p in cache.glob("trial.pkl.*.rejected")] == [CONTENT]


def test_a_published_hash_needs_no_record(cache, server, monkeypatch):
    catalogue(monkeypatch, server.url, sha256=hashlib.sha256(CONTENT).hexdigest())
    lines = []
    for name in ("trial", "trial.pkl", server.url):
        assert downloads.resolve(name, notify=lines.append) == cache / "trial.pkl"
    assert lines == ["trial.pkl: licence MIT (nobody)"] and not (cache / "trial.pkl.json").exists()


def test_broken_connections_are_continued(cache, server):
    server.plan = [100_000, 0, 50_000, 0]  # a second look at the headers precedes each continuation
    assert downloads.resolve(server.url).read_bytes() == CONTENT
    assert [r for r in server.requests if r] == ["bytes=100000-", "bytes=150000-"]


def test_a_download_goes_on_in_the_next_run(cache, server):
    server.plan = [100_000, 0, 0]
    refused(
        r"100000 bytes so far\); run again to continue, or get the file from there and save it as "
        r".*a-",
        server.url,
    )
    assert not list(cache.glob("*.pkl"))
    server.requests.clear()
    assert downloads.resolve(server.url).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=100000-"]


def test_a_file_that_changed_on_the_server_is_not_patched_together(cache, server):
    server.plan = [100_000, 0, 0]
    refused("so far", server.url)
    server.content = CONTENT[::-1]
    assert downloads.resolve(server.url).read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("ranges", [False, "other"])
def test_a_server_without_ranges_or_with_others(cache, server, ranges):
    server.ranges, server.plan = ranges, [100_000, 0]
    assert downloads.resolve(server.url).read_bytes() == CONTENT
    assert server.requests == [None, None, "bytes=100000-"]


def test_a_file_that_changes_with_every_connection_is_given_up(cache, server):
    server.changing, server.plan = True, [10_000 * step for step in range(1, 20)]
    refused("the file changes while it is fetched", server.url)
    assert len(server.requests) == 2 and len(list(cache.glob("*.part"))) <= 1


def test_parts_of_other_versions_are_removed(cache, server):
    server.plan = [100_000, 0, 0]
    refused("so far", server.url)
    server.content, server.plan = CONTENT[::-1], [50_000, 0, 0]
    refused("50000 bytes so far", server.url)
    assert [part.stat().st_size for part in cache.glob("*.part")] == [50_000]


def test_a_file_is_no_larger_than_allowed(cache, server, monkeypatch):
    monkeypatch.setenv("DG_MAX_DOWNLOAD", str(100_000 / 2**30))
    refused(r"300,000 bytes, more than the .* GiB that DG_MAX_DOWNLOAD allows", server.url)
    assert not list(cache.glob("*.part")) and not list(cache.glob("*.pkl"))
    monkeypatch.setenv("DG_MAX_DOWNLOAD", "much")
    refused("give a number of GiB", server.url)


def test_a_slow_server_is_given_up(cache, server, monkeypatch):
    monkeypatch.setattr(downloads, "SLOW_SECONDS", -1)
    monkeypatch.setattr(downloads, "LEAST_BYTES", 10**9)
    refused(r"only \d+ bytes in", server.url)
    monkeypatch.setattr(downloads, "LEAST_BYTES", 0)
    monkeypatch.setattr(downloads, "MOST_SECONDS", -1)
    refused("not complete after", server.url)


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><title>Quota</title>", b"\n<HTML>", b"<?xml ?>"])
def test_a_web_page_is_not_kept(cache, server, page, monkeypatch):
    server.content = page
    message = refused("is a web page, not the file; it was set aside", server.url)
    assert "save it as" in message and not list(cache.glob("*.pkl"))
    catalogue(monkeypatch, server.url)
    (cache / "trial.pkl").write_bytes(page)  # of an earlier version, which had trusted it
    write_json(cache / "trial.pkl.json", {"sha256": hashlib.sha256(page).hexdigest()})
    refused("is a web page", "trial")
    assert not (cache / "trial.pkl").exists() and not (cache / "trial.pkl.json").exists()
    server.content = CONTENT
    assert downloads.resolve("trial").read_bytes() == CONTENT


def test_passwords_are_neither_shown_nor_written(cache, server):
    lines, secret = [], server.url.replace("http://", "http://me:hunter2@")
    path = downloads.resolve(secret, notify=lines.append)
    assert path == downloads.resolve(server.url)
    assert "hunter2" not in "".join([*lines, *(p.read_text() for p in cache.glob("*.json"))])
    assert "hunter2" not in refused("HTTP 404", secret.replace("a.pkl", "missing.pkl"))


def test_two_at_once_fetch_once(cache, server):
    paths = []
    threads = [
        threading.Thread(target=lambda: paths.append(downloads.resolve(server.url)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(paths)) == 1 and paths[0].read_bytes() == CONTENT and len(server.requests) == 1


def test_offline_says_what_to_get_and_where_to_put_it(cache, monkeypatch):
    catalogue(monkeypatch, "http://127.0.0.1:9/trial.pkl")
    refused(rf"http://127.0.0.1:9/trial.pkl \(Conn.*save it as {cache}/trial.pkl", "trial")
    (cache / "trial.pkl").write_bytes(b"by hand")
    assert downloads.resolve("trial").read_bytes() == b"by hand"
    (cache / "trial.pkl").write_bytes(b"damaged")
    refused("set aside", "trial")


def test_not_found_and_unknown_names(cache, server):
    refused(r"HTTP 404", server.url.replace("a.pkl", "missing.pkl"))
    refused("did you mean edm-cifar10-32x32-uncond-vp or", "edm-cifar10-32x32-uncond-vpp")
    for name in ("zzz/qqq", "file:///etc/passwd", "ftp://a/b", "http://"):
        refused("does not exist and is no known file", name)


def test_full_disk(cache, server, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(downloads.os, "fsync", full)
    refused("No space left.*free some space", server.url)
    assert not list(cache.glob("*.pkl"))


def test_google_drive(cache, monkeypatch):
    folder = "https://drive.google.com/drive/folders/abc"
    catalogue(monkeypatch, folder, member="d_*.pt")

    def give(*names):
        def download_folder(url, output, quiet):
            print("Retrieving folder contents")
            for name in names:
                downloads.Path(output, name).write_bytes(b"weights")

        monkeypatch.setitem(
            sys.modules, "gdown", types.SimpleNamespace(download_folder=download_folder)
        )

    steps = rf"or open {folder} in a browser, download d_\*.pt and save it as {cache}/trial.pkl"
    monkeypatch.setitem(sys.modules, "gdown", None)
    refused(rf"gdown is not installed: pip install gdown\); {steps}", "trial")
    give("other.pt")
    refused(rf"holds 0 files d_\*.pt\); {steps}", "trial")
    give("d_1.pt", "d_2.pt")
    refused("holds 2 files", "trial")
    assert [path.name for path in cache.iterdir()] == [".trial.pkl.lock"]
    give("d_60.pt", "other.pt")
    assert downloads.resolve("trial").read_bytes() == b"weights"


def test_catalogue():
    assert CATALOGUE["edm-cifar10-32x32-cond-ve"].url == (
        "https://nvlabs-fi-cdn.nvidia.com/edm/pretrained/edm-cifar10-32x32-cond-ve.pkl"
    )
    assert CATALOGUE["adm-256-classifier"].url.endswith("/diffusion/jul-2021/256x256_classifier.pt")
    assert (
        CATALOGUE["adm-256-uncond"].url.endswith("/256x256_diffusion_uncond.pt")
        and CATALOGUE["adm-256-uncond"].sha256
    )
    resampling = CATALOGUE["resampling-ffhq-64-discriminator"].url
    assert resampling.startswith("https://raw.githubusercontent.com/UCSB-NLP-Chang/")
    assert resampling.endswith("/benchmarks/checkpoints/discriminator/discriminator_ffhq.pt")
    assert re.search("/[0-9a-f]{40}/", resampling), "a commit, not a branch"
    assert CATALOGUE["dit-xl-2-512"].url.endswith("/DiT-XL-2-512x512.pt")
    names = [source.name for source in CATALOGUE.values()]
    assert len(set(names)) == len(names)
    assert all(len(source.sha256) == 64 for source in CATALOGUE.values() if source.sha256)
    assert sum(source.sha256 is not None for source in CATALOGUE.values()) == 8
    assert (
        "NC" in CATALOGUE["edm-ffhq-64x64-uncond-vp"].licence
        and "MIT" in CATALOGUE["adm-64-classifier"].licence
    )
