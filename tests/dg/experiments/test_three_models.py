"""The comparisons of EDM, DDPM and VAE: their plans, and tiny runs from end to end."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dg.data.datasets import ImageSet
from dg.discriminator import build_discriminator
from dg.evaluation.bounds import ddpm_bound
from dg.experiments import bound_curves, comparisons, making
from dg.experiments.bound_curves import places
from dg.experiments.comparisons import setting_of
from dg.experiments.context import Context, Experiment
from dg.experiments.models import KINDS
from dg.experiments.plan import plan, split_plan
from dg.experiments.registry import COMPARISONS
from dg.experiments.tables import rows, winners
from dg.experiments.three_models import MNIST_CPU, NAMES, SETTINGS, three_models
from dg.models.loading import load_model
from dg.pretraining.ddpm import build_ddpm
from dg.pretraining.score import build_score_network
from dg.pretraining.vae import build_vae
from dg.runtime.files import read_json
from dg.runtime.pretrained import training_curve
from dg.runtime.progress import Stopped
from dg.samplers.cost import MultiplyAdds
from tests.dg.pretraining.test_score import equal
from tests.scripts import run, succeed

SYSTEMS = ("edm", "edm_guided", "ddpm", "ddpm_guided", "vae")
STEPS = tuple(f"ddpm_{method}_{steps}" for method in ("ancestral", "ddim") for steps in (20, 5))


def context(setting):
    return Context(Experiment("mnist", setting, three_models(setting), "digits"))


@pytest.mark.parametrize("profile", ["full", "smoke"])
@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_plan_needs_nothing_that_comes_later(name, gpu, profile):
    seen = set()
    for stage in plan(context(setting_of(name, profile, gpu))):
        assert set(stage.needs) <= seen
        seen.add(stage.name)
    assert {f"sample-{system}" for system in SYSTEMS} | {f"nll-{system}" for system in SYSTEMS} | {
        f"measure-{system}" for system in SYSTEMS
    } <= seen


@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("mnist", 96_000),
        ("models-cifar10-cond", 20_480_000),
        ("models-imagenet64", 25_600_000),
    ],
)
def test_every_model_sees_as_many_images(name, images):
    setting = setting_of(name)
    trainings = [model.training[1] for model in setting.models.values()]
    assert {training.steps * training.batch_size for training in trainings} == {images}
    assert f"seen {images:,} training images" in setting.deviations[0]
    assert setting.conditional == name.endswith("-cond")
    assert three_models(setting).title.endswith("EDM against DDPM and VAE")


@pytest.mark.parametrize(
    ("name", "gpu", "size", "channels"),
    [
        ("mnist", False, 28, 1),
        ("mnist", True, 28, 1),
        ("models-mnist-14", False, 14, 1),
        ("models-cifar10-16", False, 16, 3),
        ("models-cifar10", True, 32, 3),
        ("models-imagenet64", True, 64, 3),
    ],
)
def test_the_networks_can_be_built_and_the_diffusion_models_are_of_one_size(
    name, gpu, size, channels
):
    setting = setting_of(f"{name}-cond", gpu=gpu)
    assert (28 if setting.data == "mnist" else setting.resolution) // setting.pool == size
    images = np.zeros([10, size, size, channels], np.uint8)
    data = ImageSet(images, np.arange(10), "meta", 10)
    (edm, _), (ddpm, noise), (vae, _) = (model.training for model in setting.models.values())
    with torch.device("meta"):
        networks = {
            "edm": build_score_network(data, edm, 0, True),
            "ddpm": build_ddpm(data, ddpm, noise, True),
            "vae": build_vae(data, vae, 0),
        }
        sizes = {
            name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()
        }
    build_discriminator("none", data, None, None, True, setting.head_width)
    assert 0.5 < sizes["ddpm"] / sizes["edm"] < 2, sizes


@pytest.mark.parametrize(
    ("shipped", "size", "channels", "images"),
    [("mnist-14", 14, 1, 2_560_000), ("cifar10-16", 16, 3, 1_024_000)],
)
def test_beside_the_network_that_ships_the_others_are_trained_with_as_many_multiply_adds(
    shipped, size, channels, images
):
    models = setting_of(f"models-{shipped}").models
    assert models["edm"].published == shipped
    (edm, _), (ddpm, noise), (vae, small) = (model.training for model in models.values())
    data, x = (
        ImageSet(np.zeros([1, size, size, channels], np.uint8), None, "black", 0),
        torch.zeros(1, channels, size, size),
    )
    score, time = build_score_network(data, edm, 0), torch.ones(1)
    unet, autoencoder = build_ddpm(data, ddpm, noise).net, build_vae(data, vae, 0)
    passes = {
        images: lambda: score(x, time),
        noise.steps * noise.batch_size: lambda: unet(x, time),
        small.steps * small.batch_size: lambda: autoencoder.decode(autoencoder.encode(x)[0]),
    }
    assert training_curve(shipped)[-1]["images"] == images
    totals = [seen * _multiply_adds(forward) for seen, forward in passes.items()]
    assert max(totals) < 1.03 * min(totals), totals


def _multiply_adds(forward) -> float:
    with MultiplyAdds() as found, torch.no_grad():
        forward()
    return sum(found.of.values())


@pytest.mark.parametrize("name", ["models-mnist-14-cond", "models-cifar10-16-cond"])
def test_with_classes_nothing_that_ships_is_taken(name):
    setting = setting_of(name)
    assert not any(model.published for model in setting.models.values())
    assert setting.classifier is None and setting.features == "classifier"
    extractors = {training.extractor for training in three_models(setting).trainings.values()}
    assert extractors == {"none"}


def test_a_guided_model_has_the_weight_that_other_seeds_choose():
    study = three_models(setting_of("models-mnist-14"))
    for model in ("edm", "ddpm"):
        system = study.systems[f"{model}_guided"]
        assert system.choice == f"{model}_guided" and system.model == model
        assert [option.weights for option in system.options] == [
            *((weight, 0.0) for weight in (1.0, 2.0, 4.0, 6.0))
        ]
        assert {option.model for option in system.options} == {model}
        assert study.trainings[model].extractor == "classifier"


def test_all_of_them_are_experiments():
    assert set(NAMES) == set(COMPARISONS) - {"quickstart", "digits"}
    assert {setting.data for pair in SETTINGS.values() for setting in pair} == {
        *("mnist", "cifar10", None)
    }


@pytest.mark.parametrize("name", ["models-imagenet64", "models-imagenet64-cond"])
def test_a_dry_run_asks_for_data_and_needs_none(name):
    done = succeed(f"reproduce {name} --data photographs --dry-run --runs {{tmp}}", tmp="nowhere")
    for stage in ("edm", "ddpm", "vae", "train-ddpm", "sample-edm_guided", "bounds-vae"):
        assert f"\n{stage} " in done.out
    failed = run(f"reproduce {name} --dry-run")
    assert failed.code == 2 and "has no data of its own; give the path" in failed.err


def test_two_processes_do_different_work():
    at = context(setting_of("mnist", "smoke"))
    stages = plan(at)
    aside, others = split_plan(at, stages)
    names = {stage.name for stage in stages}
    assert aside == {name for name in names if "ddpm" in name}
    assert not aside & others and {"sample-edm_guided", "nll-vae", "reference"} <= others
    assert names == aside | others


def test_a_ddpm_is_sampled_in_many_and_few_steps_by_both_samplers():
    at = context(setting_of("models-cifar10", gpu=True))
    lines = {}
    for name, system in at.study.systems.items():
        if system.line:
            lines.setdefault(system.line, []).append(at.num_evaluations(system))
            assert at.sampling(system).clip_denoised and system.against is None
            assert name in at.study.aside
    assert lines == {"DDPM, ancestral": [1000, 250, 50], "DDPM, DDIM": [1000, 250, 50]}
    stages = {stage.name: stage for stage in plan(at)}
    assert stages["sample-ddpm_ancestral_250"].cost.evaluations == 3 * 10_000 * 250
    # the bound is the model's, whatever samples it
    assert "nll-ddpm" in stages and "nll-ddpm_ddim_50" not in stages
    methods = {at.sampling(system).method for system in at.study.systems.values() if system.line}
    assert methods == {"ancestral", "ddim"}


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


def test_snapshots_stand_at_doublings_of_the_steps():
    assert places(MNIST_CPU, "ddpm") == places(MNIST_CPU, "vae") == [94, 188, 375, 750, 1500]
    assert (
        places(MNIST_CPU, "edm") == [] and places(replace(MNIST_CPU, num_snapshots=0), "vae") == []
    )
    stages = {stage.name: stage for stage in plan(context(MNIST_CPU))}
    assert stages["ddpm"].settings["snapshots"] == [94, 188, 375, 750, 1500]
    assert "snapshots" not in stages["edm"].settings and "bounds-edm" not in stages
    assert stages["bounds-ddpm"].cost.evaluations == 2 * 5 * 256 * 51
    assert stages["bounds-vae"].cost.evaluations == 2 * 5 * 256


def test_bounds_along_a_training_go_on_where_they_ended(tmp_path, monkeypatch):
    """An interrupted training keeps the same snapshots, and an interrupted measurement measures
    none twice; the last bound is that of the network itself."""
    setting = setting_of("mnist", "smoke")
    paths, at = {"ddpm": tmp_path / "ddpm", "again": tmp_path / "again"}, context(setting)

    def interrupted(steps, **kwargs):
        for step in steps:
            if step == 2:
                raise Stopped
            yield step

    making.make_model(at, paths["ddpm"], {}, "ddpm")
    with pytest.raises(Stopped):
        making.make_model(replace(at, progress=interrupted), paths["again"], {}, "ddpm")
    assert (paths["again"] / "network-000002.safetensors").exists()
    making.make_model(at, paths["again"], {}, "ddpm")
    names = ["network-000001.safetensors", "network-000002.safetensors", "network.safetensors"]
    kept = [sorted(file.name for file in paths[one].glob("network*")) for one in paths]
    assert kept == [names, names]
    networks = [[load_model(paths[one] / name) for name in names] for one in paths]
    assert all(map(equal, *networks)) and not equal(*networks[0][:2])

    seen, bound = [], KINDS["ddpm"].bound

    def counted(*args):
        seen.append(bound(*args))
        return seen[-1]

    monkeypatch.setitem(KINDS, "ddpm", KINDS["ddpm"]._replace(bound=counted))
    (folder := tmp_path / "bounds").mkdir()
    with pytest.raises(Stopped):
        bound_curves.measure(replace(at, progress=interrupted), folder, paths, "ddpm")
    assert len(seen) == 2  # of the first snapshot, on training and on test images
    bound_curves.measure(at, folder, paths, "ddpm")
    assert len(seen) == 6
    found = read_json(folder / "bounds.json")
    assert [entry["step"] for entry in found] == [1, 2, 3]
    test = at.test_images().images[:4]
    whole = ddpm_bound(networks[0][-1], test, num_terms=setting.bound_terms)
    assert found[-1]["test"] == pytest.approx(
        {"mean": whole.mean, "standard_error": whole.standard_error, "n": 4}
    )
    train = at.images("train").images[:4]
    first = ddpm_bound(networks[0][0], train, num_terms=setting.bound_terms).mean
    assert found[0]["training"]["mean"] == pytest.approx(first)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "mnist-cond"])
def test_the_smoke_profile_reports_and_does_nothing_twice(tmp_path, name):
    command = f"reproduce {name} --profile smoke --runs {{tmp}}/runs --results {{tmp}}/results"
    done = succeed(command, tmp=tmp_path)
    folder = tmp_path / "results" / f"{name}-smoke"
    outcome = read_json(folder / "results.json")
    assert outcome["experiment"] == name and set(outcome["metrics"]) == {
        *(*SYSTEMS, *STEPS, "floor")
    }
    for system in STEPS:
        assert np.isfinite(outcome["metrics"][system]["fd"]["values"]).all()
        assert "nll" not in outcome["metrics"][system]
        assert outcome["costs"][system]["num_evaluations"] == int(system.rpartition("_")[2])
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
    assert len(rows(outcome)) == 6 + len(STEPS) and len(winners(outcome)) == 7
    assert set(outcome["bounds"]) == {"ddpm", "vae"} and (folder / "bounds.png").exists()
    assert all(
        np.isfinite(entry[which]["mean"])
        for entries in outcome["bounds"].values()
        for entry in entries
        for which in ("training", "test")
    )
    report = (folder / "report.html").read_text()
    assert report.count("data:image/png") >= 11 and "http" not in report.split("<body")[1]
    again = succeed(command, tmp=tmp_path)
    assert (
        again.out == done.out
        and read_json(folder / "results.json")["metrics"] == outcome["metrics"]
    )
