"""The benchmarks run, and the page shows what their results files hold."""

import argparse
import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu, timing

ROOT = Path(__file__).parent.parent
NO_REPOS, PART = dict(edm_repo=None, dg_repo=None), "score-network"
PAGE, RESULTS = ROOT / "docs" / "speed.md", ROOT / "docs" / "results" / "speed"


def test_the_page_shows_the_results(tmp_path):
    page = tmp_path / "speed.md"
    page.write_text(PAGE.read_text())
    timing.fill(page, RESULTS)
    assert page.read_text() == PAGE.read_text(), "run python -m benchmarks.timing"
    shown = re.findall(r"<!-- benchmark:([\w-]+) -->", page.read_text())
    linked = re.findall(r"\(results/speed/([\w-]+)\.json\)", page.read_text())
    there = {path.stem for path in RESULTS.glob("*.json")}
    assert sorted(shown + linked) == sorted(there | {"gpu"})  # whose place waits for its file


def test_time_within_a_call_counts_for_the_inner_one():
    clock = timing.Clock("cpu")
    with clock("outer"), clock("inner"):
        pass
    with clock("outer"):
        pass
    assert set(clock.seconds) == {"outer", "inner"} and min(clock.seconds.values()) >= 0
    assert list(timing.in_turns("ab", 3)) == list("abbaab")


def test_no_round_is_begun_that_would_end_too_late(monkeypatch):
    for seconds, expected in ((3, "abbaab"), (1.5, "ab"), (0.5, "ab")):
        now = iter([0, 0, 1, 2, 3])  # a second for each round
        monkeypatch.setattr(timing.time, "perf_counter", lambda now=now: next(now))
        assert list(timing.in_turns("ab", 5, seconds)) == list(expected)


@pytest.mark.parametrize("originals", [[], ["--edm-repo", "../e d m", "--dg-repo", "../DG"]])
@pytest.mark.parametrize("size", gpu.SIZES)
def test_every_part_is_a_command_that_its_benchmark_takes(size, originals, monkeypatch):
    asked, parse = [], argparse.ArgumentParser.parse_args

    def caught(parser, *args):
        asked.append(parse(parser, *args))
        if len(asked) > 1:
            raise KeyboardInterrupt  # before anything is computed
        return asked[0]

    def measured(command):
        asked[1:] = []
        module, *arguments = shlex.split(command)
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        with pytest.raises(KeyboardInterrupt):
            importlib.import_module(f"benchmarks.{module}").main()
        return {"rows": []}

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", caught)
    monkeypatch.setattr(gpu, "measure", measured)
    monkeypatch.setattr(gpu, "write_json", lambda *args: None)
    arguments = ["--size", size, "--device", "cpu", "--out", "none.json", *originals]
    monkeypatch.setattr(sys, "argv", ["gpu", *arguments])
    gpu.main()
    assert asked[-1].processes == [1, 2]


def test_a_gpu_run_goes_on_where_it_ended_and_tries_again_what_failed(
    tmp_path, monkeypatch, capsys
):
    started, out = [], tmp_path / "gpu.json"

    def measured(command):
        started.append(command.split()[0])
        if started == ["sampling"] * 5 + ["training"]:
            return {"error": "out of memory"}
        return {"rows": [{"processes": 2, "x first row": 2.0}] if "1,2" in command else []}

    monkeypatch.setattr(gpu, "measure", measured)
    monkeypatch.setattr(sys, "argv", ["gpu", *f"--size digits --device cpu --out {out}".split()])
    gpu.main()
    results = json.loads(out.read_text())
    rows = {row["target"]: row for row in results["rows"]}
    assert rows["two processes against one"]["verdict"] == "hit"
    told = rows["training of a discriminator against the original"]["verdict"]
    assert (
        told == "not measured: out of memory" and timing.shown(results) in capsys.readouterr().out
    )
    assert len(results["parts"]) == len(started) == 10
    gpu.main()
    assert started[10:] == ["training"] and "error" not in json.loads(out.read_text())["parts"]
    out.write_text(json.dumps(results | {"hardware": {}}))
    with pytest.raises(SystemExit):
        gpu.main()
    assert "of other hardware; give another file by --out" in capsys.readouterr().err


def test_verdicts_compare_the_worst_row_with_the_target():
    target = gpu.Target("t", "images", {"setting": "float16"}, "off by > 2", 0.1, least=False)
    rows = [{"setting": "float16", "off by > 2": f"{value}%"} for value in (0.05, 0.02)]
    rows.append({"setting": "float16 throughout", "off by > 2": "9%"})
    row = gpu.verdict(target, {"images": {"rows": rows}})
    assert row == {"target": "t", "wanted": "at most 0.1", "measured": 0.05, "verdict": "hit"}
    assert (
        gpu.verdict(target._replace(bound=0.03), {"images": {"rows": rows}})["verdict"] == "missed"
    )
    original = {"setting": "original"}
    faster = gpu.Target("t", "part", {"setting": "default"}, "x", 3, against=original)
    rows = [{"setting": "default (float16)", "x": 3.5}]
    told = gpu.verdict(faster, {"part": {"rows": rows}})["verdict"]
    assert told == "not measured: no original code was given"
    assert gpu.verdict(faster, {"part": {"rows": [*rows, original]}})["verdict"] == "hit"
    assert gpu.verdict(faster, {})["verdict"] == "not measured: not run here"


@pytest.mark.slow
def test_a_part_gives_its_rows_or_says_that_it_takes_too_long_or_fails():
    part = gpu.measure(gpu.parts_of(argparse.Namespace(size="digits", **NO_REPOS), "cpu")[PART])
    targets = [target for target in gpu.targets_of(gpu.SIZES["digits"]) if target.part == PART]
    told = [gpu.verdict(target, {PART: part})["verdict"] for target in targets]
    assert part["rows"] and told == ["not measured: no original code was given"]
    assert gpu.measure("startup --rounds 1", 0.05) == {"error": "took more than 0.05 seconds"}
    assert "no 'float8'; give some of" in gpu.measure("sampling --settings float8")["error"]


TINY = {
    "sampling": "--size digits --batch 2 --steps 3 --rounds 1",
    "training": "--size digits --batch 4 --rounds 1",
    "score_training": "--size digits --batch 4 --rounds 1",
    "shared_encoder": "--size 8 --batch 1 --steps 2 --rounds 1",
    "scaling": "--images 4 --batch 2 --steps 2 --processes 1,2",
    "startup": "--rounds 1",
    "evaluation": "--images 8 --features vgg16 --metrics kid",
    "whole_job": "--images 300 --entries 300",
    "at_once": "--networks mnist-14 --images 2 --rounds 1",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_every_benchmark_prints_its_table_and_writes_its_results(name, tmp_path):
    command = [
        sys.executable,
        "-m",
        f"benchmarks.{name}",
        *TINY[name].split(),
        "--out",
        str(tmp_path / "out.json"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out.json").read_text())
    assert (
        results["rows"]
        and results["hardware"]["threads"]
        and results["command"].startswith(f"python -m benchmarks.{name}")
    )
    assert timing.shown(results) in done.stdout
    assert all(row[results["columns"][0]] for row in results["rows"])
