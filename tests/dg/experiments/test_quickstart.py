"""The quickstart: its files, its seeds and images, and its commands."""

from dataclasses import replace
from pathlib import Path

import pytest

from dg.experiments import tables
from dg.experiments.context import Context, Experiment
from dg.experiments.quickstart import EPOCHS, QUICKSTART, WINDOW, quickstart
from dg.experiments.settings import SETTINGS
from dg.options.reproduce import BY_HAND
from dg.recipes import PRESETS
from dg.runtime import pretrained
from dg.runtime.files import read_json

PUBLISHED = Path(__file__).parents[3] / "docs" / "results" / "quickstart" / "results.json"


def test_every_file_that_it_takes_is_there():
    s = QUICKSTART
    named = [s.models["score"].published, s.classifier, s.features, s.other_reference]
    assert all(pretrained.pretrained_file(name) for name in named)


def test_no_image_that_was_learned_from_or_chosen_by_is_measured():
    s = QUICKSTART
    sets = [(s.fake_seed, s.num_data), (s.selection_seed, s.num_selection)]
    sets.append((0, s.num_images * s.num_sets))
    used = [seed for first, count in sets for seed in range(first, first + count)]
    assert len(set(used)) == len(used)
    context = Context(Experiment("quickstart", s, quickstart(s)))
    measured = {image.tobytes() for image in context.reference_images().images}
    assert not measured & {image.tobytes() for image in context.images("train").images}


def test_its_commands_by_hand_have_its_numbers():
    s = QUICKSTART
    for words in (
        f"--num_samples {s.num_data} --seed {s.fake_seed}",
        f"--preset mnist-14 --epochs {EPOCHS} --width {s.head_width} ",
        f"--num_samples {s.num_images * s.num_sets}",
        f"--time_max {WINDOW[1]:g}",
    ):
        assert words in BY_HAND["quickstart"]
    assert s.recipes["head"] == replace(PRESETS["mnist-14"], epochs=EPOCHS)


def test_from_scratch_nothing_is_taken_from_files():
    s = QUICKSTART.from_scratch()
    assert s.models["score"].published is s.classifier is s.other_reference is None
    assert s.features == "classifier" and s.data == "mnist-14"
    with pytest.raises(ValueError, match="its networks are published ones"):
        SETTINGS["cifar10-uncond"].from_scratch()


def test_a_quarter_of_the_training_is_a_row_of_the_same_seeds():
    study = quickstart(QUICKSTART)
    (title, known), outcome = *study.known.items(), read_json(PUBLISHED)
    points = pretrained.training_curve("mnist-14")
    assert 4 * points[-3]["images"] == points[-1]["images"] and known == points[-3]["unguided"]
    for metric in ("fd", "recall"):
        found = outcome["metrics"]["unguided"][metric]["values"]
        assert points[-1]["unguided"][metric]["values"] == pytest.approx(found, rel=1e-2)
    rows = tables.rows(outcome | {"known": study.known})
    assert [row[0] for row in rows][-2:] == [title, tables.FLOOR]
    assert rows[-2][1] == "6.32 ± 0.75" and {len(row) for row in rows} == {len(rows[0])}
    assert not quickstart(replace(QUICKSTART, num_images=100)).known
    assert not quickstart(QUICKSTART.from_scratch()).known
