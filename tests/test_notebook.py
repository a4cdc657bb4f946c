"""The notebook runs from its first cell to its last."""

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent / "docs" / "discriminator_guidance.ipynb"


def cells(kind):
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert content["nbformat"] == 4
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == kind]


def test_it_is_stored_without_outputs():
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert not any(cell.get("outputs") for cell in content["cells"])
    assert all(compile(source, str(NOTEBOOK), "exec") for source in cells("code"))


@pytest.mark.slow
def test_its_cells_run(monkeypatch):
    import matplotlib.pyplot as plt

    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.gcf()) or plt.close("all"))
    names = {}
    for source in cells("code"):
        exec(compile(source, str(NOTEBOOK), "exec"), names)
    assert len(shown) == 5
    assert abs(float(names["after"].mean()) - 0.3) < 0.03
    assert abs(float(names["after"].std()) - 0.6) < 0.03
    assert set(names["distances"]) == {"unguided", "guided"}
