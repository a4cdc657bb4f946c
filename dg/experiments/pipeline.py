"""Stages of an experiment, each cached by the hash of what it depends on."""

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dg.experiments.costs import Cost
from dg.runtime.files import read_json, settings_hash, write_json
from dg.runtime.progress import Progress, silent

SPENT_SECONDS = 10  # between two notes of the time that a stage has taken so far


@dataclass(frozen=True)
class Stage:
    """One stage as data; `make(folder, {name: folder of what it needs})` fills its folder."""

    name: str
    settings: dict
    needs: list[str]
    make: Callable[[Path, dict[str, Path]], None]
    cost: Cost = Cost()
    title: str = ""  # for people, where the name does not tell


class Stages:
    """Runs stages in a folder; a stage that was finished with the same settings and inputs is not run again.

    A stage's key is the hash of its name, its settings and the keys of the stages it depends on; its folder carries that
    key and, once finished, a done.json. What a stage leaves in its folder when it is interrupted is there when it is
    run again, so that it can go on from it.
    """

    def __init__(
        self, folder, progress: Progress = silent, notify: Callable[[str], None] = lambda line: None
    ):
        self.folder, self.progress, self.notify = Path(folder), progress, notify
        self.keys: dict[str, str] = {}
        self.seconds: dict[str, float] = {}

    def run(
        self, name: str, settings: dict, needs: list[str], make: Callable[[Path], None]
    ) -> Path:
        """The folder of stage `name`, made by `make(folder)` unless it is there already."""
        path = self._folder(name, settings, needs)
        done, spent = path / "done.json", path / "seconds.json"
        if done.exists():
            self.seconds[name] = read_json(done)["seconds"]
            self.notify(f"{name}: done before, in {self.seconds[name]:.1f} s")
            return path
        path.mkdir(parents=True, exist_ok=True)
        before = read_json(spent) if spent.exists() else 0.0  # of runs that were interrupted
        start, over = time.perf_counter(), threading.Event()

        def keep():
            while not over.wait(
                SPENT_SECONDS
            ):  # a killed process cannot say how long it has worked
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
        self.seconds[name] = before + time.perf_counter() - start
        write_json(done, {"seconds": self.seconds[name], "settings": settings})
        self.notify(f"{name}: {self.seconds[name]:.1f} s")
        return path

    def run_all(self, plan: list[Stage], only: str | None = None) -> dict[str, Path]:
        """Run the stages of a plan, or one of them with what it needs; folders by name. ValueError for an unknown one."""
        by_name = {stage.name: stage for stage in plan}
        if only is not None and only not in by_name:
            raise ValueError(f"there is no stage {only!r}; there are {', '.join(by_name)}")
        wanted, paths = _closure(by_name, [only] if only else list(by_name)), {}
        for stage in by_name.values():
            if stage.name in wanted:
                paths[stage.name] = self.run(
                    stage.name,
                    stage.settings,
                    stage.needs,
                    lambda path, stage=stage: stage.make(path, paths),
                )
        return paths

    def overview(self, plan: list[Stage]) -> list[tuple[Stage, bool]]:
        """Every stage of a plan once, and whether it is done already."""
        rows = []
        for stage in {stage.name: stage for stage in plan}.values():
            rows.append((stage, (self.path(stage) / "done.json").exists()))
        return rows

    def path(self, stage: Stage) -> Path:
        """The folder of a stage, after those that it needs have been asked for."""
        return self._folder(stage.name, stage.settings, stage.needs)

    def _folder(self, name, settings, needs) -> Path:
        self.keys[name] = settings_hash(
            {"stage": name, "settings": settings, "needs": [self.keys[need] for need in needs]}
        )
        return self.folder / f"{name}-{self.keys[name]}"

    def clear(self) -> None:
        """Forget everything: the next run starts over."""
        if self.folder.exists():
            shutil.rmtree(self.folder)


def _closure(by_name: dict[str, Stage], names: list[str]) -> set[str]:
    """The stages `names` and all that they need."""
    wanted = set()
    while names:
        name = names.pop()
        if name not in wanted:
            wanted.add(name)
            names += by_name[name].needs
    return wanted
