"""Stages: made once, made again when anything they depend on changed, continued after an
interruption."""

import pytest

from dg.experiments.pipeline import Stage, Stages, in_two_processes, needed


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
