"""The study of failures: numbers of images, keys of stages, held-out measures, and its verdict."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from dg.data.images import ImageSet
from dg.experiments import compute, failures, judging, making, plan
from dg.experiments import failures_report as report
from dg.experiments.context import Context, Experiment
from dg.experiments.costs import training_cost
from dg.experiments.pipeline import Stages
from dg.experiments.runner import _costs
from dg.experiments.settings import SETTINGS, smoke
from dg.experiments.studies import build, trainings
from dg.experiments.study import Head, Kept, Training
from dg.recipes import PRESETS
from dg.runtime.files import read_json, write_json

SETTING = SETTINGS["mnist-14"]
NUMBERS = {
    "real-200": (200, 5000),
    "real-1000": (1000, 5000),
    "real-10000": (10_000, 5000),
    "fake-500": (5000, 500),
    "fake-2000": (5000, 2000),
    "fake-10000": (5000, 10_000),
}


def test_one_number_is_varied_and_the_trainings_are_equally_long():
    found = failures.trainings(SETTING, PRESETS["default"])
    assert {name: (one.num_real, one.num_fake) for name, one in found.items()} == NUMBERS
    steps = {max(one.num_real, one.num_fake) * one.settings.epochs for one in found.values()}
    assert steps == {5000 * PRESETS["default"].epochs}
    assert all(one.settings.unequal for one in found.values())
    full = failures.trainings(SETTINGS["cifar10-uncond"], PRESETS["default"])
    assert max(max(one.num_real, one.num_fake) for one in full.values()) == 50_000, "all there are"
    for one in failures.trainings(smoke(SETTING), PRESETS["default"]).values():
        least = one.settings.split[0] * min(one.num_real, one.num_fake)
        assert least >= one.settings.batch_size / 2


def test_every_method_is_compared_with_its_control():
    study = build("failures", SETTING)
    assert next(iter(study.trainings)) == "default" and len(study.systems) == 2 + 4 * 7
    for name, system in study.systems.items():
        assert system.against == (
            "restart" if system.line == failures.GUIDED_RESTART else "unguided"
        )
        assert {head.checkpoint for head in system.heads} <= {"last"}, name


def stages(setting, trained):
    study = replace(build("weights", setting), trainings={"default": trained})
    made = plan.plan(Context(Experiment("weights", setting, study, "anything")))
    at = Stages("/nowhere")
    return {stage.name: (stage, at.path(stage).name) for stage in made}


def test_numbers_of_a_training_belong_to_its_key_and_no_other_key_changes():
    plain = trainings(SETTING)["default"]
    before = stages(SETTING, plain)
    settings = before["train-default"][0].settings
    assert settings["num_data"] == 5000 and settings["num_real"] is None
    known = {"extractor", "settings", "data", "pool", "order", "num_data", "num_real", "width"}
    assert set(settings) == known | {"conditional"}, "further ones would train everything anew"
    keys = {before["train-default"][1]}
    for real, fake in NUMBERS.values():
        after = stages(SETTING, replace(plain, num_real=real, num_fake=fake))
        keys.add(after["train-default"][1])
        name = "fake-score-10000" if fake == 10_000 else "fake-score"
        stage, key = after[name]
        assert name in after["train-default"][0].needs and stage.settings["num_images"] >= fake
        assert fake == 10_000 or key == before["fake-score"][1], "the same generated images"
    assert len(keys) == 7


def test_finished_images_to_choose_from_are_drawn_once():
    study = build("failures", SETTING)
    kept = {name: system for name, system in study.systems.items() if system.kept}
    study.systems["other-noise"] = replace(kept["kept-default"], kept=Kept(0.5, 1.0))
    study.systems["other-share"] = replace(kept["kept-default"], kept=Kept(0.25, 0.1))
    for name in ("default", "real-200"):
        study.systems[f"guided-kept-{name}"] = replace(kept[f"kept-{name}"], weights=(2.0, 0.0))
    made = plan.plan(Context(Experiment("failures", SETTING, study, "anything")))
    at, by_name = Stages("/nowhere"), {stage.name: stage for stage in made}
    folders = {stage.name: at.path(stage).name for stage in made}
    assert len(kept) == 7
    for name in (*kept, "other-noise"):
        assert by_name[f"pool-{name}"].needs == ["score"]
        assert folders[f"pool-{name}"] == folders["pool-kept-default"]
        assert by_name[f"sample-{name}"].needs[-1] == f"pool-{name}"
        assert by_name[f"sample-{name}"].cost.evaluations == 0
    assert len({folders[name] for name in by_name if name.startswith("pool-")}) == 4
    assert len({folders[f"sample-{name}"] for name in (*kept, "other-noise")}) == 8
    assert by_name["pool-guided-kept-real-200"].needs == ["score", "classifier", "train-real-200"]
    drawn = 2 * SETTING.num_images * SETTING.num_sets
    assert by_name["pool-kept-default"].cost.images == drawn
    assert (
        sum(s.cost.images for s, _ in at.overview(made) if s.name.startswith("pool-kept")) == drawn
    )


def test_the_time_of_a_pool_belongs_to_every_system_that_chooses_from_it():
    study = build("failures", SETTING)
    context, at = Context(Experiment("failures", SETTING, study)), Stages("/nowhere")
    paths = {name: name for name in ("score", "fake-score", "train-default")}
    paths |= {"pool-kept-default": "pool", "sample-kept-default": "kept"}
    paths["sample-guided-default"] = "guided"
    at.took = dict.fromkeys(paths.values(), 0.0) | {"pool": 6.0, "kept": 1.5, "guided": 3.0}
    images = SETTING.num_images * SETTING.num_sets
    for name, seconds in {"kept-default": 7.5, "guided-default": 3.0}.items():
        found = _costs(context, at, paths, name)["seconds_per_1000"]
        assert found == pytest.approx(1000 * seconds / images)


def test_the_cost_follows_the_larger_set():
    plain = trainings(SETTING)["default"]
    one, two = (training_cost(SETTING, replace(plain, num_real=n)).gpu_hours for n in (200, 10_000))
    assert training_cost(SETTING, plain).gpu_hours == one == two / 2


def numbered(n, name="images"):
    """Images that hold their own number."""
    pixels = np.arange(n).reshape(n, 1, 1, 1) % 256
    return ImageSet(np.broadcast_to(pixels, (n, 8, 8, 1)).astype(np.uint8), None, name)


class Fixed(Context):
    """A context with given images, and a discriminator that has learnt nothing."""

    def images(self, split):
        return numbered(40)

    def model(self, paths, name="score"):
        return None

    def discriminator(self, paths, net, system):
        return lambda x, sigma, labels: torch.zeros(len(x))


@pytest.mark.parametrize(("numbers", "seen"), [((8, 6), (8, 6)), ((None, None), (20, 20))])
def test_a_head_learns_from_the_first_images(monkeypatch, tmp_path, numbers, seen):
    setting = replace(smoke(SETTING), num_data=20)
    context = Fixed(Experiment("failures", setting, build("failures", setting)))
    found = []
    monkeypatch.setattr(making, "load_images", lambda path: numbered(20, "generated"))
    monkeypatch.setattr(making, "build_discriminator", lambda *_: None)
    monkeypatch.setattr(making, "train_discriminator", lambda *told, **_: found.extend(told[1:3]))
    training = Training("none", PRESETS["default"], None, "score", *numbers)
    making.make_discriminator(context, tmp_path, {"fake-score": tmp_path}, training)
    for images, number in zip(found, seen, strict=True):
        assert images.images[:, 0, 0, 0].tolist() == list(range(number))


def test_generated_images_of_a_training_are_counted(monkeypatch):
    setting = smoke(SETTING)
    context = Fixed(Experiment("failures", setting, build("failures", setting)))
    monkeypatch.setattr(compute, "measured_cost", lambda *_, **__: {"multiply-adds per image": 2})
    monkeypatch.setattr(compute, "training_multiply_adds", lambda *_: 3)
    monkeypatch.setattr(compute, "_images_seen", lambda *_: 10)
    for name, generated in {"default": 160, "real-80": 160, "fake-80": 80, "fake-320": 320}.items():
        found = compute._training(context, {}, Head(name, "last"), "score")
        assert found["generated images"] == 2 * generated
        assert found["multiply-adds"] == 2 * generated + 30


def test_heads_are_judged_on_images_that_no_training_has_seen(monkeypatch, tmp_path):
    setting = smoke(SETTING)
    study = build("failures", setting)
    context, paths = Fixed(Experiment("failures", setting, study)), {"sample-unguided": tmp_path}
    shown = []
    monkeypatch.setattr(judging, "load_images", lambda path: shown.append(path) or numbered(20))
    for name in study.trainings:
        paths[f"train-{name}"] = tmp_path / name
        paths[f"train-{name}"].mkdir()
        write_json(tmp_path / name / "summary.json", {"images": {"real": 3, "fake": 4}})
    judging.judge_heads(context, tmp_path, paths)
    found = read_json(tmp_path / "heads.json")
    assert shown == [tmp_path / "set0"] and list(found) == list(study.trainings)
    for entry in found.values():
        assert entry["images"] == {"real": 3, "fake": 4}
        assert entry["loss"] == pytest.approx(math.log(2)) and entry["auc"] == 0.5


def outcome(changes):
    """Results in which methods by name change an unguided distance of 4 by so much, with 5,000,
    1,000 and 200 real images, and one with 500 generated ones."""
    seen = {"default": (5000, 5000), "a": (1000, 5000), "b": (200, 5000), "c": (5000, 500)}
    systems = {"unguided": dict(title="unguided", heads=[], line=None, against="unguided")}
    made = {"unguided": 0.0}
    for line, values in changes.items():
        for head, change in zip(seen, values, strict=True):
            told = dict(title=line, line=line, against="unguided", heads=[{"training": head}])
            systems[f"{line}-{head}"], made[f"{line}-{head}"] = told, change
    return {
        "systems": systems,
        "metrics": {name: {"fd": {"mean": 4.0 + change}} for name, change in made.items()},
        "comparison": {name: {"fd": {"difference": change}} for name, change in made.items()},
        "heldout": {
            name: {"images": {"real": real, "fake": fake}} for name, (real, fake) in seen.items()
        },
        "extractor": {"name": "classifier"},
    }


def test_the_verdict_names_who_fails_first_and_where():
    found = outcome({"A": (-1.0, -0.5, 0.25, -1.0), "B": (-2.0, 0.5, 0.75, 0.0), "C": (-1,) * 4})
    assert report.lines(found, "real")["A"] == {5000: "A-default", 1000: "A-a", 200: "A-b"}
    assert report.lines(found, "fake")["B"] == {5000: "B-default", 500: "B-c"}
    assert report.verdict(found) == (
        "With fewer real images “B” loses its gain at 1,000 (FD 4.50 against 4.00), “A” at 200 "
        "(FD 4.25 against 4.00); “C” keeps it. With fewer generated images “B” loses its gain at "
        "500 (FD 4.00 against 4.00); “A” and “C” keep it."
    )
    assert report.verdict(outcome({"A": (-1.0,) * 4, "B": (-1.0,) * 4})) == (
        "With fewer real images every method keeps its gain, down to 200. "
        "With fewer generated images every method keeps its gain, down to 500."
    )


def test_the_distance_goes_with_what_unseen_images_say():
    found = outcome({"A": (-1.0, -0.5, 0.25, 1.0), "B": (1.0, 0.5, -0.25, -1.0)})
    for place, entry in enumerate(found["heldout"].values()):
        entry |= {"loss": 0.6 + place, "auc": 0.6 - 0.01 * place}
    (table,) = report._predicted(found)
    assert [row[0] for row in table.rows] == ["A", "B"] and "4 discriminators" in table.caption
    assert [cell.split()[0] for cell in table.rows[0][1:]] == ["+1.00", "-1.00"]
    assert [cell.split()[0] for cell in table.rows[1][1:]] == ["-1.00", "+1.00"]
    for entry in found["heldout"].values():
        entry["auc"] = 0.5
    (table,) = report._predicted(found)
    assert table.rows[0][2] == ""


def test_another_score_network_is_compared_with_one_discriminator(tmp_path):
    study = build("failures", SETTING.with_network("early"))
    assert list(study.trainings) == ["default"] and len(study.systems) == 2 + 4
    found = outcome({"A": (-1.0,) * 4, "B": (0.25,) * 4})
    found["heldout"] = {"default": found["heldout"]["default"]}
    for part in ("systems", "metrics", "comparison"):
        kept = {n: one for n, one in found[part].items() if n.endswith("default") or "-" not in n}
        found[part] = kept
    assert report.verdict(found) == "“A” has FD 3.00 against 4.00; “B” has FD 4.25 against 4.00."


def test_another_score_network_has_a_key_by_its_content(tmp_path):
    def key(path):
        setting = SETTING.with_network(str(path))
        assert setting.given == {} and setting.models["score"].training
        assert setting.title.endswith(f"but the score network is {path.stem}")
        return stages(setting, trainings(setting)["default"])["score"][1]

    for name, content in {"early": b"a", "same": b"a", "late": b"b"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "network.safetensors").write_bytes(content)
    early, same, late = (key(tmp_path / name) for name in ("early", "same", "late"))
    assert early == same != late
    assert key(tmp_path / "early" / "network.safetensors") == early
    with pytest.raises(ValueError, match="its tables are of one network; take another setting"):
        SETTINGS["cifar10-cond"].with_network("early")
