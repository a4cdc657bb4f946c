"""A new experiment from its setting to its report: CONTRIBUTING.md's example, run as it stands."""

from dg.runtime.files import read_json

EXAMPLE = '''\
"""Does a discriminator that has seen more epochs guide better?"""

from dataclasses import replace

from dg.experiments.context import Experiment
from dg.experiments.runner import run
from dg.experiments.settings import SETTINGS, smoke
from dg.experiments.study import Head, Study, System, Training
from dg.experiments.tables import text_table
from dg.recipes import PRESETS

# Where: data, networks, sizes; here tiny ones, on the embedded digits.
setting = replace(smoke(SETTINGS["mnist-14"]), title="digits, tiny networks")

# What is asked: discriminators, and the systems that are compared on equal seeds.
recipe = replace(PRESETS["score"], eval_images=20)
trainings = {f"{n}-epochs": Training("score", replace(recipe, epochs=n)) for n in (1, 2)}
systems = {"unguided": System("unguided")} | {
    name: System(f"guided, {name}", (Head(name),), weights=(2.0, 0.0), x=training.settings.epochs)
    for name, training in trainings.items()
}
study = Study(
    "Epochs on the digits",
    "Does a discriminator that has seen more epochs guide better?",
    systems,
    xlabel="epochs of the discriminator",
    trainings=trainings,
)

if __name__ == "__main__":
    experiment = Experiment("epochs-digits", setting, study)
    outcome = run(experiment, "runs/epochs-digits", "results/epochs-digits")
    print(text_table(outcome))  # the report: results/epochs-digits/report.html
'''


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
