"""The tables of the README and of docs/*.md come from the results files."""

import json
import re
import shutil
from pathlib import Path

import pytest

from dg.experiments.comparisons import DIGITS
from dg.experiments.publish import block, fill
from dg.experiments.tables import TITLES

ROOT = Path(__file__).parents[3]


SYSTEMS = {
    "unguided": "unguided",
    "guided": "guided",
    "longer": "unguided, trained longer",
    "floor": "real against real",
}
METRICS = {name: title for name, title in TITLES.items() if name in DIGITS.metrics}


def outcome():
    metrics = {
        system: {
            name: {"mean": 10 * row + column, "sd": 0.125, "n": 3, "values": []}
            for column, name in enumerate(METRICS)
        }
        for row, system in enumerate(SYSTEMS)
    }
    comparison = {name: {"ratio": 0.75, "difference": -1.0, "sd": 0.1} for name in METRICS}
    return {
        "metrics": metrics,
        "comparison": {"guided": comparison},
        "experiment": "digits",
        "setting": "Digits",
        "systems": {
            name: {"title": title, "heads": [1] * (name == "guided"), "against": "unguided"}
            for name, title in SYSTEMS.items()
            if name != "floor"
        },
        "sections": ["results"],
        "extractor": {"name": "a classifier"},
        "command": "python reproduce.py",
        "seconds": {"total": 300.4},
        "hardware": {"cpu": "a processor", "threads": 2},
        "versions": {"torch": "2.10.0"},
        "settings": {"num_sets": 3, "num_images": 1000, "budget": None, "published": {}},
        "selection": {"chosen": 4.0},
    }


def test_a_table_has_a_row_per_system_and_a_column_per_metric():
    lines = block(outcome(), "digits/report.md").splitlines()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("|")
    ]
    assert rows[0] == ["Digits", *METRICS.values()] and [row[0] for row in rows[2:]] == list(
        SYSTEMS.values()
    )
    assert [float(row[2].split("±")[0]) for row in rows[2:]] == [1, 11, 21, 31]
    text = lines[-1]
    for part in (
        "`python reproduce.py`",
        "300 s",
        "a processor",
        "2 threads",
        "weight 4",
        "3 sets of 1000 seeds",
        "-25%",
    ):
        assert part in text


def test_filling_replaces_what_stands_between_the_marks_and_nothing_else(tmp_path):
    readme = tmp_path / "README.md"
    before, after = "# Title \\1\n<!-- results:digits -->\n", "<!-- /results:digits -->\nThe end.\n"
    readme.write_text(f"{before}old\ntable\n{after}", encoding="utf-8")
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "results.json").write_text(json.dumps(outcome()))
    for _ in range(2):
        fill([readme], tmp_path)
        assert (
            readme.read_text(encoding="utf-8")
            == f"{before}{block(outcome(), 'digits/report.md')}\n{after}"
        )


def test_a_study_has_a_row_per_system():
    entry = {"mean": 2.0, "sd": 0.25}
    results = {
        "experiment": "weights-here",
        "setting": "A setting",
        "settings": {"num_sets": 3, "num_images": 500, "budget": None, "published": {}},
        "sections": ["results"],
        "selection": None,
        "systems": {"unguided": {"title": "unguided"}, "guided": {"title": "weights (2, 0)"}},
        "metrics": {
            name: dict.fromkeys(("fd", "kid", "precision", "recall"), entry)
            for name in ("unguided", "guided", "floor")
        },
        "extractor": {"name": "small classifier"},
        "command": "python reproduce.py",
        "seconds": {"total": 60},
        "hardware": {"cpu": "a processor", "gpu": "a GPU", "threads": 2},
        "versions": {"torch": "2.10.0"},
    }
    lines = block(results, "docs/results/weights-here/report.md").splitlines()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("|")
    ]
    assert rows[0] == ["A setting", "FD", "KID", "precision", "recall"]
    assert [row[0] for row in rows[2:]] == ["unguided", "weights (2, 0)", "real against real"]
    assert (
        "a GPU" in lines[-1]
        and "a processor" not in lines[-1]
        and "docs/results/weights-here/report.md" in lines[-1]
    )


def test_a_mark_names_the_metrics_that_are_shown(tmp_path):
    page = tmp_path / "page.md"
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "results.json").write_text(json.dumps(outcome()))
    page.write_text("<!-- results:digits recall fd -->\n<!-- /results:digits -->\n")
    fill([page], tmp_path)
    lines = page.read_text(encoding="utf-8").splitlines()
    assert lines[1] == "| Digits | recall | FD |" and "[Report](digits/report.md)" in lines[-2]
    assert lines[4].split(" | ")[1:] == [
        "14.00\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.12",
        "10.00\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.12 |",
    ]
    page.write_text("<!-- results:digits nll -->\n<!-- /results:digits -->\n")
    with pytest.raises(ValueError, match="nll: not measured; name some of fd, "):
        fill([page], tmp_path)


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_pages_show_the_results(tmp_path):
    """As their results files hold them; and all that the pages promise has been measured."""
    (tmp_path / "docs").mkdir()
    for page in PAGES:
        shutil.copy(page, tmp_path / page.relative_to(ROOT))
    (tmp_path / "docs" / "results").symlink_to(ROOT / "docs" / "results")
    copies = [tmp_path / page.relative_to(ROOT) for page in PAGES]
    fill(copies, tmp_path / "docs" / "results")
    fault = "run: python -c 'from dg.experiments.publish import fill; fill()'"
    for page, copy in zip(PAGES, copies, strict=True):
        text = page.read_text(encoding="utf-8")
        assert copy.read_text(encoding="utf-8") == text, fault
        for name in re.findall(r"<!-- results:([\w-]+)", text):
            assert (ROOT / "docs" / "results" / name / "results.json").exists(), name
            assert f"<!-- /results:{name} -->" in text


def test_the_readme_shows_the_quickstart():
    assert "<!-- results:quickstart " in (ROOT / "README.md").read_text(encoding="utf-8")
