"""What manifest.json and the records of batches say of the files of a store of samples: which run
made them, and their hashes."""

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from dg.runtime.files import read_json, settings_hash, sha256_of

FORMAT = "discriminator-guidance samples"
MANIFEST, RECORDS = "manifest.json", "shards"


def manifest_of(folder) -> dict | None:
    """The manifest of a store of samples; None where the folder is none, or its manifest is
    damaged or another program's."""
    path = Path(folder) / MANIFEST
    try:
        found = read_json(path) if path.is_file() else None
        return found if found["format"] == FORMAT and isinstance(found["settings"], dict) else None
    except (ValueError, KeyError, TypeError):
        return None


def was_generated(source) -> bool:
    """Whether a manifest says that the images of a folder, or of a file in it, were sampled."""
    path = Path(source)
    found = manifest_of(path if path.is_dir() else path.parent)
    return found is not None and "network" in found["settings"]


def check_whole(
    folder,
    files: Iterable[str],
    notify: Callable[[str], None],
    what: str = "images",
    again: str = "give the command that made the folder again",
) -> None:
    """ValueError unless `files`, relative to a store's folder, are all that it is to hold, of the
    run that its manifest names, and as that run wrote them. Other folders are not looked at.

    again   what to do where that mends it
    notify  is told where a store has lost its records, so that nothing is known of its files
    """
    folder, manifest = Path(folder), manifest_of(folder)
    if manifest is None or not _is_sound(manifest):
        if manifest is not None or ((folder / MANIFEST).is_file() and (folder / RECORDS).is_dir()):
            raise ValueError(f"{folder / MANIFEST} is damaged; restore it or delete it")
        return
    if not (folder / RECORDS).is_dir():
        notify(f"{folder}: its folder {RECORDS} is missing, so that its files are not checked")
        return
    batches = partition(seeds_of(manifest["seeds"]), manifest["batch size"])
    paths = [record_path(folder, seeds) for seeds in batches]
    made = [(path, seeds) for path, seeds in zip(paths, batches, strict=True) if path.is_file()]
    if len(made) < len(batches):
        have, all_of_it = sum(len(seeds) for _, seeds in made), manifest["num seeds"]
        raise ValueError(f"{folder} holds {have} of {all_of_it} {what}; {again} to make the rest")
    hashes = {}
    for path, seeds in made:
        found = files_of_record(path, seeds, manifest)
        if found is None:
            raise ValueError(f"{path} is not of the run that made {folder}; {again} to mend it")
        hashes |= found
    if foreign := sorted(set(files) - set(hashes)):
        raise ValueError(
            f"{folder / foreign[0]} is not of the run that made {folder}; move it away"
        )
    if bad := next((name for name in hashes if not agrees(folder / name, hashes[name])), None):
        missing = "has changed" if (folder / bad).exists() else "is missing"
        raise ValueError(f"{folder / bad} {missing}; {again} to mend it")


def _is_sound(manifest: dict) -> bool:
    """Whether the entries of a manifest agree with each other."""
    try:
        whole = len(seeds_of(manifest["seeds"])) == manifest["num seeds"]
        known = settings_hash(manifest["settings"]) == manifest["settings hash"]
        size = manifest["batch size"]
        return whole and known and type(size) is int and size >= 1
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def files_of_record(path: Path, seeds: list[int], manifest: dict) -> dict[str, str] | None:
    """SHA-256 by file name, of the record of a batch; None for one that is damaged or of another
    run.

    Older versions wrote no settings into records; they are trusted in a store of an older version.
    """
    try:
        found = read_json(path)
        known = found.get("settings", None if manifest.get("version") else "unknown")
        ours = known in ("unknown", manifest["settings hash"]) and found["seeds"] == runs(seeds)
        return dict(found["files"]) if ours else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def agrees(path, digest: str) -> bool:
    """Whether a file is there and has that SHA-256."""
    try:
        return sha256_of(path) == digest
    except OSError:
        return False


def checked_seeds(seeds):
    """Distinct seeds from 0 to 2^32 - 1 as a list; ValueError for others.

    Generators take seeds modulo 2^32, so that a larger one would make the image of another.
    """
    seeds = [int(seed) for seed in seeds]
    if not seeds:
        raise ValueError("no seeds given; give at least one")
    if min(seeds) < 0:
        raise ValueError(f"seed {min(seeds)} is negative; give seeds from 0")
    if max(seeds) >= 2**32:
        raise ValueError(f"seed {max(seeds)} is too large; give seeds below 2^32 = {2**32}")
    if len(set(seeds)) < len(seeds):
        twice = next(seed for seed, count in Counter(seeds).items() if count > 1)
        raise ValueError(f"seed {twice} is given twice; give every seed once")
    return seeds


def partition(seeds: list, batch_size: int) -> list[list]:
    """Batches of consecutive seeds of a list."""
    return [seeds[i : i + batch_size] for i in range(0, len(seeds), batch_size)]


def runs(seeds: list[int]) -> str:
    """Write a list of seeds as 0-99,105,7-9: in its order, consecutive ones joined."""
    breaks = [i for i in range(1, len(seeds)) if seeds[i] != seeds[i - 1] + 1]
    starts, ends = [0, *breaks], [*breaks, len(seeds)]
    found = [(seeds[start], seeds[end - 1]) for start, end in zip(starts, ends, strict=True)]
    return ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in found)


def seeds_of(text: str) -> list[int]:
    """The list that `runs` has written."""
    pairs = (part.split("-") for part in text.split(","))
    return [seed for pair in pairs for seed in range(int(pair[0]), int(pair[-1]) + 1)]


def batch_label(seeds: list[int]) -> str:
    """Name a batch after its seeds, 000000-000063; where they are not consecutive, a hash makes it
    unique."""
    label = f"{seeds[0]:06d}-{seeds[-1]:06d}"
    return label if "," not in runs(seeds) else f"{label}-{settings_hash(seeds)[:8]}"


def record_path(folder: Path, seeds: list[int]) -> Path:
    """The record of a batch."""
    return folder / RECORDS / f"{batch_label(seeds)}.json"
