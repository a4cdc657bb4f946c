"""Studies from end to end on tiny networks: complete reports, nothing done twice, and killed runs
that end the same."""

import os
import re
import signal
import time

import numpy as np
import pytest

import reproduce
from dg.experiments.studies import STUDIES
from dg.runtime.files import read_json, sha256_of
from tests.scripts import run, start, succeed

SMOKE = "reproduce {study} --setting {setting} --profile smoke "
SMOKE += "--runs {tmp}/runs --results {tmp}/results"

# Those that make or use discriminators in a way of their own, so that classes may go astray there.
WITH_CLASSES = ("recipes", "ensemble", "lora", "methods", "kinds")


def places(tmp_path, study, setting):
    return dict(tmp=tmp_path, study=study, setting=setting)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("smoke")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("study", "setting"),
    [
        *((study, "mnist-14") for study in STUDIES),
        *((study, "cifar10-cond") for study in WITH_CLASSES),
        # Without classes, as mnist-14.
        ("recipes", "cifar10-uncond"),
        ("weights", "cifar10-uncond"),
        ("recipes", "cifar10-jpeg"),
        ("recipes", "ffhq-64"),
        ("churn", "mnist"),
    ],
)
def test_the_smoke_profile_of_every_study_reports(shared, study, setting, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # a second process would import torch anew
    done = succeed(SMOKE, **places(shared, study, setting))
    name = setting if study == "recipes" else f"{study}-{setting}"
    folder = shared / "results" / f"{name}-smoke"
    outcome = read_json(folder / "results.json")
    assert {
        "experiment",
        "command",
        "versions",
        "hardware",
        "seconds",
        "metrics",
        "extractor",
        "settings",
    } <= set(outcome)
    assert {"unguided", "floor"} <= set(outcome["metrics"])
    for table in outcome["metrics"].values():
        for metric in ("fd", "kid", "precision", "recall"):
            entry = table[metric]
            assert entry["n"] == len(entry["values"]) == 2 and np.isfinite(entry["values"]).all()
            assert entry["mean"] == pytest.approx(np.mean(entry["values"]))
    if study == "recipes":
        assert {"unguided", "guided", "authors", "score", "floor"} <= set(outcome["metrics"])
        assert all(
            np.isfinite(outcome["metrics"][system]["nll"]["mean"])
            for system in ("unguided", "guided")
        )
    if study == "ensemble":
        # not those of the study of significance, train-authors-seed-1 and so on
        trained = (shared / "runs" / f"{setting}-smoke").glob("train-authors-[0-9a-f]*")
        tested = [read_json(folder / "summary.json")["last"]["test"] for folder in trained]
        assert set(outcome["tested"]) == set(outcome["systems"]) - {"unguided"}
        assert outcome["tested"]["d0"] in tested
    report = (folder / "report.html").read_text()
    pictures = report.count("data:image/png")
    assert (
        pictures >= (4 if "pairs" in outcome["sections"] else 1)
        and "http" not in report.split("<body")[1]
    )
    for title in ("Results", "How it was run"):
        assert title in report
    assert ("Deviations" in report) == ("deviations" in outcome["sections"])
    assert ("deviations" in outcome["sections"]) != (study == "given"), "which trains nothing"
    assert "report:" in done.out and len(done.out.splitlines()) == len(outcome["systems"]) + 3


@pytest.mark.slow
def test_a_study_is_done_once(tmp_path):
    first = succeed(SMOKE, **places(tmp_path, "weights", "mnist-14"))
    folder = tmp_path / "results" / "weights-mnist-14-smoke"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    again = succeed(SMOKE, **places(tmp_path, "weights", "mnist-14"))
    assert again.out == first.out and all("done before" in line for line in again.lines)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_dry_run_names_the_stages_and_runs_nothing(tmp_path):
    done = succeed(
        "reproduce cifar10-cond --dry-run --runs {tmp}/runs --results {tmp}/results", tmp=tmp_path
    )
    assert (
        "  released discriminator" in done.out
        and "still to do" in done.out
        and not list(tmp_path.iterdir())
    )
    hours = float(re.search(r"still to do\s+\S+\s+\S+\s+(\S+)", done.out)[1])
    assert 15 < hours < 60, "four systems of 150,000 images, and 50,000 to learn from"


@pytest.mark.slow
def test_sizes_are_options(tmp_path):
    command = SMOKE + " --samples 30 --seeds-per-set 10"
    succeed(command, **places(tmp_path, "window", "mnist-14"))
    outcome = read_json(tmp_path / "results" / "window-mnist-14-smoke" / "results.json")
    assert (
        outcome["settings"]["num_images"] == 10 and outcome["metrics"]["unguided"]["fd"]["n"] == 3
    )


def test_one_stage_runs_with_what_it_needs(tmp_path):
    done = succeed(SMOKE + " --stage fake-score", **places(tmp_path, "recipes", "mnist-14"))
    *stages, told = done.lines
    assert [line.split(":")[0] for line in stages] == ["score", "fake-score"] and done.out == ""
    assert told.startswith(f"stage fake-score is done; its files are in {tmp_path}/runs/")
    assert done.following == ["the same command without --stage, for the rest and the report"]


def test_another_score_network_takes_the_place_of_the_settings_own(tmp_path):
    found = places(tmp_path, "weights", "mnist-14")
    succeed(SMOKE + " --stage score", **found)
    (network,) = (tmp_path / "runs" / "mnist-14-smoke").glob("score-*")
    network.rename(tmp_path / "early")
    succeed(SMOKE + " --stage fake-score --network {tmp}/early", **found)
    (record,) = (tmp_path / "runs" / "mnist-14-smoke").glob("score-*/done.json")
    name, digest = read_json(record)["settings"]["network"]
    assert name == "network.safetensors"
    assert digest == sha256_of(tmp_path / "early" / "network.safetensors")
    assert reproduce._target("weights", "mnist-14", f"{tmp_path}/early") == "weights-mnist-14-early"


def test_what_is_wrong_is_one_line(tmp_path):
    for command, told in {
        "reproduce nothing": "there is no experiment",
        "reproduce cifar10-cond --world mnist": "a setting itself",
        "reproduce digits --network mnist-14": "--network means nothing for digits",
        "reproduce cifar10-cond --network mnist-14": "its tables are of one network",
        "reproduce digits --setting mnist": "--setting means nothing for digits",
        "reproduce recipes --setting cifar10-jpeg --runs {tmp}/r --results {tmp}/s": "--data",
        "reproduce mnist-14 --samples 30 --seeds-per-set 20": "not a multiple",
        "reproduce mnist-14 --profile smoke --stage magic --runs {tmp}/r --results "
        "{tmp}/s": "no stage 'magic'",
        "reproduce mnist-14 --profile smoke --data x.npz": "embedded digits",
        "reproduce mnist-14 --data {tmp}/none.npz --stage reference --runs {tmp}/r --results "
        "{tmp}/s": "none.npz",
    }.items():
        done = run(command, tmp=tmp_path)
        assert done.code == 2 and len(done.lines) == 1 and told in done.lines[0], done.err


@pytest.mark.slow
def test_killed_again_and_again_it_ends_the_same(tmp_path):
    """SIGKILL at different moments, until the study is done; then the results are those of a run
    that was left alone."""
    succeed(SMOKE, **places(tmp_path / "whole", "selection", "mnist-14"))
    killed, hits = places(tmp_path, "selection", "mnist-14"), 0
    for wait in (0.5, 0.8, 1.1, 1.4, 2.0, 3.0):
        process = start(SMOKE, killed)
        time.sleep(wait)
        process.kill()
        process.communicate()
        hits += process.returncode == -signal.SIGKILL
    assert hits >= 2, "the kills came after the end"
    succeed(SMOKE, **killed)
    names = ("metrics", "comparison", "trainings", "systems")
    whole, resumed = (
        read_json(folder / "results" / "selection-mnist-14-smoke" / "results.json")
        for folder in (tmp_path / "whole", tmp_path)
    )
    assert {name: whole[name] for name in names} == {name: resumed[name] for name in names}
