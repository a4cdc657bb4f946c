"""A new experiment, from its setting to its report: the example of CONTRIBUTING.md, run as it stands there."""

from dg.runtime.files import read_json

EXAMPLE = '''\
"""Does a discriminator that has seen more epochs guide better? On the digits, in a minute on a CPU."""

from dataclasses import replace

from dg.experiments.comparisons import DIGITS_SMOKE
from dg.experiments.context import Experiment
from dg.experiments.runner import run
from dg.experiments.study import Head, Study, System, Training
from dg.experiments.tables import text_table
from dg.recipes import PRESETS

# Where: data, networks, sizes. `replace` changes what is to be different.
setting = replace(DIGITS_SMOKE, title="Digits, tiny networks", num_images=40, num_data=80, batch_size=40)

# What is asked, the discriminators that it takes, and the systems that are compared on equal seeds.
trainings = {
    f"epochs-{n}": Training("score", replace(PRESETS["digits"], epochs=n)) for n in (1, 2)
}
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
    print(text_table(outcome))  # the report stands in results/epochs-digits/report.html
'''


def test_the_example_of_contributing(tmp_path, monkeypatch, capsys):
    assert len(EXAMPLE.splitlines()) < 40
    assert max(map(len, EXAMPLE.splitlines())) <= 110
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLE, "example.py", "exec"), {"__name__": "__main__"})
    folder = tmp_path / "results" / "epochs-digits"
    outcome = read_json(folder / "results.json")
    assert set(outcome["metrics"]) == {"unguided", "epochs-1", "epochs-2", "floor"}
    assert {"report.html", "report.md", "sweep.png", "pairs.png"} <= {
        p.name for p in folder.iterdir()
    }
    assert "guided, epochs-2" in capsys.readouterr().out
