"""Stages of an experiment, each cached by the hash of what it depends on."""

import multiprocessing
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from dg.experiments.costs import Cost
from dg.runtime.clock import kept_clock
from dg.runtime.files import read_json, settings_hash, write_json
from dg.runtime.progress import unheard


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
        done = path / "done.json"
        if done.exists():
            self.seconds[name] = self.took[path] = read_json(done)["seconds"]
            self.notify(f"{name}: done before, in {self.seconds[name]:.1f} s")
            return path
        path.mkdir(parents=True, exist_ok=True)
        with kept_clock(path / "seconds.json") as spent:
            stage.make(path, paths or {})
        self.seconds[name] = self.took[path] = spent()
        write_json(done, {"seconds": self.seconds[name], "settings": stage.settings})
        self.notify(f"{name}: {self.seconds[name]:.1f} s")
        return path

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
        return [(stage, (path / "done.json").exists()) for path, stage in by_path.items()]

    def path(self, stage: Stage) -> Path:
        """The folder of a stage, after those that it needs have been asked for."""
        kind, keys = stage.kind or stage.name, [self.keys[need] for need in stage.needs]
        key = settings_hash({"stage": kind, "settings": stage.settings, "needs": keys})
        self.keys[stage.name] = key
        return self.folder / f"{kind}-{key}"

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
    stages.run_all(plan, needed(plan, aside) & needed(plan, others))
    spawn = multiprocessing.get_context("spawn")
    helper = spawn.Process(target=target, args=args, daemon=True)
    helper.start()
    try:
        stages.run_all(plan, others)
        helper.join()
    finally:
        helper.kill()
