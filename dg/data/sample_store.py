"""The folder that a sampling run fills: resumable, with the same bytes whenever interrupted."""

import hashlib
import io
import json
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np

from dg.data.images import ImageSet
from dg.data.reader import load_images
from dg.runtime.files import (
    atomic_write,
    plain,
    read_json,
    remove_stale_temporaries,
    settings_hash,
    sha256_of,
    writable_folder,
    write_json,
)

FORMAT = "discriminator-guidance samples"
PARTITION = ("save type", "subdirs", "batch size")
OPTIONAL = {"class names", "runs"}  # entries of a manifest that not every store has
GRID = "grid.png"  # a picture of many samples, which is none
IMAGE_SUFFIXES = (".npz", ".png", ".jpg", ".jpeg")


class SampleStore:
    """Samples of the given seeds, kept batch by batch; several processes may fill different batches
    of one store.

    outdir      folder: new, without images, or a store made with the same settings and batch size
    settings    dict of everything the images depend on besides their seeds
    seeds       distinct integers from 0 to 2^32 - 1; a longer list that begins with the stored one
                extends the store
    batch_size  images per shard; the partition into batches depends on `seeds` and `batch_size`
                only
    save_type   'npz': shards samples_000000-000063.npz (`samples`, `seeds`, `label`); 'png':
                000123.png
    used        of this run: command, paths, versions; kept in the manifest, of every run that
                differs in it, and no part of the settings
    class_names names of the classes by label, kept in the manifest where they are known
    subdirs     PNGs as 000000/000123.png, one folder per thousand seeds; npz shards stay where they
                are

    manifest.json holds settings and seeds and is written before any image. A batch is complete when
    its record shards/000000-000063.json, written after its images, gives their SHA-256 and they
    agree. So a kill loses the batch that was being written and no more, and writers of different
    batches share no file.
    """

    kind = ImageSet  # of a batch
    keys = ("samples", "label")  # of its arrays in an npz file

    def __init__(
        self,
        outdir,
        settings,
        seeds,
        batch_size,
        save_type="npz",
        subdirs=False,
        class_names=None,
        used=None,
    ):
        if batch_size < 1:
            raise ValueError(f"batch size {batch_size} is too small; give at least 1")
        if save_type not in ("npz", "png"):
            raise ValueError(f"cannot save as {save_type!r}; choose npz or png")
        self.seeds = checked_seeds(seeds)
        self.batch_size, self.save_type, self.subdirs = (
            batch_size,
            save_type,
            bool(subdirs) and save_type == "png",
        )
        self.damaged = []
        self._batches = _partition(self.seeds, batch_size)
        self.outdir = writable_folder(outdir)
        self.records = self.outdir / "shards"
        partition = dict(zip(PARTITION, (save_type, self.subdirs, batch_size), strict=True))
        which = {"num seeds": len(self.seeds), "seeds": _runs(self.seeds)}
        what = {"settings hash": settings_hash(settings), "settings": plain(settings)}
        names = {"class names": list(class_names)} if class_names else {}
        self._open({"format": FORMAT, **partition, **which, **what, **names}, plain(used))
        writable_folder(self.records)

    def batches(self):
        """All batches in order, each a list of seeds."""
        return self._batches

    def pending(self):
        """Indices of the batches still to be made; hashes everything that is there.

        Afterwards `damaged` names the files that were complete once and no longer are; their
        batches are pending again.
        """
        self.damaged = []
        return [index for index, seeds in enumerate(self._batches) if not self._is_complete(seeds)]

    def write(self, index, images, labels=None, counts=None):
        """Store batch `index`: images uint8 [N, H, W, C] in the order of its seeds, labels int64
        [N] if conditional; `counts` by name, [N] each, stand in its record."""
        seeds = self._batches[index]
        batch = self.kind(
            np.asarray(images), None if labels is None else np.asarray(labels), f"batch {index}"
        )
        if len(batch) != len(seeds):
            raise ValueError(
                f"batch {index} has {len(seeds)} seeds, not {len(batch)} {batch.what}; give one "
                "for each seed"
            )
        hashes = {}
        for name, content in self._encode(seeds, batch):
            path = self.outdir / name
            if not path.parent.is_dir():
                writable_folder(path.parent)
            with atomic_write(path) as file:
                file.write(content)
            hashes[name] = hashlib.sha256(content).hexdigest()
        labels = None if batch.labels is None else batch.labels.tolist()
        record = {"seeds": _runs(seeds), "labels": labels, "files": hashes, **(counts or {})}
        write_json(self._record(seeds), record)

    def missing(self):
        """The batches that were never completed, each a list of seeds; a quick look that hashes
        nothing."""
        return [seeds for seeds in self._batches if not self._record(seeds).exists()]

    def finish(self):
        """Write EDM's dataset.json for conditional PNGs: for one process to call when no batch is
        pending."""
        if missing := self.missing():
            raise ValueError(
                f"{self.outdir} lacks seeds {_runs(missing[0])}; run again to make them"
            )
        if self.save_type == "png":
            records = [read_json(self._record(seeds)) for seeds in self._batches]
            if records[0]["labels"] is not None:
                pairs = chain.from_iterable(
                    zip(r["files"], r["labels"], strict=True) for r in records
                )
                lines = ",\n".join(json.dumps(pair) for pair in pairs)  # one image per line
                with atomic_write(self.outdir / "dataset.json") as file:
                    file.write(f'{{"labels": [\n{lines}\n]}}\n'.encode())

    def load(self):
        """All images as an ImageSet, in ascending order of their seeds; ValueError if any is
        missing or damaged."""
        if pending := self.pending():
            raise ValueError(
                f"{self.outdir} lacks seeds {_runs(self._batches[pending[0]])}; run again to make "
                "them"
            )
        self.finish()
        return load_images(self.outdir)

    def _names(self, seeds):
        """The image files of a batch, relative to the folder."""
        if self.save_type == "npz":
            return [f"samples_{_label(seeds)}.npz"]
        return [
            f"{seed - seed % 1000:06d}/{seed:06d}.png" if self.subdirs else f"{seed:06d}.png"
            for seed in seeds
        ]

    def _record(self, seeds):
        return self.records / f"{_label(seeds)}.json"

    def _encode(self, seeds, batch):
        """Yield (file name, content) for every image file of a batch; the same bytes for the same
        images, always."""
        names = self._names(seeds)
        if self.save_type == "npz":
            items, labels = self.keys
            arrays = {items: batch.items, "seeds": np.array(seeds, dtype=np.int64)}
            if batch.labels is not None:
                arrays[labels] = batch.labels
            buffer = io.BytesIO()
            np.savez(buffer, **arrays)
            yield names[0], buffer.getvalue()
            return
        from PIL import Image

        for name, image in zip(names, batch.images, strict=True):
            buffer = io.BytesIO()
            Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(buffer, "png")
            yield name, buffer.getvalue()

    def _is_complete(self, seeds):
        record = self._record(seeds)
        if not record.exists():
            return False  # never made, or killed on the way: nothing to warn about
        try:
            hashes = read_json(record)["files"]
            if list(hashes) != self._names(seeds):
                raise ValueError
        except (ValueError, KeyError, TypeError):
            self.damaged.append(str(record.relative_to(self.outdir)))
            return False
        bad = [name for name, digest in hashes.items() if not _agrees(self.outdir / name, digest)]
        self.damaged += bad
        return not bad

    def _open(self, manifest, used):
        """Check that the folder is this store's, or make it so."""
        for temporary in (*self.outdir.glob(".*.tmp"), *self.outdir.glob("*/.*.tmp")):
            remove_stale_temporaries(temporary.parent)
        # First look for images, then for the manifest: another process of this run writes them in
        # the opposite order.
        found = {
            path
            for glob in ("*", "*/*")
            for path in self.outdir.glob(glob)
            if path.suffix in IMAGE_SUFFIXES and path.name != GRID
        }
        begun = bool(found)
        path = self.outdir / "manifest.json"
        stored = read_json(path) if path.exists() else None
        ours = (
            isinstance(stored, dict)
            and set(stored) - OPTIONAL == set(manifest) - OPTIONAL
            and stored["format"] == FORMAT
        )
        if stored is not None and not ours:
            raise ValueError(f"{path} is not a sample store's; use another folder")
        if stored is not None and found:
            self._check_same(stored, manifest)
            self._retire_tail(stored["num seeds"])
            # others are the user's previews
            found = {path for path in found if path.suffix == f".{self.save_type}"}
            found -= {self.outdir / name for seeds in self._batches for name in self._names(seeds)}
        if foreign := sorted(path for path in found if path.exists()):
            raise ValueError(f"{foreign[0]} is not an image of this run; use another folder")
        if stored is not None and "class names" in stored:
            manifest = {"class names": stored["class names"], **manifest}
        runs = stored.get("runs", []) if stored is not None and begun else []
        if used is not None and used not in runs:
            runs = [*runs, used]
        manifest |= {"runs": runs} if runs else {}
        if stored != manifest:
            write_json(path, manifest)

    def _check_same(self, stored, manifest):
        there, here = (
            {**m["settings"], **{key: m[key] for key in PARTITION}} for m in (stored, manifest)
        )
        if there != here:
            keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
            words = [
                f"{key} {json.dumps(there.get(key))} there, {json.dumps(here.get(key))} here"
                for key in keys
            ]
            raise ValueError(
                f"{self.outdir} was made with other settings ({'; '.join(words)}); use another "
                "folder"
            )
        if _runs(self.seeds[: stored["num seeds"]]) != stored["seeds"]:
            seeds = f"seeds {stored['seeds']}, and seeds {manifest['seeds']} do not begin with them"
            raise ValueError(
                f"{self.outdir} holds {seeds}; use another folder, or extend the list that is there"
            )

    def _retire_tail(self, count):
        """Remove the last batch of a store of `count` seeds that is extended, if it is short: a
        longer one takes its place."""
        last = (count - 1) // self.batch_size
        seeds = self.seeds[last * self.batch_size : count]
        if seeds != self._batches[last]:
            for name in self._names(seeds) if self.save_type == "npz" else []:
                (self.outdir / name).unlink(missing_ok=True)
            self._record(seeds).unlink(missing_ok=True)
        if count < len(self.seeds):
            (self.outdir / "dataset.json").unlink(missing_ok=True)


def was_generated(source) -> bool:
    """Whether a manifest says that the images of a folder, or of a file in it, were sampled."""
    path = Path(source)
    manifest = (path if path.is_dir() else path.parent) / "manifest.json"
    try:
        stored = read_json(manifest) if path.exists() and manifest.is_file() else {}
        return stored["format"] == FORMAT and "network" in stored["settings"]
    except (ValueError, KeyError, TypeError):
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


def _partition(seeds, batch_size):
    return [seeds[i : i + batch_size] for i in range(0, len(seeds), batch_size)]


def _runs(seeds):
    """Write a list of seeds as 0-99,105,7-9: in its order, consecutive ones joined."""
    breaks = [i for i in range(1, len(seeds)) if seeds[i] != seeds[i - 1] + 1]
    starts, ends = [0, *breaks], [*breaks, len(seeds)]
    runs = [(seeds[start], seeds[end - 1]) for start, end in zip(starts, ends, strict=True)]
    return ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in runs)


def _label(seeds):
    """Name a batch after its seeds, 000000-000063; where they are not consecutive, a hash makes it
    unique."""
    label = f"{seeds[0]:06d}-{seeds[-1]:06d}"
    return label if "," not in _runs(seeds) else f"{label}-{settings_hash(seeds)[:8]}"


def _agrees(path, digest):
    try:
        return sha256_of(path) == digest
    except OSError:
        return False
