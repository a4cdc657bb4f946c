"""The study of kinds of discriminators: equal training compute, rounds, score differences as heads,
and its report's numbers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import dg
import edm
from dg.checkpoints import load_difference
from dg.data.datasets import load_images, to_uint8
from dg.discriminator import LogRatio
from dg.experiments import compute, judging, kinds, kinds_report, making, report
from dg.experiments.context import Context, Experiment
from dg.experiments.pipeline import Stages
from dg.experiments.plan import plan
from dg.experiments.setting import CORE
from dg.experiments.settings import SETTINGS, smoke
from dg.experiments.studies import build
from dg.experiments.study import Head, Study, System, Training
from dg.guidance import DifferenceGuidance
from dg.recipes import PRESETS
from dg.runtime.files import read_json
from dg.sampling import draw_images

SETTING = SETTINGS["mnist-14"]
TRAININGS = build("kinds", SETTING).trainings


def test_all_kinds_have_the_data_and_the_compute_of_the_reference():
    reference = TRAININGS[kinds.REFERENCE]
    alone = {name: one for name, one in TRAININGS.items() if name.startswith("kind-")}
    assert set(alone) == {f"kind-{name}" for name in kinds.OTHERS}
    assert {one.like for one in alone.values()} == {reference}
    drawn_from = {(one.model, one.num_real, one.num_fake, one.part) for one in TRAININGS.values()}
    assert drawn_from == {("score", None, None, None)}
    assert {one.settings.split for one in TRAININGS.values()} == {reference.settings.split}
    further = [TRAININGS[name] for name in kinds.rounds()[1:]]
    assert [one.system for one in further] == kinds.rounds()[:-1]
    assert all(replace(one, system=None) == reference for one in further)


def test_systems_choose_their_weight_on_other_seeds():
    systems = build("kinds", SETTING).systems
    for name in systems.keys() - {"unguided"}:
        options = systems[name].options
        wanted = (0.5, 1.0, 2.0) if name == "difference" else (1.0, 2.0, 4.0)
        assert [option.weights for option in options] == [(w, 0.0) for w in wanted]
        assert systems[name].choice == name
        for option in options:
            assert option.heads == systems[name].heads and option.boosting is False
            assert option.window is None, "the setting's"
    heads = [[head.training for head in systems[name].heads] for name in kinds.rounds()]
    assert heads == [["default"], ["default", "round-2"], ["default", "round-2", "round-3"]]
    assert {option.average for option in systems["round-3"].options} == {"sum"}


def test_a_round_comes_after_the_choice_of_the_one_before_and_not_of_its_own():
    stages = {stage.name: stage for stage in plan(context_of(build("kinds", SETTING)))}
    assert stages["train-round-2"].needs == ["drawn-classifier", "classifier"]
    assert "choice-classifier" in stages["drawn-classifier"].needs
    assert "choice-round-2" in stages["drawn-round-2"].needs
    assert stages["drawn-round-2"].settings["seed"] == SETTING.fake_seed
    assert stages["drawn-round-2"].settings["num_images"] == SETTING.num_data
    assert stages["train-kind-difference"].needs == ["score", "classifier", "score"]
    assert "compute-round-2" in stages["training-compute"].needs
    assert {"sample-unguided", "sample-classifier", "sample-round-2"} <= {*stages["heldout"].needs}


def test_the_key_of_a_training_depends_on_the_one_that_it_is_like():
    def key(training):
        study = Study("", "", {"a": System("a", (Head("t"),))}, trainings={"t": training})
        at = Stages("/nowhere")
        return {stage.name: at.path(stage).name for stage in plan(context_of(study))}["train-t"]

    one, other = TRAININGS["kind-score"], TRAININGS[kinds.REFERENCE]
    longer = replace(other, settings=replace(other.settings, epochs=21))
    wider = replace(other, width=64)
    found = [one, replace(one, like=None), replace(one, like=longer), replace(one, like=wider)]
    assert len({key(training) for training in found}) == 4


@pytest.mark.parametrize(("each", "epochs"), [(7.0, 20), (21.0, 7), (2.9, 48), (1000.0, 1)])
def test_epochs_are_rounded_and_at_least_one(each, epochs, monkeypatch):
    counts = {"classifier": 7.0, "score": each}
    count = lambda context, paths, training, net: counts[training.extractor]  # noqa: E731
    monkeypatch.setattr(making, "epoch_multiply_adds", count)
    context = context_of(build("kinds", SETTING))
    monkeypatch.setattr(context, "model", lambda paths, name: None)
    found = making.epochs_of(context, {}, TRAININGS["kind-score"], None)
    assert found == epochs == max(1, round(20 * 7 / each))
    assert making.epochs_of(context, {}, TRAININGS["default"], None) == 20


def context_of(study, setting=SETTING) -> Context:
    return Context(Experiment("kinds", setting, study))


# A small study on digits: a pixel discriminator, its second round, and other kinds as long as it.
DEFAULT = replace(
    PRESETS["default"], epochs=2, batch_size=32, eval_images=20, split=(0.8, 0.1, 0.1)
)
BASE = Training("none", DEFAULT, width=32)
DIFFERENCE = replace(DEFAULT, loss="difference")
SMALL = {
    "base": BASE,
    "finetuned": Training("finetuned", DEFAULT, width=8, like=BASE),
    "lora": Training("score", replace(DEFAULT, lora_rank=4), width=8, like=BASE),
    "difference": Training("score", DIFFERENCE, width=8, like=BASE),
    "second": replace(BASE, system="guided"),
}
WEIGHTS = (1.0, 2.0)


def small_study() -> Study:
    def system(*names, **told):
        return System("", tuple(map(Head, names)), (2.0, 0.0), boosting=False, **told)

    systems = {name: system(name) for name in SMALL if name != "second"}
    systems |= {"unguided": System("unguided"), "second": system("base", "second", average="sum")}
    options = tuple(replace(system("base"), weights=(w, 0.0)) for w in WEIGHTS)
    systems["guided"] = System("guided", (Head("base"),), options=options, choice="guided")
    return Study("", "", systems, trainings=SMALL, compute=True, heldout=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(context, folders by name) of the trainings, on digits."""
    setting = replace(smoke(SETTING), num_selection=4, metrics=CORE)
    context, folder = context_of(small_study(), setting), tmp_path_factory.mktemp("kinds")
    wanted = [f"train-{name}" for name in SMALL]
    return context, Stages(folder).run_all(plan(context), wanted)


@pytest.mark.slow
def test_trainings_take_equal_compute_but_for_the_rounding_of_an_epoch(made):
    context, paths = made
    found = {
        name: compute._training(context, paths, Head(name), "score")
        for name in SMALL
        if name != "second"
    }
    wanted = found["base"]["training"]
    for name in ("finetuned", "lora", "difference"):
        epochs = read_json(paths[f"train-{name}"] / "summary.json")["settings"]["epochs"]
        epoch = found[name]["training"] / epochs
        assert epochs > 1 and abs(found[name]["training"] - wanted) <= epoch / 2, name
        log = (paths[f"train-{name}"] / "log.jsonl").read_text().splitlines()
        assert len(log) == epochs
    assert found["difference"]["generated images"] == 0 < found["base"]["generated images"]


@pytest.mark.slow
def test_the_second_round_learns_from_images_of_the_guided_system(made):
    context, paths = made
    index = read_json(paths["choice-guided"] / "choice.json")["index"]
    net = edm.load_network(paths["score"])
    head = paths["train-base"] / "best.safetensors"
    discriminator = dg.load_discriminator(None, head)
    guidance = dg.DiscriminatorGuidance(discriminator, (WEIGHTS[index], 0.0), 0.01, 0.5)
    first, number = context.setting.fake_seed, context.setting.num_data
    seeds, size, drawn = range(first, first + number), context.setting.batch_size, []
    for start in range(0, number, size):
        sampling = context.setting.models["score"].sampling
        images, _ = draw_images(net, seeds[start : start + size], sampling, guidance)
        drawn.append(to_uint8(images))
    _, fake = making.training_sets(context, paths, SMALL["second"])
    assert np.array_equal(fake.images, np.concatenate(drawn))
    _, unguided = making.training_sets(context, paths, SMALL["base"])
    assert not np.array_equal(fake.images, unguided.images)


@pytest.mark.slow
def test_a_score_difference_guides_without_a_gradient(made, tmp_path):
    context, paths = made
    system = context.study.systems["difference"]
    net, _, difference, guidance = context.drawn_by(paths, system)
    assert isinstance(guidance, DifferenceGuidance) and guidance.weights == (2.0, 0.0)
    by_hand = load_difference(paths["train-difference"] / "best.safetensors", net)
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    wanted = 2 * by_hand(x, torch.tensor(0.3)) * 0.3**2
    torch.testing.assert_close(guidance.correction(x, torch.tensor(0.3)), wanted)
    compute.count(context, tmp_path, paths | {"sample-difference": tmp_path}, "difference", system)
    asked = read_json(tmp_path / "compute.json")["evaluations"]
    assert asked["discriminator forward"] > 0 == asked["discriminator backward"]
    with pytest.raises(ValueError, match="a difference of scores has no log ratio"):
        LogRatio(difference)
    with pytest.raises(ValueError, match="“shaken” boosts samples by a log ratio"):
        context.guided_by(difference, paths, replace(system, title="shaken", boosting=True))


@pytest.mark.slow
def test_a_round_is_judged_on_images_of_the_one_before(made, tmp_path, monkeypatch):
    context, paths = made
    fakes, shown = {"unguided": paths["fake-score"], "guided": paths["drawn-guided"] / "set0"}, []

    def load(path):
        shown.append(path.parent.name)
        return load_images(fakes[path.parent.name])

    monkeypatch.setattr(judging, "load_images", load)
    monkeypatch.setattr(judging, "JUDGED", 20)
    paths = paths | {f"sample-{name}": tmp_path / name for name in fakes}
    judging.judge_heads(context, tmp_path, paths)
    found = read_json(tmp_path / "heads.json")
    assert shown == ["unguided", "guided"]
    assert {"loss", "network_loss"} <= set(found["difference"]) and "auc" in found["second"]


def outcome() -> dict:
    """Results of three sets: the difference is best, the second round helps."""
    fd = {"unguided": [10.0, 11.0, 12.0], "classifier": [8.0, 9.5, 9.5]}
    fd |= {"difference": [7.0, 8.4, 9.5], "round-2": [7.0, 8.0, 9.1], "floor": [1.0, 1.1, 1.2]}
    metrics = {
        name: {"fd": {"mean": float(np.mean(values)), "sd": 1.0, "values": values, "n": 3}}
        for name, values in fd.items()
    }
    heads = {"unguided": [], "classifier": ["default"], "difference": ["kind-difference"]}
    heads["round-2"] = ["default", "round-2"]
    systems = {
        name: {
            "title": name,
            "line": name,
            "heads": [{"training": one} for one in names],
            "options": [{"weights": [w, 0.0], "window": None, "heads": names} for w in (1.0, 2.0)]
            if names
            else [],
            "choice": name,
        }
        for name, names in heads.items()
    }
    trained = {"training": 60.0, "generated images": 20.0, "multiply-adds": 80.0}
    count = {"default": trained, "kind-difference": trained | {"generated images": 0.0}}
    count["round-2"] = trained | {"generated images": 40.0}
    unseen = {"default": {"auc": 0.8}, "round-2": {"auc": 0.65}}
    unseen["kind-difference"] = {"loss": 1.5, "network_loss": 1.75}
    return {
        "systems": systems,
        "metrics": metrics,
        "choices": {name: {"index": 1, "fd": []} for name in heads if name != "unguided"},
        "costs": {
            name: {"compute": {"multiply-adds": {"network": 2.0, "other": 1.0 * len(names)}}}
            for name, names in heads.items()
        },
        "training_compute": count,
        "heldout": unseen,
        "trainings": {
            name: {"log": [{"epoch": 1}, {"epoch": 7}], "best_epoch": 1} for name in count
        },
        "extractor": {"name": "classifier"},
        "floor_images": 500,
        "settings": {
            "num_sets": 3,
            "num_images": 500,
            "reference_split": "test",
            "weights": [4.0, 0.0],
            "window": [0.01, 0.5],
        },
    }


def test_the_verdict_names_the_best_kind_and_the_rounds():
    said = kinds_report.verdict(outcome())
    assert said == (
        "For a training of the compute of 30 unguided images “difference” is the best kind: it "
        "moves FD from 11.00 to 8.30 (p = 0.0032 over 3 sets), and “classifier” to 9.00 "
        "(p = 0.02 over 3 sets). Further rounds move FD so: the second from 9.00 to 8.03 "
        "(p = 0.093 over 3 sets). Real images against real ones have 1.10."
    )


def test_the_tables_tell_weight_compute_and_what_was_learnt():
    found = outcome()
    (table,) = kinds_report._systems(found)
    assert [row[:3] for row in table.rows[:-1]] == [
        ["unguided", "", "1.00 ×"],
        ["classifier", "2", "1.50 ×"],
        ["difference", "2", "1.50 ×"],
        ["round-2", "2", "2.00 ×"],
    ]
    assert table.rows[1][-3:] == ["-2.000", "0.500", "0.02"]
    table, said = kinds_report._learnt(found)
    assert table.rows == [
        ["classifier", "7", "1", "30 ×", "10 ×", "0.800"],
        ["difference", "7", "1", "30 ×", "0 ×", ""],
        ["round-2", "7", "1", "30 ×", "20 ×", "0.650"],
    ]
    assert "on test images is 1.5000, that of the network alone 1.7500" in said
    told = kinds_report._rounds(found)
    assert "FD from no round to 2: 11.00, 9.00, 8.03." in told and "it has 0.800, 0.650" in told


def test_weights_of_options_are_not_those_of_the_setting():
    assert report._guidance(outcome()) == "VP times 0.01 to 0.5; "
