"""The networks, classifiers, heads and statistics in pretrained/, which this project has trained:
each by the name of its file, without a download."""

from collections.abc import Sequence
from pathlib import Path

from dg.runtime.files import read_json, sha256_of

CURVES = "curves.json"  # written by benchmarks.convergence
GUIDANCE = "guidance.json"  # options of generate.py for heads, by their names
HASHES = "SHA256SUMS"  # as sha256sum writes and checks them
_CHECKOUT, _INSTALLED = (Path(__file__).resolve().parents[up] / "pretrained" for up in (2, 1))
FOLDER = _INSTALLED if (_INSTALLED / HASHES).is_file() else _CHECKOUT


def pretrained_names() -> dict[str, str]:
    """File name by short name; nothing where the folder is missing."""
    return {Path(file).stem: file for file in _hashes()}


def pretrained_file(name: str) -> Path | None:
    """The file of a short name or file name, None for an unknown one. ValueError if it is missing
    or changed."""
    file = pretrained_names().get(name, name)
    if (expected := _hashes().get(file)) is None:
        return None
    path = FOLDER / file
    if not path.is_file() or sha256_of(path) != expected:
        fault = "has changed" if path.is_file() else "is missing"
        raise ValueError(f"{path} {fault}; bring it back with `git checkout {path}`")
    return path


def classifier_of(heads: Sequence[str]) -> str | None:
    """The noise-aware classifier under heads of this folder, by name: that of MNIST-14-DISC is
    MNIST-14-NOISY-CLASSIFIER. None where they stand on another extractor or are other files."""
    known = pretrained_names()
    if not all(head in known and head.endswith("-disc") for head in heads):
        return None
    partners = {f"{head.removesuffix('-disc')}-noisy-classifier" for head in heads}
    return partners.pop() if len(partners) == 1 else None


def recommended_guidance(heads: Sequence[str]) -> dict[str, float]:
    """The options of generate.py that were measured best for a head of this folder, by their names
    without dashes. Nothing for other heads, and for several heads."""
    path = FOLDER / GUIDANCE
    if len(heads) != 1 or heads[0] not in pretrained_names() or not path.is_file():
        return {}
    return read_json(path).get(heads[0], {})


def training_curve(name: str) -> list[dict]:
    """Distances of a network along its training, by the number of images seen: `points` of its
    entry in curves.json; none where it has no entry."""
    path = FOLDER / CURVES
    return read_json(path).get(name, {}).get("points", []) if path.is_file() else []


def _hashes() -> dict[str, str]:
    """SHA-256 by file name."""
    try:
        lines = (FOLDER / HASHES).read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = [line.split("  ", 1) for line in lines]
    if any(len(pair) < 2 for pair in pairs):
        raise ValueError(f"{FOLDER / HASHES} is damaged; bring it back with `git checkout` of it")
    return {file: digest for digest, file in pairs}
