"""Stages of an experiment, each cached by the hash of what it depends on."""

import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from dg.experiments.costs import Cost
from dg.runtime.clock import kept_clock
from dg.runtime.files import read_json, settings_hash, sha256_of, write_json
from dg.runtime.progress import unheard
from dg.runtime.run_folder import LOCK, sole_writer
from dg.runtime.waiting import LOOK_SECONDS, Wait

DONE, CLOCK = "done.json", "seconds.json"


@dataclass(frozen=True)
class Stage:
    """One stage as data; `make(folder, {name: folder of what it needs})` fills its folder.

    kind  in place of the name in the folder's name and the key, so that stages of several studies
          can be the same
    """

    name: str
    settings: dict
    needs: list[str]
    make: Callable[[Path, dict[str, Path]], None]
    cost: Cost = Cost()
    title: str = ""  # for people, where the name does not tell
    kind: str | None = None


class Stages:
    """Runs stages in a folder; a stage that was finished with the same settings and inputs is not
    run again.

    A stage's key is the hash of its name, its settings and the keys of the stages it depends on;
    its folder carries that key and, once finished, a done.json with the hashes of its files. What a
    stage leaves in its folder when it is interrupted is there when it is run again, so that it can
    go on from it. A finished stage of which a file is damaged or missing is made again. Two
    processes do not make one stage at once.
    """

    def __init__(self, folder, notify: Callable[[str], None] = unheard):
        self.folder, self.notify = Path(folder), notify
        self.keys: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self.took: dict[Path, float] = {}  # seconds by folder, of this object's runs

    def run(self, stage: Stage, paths: dict[str, Path] | None = None) -> Path:
        """The folder of a stage, made unless it is there already.

        paths  folders of the stages that it needs, which have been run before
        """
        path, name = self.path(stage), stage.name
        if path in self.took:  # before, perhaps under another name
            return path
        seconds = self._done(path, name)
        if seconds is not None:
            self.seconds[name] = self.took[path] = seconds
            self.notify(f"{name}: done before, in {seconds:.1f} s")
            return path
        with sole_writer(path):
            self.seconds[name] = self.took[path] = self._make(stage, path, paths or {})
        self.notify(f"{name}: {self.seconds[name]:.1f} s")
        return path

    def _make(self, stage: Stage, path: Path, paths: dict[str, Path]) -> float:
        """Seconds that it took to make a stage, or what it still lacked."""
        record = _record(path)
        bad = _damaged(path, record or {})
        if record is not None and not bad:
            return record["seconds"]  # another process has made it meanwhile
        for name in (DONE, *bad):
            (path / name).unlink(missing_ok=True)
        with kept_clock(path / CLOCK, self.notify) as spent:
            stage.make(path, paths)
            if any(not (path / name).exists() for name in bad):  # it went on from beyond them
                _empty(path)
                stage.make(path, paths)
        seconds = spent()
        write_json(path / DONE, _finished(path, seconds, stage.settings))
        return seconds

    def _done(self, path: Path, name: str) -> float | None:
        """The seconds that a finished stage took; None for one that is to be made or mended."""
        record = _record(path)
        if record is None:
            if (path / DONE).exists():
                self.notify(f"{name}: its {DONE} is damaged; it is made again")
            return None
        if bad := _damaged(path, record):
            self.notify(f"{name}: {bad[0]} has changed or is missing; it is made again")
            return None
        if "files" not in record:
            write_json(path / DONE, _finished(path, record["seconds"], record.get("settings")))
            self.notify(f"{name}: its files had no hashes; they are taken as they are")
        return record["seconds"]

    def run_all(self, plan: list[Stage], only: Iterable[str] | None = None) -> dict[str, Path]:
        """Folders by name of the stages of a plan, or of those in `only` and what they need."""
        wanted, paths = needed(plan, (s.name for s in plan) if only is None else only), {}
        for stage in plan:
            if stage.name in wanted:
                paths[stage.name] = self.run(stage, paths)
        return paths

    def overview(self, plan: list[Stage]) -> list[tuple[Stage, bool]]:
        """Every stage of a plan once, and whether it is done already."""
        by_path = {}
        for stage in plan:
            by_path.setdefault(self.path(stage), stage)
        return [(stage, _record(path) is not None) for path, stage in by_path.items()]

    def path(self, stage: Stage) -> Path:
        """The folder of a stage, after those that it needs have been asked for."""
        kind, keys = stage.kind or stage.name, [self.keys[need] for need in stage.needs]
        key = settings_hash({"stage": kind, "settings": stage.settings, "needs": keys})
        self.keys[stage.name] = key
        return self.folder / f"{kind}-{key}"

    def clear(self) -> None:
        """Forget everything: the next run starts over. ValueError where something is being made."""
        if self.folder.exists():
            with ExitStack() as owned:
                for lock in list(self.folder.rglob(LOCK)):
                    owned.enter_context(sole_writer(lock.parent))
                shutil.rmtree(self.folder)


def _record(path: Path) -> dict | None:
    """What a finished stage says of itself; None for one that is unfinished, or says nothing
    sound."""
    with suppress(ValueError):
        found = read_json(path / DONE)
        files = found.get("files", {}) if isinstance(found, dict) else None
        if isinstance(files, dict) and isinstance(found.get("seconds"), float | int):
            return found
    return None


def _finished(path: Path, seconds: float, settings) -> dict:
    """The record of a stage with the hashes of its files."""
    files = sorted(file for file in path.rglob("*") if file.is_file() and not file.is_symlink())
    names = [file.relative_to(path).as_posix() for file in files if file.name[0] != "."]
    hashes = {name: sha256_of(path / name) for name in names if name not in (DONE, CLOCK)}
    return {"seconds": seconds, "settings": settings, "files": hashes}


def _damaged(path: Path, record: dict) -> list[str]:
    """The files of a finished stage that are not what they were."""

    def sound(name: str, digest: str) -> bool:
        return (path / name).is_file() and sha256_of(path / name) == digest

    return [name for name, digest in record.get("files", {}).items() if not sound(name, digest)]


def _empty(path: Path) -> None:
    """Remove all that a stage has made, but not its lock and its clock."""
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name not in (LOCK, CLOCK):
            entry.unlink()


def in_order(plan: list[Stage]) -> list[Stage]:
    """The same stages, each after those that it needs."""
    by_name, found = {stage.name: stage for stage in plan}, {}

    def add(stage: Stage) -> None:
        for need in stage.needs:
            if need not in found:
                add(by_name[need])
        found.setdefault(stage.name, stage)

    for stage in plan:
        add(stage)
    return list(found.values())


def needed(plan: list[Stage], names: Iterable[str]) -> set[str]:
    """The stages `names` and all that they need. ValueError for an unknown one."""
    by_name, wanted, names = {stage.name: stage for stage in plan}, set(), list(names)
    while names:
        name = names.pop()
        if name not in by_name:
            raise ValueError(f"there is no stage {name!r}; there are {', '.join(by_name)}")
        if name not in wanted:
            wanted.add(name)
            names += by_name[name].needs
    return wanted


def in_two_processes(
    stages: Stages, plan: list[Stage], aside: set[str], others: set[str], target: Callable, args
) -> None:
    """Run the stages `others` here while `target(*args)` runs the stages `aside` in a process of
    its own.

    What both need is run before. Whatever the second process leaves undone is left to the next run
    of the plan. It is not started where nothing is left for it.
    """
    stages.run_all(plan, needed(plan, aside) & needed(plan, others))
    if all(done for stage, done in stages.overview(plan) if stage.name in aside):
        stages.run_all(plan, others)
        return
    spawn = multiprocessing.get_context("spawn")
    helper = spawn.Process(target=_help, args=(target, args), daemon=True)
    helper.start()
    try:
        stages.run_all(plan, others)
        wait = Wait(stages.notify, bool)
        while helper.is_alive():
            helper.join(LOOK_SECONDS)
            wait.look(lambda: f"the second process, which makes {', '.join(sorted(aside))}")
    finally:
        helper.kill()


def _help(target: Callable, args) -> None:
    """The second process, which ends with the first however that ends."""
    threading.Thread(
        target=_end_with, args=(multiprocessing.parent_process(),), daemon=True
    ).start()
    with suppress(ValueError):  # the first process meets what is left undone, and says so
        target(*args)


def _end_with(process) -> None:
    process.join()
    os._exit(1)
