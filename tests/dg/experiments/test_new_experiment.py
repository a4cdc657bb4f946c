"""A new experiment from its setting to its report: CONTRIBUTING.md's example, run as it stands."""

import re
from pathlib import Path

from dg.runtime.files import read_json

CONTRIBUTING = Path(__file__).parents[3] / "CONTRIBUTING.md"
MARKS = r"<!-- example:experiment -->\n```python\n(.*?)```\n<!-- /example:experiment -->"
EXAMPLE = re.search(MARKS, CONTRIBUTING.read_text(encoding="utf-8"), re.DOTALL)[1]


def test_the_example_of_contributing(tmp_path, monkeypatch, capsys):
    assert len(EXAMPLE.splitlines()) < 40
    assert max(map(len, EXAMPLE.splitlines())) <= 100
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLE, "example.py", "exec"), {"__name__": "__main__"})
    folder = tmp_path / "results" / "epochs-digits"
    outcome = read_json(folder / "results.json")
    assert set(outcome["metrics"]) == {"unguided", "1-epochs", "2-epochs", "floor"}
    assert {"report.html", "report.md", "sweep.png", "pairs.png"} <= {
        p.name for p in folder.iterdir()
    }
    assert "guided, 2-epochs" in capsys.readouterr().out
