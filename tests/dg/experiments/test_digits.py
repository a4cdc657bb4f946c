"""The digits experiment: its tables against numpy, its seeds, and a tiny run from end to end."""

import json
import re

import numpy as np
import pytest
import torch

from dg.evaluation.uncertainty import compare, summarise
from dg.experiments.comparisons import digits, setting_of
from dg.experiments.context import Context, Experiment
from dg.experiments.publish import publish
from dg.experiments.runner import run
from dg.experiments.tables import text_table

SYSTEMS = ("unguided", "guided", "unguided, trained longer", "real against real")
METRICS = ("FD", "FD held out", "KID", "precision", "recall", "FD in pixels")
COMMAND = "python reproduce.py digits --profile smoke"
PICTURES = {
    "curves",
    "guided",
    "log_ratio",
    "metrics",
    "pairs",
    "strips",
    "unguided",
    "weights",
}


def test_a_summary_is_mean_and_sample_deviation():
    rows = [{"fd": value, "recall": value / 7} for value in (4.0, 5.5, 3.25)]
    table = summarise(rows)
    assert list(table) == ["fd", "recall"]
    for name, entry in table.items():
        values = [row[name] for row in rows]
        assert entry == {
            "mean": pytest.approx(np.mean(values)),
            "sd": pytest.approx(np.std(values, ddof=1)),
            "n": 3,
            "min": min(values),
            "values": values,
        }
    assert summarise(rows[:1])["fd"] == {
        "mean": 4.0,
        "sd": 0.0,
        "n": 1,
        "min": 4.0,
        "values": [4.0],
    }
    json.dumps(summarise([{"fd": np.float64(1)}]))


def _compare(guided, unguided):
    """`compare` for one metric."""
    return compare({"fd": {"values": guided}}, {"fd": {"values": unguided}})["fd"]


def test_a_comparison_is_paired():
    guided, unguided = np.array([3.0, 4.0, 5.5]), np.array([4.0, 5.5, 6.0])
    assert _compare(list(guided), list(unguided)) == {
        "ratio": pytest.approx(guided.mean() / unguided.mean()),
        "difference": pytest.approx((guided - unguided).mean()),
        "sd": pytest.approx((guided - unguided).std(ddof=1)),
    }
    shifted = _compare([1.0, 10.0, 100.0], [2.0, 11.0, 101.0])
    assert shifted["difference"] == -1 and shifted["sd"] == 0, "what all sets share cancels"
    assert _compare([1.0], [2.0]) == {"ratio": 0.5, "difference": -1.0, "sd": 0.0}
    assert np.isnan(_compare([0.0, 0.0], [0.0, 0.0])["ratio"])


@pytest.mark.parametrize("profile", ["full", "smoke"])
def test_no_image_that_was_learned_from_or_chosen_by_is_measured(profile):
    setting = setting_of("digits", profile)
    sets = [(setting.fake_seed, setting.num_data), (setting.selection_seed, setting.num_selection)]
    sets.append((0, setting.num_images * setting.num_sets))
    used = [seed for first, count in sets for seed in range(first, first + count)]
    assert len(set(used)) == len(used)
    context = Context(Experiment("digits", setting, digits(setting)))
    images = [
        {image.tobytes() for image in context.images(split).images} for split in ("train", "test")
    ]
    assert not images[0] & images[1]


@pytest.mark.slow
def test_a_tiny_run_from_end_to_end(tmp_path):
    results, lines = tmp_path / "results", []
    setting = setting_of("digits", "smoke")
    experiment = Experiment("digits", setting, digits(setting))

    def once():
        lines.clear()
        return run(
            experiment,
            tmp_path / "runs",
            results,
            COMMAND,
            torch.device("cpu"),
            lambda iterable, **kwargs: iterable,
            lines.append,
        )

    outcome = once()
    written = json.loads((results / "results.json").read_text())
    check_results(written)
    check_report(results)
    again = once()
    assert (
        all("done before" in line for line in lines) and len(lines) == len(outcome["seconds"]) - 1
    ), lines
    assert again["metrics"] == outcome["metrics"] and again["seconds"] == outcome["seconds"]
    assert all(title in text_table(outcome) for title in (*SYSTEMS, *METRICS))
    published = publish(results, "digits", tmp_path / "docs")
    assert {path.stem for path in published.glob("*.png")} == PICTURES
    assert {path.name for path in published.iterdir() if path.suffix != ".png"} == {
        "results.json",
        "report.md",
    }


def check_results(written):
    """What a results file promises, with numbers that make sense."""
    settings = setting_of("digits", "smoke")
    assert {
        "experiment",
        "command",
        "versions",
        "hardware",
        "seconds",
        "metrics",
        "extractor",
        "settings",
    } <= set(written)
    assert written["experiment"] == "digits" and written["command"] == COMMAND
    assert {"unguided", "guided", "floor"} <= set(written["metrics"])
    for system, table in written["metrics"].items():
        assert {"fd", "fd_heldout", "kid", "precision", "recall"} <= set(table), system
        for entry in table.values():
            assert (
                set(entry) == {"mean", "sd", "n", "min", "values"}
                and len(entry["values"]) == entry["n"] == settings.num_sets
            )
            assert np.isfinite(entry["values"]).all()
        assert 0 <= table["precision"]["mean"] <= 1 and 0 <= table["recall"]["mean"] <= 1
    metrics = written["metrics"]
    assert metrics["floor"]["fd"]["mean"] < metrics["unguided"]["fd"]["mean"], (
        "an untrained network is no real image"
    )
    assert metrics["guided"]["fd"]["values"] != metrics["unguided"]["fd"]["values"]
    assert written["comparison"]["guided"]["fd"] == _compare(
        metrics["guided"]["fd"]["values"], metrics["unguided"]["fd"]["values"]
    )
    table = dict(written["selection"]["fd"])
    assert set(table) == {0.0, *settings.candidates}
    assert written["selection"]["chosen"] == min(settings.candidates, key=table.get)
    assert written["seconds"]["total"] == pytest.approx(
        sum(value for name, value in written["seconds"].items() if name != "total"), abs=0.1
    )
    trained = written["settings"]["models"]["score"]["training"][1]
    assert trained["steps"] == settings.models["score"].training[1].steps


def check_report(results):
    """A report that needs no other file, and one whose pictures stand beside it."""
    html = (results / "report.html").read_text(encoding="utf-8")
    assert html.count('src="data:image/png;base64,') == len(PICTURES)
    assert (
        not re.search(r'(?:src|href)\s*=\s*["\'](?!data:|#)', html)
        and "url(" not in html
        and "<script" not in html
    )
    assert COMMAND in html and all(title in html for title in SYSTEMS)
    markdown = (results / "report.md").read_text(encoding="utf-8")
    linked = set(re.findall(r'<img src="([\w-]+)\.png"', markdown))
    assert linked == PICTURES and all((results / f"{name}.png").is_file() for name in linked)
