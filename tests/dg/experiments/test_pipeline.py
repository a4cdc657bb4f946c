"""Stages: made once, made again when anything they depend on changed, continued after an
interruption."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from dg.experiments.pipeline import Stage, Stages, in_two_processes, needed
from dg.runtime.run_folder import sole_writer


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only where a stage says so."""
    now = [0.0]
    monkeypatch.setattr("dg.runtime.clock.time.perf_counter", lambda: now[0])
    return now


class Experiment:
    """Two stages, the second on the first; keeps the names of those that were made."""

    def __init__(self, folder, clock, first=None, second=None, seconds=2.0, fail_in=None):
        self.made, self.lines, self.fail_in, self.clock, self.seconds = (
            [],
            [],
            fail_in,
            clock,
            seconds,
        )
        self.stages = Stages(folder, notify=self.lines.append)
        self.settings = first or {"steps": 3}, second or {"weights": (1.0, 2.0)}

    def run(self):
        first = self.stages.run(Stage("first", self.settings[0], [], self.make("first")))
        second = self.stages.run(Stage("second", self.settings[1], ["first"], self.make("second")))
        return first, second

    def make(self, name):
        def make(path, paths):
            self.made.append(name)
            self.clock[0] += self.seconds
            (path / "half.txt").write_text("half")
            if name == self.fail_in:
                raise KeyboardInterrupt
            (path / "result.txt").write_text(name)

        return make


def test_a_second_run_makes_nothing(tmp_path, clock):
    first = Experiment(tmp_path, clock)
    paths = first.run()
    assert first.made == ["first", "second"] and first.lines == ["first: 2.0 s", "second: 2.0 s"]
    again = Experiment(tmp_path, clock, seconds=99)
    assert again.run() == paths and again.made == []
    assert again.stages.seconds == first.stages.seconds == {"first": 2.0, "second": 2.0}, (
        "what it took is remembered"
    )
    assert again.lines == ["first: done before, in 2.0 s", "second: done before, in 2.0 s"]
    assert [(path / "result.txt").read_text() for path in paths] == ["first", "second"]


def test_changed_settings_make_the_stage_again_and_all_that_need_it(tmp_path, clock):
    before = Experiment(tmp_path, clock).run()
    changed = Experiment(tmp_path, clock, second={"weights": (1.0, 3.0)})
    paths = changed.run()
    assert changed.made == ["second"] and paths[0] == before[0] and paths[1] != before[1]
    changed = Experiment(tmp_path, clock, first={"steps": 4})
    paths = changed.run()
    assert changed.made == ["first", "second"] and not set(paths) & set(before)
    back = Experiment(tmp_path, clock)
    assert back.run() == before and back.made == [], (
        "what was made under the old settings is still there"
    )


def test_equal_settings_in_another_order_are_the_same_stage(tmp_path, clock):
    Experiment(tmp_path, clock, first={"a": 1, "b": (2.0, float("inf"))}).run()
    again = Experiment(tmp_path, clock, first={"b": [2.0, float("inf")], "a": 1})
    again.run()
    assert again.made == []


def test_stages_of_equal_settings_and_other_names_are_apart(tmp_path):
    stages = Stages(tmp_path)
    assert stages.run(stage("left", made=[])) != stages.run(stage("right", made=[]))


def test_an_interrupted_stage_goes_on_in_its_folder_and_its_seconds_add_up(tmp_path, clock):
    for seconds in (5.0, 3.0):
        interrupted = Experiment(tmp_path, clock, seconds=seconds, fail_in="second")
        with pytest.raises(KeyboardInterrupt):
            interrupted.run()
        assert "second" not in interrupted.stages.seconds and not any(
            "second" in line for line in interrupted.lines
        )
    assert interrupted.made == ["second"], "the finished first stage is not repeated"
    folder = next(tmp_path.glob("second-*"))
    assert (folder / "half.txt").exists() and not (folder / "done.json").exists()
    resumed = Experiment(tmp_path, clock, seconds=2.0)
    assert resumed.run()[1] == folder and resumed.made == ["second"]
    assert resumed.stages.seconds == {"first": 5.0, "second": 10.0}
    again = Experiment(tmp_path, clock)
    again.run()
    assert again.stages.seconds == {"first": 5.0, "second": 10.0}


def test_a_stage_cannot_need_what_has_not_run(tmp_path):
    with pytest.raises(KeyError):
        Stages(tmp_path).run(stage("second", ["first"], made=[]))


def test_clearing_forgets_everything(tmp_path, clock):
    folder = tmp_path / "runs"
    Stages(folder).clear()
    Experiment(folder, clock).run()
    Stages(folder).clear()
    assert not folder.exists()
    afresh = Experiment(folder, clock)
    afresh.run()
    assert afresh.made == ["first", "second"]


def stage(name, needs=(), made=None, **options):
    make = (lambda path, paths: made.append((name, sorted(paths)))) if made is not None else None
    return Stage(name, {"n": 1}, list(needs), make, **options)


def test_two_stages_of_one_kind_with_the_same_settings_are_one(tmp_path):
    made, lines = [], []
    plan = [stage(name, made=made, kind="sample") for name in ("sample-a", "sample-b")]
    stages = Stages(tmp_path, notify=lines.append)
    assert len(stages.overview(plan)) == 1
    paths = stages.run_all(plan)
    assert paths["sample-a"] == paths["sample-b"] and len(made) == len(lines) == 1
    assert list(stages.seconds) == ["sample-a"] and stages.took[paths["sample-b"]] >= 0


def test_some_stages_run_with_all_that_they_need(tmp_path):
    made = []
    plan = [stage("a", made=made), stage("b", made=made), stage("c", ["a"], made)]
    assert set(Stages(tmp_path).run_all(plan, ["c"])) == {"a", "c"}
    assert made == [("a", []), ("c", ["a"])]
    assert Stages(tmp_path).run_all(plan, []) == {}
    with pytest.raises(ValueError, match="there is no stage 'd'; there are a, b, c"):
        needed(plan, ["c", "d"])


def test_two_processes_share_the_work(tmp_path):
    made = []
    plan = [stage(name, made=made, needs=needs) for name, needs in (("a", []), ("b", ["a"]))]
    plan += [stage("c", ["a"], made), stage("d", ["b", "c"], made)]
    stages = Stages(tmp_path)
    in_two_processes(stages, plan, {"b"}, {"a", "c"}, (tmp_path / "helped").mkdir, ())
    assert [name for name, _ in made] == ["a", "c"] and (tmp_path / "helped").is_dir()
    stages.run_all(plan)
    assert [name for name, _ in made] == ["a", "c", "b", "d"], "what the other left undone"
    in_two_processes(Stages(tmp_path), plan, {"b"}, {"a", "c"}, (tmp_path / "again").mkdir, ())
    assert len(made) == 4 and not (tmp_path / "again").exists(), "nothing is left for a second one"


@pytest.mark.parametrize("damage", ["changed", "missing", "record"])
def test_a_damaged_part_of_a_finished_stage_is_made_again(tmp_path, clock, damage):
    first, _ = Experiment(tmp_path, clock).run()
    before = {path.name: path.read_text() for path in first.iterdir()}
    if damage == "missing":
        (first / "result.txt").unlink()
    else:
        broken = first / ("result.txt" if damage == "changed" else "done.json")
        broken.write_text(broken.read_text()[:-2])
    again = Experiment(tmp_path, clock, seconds=0.0)
    assert again.stages.overview([stage_of(again)]) == [(stage_of(again), damage != "record")]
    assert again.run()[0] == first and again.made == ["first"]
    told = "its done.json is damaged" if damage == "record" else "result.txt has changed or is"
    assert again.lines[0].startswith(f"first: {told}")
    after = {path.name: path.read_text() for path in first.iterdir()}
    assert after["result.txt"] == before["result.txt"] and json.loads(after["done.json"])["files"]
    third = Experiment(tmp_path, clock)
    third.run()
    assert third.made == []


def stage_of(experiment):
    return Stage("first", experiment.settings[0], [], None)


def test_what_a_resumed_stage_does_not_bring_back_makes_it_start_over(tmp_path):
    """Such as the checkpoint of an early epoch, of a training that has a state beyond it."""

    def make(path, paths):
        if not (path / "state").exists():
            (path / "early").write_text("early")
        (path / "state").write_text("state")

    one = Stage("train", {}, [], make)
    path = Stages(tmp_path).run(one)
    (path / "early").write_text("other")
    assert (Stages(tmp_path).run(one) / "early").read_text() == "early"


def test_stages_of_older_versions_get_their_hashes_once(tmp_path, clock):
    first, _ = Experiment(tmp_path, clock).run()
    record = json.loads((first / "done.json").read_text())
    files = record.pop("files")
    assert list(files) == ["half.txt", "result.txt"]
    (first / "done.json").write_text(json.dumps(record))
    again = Experiment(tmp_path, clock)
    again.run()
    assert again.made == [] and again.lines[0] == (
        "first: its files had no hashes; they are taken as they are"
    )
    assert json.loads((first / "done.json").read_text())["files"] == files


def test_a_stage_that_another_process_makes_is_not_made_nor_forgotten(tmp_path, clock):
    stages, path = Stages(tmp_path), Stages(tmp_path).path(stage("a"))
    script = "import sys; from dg.runtime.run_folder import sole_writer\n"
    script += "with sole_writer(sys.argv[1]): print(flush=True), sys.stdin.read()"
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", script, path], **pipes) as child:
        child.stdout.readline()
        for refused in (lambda: stages.run(stage("a", made=[])), stages.clear):
            with pytest.raises(ValueError, match=f"is being written by process {child.pid}"):
                refused()
        assert path.exists()
        child.communicate()
    with sole_writer(path):  # of this process, it may go on
        assert stages.run(stage("a", made=[])) == path


def test_a_damaged_clock_is_told_and_begins_anew(tmp_path, clock):
    interrupted = Experiment(tmp_path, clock, fail_in="first")
    with pytest.raises(KeyboardInterrupt):
        interrupted.run()
    next(tmp_path.glob("first-*/seconds.json")).write_text("2.")
    again = Experiment(tmp_path, clock)
    again.run()
    assert "seconds.json is damaged; the seconds before are not counted" in again.lines[0]
    assert again.stages.seconds["first"] == 2.0


def beat(path):
    while True:
        path.write_text(str(time.monotonic()))
        time.sleep(0.05)


HELPED = """
import sys, time
from pathlib import Path
from dg.experiments.pipeline import Stage, Stages, in_two_processes
from tests.dg.experiments.test_pipeline import beat
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    plan = [Stage("a", {}, [], lambda *args: time.sleep(600)), Stage("b", {}, [], None)]
    in_two_processes(Stages(folder), plan, {"b"}, {"a"}, beat, (folder / "beat",))
"""


@pytest.mark.slow
def test_the_second_process_ends_with_a_first_that_is_killed(tmp_path):
    script, beats = tmp_path / "helped.py", tmp_path / "beat"
    script.write_text(HELPED)
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))
    process = subprocess.Popen(
        [sys.executable, script, tmp_path], env={**os.environ, "PYTHONPATH": root}
    )
    end = time.monotonic() + 120
    while not beats.exists() and time.monotonic() < end:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(3)
    last = beats.read_text()
    time.sleep(1)
    assert beats.read_text() == last
