"""The comparison of EDM, DDPM and VAE: its plan, and tiny runs from end to end."""

from dataclasses import replace

import numpy as np
import pytest

from dg.experiments import mnist
from dg.experiments.mnist import CPU, MODELS, SMOKE, SYSTEMS, Comparison, Settings
from dg.experiments.mnist_report import rows, winners
from dg.experiments.pipeline import Stages
from dg.runtime.files import read_json
from tests.scripts import succeed


@pytest.mark.parametrize("settings", [CPU, Settings(), SMOKE, replace(SMOKE, conditional=True)])
def test_a_plan_needs_nothing_that_comes_later(settings, tmp_path):
    seen = set()
    for stage in Comparison(settings, Stages(tmp_path), "cpu", "digits").plan():
        assert set(stage.needs) <= seen
        seen.add(stage.name)
    assert {f"sample-{system}" for system in SYSTEMS} | {f"nll-{system}" for system in SYSTEMS} | {
        "measure"
    } <= seen


def test_every_model_sees_as_many_images_on_a_cpu():
    seen = {getattr(CPU, model)[1].steps * getattr(CPU, model)[1].batch_size for model in MODELS}
    assert seen == {96_000}


def test_no_image_that_was_learned_from_is_measured():
    last = (CPU.num_sets + 1) * CPU.num_images
    assert last < mnist.FAKE_SEED


def test_without_mnist_the_digits_serve(monkeypatch):
    def missing(name, count):
        raise ValueError("cannot load mnist (no network)")

    said = []
    monkeypatch.setattr(mnist, "load_images", missing)
    assert (
        mnist._mnist_or_digits(said.append) == "digits"
        and "embedded digits" in said[0]
        and "--data" in said[0]
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "mnist-cond"])
def test_the_smoke_profile_reports_and_does_nothing_twice(tmp_path, name):
    command = f"reproduce {name} --profile smoke --runs {{tmp}}/runs --results {{tmp}}/results"
    done = succeed(command, tmp=tmp_path)
    folder = tmp_path / "results" / f"{name}-smoke"
    outcome = read_json(folder / "results.json")
    assert outcome["experiment"] == name and set(outcome["metrics"]) == {*SYSTEMS, "floor"}
    for system in SYSTEMS:
        entry, table = outcome["systems"][system], outcome["metrics"][system]
        assert all(
            np.isfinite(table[m]["values"]).all() for m in ("fd", "kid", "precision", "recall")
        )
        assert (
            entry["parameters"] > 1000
            and np.isfinite(entry["nll"]["mean"])
            and entry["seconds_per_1000"] > 0
        )
        assert ("agreement" in table) == (name == "mnist-cond" and system != "vae")
    assert set(outcome["systems"]["ddpm"]["nll"]["terms"]) == {"prior", "steps", "decoder"}
    assert set(outcome["systems"]["vae"]["nll"]["terms"]) == {"reconstruction", "kl"}
    assert all("test_loss" in log[-1] for log in outcome["logs"].values())
    assert len(rows(outcome)) == 6 and len(winners(outcome)) == 7
    report = (folder / "report.html").read_text()
    assert report.count("data:image/png") >= 12 and "http" not in report.split("<body")[1]
    again = succeed(command, tmp=tmp_path)
    assert (
        again.out == done.out
        and read_json(folder / "results.json")["metrics"] == outcome["metrics"]
    )
