"""docs/claims.md is what its command writes, and its verdicts follow the numbers."""

import json

import pytest

from benchmarks import claims
from dg.evaluation.significance import paired_t
from tests.documents import commands

LISTED = json.loads(claims.CLAIMS.read_text(encoding="utf-8"))


def test_the_page_is_what_its_command_writes():
    assert claims.PAGE.read_text(encoding="utf-8") == claims.page(), (
        "run python -m benchmarks.claims"
    )


def test_every_claim_has_its_row_and_its_command():
    """tests/test_documents.py lets the scripts take the commands of every page."""
    text = claims.PAGE.read_text(encoding="utf-8")
    assert all(text.count(f"| {claim['claim']} |") == 1 for claim in LISTED["claims"])
    asked = [claim["command"].split() for claim in LISTED["claims"] if claim["command"]]
    assert [words for words in commands(claims.PAGE) if "benchmarks.claims" not in words] == asked
    assert {claim["document"] for claim in LISTED["claims"]} == set(LISTED["documents"])


def test_verdicts_are_stated_only_where_no_relation_decides():
    for row in claims.rows(LISTED["claims"]):
        assert row.verdict in claims.VERDICTS and row.why
        assert ("relation" in row.claim) != ("reason" in row.claim), row.claim["claim"]
        assert "relation" not in row.claim or "verdict" not in row.claim
        assert row.claim["command"] or row.verdict == "not run"
        assert (row.found is None) <= (row.verdict in ("not run", "reproduced"))
        assert (row.verdict == "not run") <= (row.found is None)


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """A results file with three sets of three systems, and bits/dim of two."""

    def entry(*values):
        mean = sum(values) / 3
        sd = (sum((value - mean) ** 2 for value in values) / 2) ** 0.5
        return {"mean": mean, "sd": sd, "n": 3, "values": list(values)}

    systems = {
        "unguided": entry(5.0, 5.2, 5.4),
        "guided": entry(4.0, 4.3, 4.3),
        "other": entry(5.1, 5.0, 5.5),
    }
    metrics = {name: {"fd": value} for name, value in systems.items()}
    for name, mean in (("unguided", 2.0), ("guided", 1.9)):
        metrics[name]["nll"] = {"mean": mean, "standard_error": 0.03, "n": 50}
    log = [{"epoch": epoch, "valid_loss": loss} for epoch, loss in ((1, 0.7), (2, 0.5), (3, 0.6))]
    outcome = {
        "setting_name": "small",
        "settings": {},
        "metrics": metrics,
        "trainings": {"head": {"log": log}},
    }
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "results.json").write_text(json.dumps(outcome))
    monkeypatch.setattr(claims, "RESULTS", tmp_path)

    def judged(relation, to, setting="small", metric="fd"):
        here = {"results": "made", "metric": metric, "from": "unguided", "to": to}
        claim = {"relation": relation, "setting": setting, "here": here}
        return claims.verdict(claim, claims.measured(here))

    return judged


def test_a_difference_beyond_chance_decides(measured):
    p = f"p = {paired_t([4.0, 4.3, 4.3], [5.0, 5.2, 5.4]).p:.2g}"
    assert p == "p = 0.0033"
    assert measured("lower", "guided") == ("reproduced", p)
    assert measured("lower", "guided", setting="cifar10") == ("partly", p)
    assert measured("higher", "guided") == ("not", f"{p}: the other way round")
    assert measured("alike", "guided") == ("not", f"{p}: lower")


def test_chance_shows_nothing_and_likeness_only_in_part(measured):
    assert measured("lower", "other")[0] == measured("higher", "other")[0] == "not"
    assert measured("higher", "other")[1].endswith(": chance can do it")
    assert measured("alike", "other")[0] == "partly"


def test_means_without_single_values_are_compared_by_their_standard_errors(measured):
    # 0.1 is 2.357 standard errors of the difference, sqrt(2) * 0.03: p = 0.018
    assert measured("lower", "guided", metric="nll") == ("reproduced", "p = 0.018")


def test_what_is_shown_of_a_measurement(measured):
    here = {"results": "made", "metric": "fd", "from": "unguided", "to": "guided"}
    found = claims.measured(here)
    assert (found.text, found.n) == ("FD 5.2 ± 0.2 → 4.2 ± 0.2", "3 sets")
    found = claims.measured(here | {"to": ["guided", "other"]})
    assert found.text == "FD 5.2 → mean 4.7 (sd 0.71), t = -1" and found.n == "2 trainings"
    here = {"results": "made", "training": "head", "column": "valid_loss", "best": "lowest"}
    assert claims.measured(here).text == "lowest 0.500 (epoch 2), last 0.600 (epoch 3)"


def test_published_numbers_are_named_without_doubt():
    table = {"source": "paper-table-3", "metric": "fid", "conditional": False}
    one = table | {"system": "EDM-G++"}
    assert claims.published([one]) == "FID 1.77" and claims.published(None) == "none"
    with pytest.raises(ValueError, match="names 11 rows of published"):
        claims.published([table])
