"""Stages of an experiment, each cached by the hash of what it depends on."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from dg.runtime.files import read_json, settings_hash, write_json
from dg.runtime.progress import Progress, silent


class Stages:
    """Runs stages in a folder; a stage that was finished with the same settings and inputs is not run again.

    A stage's key is the hash of its name, its settings and the keys of the stages it depends on; its folder carries that
    key and, once finished, a done.json. What a stage leaves in its folder when it is interrupted is there when it is
    run again, so that it can go on from it.
    """

    def __init__(self, folder, progress: Progress = silent, notify: Callable[[str], None] = lambda line: None):
        self.folder, self.progress, self.notify = Path(folder), progress, notify
        self.keys: dict[str, str] = {}
        self.seconds: dict[str, float] = {}

    def run(self, name: str, settings: dict, needs: list[str], make: Callable[[Path], None]) -> Path:
        """The folder of stage `name`, made by `make(folder)` unless it is there already."""
        key = settings_hash({"stage": name, "settings": settings, "needs": [self.keys[need] for need in needs]})
        self.keys[name] = key
        path = self.folder / f"{name}-{key}"
        done, spent = path / "done.json", path / "seconds.json"
        if done.exists():
            self.seconds[name] = read_json(done)["seconds"]
            self.notify(f"{name}: done before, in {self.seconds[name]:.1f} s")
            return path
        path.mkdir(parents=True, exist_ok=True)
        before = read_json(spent) if spent.exists() else 0.0  # of runs that were interrupted
        start = time.perf_counter()
        try:
            make(path)
        except BaseException:
            write_json(spent, before + time.perf_counter() - start)
            raise
        self.seconds[name] = before + time.perf_counter() - start
        write_json(done, {"seconds": self.seconds[name], "settings": settings})
        self.notify(f"{name}: {self.seconds[name]:.1f} s")
        return path

    def clear(self) -> None:
        """Forget everything: the next run starts over."""
        if self.folder.exists():
            shutil.rmtree(self.folder)
