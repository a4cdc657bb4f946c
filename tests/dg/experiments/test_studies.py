"""The studies as plain data: what they compare, in which settings, at what cost."""

from dataclasses import replace
from pathlib import Path

import pytest

from dg.evaluation import figures
from dg.evaluation.published import first_matching, published_rows
from dg.experiments import pictures, report, tables
from dg.experiments import plan as plans
from dg.experiments.context import Context, Experiment
from dg.experiments.costs import Cost, generation_cost
from dg.experiments.pipeline import Stages
from dg.experiments.settings import SETTINGS, smoke
from dg.experiments.studies import STUDIES, build, trainings
from dg.runtime.catalogue import CATALOGUE
from dg.runtime.pretrained import pretrained_names

EVERY = [(study, setting) for study in STUDIES for setting in SETTINGS]


def plan(study, name, setting=None, data="anything"):
    setting = setting or SETTINGS[name]
    experiment = Experiment(study, setting, build(study, setting), data)
    return experiment, plans.plan(Context(experiment))


@pytest.mark.parametrize(("study", "setting"), EVERY)
def test_every_study_has_a_plan_in_every_setting(study, setting):
    run, stages = plan(study, setting)
    seen = set()
    for stage in stages:
        assert set(stage.needs) <= seen, f"{stage.name} comes before what it needs"
        seen.add(stage.name)
    assert "unguided" in run.study.systems and "measure-floor" in seen
    asked = {head.training for system in run.study.systems.values() for head in system.heads}
    assert asked - set(run.setting.given) == set(run.study.trainings)


@pytest.mark.parametrize(("study", "setting"), EVERY)
def test_published_numbers_are_there(study, setting):
    for system in build(study, SETTINGS[setting]).systems.values():
        if system.published:
            found = [
                row
                for row in published_rows()
                if all(row.get(k) == v for k, v in system.published.items())
            ]
            # not every epoch has been published
            assert len(found) == 1 or "epoch" in system.published, system.title
            assert all(
                row["metric"] == "fid" and row["conditional"] == SETTINGS[setting].conditional
                for row in found
            )


def test_settings_name_known_files():
    for setting in SETTINGS.values():
        published = setting.models["score"].published
        given = setting.given.values()
        for name in (published, setting.classifier, *given, setting.reference):
            assert name is None or name in (*CATALOGUE, *pretrained_names())
        for wanted in (one for rows in setting.published.values() for one in rows):
            assert (
                sum(all(row.get(k) == v for k, v in wanted.items()) for row in published_rows())
                == 1
            )


def test_studies_of_a_setting_share_what_is_the_same():
    _, table = plan("recipes", "mnist-14")
    _, swept = plan("weights", "mnist-14")
    names = {stage.name: stage.settings for stage in table}
    shared = [stage for stage in swept if stage.name in names]
    assert {"score", "fake-score", "train-default"} < {stage.name for stage in shared}
    assert all(stage.settings == names[stage.name] for stage in shared)
    folders = []
    for stages in (table, swept):
        at = Stages("/nowhere")
        paths = {stage.name: at.path(stage) for stage in stages}
        folders.append({path for name, path in paths.items() if name.startswith("sample-")})
    assert len(folders[0] & folders[1]) == 2, "unguided, and weights (2, 0)"


@pytest.mark.parametrize("setting", SETTINGS)
def test_steps_are_compared_at_equal_evaluations(setting):
    systems = build("steps", SETTINGS[setting]).systems
    guided = [system for system in systems.values() if system.heads]
    assert len({system.x for system in guided}) == 5
    for system in guided:
        base = systems[system.against]
        assert not base.heads and base.num_steps == system.num_steps
        assert base.x == system.x == 2 * system.num_steps - 1


def swept(systems, monkeypatch):
    """The arguments of the picture of a sweep, and the verdict, for systems of known distance."""
    outcome = {
        "systems": systems,
        "metrics": {n: {"fd": {"mean": s["fd"], "sd": 0.1}} for n, s in systems.items()},
        "settings": {"num_sets": 2, "num_images": 10, "reference_split": "all", "models": {}},
        "xlabel": "steps",
        "title": "a sweep",
        "extractor": {"name": "pixels"},
    }
    for one in outcome["metrics"].values():
        one["fd"]["values"] = [one["fd"]["mean"]] * 2
    outcome["metrics"]["floor"] = {"fd": {"mean": 0.5}}
    given = []
    monkeypatch.setattr(figures, "distance_sweep", lambda path, *args, **_: given.append(args))
    pictures.sweep(pictures.Source(Path("folder"), outcome))
    return given[0], report.verdict(outcome)


def test_a_sweep_has_a_line_of_its_own_where_the_unguided_system_varies(monkeypatch):
    def system(name, fd, x, against, heads=()):
        return dict(title=name, fd=fd, x=x, against=against, heads=heads, model="score")

    one = {"unguided": system("unguided", 9.0, None, "unguided")}
    head = [{"training": "default", "checkpoint": "best"}]
    flat = one | {f"w{x}": system(f"weight {x}", 5.0 + x, x, "unguided", head) for x in (2, 1)}
    assert swept(flat, monkeypatch)[0] == ([2, 1], [7.0, 6.0], [0.1, 0.1], (9.0, 0.1))
    both = dict(one)
    for x in (3, 5):
        both[f"u{x}"] = system(f"unguided, {x}", 10.0 - x, x, "unguided")
        both[f"g{x}"] = system(f"guided, {x}", 8.0 - x, x, f"u{x}", head)
    given, told = swept(both, monkeypatch)
    assert given == ([3, 5], [5.0, 3.0], [0.1, 0.1], ([7.0, 5.0], [0.1, 0.1]))
    assert told.startswith("At 3 steps guidance lowers FD from 7.00 to 5.00 (-29%). At 5 steps ")


def test_recipes_differ_in_what_they_claim_to():
    for setting in SETTINGS.values():
        made = trainings(setting)
        authors, default = made["authors"].settings, made["default"].settings
        assert (
            authors.lr_schedule == "constant"
            and not authors.ema_halflife
            and authors.time_sampling == "importance"
        )
        assert default.lr_schedule == "cosine" and default.ema_halflife
        assert made["default-score"].extractor == made["score"].extractor == "score"
        assert made["default-score"].settings == default
        assert authors.conditional == default.conditional == setting.conditional
        assert (
            len(
                {
                    training.settings.seed
                    for name, training in made.items()
                    if name.startswith("authors")
                }
            )
            == setting.num_members
        )


def test_the_published_settings():
    full = trainings(SETTINGS["cifar10-uncond"])
    assert (
        full["authors"].settings.epochs == 60
        and full["d5"].settings.epochs == 200
        and full["d1"].settings.lr == 1e-3
    )
    assert trainings(SETTINGS["cifar10-cond"])["authors"].settings.epochs == 250
    assert SETTINGS["cifar10-uncond"].weights == (2, 0) and SETTINGS["cifar10-cond"].weights == (
        1,
        0,
    )
    assert SETTINGS["cifar10-cond"].boosting and not SETTINGS["cifar10-uncond"].boosting
    swept = [
        system.S_churn
        for system in build("churn", SETTINGS["cifar10-cond"]).systems.values()
        if system.boosting
    ]
    assert swept == [0, 1, 1.25, 1.5, 1.75, 2, 2.5, 3, 4, 10]


def test_a_plan_depends_on_what_it_should(tmp_path):
    keys = {}
    for name, setting in {
        "plain": SETTINGS["cifar10-jpeg-16"],
        "more images": replace(SETTINGS["cifar10-jpeg-16"], num_images=600),
        "other network": replace(SETTINGS["cifar10-jpeg-16"], conditional=True),
    }.items():
        stages = Stages(tmp_path)
        made = plan("recipes", "cifar10-jpeg-16", setting)[1]
        keys[name] = {stage.name: stages.path(stage).name for stage in made}
    assert keys["plain"]["score"] == keys["more images"]["score"] != keys["other network"]["score"]
    assert (
        keys["plain"]["train-authors"]
        == keys["more images"]["train-authors"]
        != keys["other network"]["train-authors"]
    )
    sampled = [name for name in keys["plain"] if name.startswith("sample-")]
    assert sampled and all(keys["plain"][name] != keys["more images"][name] for name in sampled)


def test_ffhq_has_the_published_evaluations_and_numbers():
    experiment, stages = plan("recipes", "ffhq-64")
    setting, systems = experiment.setting, experiment.study.systems
    evaluations = {
        name: Context(experiment).num_evaluations(systems[name])
        for name in ("unguided", "unguided-published", "authors")
    }
    assert list(evaluations.values()) == [71, 79, 71]
    rows = {name: first_matching(found)[0] for name, found in setting.published.items()}
    told = {name: (row["nfe"], row["value"]) for name, row in rows.items()}
    assert told == {"unguided-published": (79, 2.39), "authors": (71, 1.98)}
    # four times the pixels of CIFAR-10
    assert generation_cost(setting, 50_000).gpu_hours == pytest.approx(4 * 71 / 35)
    for study in STUDIES:
        made = build(study, setting).systems.values()
        assert not any(system.published for system in made), "those of CIFAR-10"
    sizes = {one.name: one.cost.evaluations for one in stages}
    assert sizes["sample-unguided-published"] == 150_000 * 79


def test_costs_add_up():
    setting = SETTINGS["cifar10-uncond"]
    one = generation_cost(setting, 50_000)
    assert (
        one.evaluations == 50_000 * 35
        and one.gpu_hours == pytest.approx(1)
        and one.bytes == 50_000 * 3072
    )
    assert generation_cost(setting, 50_000, guided=True).gpu_hours == pytest.approx(1.62)
    assert (one + Cost(images=5)).images == 50_005
    assert generation_cost(smoke(setting), 100).gpu_hours < 1e-4


def test_a_setting_without_data_says_so():
    with pytest.raises(
        ValueError, match="the setting recipes has no data of its own; give the path of a data set"
    ):
        plan("recipes", "cifar10-jpeg", data=None)


def test_measured_stands_beside_published():
    outcome = {
        "settings": {"published": SETTINGS["cifar10-uncond"].published, "num_images": 50_000},
        "extractor": {"name": "inception"},
        "systems": {"unguided": {"title": "unguided"}, "released": {"title": "released"}},
        "metrics": {
            name: {m: {"mean": mean, "sd": 0.01} for m in ("fd", "kid", "precision", "recall")}
            for name, mean in {"unguided": 2.05, "released": 1.77, "floor": 1.0}.items()
        },
    }
    table = dict(zip(("unguided", "released", "floor"), tables.rows(outcome), strict=True))
    assert tables.columns(outcome)[1] == "FID" and tables.columns(outcome)[-2:] == [
        "published",
        "off by (sd)",
    ]
    assert table["unguided"][-2:] == [
        "2.03 (paper-table-3); 1.96 (reproduction-a); 2.094 (reproduction-b)",
        "+2.0",
    ]
    outcome["settings"]["num_images"] = 10_000
    assert tables.rows(outcome)[0][-1] == "", "fewer images have a larger bias"
    assert table["released"][-1] == "+0.0" and table["floor"][-2:] == ["", ""]
