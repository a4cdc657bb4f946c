"""Guidance as the diagnosis suggests it, beside that of a search."""

import pytest

from dg.experiments import report
from dg.experiments.context import SUGGESTION, Context, Experiment
from dg.experiments.pictures import Source
from dg.experiments.plan import plan
from dg.experiments.settings import SETTINGS, smoke
from dg.experiments.studies import build
from dg.experiments.suggestion_report import suggested
from dg.runtime.files import write_json

FOUND = {"verdict": "guide", "reason": "it helps", "findings": {}, "images": 20}


def context(name="mnist-14", setting=None):
    setting = setting or SETTINGS[name]
    return Context(Experiment("given", setting, build("given", setting), "digits"))


@pytest.mark.parametrize("name", ["mnist-14", "mnist-28", "cifar10-16"])
def test_it_is_measured_where_weights_are_searched(name):
    at = context(name)
    stages = {stage.name: stage for stage in plan(at)}
    assert "suggestion" in stages["sample-suggested"].needs
    assert "suggestion" not in stages["sample-guided"].needs
    assert {"fake-diagnosed", "classifier"} <= set(stages["suggestion"].needs)
    # its generated images serve nothing else
    s, seed = at.setting, stages["fake-diagnosed"].settings["seed"]
    assert seed >= s.selection_seed + s.num_selection
    assert seed + stages["fake-diagnosed"].settings["num_images"] > seed > s.fake_seed + s.num_data
    assert seed > (s.num_sets + 1) * s.num_images


def test_published_networks_are_not_searched():
    assert set(context("cifar10-uncond").study.systems) == {"unguided", "guided"}


def test_guidance_takes_its_weights_and_window(tmp_path):
    at = context(setting=smoke(SETTINGS["mnist-14"]))
    system, paths = at.study.systems["suggested"], {"suggestion": tmp_path}
    write_json(tmp_path / SUGGESTION, FOUND | {"weights": [0.5, 0.5], "window": [0.1, 0.4]})
    guidance = at.guided_by(lambda *args: None, paths, system)
    assert guidance.weights == (0.5, 0.5)
    assert (guidance.time_min, guidance.time_max) == (0.1, 0.4)
    write_json(tmp_path / SUGGESTION, FOUND | {"weights": [0.0, 0.0], "window": [0.01, 1.0]})
    assert at.guided_by(lambda *args: None, paths, system) is None


@pytest.mark.parametrize(
    ("weights", "fd", "advice", "change", "share"),
    [
        ([0.5, 0.5], 9.0, "0.50 at both stages of a step, or 1.00 at the first alone.", -1.0, 50),
        ([0.0, 0.0], 10.0, "It suggests no weight, so nothing is guided.", 0.0, 0),
    ],
)
def test_the_report_tells_share_of_the_gain_and_cost(tmp_path, weights, fd, advice, change, share):
    measured = {"unguided": 10.0, "guided": 8.0, "suggested": fd}
    outcome = {
        "suggestion": FOUND | {"weights": weights, "window": [0.1, 0.4]},
        "metrics": {name: {"fd": {"mean": value}} for name, value in measured.items()},
        "extractor": {"name": "pixels"},
        "seconds": {"weights": 136.4, "fake-diagnosed": 20.6, "suggestion": 92.2, "total": 515.9},
    }
    text, table = suggested(Source(tmp_path, outcome))
    assert text.endswith(advice) and "Its verdict is: guide. It helps." in text
    assert table.columns[1:] == ["change of FD", "seconds"]
    assert table.rows == [["search", "-2.00", "136"], ["diagnosis", f"{change:+.2f}", "113"]]
    assert f"reaches {share}% of the gain" in table.caption
    outcome["metrics"]["guided"]["fd"]["mean"] = 10.5  # a search that found nothing
    assert "of the gain" not in suggested(Source(tmp_path, outcome))[1].caption
    assert suggested(Source(tmp_path, outcome | {"suggestion": None})) == []


@pytest.mark.parametrize(
    ("weights", "told"),
    [("suggested", ""), ([0.0, 0.0], ""), ([1.0, 0.0], "VP times 0.01 to 0.5; ")],
)
def test_the_settings_window_is_named_where_it_guides(weights, told):
    system = {"heads": [{"training": "shipped"}], "weights": weights, "window": None}
    outcome = {"systems": {"guided": system}}
    outcome["settings"] = {"weights": [4.0, 0.0], "window": [0.01, 0.5]}
    assert report._guidance(outcome) == told
