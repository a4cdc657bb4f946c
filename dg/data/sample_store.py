"""The folder that a sampling run fills: resumable, with the same bytes whenever interrupted."""

import hashlib
import io
import json
from itertools import chain
from pathlib import Path

import numpy as np

import dg
from dg.data.crops import picture_of
from dg.data.images import ImageSet
from dg.data.manifests import (
    FORMAT,
    MANIFEST,
    RECORDS,
    agrees,
    batch_label,
    checked_seeds,
    files_of_record,
    manifest_of,
    partition,
    record_path,
    runs,
)
from dg.data.reader import load_images
from dg.runtime.files import (
    atomic_write,
    plain,
    read_json,
    settings_hash,
    writable_folder,
    write_json,
)
from dg.runtime.processes import SINGLE_PROCESS, Ranks
from dg.runtime.run_folder import sole_writer

PARTITION = ("save type", "subdirs", "batch size")
OPTIONAL = {"class names", "runs", "version"}  # entries of a manifest that not every store has
TABLE = "dataset.json"
KINDS = {"settings": dict, "num seeds": int, "seeds": str, "class names": list, "runs": list}
GRID = "grid.png"  # a picture of many samples, which is none
IMAGE_SUFFIXES = (".npz", ".png", ".jpg", ".jpeg")


class SampleStore:
    """Samples of the given seeds, kept batch by batch; the processes of one run may fill different
    batches of it.

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

    ranks       the processes of the run; all of them open the store alike, and the first writes
                what belongs to all

    manifest.json holds settings and seeds and is written before any image. A batch is complete when
    its record shards/000000-000063.json, written after its images, gives the hash of the same
    settings and the images' SHA-256, and they agree. So a kill loses the batch that was being
    written and no more, and writers of different batches share no file. A store that another
    version of the code has begun is not finished by this one. Where another run is writing to the
    folder, or anything does not fit, a ValueError leaves it as it was.
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
        ranks: Ranks = SINGLE_PROCESS,
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
        self._batches = partition(self.seeds, batch_size)
        self.outdir, self.ranks = Path(outdir), ranks
        chosen = dict(zip(PARTITION, (save_type, self.subdirs, batch_size), strict=True))
        which = {"num seeds": len(self.seeds), "seeds": runs(self.seeds)}
        what = {"settings hash": settings_hash(settings), "settings": plain(settings)}
        names = {"class names": list(class_names)} if class_names else {}
        manifest = {"format": FORMAT, "version": dg.__version__} | chosen | which | what | names
        whole = manifest | {"settings hash": None, "folder": str(self.outdir.resolve())}
        ranks.agree(whole)
        with sole_writer(outdir, ranks):
            self.manifest = ranks.by_first(lambda: self._open(manifest, plain(used)))

    def batches(self):
        """All batches in order, each a list of seeds."""
        return self._batches

    def pending(self):
        """Indices of the batches still to be made; hashes everything that is there.

        Afterwards `damaged` names the files that were complete once and no longer are; their
        batches are pending again.
        """
        self.damaged, older = [], []
        found = [i for i, seeds in enumerate(self._batches) if not self._is_complete(seeds, older)]
        if found:
            self._check_version()
        for record in older:
            about = {"settings": self.manifest["settings hash"], "version": None}
            write_json(record, read_json(record) | about)
        if older:
            self.ranks.tell(
                f"{self.outdir}: {len(older)} batches of an older version do not tell their "
                "settings; they are taken for this run's, and tell them now"
            )
        return found

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
        made = {"settings": self.manifest["settings hash"], "version": dg.__version__}
        record = {"seeds": runs(seeds), "labels": labels, "files": hashes, **(counts or {})}
        write_json(self._record(seeds), record | made)

    def missing(self):
        """The batches that were never completed, each a list of seeds; a quick look that hashes
        nothing."""
        return [seeds for seeds in self._batches if not self._record(seeds).exists()]

    def finish(self):
        """Write EDM's dataset.json for conditional PNGs: for one process to call when no batch is
        pending."""
        if missing := self.missing():
            raise ValueError(
                f"{self.outdir} lacks seeds {runs(missing[0])}; run again to make them"
            )
        if self.save_type == "png":
            records = [read_json(self._record(seeds)) for seeds in self._batches]
            if records[0]["labels"] is not None:
                pairs = chain.from_iterable(
                    zip(r["files"], r["labels"], strict=True) for r in records
                )
                lines = ",\n".join(json.dumps(pair) for pair in pairs)  # one image per line
                with atomic_write(self.outdir / TABLE) as file:
                    file.write(f'{{"labels": [\n{lines}\n]}}\n'.encode())

    def load(self):
        """All images as an ImageSet, in ascending order of their seeds; ValueError if any is
        missing or damaged."""
        if pending := self.pending():
            raise ValueError(
                f"{self.outdir} lacks seeds {runs(self._batches[pending[0]])}; run again to make "
                "them"
            )
        self.finish()
        return load_images(self.outdir)

    def _names(self, seeds):
        """The image files of a batch, relative to the folder."""
        if self.save_type == "npz":
            return [f"samples_{batch_label(seeds)}.npz"]
        return [
            f"{seed - seed % 1000:06d}/{seed:06d}.png" if self.subdirs else f"{seed:06d}.png"
            for seed in seeds
        ]

    def _record(self, seeds):
        return record_path(self.outdir, seeds)

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
        for name, image in zip(names, batch.images, strict=True):
            buffer = io.BytesIO()
            picture_of(image).save(buffer, "png")
            yield name, buffer.getvalue()

    def _is_complete(self, seeds, older):
        """Whether a batch is there as it was made; `older` gets a record that lacks its
        settings."""
        record = self._record(seeds)
        if not record.exists():
            return False  # never made, or killed on the way: nothing to warn about
        hashes = files_of_record(record, seeds, self.manifest)
        if hashes is None or list(hashes) != self._names(seeds):
            self.damaged.append(str(record.relative_to(self.outdir)))
            return False
        bad = [name for name, digest in hashes.items() if not agrees(self.outdir / name, digest)]
        self.damaged += bad
        if not bad and "settings" not in read_json(record):
            older.append(record)
        return not bad

    def _open(self, manifest, used):
        """Check that the folder is this store's, then make it so; returns its manifest."""
        found = {
            path
            for glob in ("*", "*/*")
            for path in self.outdir.glob(glob)
            if path.suffix in IMAGE_SUFFIXES and path.name != GRID
        }
        begun, path = bool(found), self.outdir / MANIFEST
        stored = manifest_of(self.outdir)
        entries = {*(stored or {})} - OPTIONAL
        other = entries != set(manifest) - OPTIONAL or any(
            not isinstance(stored[name], kind) for name, kind in KINDS.items() if name in stored
        )
        if path.exists() and (stored is None or other):
            read_json(path)  # says so where it is damaged
            raise ValueError(f"{path} is not a sample store's; use another folder")
        tail = []  # of the stored seeds, where it is short and a longer one takes its place
        if stored is not None and found:
            self._check_same(stored, manifest)
            tail = self._short_tail(stored["num seeds"])
            # others are the user's previews
            found = {path for path in found if path.suffix == f".{self.save_type}"}
            batches = [*self._batches, tail] if tail else self._batches
            found -= {self.outdir / name for seeds in batches for name in self._names(seeds)}
            manifest |= {"version": stored.get("version")}
        elif stored is None:  # never there, or lost: then records tell what is of this run
            table = self.outdir / TABLE
            found |= {table} if table.exists() and not found else set()
            found -= self._recorded(manifest)
        if found:
            raise ValueError(f"{min(found)} is not an image of this run; use another folder")
        if stored is not None and "class names" in stored:
            manifest = {"class names": stored["class names"], **manifest}
        before = stored.get("runs", []) if stored is not None and begun else []
        if used is not None and used not in before:
            before = [*before, used]
        manifest |= {"runs": before} if before else {}
        self.manifest = manifest
        if self.missing():
            self._check_version()
        self._begin(stored, tail)
        return manifest

    def _recorded(self, manifest):
        """The files of the batches that have a record of this run."""
        found = ((self._record(seeds), seeds) for seeds in self._batches)
        return {
            self.outdir / name
            for record, seeds in found
            if record.is_file()
            for name in files_of_record(record, seeds, manifest) or {}
        }

    def _begin(self, stored, tail):
        """Make what has been checked so."""
        writable_folder(self.outdir / RECORDS)
        if tail:
            self._retire_tail(tail)
        if stored is not None and stored["num seeds"] < len(self.seeds):
            (self.outdir / TABLE).unlink(missing_ok=True)
        if stored != self.manifest:
            write_json(self.outdir / MANIFEST, self.manifest)

    def _retire_tail(self, seeds):
        """Remove the short last batch of a store that is extended."""
        for name in self._names(seeds) if self.save_type == "npz" else []:
            (self.outdir / name).unlink(missing_ok=True)
        self._record(seeds).unlink(missing_ok=True)

    def _check_version(self):
        """ValueError where another version has begun what is to be finished."""
        version = self.manifest["version"]
        if version not in (None, dg.__version__):
            raise ValueError(
                f"{self.outdir} was begun by version {version} and this is {dg.__version__}; "
                "finish it with that version, or use another folder"
            )

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
        begun = self.seeds[: max(stored["num seeds"], 0)]
        if len(begun) != stored["num seeds"] or runs(begun) != stored["seeds"]:
            seeds = f"seeds {stored['seeds']}, and seeds {manifest['seeds']} do not begin with them"
            raise ValueError(
                f"{self.outdir} holds {seeds}; use another folder, or extend the list that is there"
            )

    def _short_tail(self, count):
        """The last batch of a store of `count` seeds, if these seeds are not a batch of this
        one."""
        last = (count - 1) // self.batch_size
        seeds = self.seeds[last * self.batch_size : count]
        return [] if seeds == self._batches[last] else seeds
