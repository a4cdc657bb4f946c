"""The benchmarks run, and the page shows what their results files hold."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import timing

ROOT = Path(__file__).parent.parent
PAGE, RESULTS = ROOT / "docs" / "speed.md", ROOT / "docs" / "results" / "speed"


def test_the_page_shows_the_results(tmp_path):
    page = tmp_path / "speed.md"
    page.write_text(PAGE.read_text())
    timing.fill(page, RESULTS)
    assert page.read_text() == PAGE.read_text(), "run python -m benchmarks.timing"
    shown = re.findall(r"<!-- benchmark:([\w-]+) -->", page.read_text())
    linked = re.findall(r"\(results/speed/([\w-]+)\.json\)", page.read_text())
    assert sorted(shown + linked) == sorted(path.stem for path in RESULTS.glob("*.json"))


def test_time_within_a_call_counts_for_the_inner_one():
    clock = timing.Clock("cpu")
    with clock("outer"), clock("inner"):
        pass
    with clock("outer"):
        pass
    assert set(clock.seconds) == {"outer", "inner"} and min(clock.seconds.values()) >= 0
    assert list(timing.in_turns("ab", 3)) == list("abbaab")


TINY = {
    "sampling": "--size digits --batch 2 --steps 3 --rounds 1",
    "training": "--size digits --batch 4 --rounds 1",
    "scaling": "--images 4 --batch 2 --steps 2 --processes 1,2",
    "startup": "--rounds 1",
    "evaluation": "--images 40 --features vgg16 --metrics fd",
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
