"""The study of gain against cost: what it compares, and its verdict."""

import pytest

from dg.experiments import cost_report as report
from dg.experiments.context import Context, Experiment
from dg.experiments.plan import plan
from dg.experiments.settings import SETTINGS
from dg.experiments.studies import build


def test_systems_differ_in_what_they_claim_to():
    setting = SETTINGS["mnist-14"]
    study = build("cost", setting)
    stages = plan(Context(Experiment("cost", setting, study)))
    sampled = {s.title: s.settings for s in stages if s.name.startswith("sample-")}
    assert len({str(settings) for settings in sampled.values()}) == len(sampled) == 17
    full = sampled["full guidance"]
    assert full["weights"] == (4.0, 0.0) and full["window"] == (0.01, 0.5) and "every" not in full
    for title, changed in {
        "both orders": dict(weights=(2.0, 2.0)),
        "VP time up to 1, every step": dict(window=(0.01, 1.0)),
        "every third step, keep": dict(every=3, between="keep"),
        "VP time up to 0.3, every second step": dict(
            window=(0.01, 0.3), every=2, between="rescale"
        ),
        "own encoder, 16 channels, every step": dict(
            heads=[{"training": "score-narrow", "checkpoint": "best"}], released=None
        ),
    }.items():
        assert sampled[title] == full | changed


def outcome(fd, compute):
    """Results of systems by name with their distances and multiply-adds."""
    return {
        "systems": {name: dict(title=name, line=name) for name in fd},
        "metrics": {
            name: {"fd": {"mean": sum(values) / 3, "sd": 0.1, "n": 3, "values": values}}
            for name, values in fd.items()
        },
        "costs": {
            name: {"compute": {"multiply-adds": {"network": number}}}
            for name, number in compute.items()
        },
        "extractor": {"name": "classifier"},
    }


FD = {"unguided": [4.0, 4.5, 5.0], "guided": [3.0, 3.4, 4.1], "half": [3.0, 3.5, 4.1]}
FD |= {"short": [3.5, 4.0, 4.5]}
COMPUTE = {"unguided": 10.0, "guided": 30.0, "half": 20.0, "short": 11.0}


def test_the_verdict_names_the_cheapest_that_keeps_the_gain():
    found = outcome(FD, COMPUTE)
    assert report.share(found, "half")[0] == pytest.approx(2.9 / 3)
    mean, sd = report.share(found, "guided")
    assert mean == pytest.approx(1) and sd == pytest.approx(0.1)
    assert report.verdict(found) == (
        "Full guidance lowers FD from 4.50 to 3.50 (p = 0.0033 over 3 sets) at 3.00 × the cost of "
        "unguided sampling. The cheapest setting with at least 95% of this gain is “half”: 97% at "
        "2.00 ×. The target, 95% at no more than 1.15 ×, is missed."
    )
    hit = report.verdict(outcome(FD, COMPUTE | {"half": 11.4}))
    assert "97% at 1.14 ×. The target, 95% at no more than 1.15 ×, is hit." in hit
    alone = report.verdict(outcome(FD | {"half": FD["short"]}, COMPUTE))
    assert "“guided”: 100% at 3.00 ×." in alone


def test_where_guidance_does_not_help_there_is_nothing_to_keep():
    worse = outcome(FD | {"guided": [4.1, 4.7, 5.3]}, COMPUTE)
    assert report.share(worse, "guided")[0] == pytest.approx(-1)
    assert report.share(worse, "short")[0] == pytest.approx(2.5)
    told = report.verdict(worse)
    assert told.startswith("Full guidance moves FD from 4.50 to 4.70") and "no gain to keep" in told
