"""Stages of an experiment, each cached by the hash of what it depends on."""

import multiprocessing
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from dg.experiments.costs import Cost
from dg.runtime.files import read_json, settings_hash, write_json
from dg.runtime.progress import Progress, silent

SPENT_SECONDS = 10  # between two notes of the time that a stage has taken so far


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
    its folder carries that key and, once finished, a done.json. What a stage leaves in its folder
    when it is interrupted is there when it is run again, so that it can go on from it.
    """

    def __init__(
        self, folder, progress: Progress = silent, notify: Callable[[str], None] = lambda line: None
    ):
        self.folder, self.progress, self.notify = Path(folder), progress, notify
        self.keys: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self.took: dict[Path, float] = {}  # seconds by folder, of this object's runs

    def run(
        self,
        name: str,
        settings: dict,
        needs: list[str],
        make: Callable[[Path], None],
        kind: str | None = None,
    ) -> Path:
        """The folder of stage `name`, made by `make(folder)` unless it is there already."""
        path = self._folder(name, settings, needs, kind)
        done, spent = path / "done.json", path / "seconds.json"
        if path in self.took:  # before, perhaps under another name
            return path
        if done.exists():
            self.seconds[name] = self.took[path] = read_json(done)["seconds"]
            self.notify(f"{name}: done before, in {self.seconds[name]:.1f} s")
            return path
        path.mkdir(parents=True, exist_ok=True)
        before = read_json(spent) if spent.exists() else 0.0  # of runs that were interrupted
        start, over = time.perf_counter(), threading.Event()

        def keep():
            # A killed process cannot say how long it has worked.
            while not over.wait(SPENT_SECONDS):
                write_json(spent, before + time.perf_counter() - start)

        thread = threading.Thread(target=keep, daemon=True)
        thread.start()
        try:
            make(path)
        except BaseException:
            write_json(spent, before + time.perf_counter() - start)
            raise
        finally:
            over.set()
            thread.join()
        self.seconds[name] = self.took[path] = before + time.perf_counter() - start
        write_json(done, {"seconds": self.seconds[name], "settings": settings})
        self.notify(f"{name}: {self.seconds[name]:.1f} s")
        return path

    def run_all(self, plan: list[Stage], only: Iterable[str] | None = None) -> dict[str, Path]:
        """Run the stages of a plan, or some of them with what they need; folders by name.
        ValueError for an unknown one."""
        names = [stage.name for stage in plan]
        wanted, paths = needed(plan, names if only is None else only), {}
        for stage in plan:
            if stage.name in wanted:
                paths[stage.name] = self.run(
                    stage.name,
                    stage.settings,
                    stage.needs,
                    lambda path, stage=stage: stage.make(path, paths),
                    stage.kind,
                )
        return paths

    def overview(self, plan: list[Stage]) -> list[tuple[Stage, bool]]:
        """Every stage of a plan once, and whether it is done already."""
        by_path = {}
        for stage in plan:
            by_path.setdefault(self.path(stage), stage)
        return [(stage, (path / "done.json").exists()) for path, stage in by_path.items()]

    def path(self, stage: Stage) -> Path:
        """The folder of a stage, after those that it needs have been asked for."""
        return self._folder(stage.name, stage.settings, stage.needs, stage.kind)

    def _folder(self, name, settings, needs, kind) -> Path:
        kind, keys = kind or name, [self.keys[need] for need in needs]
        self.keys[name] = settings_hash({"stage": kind, "settings": settings, "needs": keys})
        return self.folder / f"{kind}-{self.keys[name]}"

    def clear(self) -> None:
        """Forget everything: the next run starts over."""
        if self.folder.exists():
            shutil.rmtree(self.folder)


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
    of the plan.
    """
    both = needed(plan, aside) & needed(plan, others)
    stages.run_all(plan, both)
    spawn = multiprocessing.get_context("spawn")
    helper = spawn.Process(target=target, args=args, daemon=True)
    helper.start()
    try:
        stages.run_all(plan, others)
        helper.join()
    finally:
        helper.kill()
