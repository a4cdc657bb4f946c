"""The study of gains together: its networks, its plan, its smoke run and its report's numbers."""

from dataclasses import replace

import numpy as np
import pytest

import edm
from dg.experiments import derived, gains, gains_report
from dg.experiments.context import Context, Experiment
from dg.experiments.pipeline import Stage, Stages, in_order
from dg.experiments.plan import plan
from dg.experiments.settings import SETTINGS, smoke
from dg.experiments.studies import build
from dg.guidance import Autoguidance
from dg.models.merging import merged

NAME = "gains-add-up"


def context_of(setting) -> Context:
    return Context(Experiment(NAME, setting, build(NAME, setting)))


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("size", ["full", "smoke"])
def test_every_stage_comes_after_what_it_needs(name, size):
    setting = SETTINGS[name] if size == "full" else smoke(SETTINGS[name])
    setting = replace(setting, data="digits")
    seen = set()
    for stage in plan(context_of(setting)):
        assert set(stage.needs) <= seen and stage.name not in seen
        seen.add(stage.name)
    assert {derived.OWN, "neon", "train-default-neon", "sample-guided-sims"} <= seen


def test_stages_are_put_in_order():
    plan = [Stage(name, {}, needs, None) for name, needs in (("c", ["b"]), ("b", ["a"]), ("a", []))]
    assert [stage.name for stage in in_order(plan)] == ["a", "b", "c"]


def test_own_images_are_of_seeds_that_serve_nothing_else():
    for setting in SETTINGS.values():
        first = setting.fake_seed + derived.OWN_SEED
        own = range(first, first + derived.NUM_OWN)
        fake = range(setting.fake_seed, setting.fake_seed + setting.num_data)
        chosen = range(setting.selection_seed, setting.selection_seed + setting.num_selection)
        measured = range(setting.num_images * setting.num_sets)
        for other in (fake, chosen, measured):
            assert own[-1] < other[0] or other[-1] < own[0]


def test_studies_without_them_have_no_models_of_their_own():
    setting = SETTINGS["mnist-14"]
    assert build("methods", setting).models == {}
    assert set(build(NAME, setting).models) == set(gains.models(setting))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(context, folders by name) of the networks, on digits."""
    context = context_of(smoke(SETTINGS["mnist-14"]))
    todo = plan(context)
    wanted = ("neon", "own", "ddo-weak", "classifier", "train-default-neon")
    paths = Stages(tmp_path_factory.mktemp("gains")).run_all(todo, wanted)
    return context, paths


def test_networks_are_made_of_the_settings_own(made):
    context, paths = made
    score, own, ddo = (edm.load_network(paths[name]) for name in ("score", "own", "ddo-weak"))
    chosen = edm.load_network(paths["neon"])
    values = {name: score.state_dict()[name] for name in score.state_dict()}
    assert any(not value.equal(own.state_dict()[name]) for name, value in values.items())
    assert any(not value.equal(ddo.state_dict()[name]) for name, value in values.items())
    options = context.study.systems["neon"].options
    found = [edm.load_network(paths[one.model]).state_dict() for one in options]
    same = [all(v.equal(state[n]) for n, v in chosen.state_dict().items()) for state in found]
    assert sum(same) >= 1
    model = context.setting.models["neon-own-2"]
    wanted = merged(values, own.state_dict(), model.weight)
    made_of = edm.load_network(paths["neon-own-2"]).state_dict()
    assert all(value.equal(made_of[name]) for name, value in wanted.items())


def test_a_guide_is_left_behind_with_and_without_a_discriminator(made):
    context, paths = made
    alone = context.study.systems["sims"].options[-1]
    _, _, discriminator, guidance = context.drawn_by(paths, alone)
    assert discriminator is None and isinstance(guidance, Autoguidance)
    assert guidance.scale == 1 + alone.guide[1]
    both = context.study.systems["guided-sims"].options[0]
    head = context.study.systems["fresh-neon"].heads
    _, _, discriminator, guidance = context.drawn_by(paths, replace(both, heads=head))
    kinds = [type(term).__name__ for term in guidance.terms]
    assert kinds == ["Autoguidance", "DiscriminatorGuidance"] and discriminator is not None


def outcome() -> dict:
    """Results of three sets, in which together is worth 3 of 2 + 2."""

    def of(values):
        return {"fd": {"mean": float(np.mean(values)), "sd": 1.0, "values": values, "n": 3}}

    metrics = {"unguided": of([10.0, 11.0, 12.0]), "guidance": of([8.0, 9.5, 9.5])}
    metrics |= {"restart-2": of([8.0, 9.0, 10.0]), "guided-restart-2": of([7.0, 8.1, 8.9])}
    plain = dict(heads=[], options=[], line=None, parts=[], model="score", guide=None, title="")
    systems = {name: plain | {"line": name} for name in metrics}
    systems["guided-restart-2"]["parts"] = ["guidance", "restart-2"]
    systems["guidance"]["heads"] = [{"training": "shipped"}]
    cost = {"compute": {"multiply-adds": {"network": 2.0}}}
    return {
        "metrics": metrics | {"floor": of([1.0, 1.0, 1.0])},
        "systems": systems,
        "costs": dict.fromkeys(metrics, cost),
        "choices": {},
        "training_compute": {"shipped": {"multiply-adds": 12.0}, "own": {"multiply-adds": 8.0}},
        "extractor": {"name": "classifier"},
        "floor_images": 500,
        "settings": {
            "num_sets": 3,
            "num_images": 500,
            "reference_split": "test",
            "models": {
                "score": {},
                "own": {"ddo": None},
                "neon-own-1": {"second": "own", "weight": 1.0},
                "neon": {"choice": "neon"},
            },
        },
    }


def test_gains_and_their_sum():
    found = outcome()
    (table,) = gains_report._sums(found)
    assert table.rows[0][:5] == ["guided-restart-2", "2.00", "2.00", "4.00", "3.00"]
    assert "guided-restart-2, 9.00 to 8.00 (p = " in gains_report.verdict(found)


def test_training_counts_discriminators_and_networks():
    found = outcome()
    assert gains_report.training(found, "unguided") == 0
    assert gains_report.training(found, "guidance") == 6
    option = found["systems"]["unguided"] | {"model": "neon-own-1"}
    chosen = found["systems"]["unguided"] | {"options": [option], "choice": "neon"}
    found["systems"]["neon"] = chosen
    found["choices"]["neon"] = {"index": 0, "fd": []}
    both = found["systems"]["guidance"] | {"model": "neon"}
    found["systems"]["both"] = both
    assert gains_report.training(found, "neon") == 4
    assert gains_report.training(found, "both") == 10
    found["systems"]["sims"] = found["systems"]["unguided"] | {"guide": ["own", 1.0]}
    assert gains_report.training(found, "sims") == 4
