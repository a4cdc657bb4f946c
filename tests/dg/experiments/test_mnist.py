"""The comparison of EDM, DDPM and VAE: its plan, and tiny runs from end to end."""

from dataclasses import replace

import numpy as np
import pytest

from dg.experiments import comparisons
from dg.experiments.comparisons import MNIST_CPU, mnist, setting_of
from dg.experiments.context import Context, Experiment
from dg.experiments.plan import plan, split_plan
from dg.experiments.tables import rows, winners
from dg.runtime.files import read_json
from tests.scripts import succeed

SYSTEMS = ("edm", "edm_guided", "ddpm", "ddpm_guided", "vae")


def context(setting):
    return Context(Experiment("mnist", setting, mnist(setting), "digits"))


@pytest.mark.parametrize("profile", ["full", "smoke"])
@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("name", ["mnist", "mnist-cond"])
def test_a_plan_needs_nothing_that_comes_later(name, gpu, profile):
    seen = set()
    for stage in plan(context(setting_of(name, profile, gpu))):
        assert set(stage.needs) <= seen
        seen.add(stage.name)
    assert {f"sample-{system}" for system in SYSTEMS} | {f"nll-{system}" for system in SYSTEMS} | {
        f"measure-{system}" for system in SYSTEMS
    } <= seen


def test_every_model_sees_as_many_images_on_a_cpu():
    trainings = [model.training[1] for model in MNIST_CPU.models.values()]
    assert {training.steps * training.batch_size for training in trainings} == {96_000}


def test_two_processes_do_different_work():
    at = context(setting_of("mnist", "smoke"))
    stages = plan(at)
    aside, others = split_plan(at, stages)
    names = {stage.name for stage in stages}
    assert aside == {name for name in names if "ddpm" in name}
    assert not aside & others and {"sample-edm_guided", "nll-vae", "reference"} <= others
    assert names == aside | others


def test_no_image_that_was_learned_from_is_measured():
    last = (MNIST_CPU.num_sets + 1) * MNIST_CPU.num_images
    assert last < MNIST_CPU.fake_seed


def test_without_mnist_the_digits_serve(monkeypatch):
    def missing(name, count):
        raise ValueError("cannot load mnist (no network)")

    said = []
    monkeypatch.setattr(comparisons, "load_images", missing)
    found = comparisons.with_available_data(MNIST_CPU, said.append)
    assert (
        found == replace(MNIST_CPU, data="digits", head_width=64) and "embedded digits" in said[0]
    )
    assert comparisons.with_available_data(found, said.append) == found and len(said) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "mnist-cond"])
def test_the_smoke_profile_reports_and_does_nothing_twice(tmp_path, name):
    command = f"reproduce {name} --profile smoke --runs {{tmp}}/runs --results {{tmp}}/results"
    done = succeed(command, tmp=tmp_path)
    folder = tmp_path / "results" / f"{name}-smoke"
    outcome = read_json(folder / "results.json")
    assert outcome["experiment"] == name and set(outcome["metrics"]) == {*SYSTEMS, "floor"}
    for system in SYSTEMS:
        entry, table = outcome["costs"][system], outcome["metrics"][system]
        assert all(
            np.isfinite(table[m]["values"]).all() for m in ("fd", "kid", "precision", "recall")
        )
        assert (
            entry["parameters"] > 1000
            and np.isfinite(table["nll"]["mean"])
            and entry["seconds_per_1000"] > 0
        )
        assert ("agreement" in table) == (name == "mnist-cond" and system != "vae")
    assert set(outcome["metrics"]["ddpm"]["nll"]["terms"]) == {"prior", "steps", "decoder"}
    assert set(outcome["metrics"]["vae"]["nll"]["terms"]) == {"reconstruction", "kl"}
    assert all("test_loss" in model["log"][-1] for model in outcome["models"].values())
    assert len(rows(outcome)) == 6 and len(winners(outcome)) == 7
    report = (folder / "report.html").read_text()
    assert report.count("data:image/png") >= 11 and "http" not in report.split("<body")[1]
    again = succeed(command, tmp=tmp_path)
    assert (
        again.out == done.out
        and read_json(folder / "results.json")["metrics"] == outcome["metrics"]
    )
