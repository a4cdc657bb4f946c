"""A report is made again from its results, and the published ones are what that makes."""

import copy
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from dg.evaluation import figures
from dg.experiments import pictures
from dg.experiments.again import report_again
from dg.experiments.report import verdict
from dg.runtime.files import read_json
from tests.scripts import run, succeed

ROOT = Path(__file__).parents[3]
PUBLISHED = ROOT / "docs" / "results"


def test_a_published_report_is_what_its_results_make(tmp_path):
    folder, said = tmp_path / "weights-mnist-14", []
    kept = PUBLISHED / folder.name
    outcome = report_again(folder.name, folder, PUBLISHED, said.append)
    assert outcome == read_json(kept / "results.json") and str(kept) in said[0]
    assert (folder / "report.md").read_text() == (kept / "report.md").read_text()
    assert (folder / "results.json").read_bytes() == (kept / "results.json").read_bytes()
    html = (folder / "report.html").read_text()
    assert html.count("data:image/png") == len(list(kept.glob("*.png")))
    # what is drawn from images stays
    assert (folder / "pairs.png").read_bytes() == (kept / "pairs.png").read_bytes()
    with Image.open(folder / "sweep.png") as new, Image.open(kept / "sweep.png") as old:
        assert new.size == old.size


@pytest.mark.parametrize("path", sorted(PUBLISHED.glob("*/report.md")), ids=lambda p: p.parent.name)
def test_published_reports_show_every_picture_beside_them(path):
    shown = set(re.findall(r'<img src="([^"]+)"', path.read_text(encoding="utf-8")))
    assert shown == {picture.name for picture in path.parent.glob("*.png")}


def test_the_command_makes_a_report_of_what_there_is(tmp_path):
    (tmp_path / "two-gaussians").mkdir()
    results = PUBLISHED / "two-gaussians" / "results.json"
    (tmp_path / "two-gaussians" / "results.json").write_bytes(results.read_bytes())
    done = succeed("reproduce two-gaussians --report-only --results {tmp}", tmp=tmp_path)
    assert "report.html" in done.out
    made = {path.name for path in (tmp_path / "two-gaussians").iterdir()}
    assert made == {"results.json", "report.html", "report.md", "errors.png"}
    failed = run("reproduce churn --setting mnist --report-only --results {tmp}", tmp=tmp_path)
    assert (
        failed.code == 2 and "there are no results in" in failed.err and "churn-mnist" in failed.err
    )
    failed = run("reproduce --report-only --fresh --results {tmp}", tmp=tmp_path)
    assert "--fresh means nothing" in failed.err


def outcome_of(name):
    return read_json(PUBLISHED / name / "results.json")


def test_the_verdict_says_the_change_and_whether_chance_can_do_it():
    said = verdict(outcome_of("models-mnist-14"))
    assert said == (
        "On EDM guidance lowers FD from 3.91 to 3.59 (-8%; p = 0.41 over 3 sets: chance can do "
        "this). On DDPM guidance lowers FD from 3.69 to 3.57 (-3%; p = 0.51 over 3 sets: chance "
        "can do this). Real images against real ones have 1.58."
    )
    said = verdict(outcome_of("lora-mnist-14"))
    assert said.startswith(
        "“LoRA, rank 32” is the best of 3 guided systems. It lowers FD from 3.91 to 3.63 (-7%;"
    )


def test_the_verdict_tells_what_longer_training_gives():
    outcome = outcome_of("quickstart")
    outcome["settings"]["models"]["longer"] = {"continues": "score"}
    longer = outcome["systems"]["unguided"] | {"title": "trained longer", "model": "longer"}
    outcome["systems"]["longer"] = longer
    outcome["metrics"]["longer"] = copy.deepcopy(outcome["metrics"]["guided"])
    outcome["metrics"]["longer"]["fd"]["mean"] = 2.5
    assert "Longer training of the network gives 2.50 instead." in verdict(outcome)


def test_a_single_set_has_no_p(tmp_path):
    outcome = outcome_of("lora-mnist-14")
    for metrics in outcome["metrics"].values():
        metrics["fd"]["values"] = metrics["fd"]["values"][:1]
    assert "p =" not in verdict(json.loads(json.dumps(outcome)))


def test_curves_mark_the_checkpoint_that_guides(tmp_path, monkeypatch):
    shown = {}
    monkeypatch.setattr(figures, "all_training_curves", lambda path, curves: shown.update(curves))
    outcome = outcome_of("quickstart")
    log = outcome["trainings"]["head"]["log"]
    pictures.curves(pictures.Source(tmp_path, outcome))
    assert shown == {"head": (log, log[-1]["step"])}  # it guides by its last checkpoint
    outcome["systems"]["guided"]["heads"][0]["checkpoint"] = "best"
    pictures.curves(pictures.Source(tmp_path, outcome))
    assert shown["head"][1] == log[outcome["trainings"]["head"]["best_epoch"] - 1]["step"]
