"""Reproduction B: its members and its fault, other ensembles, and how discriminators are judged."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dg.data.datasets import ImageSet
from dg.experiments import judging, making, sections
from dg.experiments.context import Context, Experiment
from dg.experiments.pictures import Source
from dg.experiments.settings import SETTINGS, smoke
from dg.experiments.studies import build, trainings
from dg.experiments.study import Head, System, Training
from dg.recipes import PRESETS
from dg.runtime.files import plain, read_json

SETTING = SETTINGS["cifar10-uncond"]


def test_members_are_those_of_the_table():
    study, made = build("ensemble", SETTING), trainings(SETTING)
    told = [made[head.training].settings for head in study.systems["n6"].heads]
    assert [(one.epochs, one.lr, one.weight_decay, one.time_min) for one in told] == [
        (60, 3e-4, 1e-7, 1e-5),
        (40, 1e-3, 1e-7, 1e-5),
        (40, 1e-4, 0.0, 0.01),
        (40, 1e-4, 1e-3, 1e-3),
        (40, 5e-5, 1e-9, 1e-3),
        (200, 1e-5, 1e-11, 1e-5),
    ]
    assert {one.split for one in told} == {(0.8, 0.1, 0.1)}
    mistaken = study.systems["mistaken"]
    assert mistaken.average == "mistaken" and mistaken.heads == study.systems["n6"].heads
    assert "mistaken" in build("ensemble", SETTINGS["mnist-14"]).systems


def test_published_numbers_stand_beside_their_own_systems_alone():
    def named(setting):
        systems = build("ensemble", SETTINGS[setting]).systems.items()
        return {name: one.published["system"] for name, one in systems if one.published}

    own = {"d0": "EDM-G++, own discriminator", "mistaken": "EDM-G++, ensemble of six"}
    assert named("cifar10-uncond") == own
    assert named("cifar10-cond") == named("mnist-14") == {}


class Fixed(Context):
    """Twelve numbered images of each kind; the log ratio of a discriminator is its system's x."""

    def images(self, split):
        return numbered(12)

    def model(self, paths, name="score"):
        return None

    def discriminator(self, paths, net, system):
        return lambda x, sigma, labels: torch.full([len(x)], float(system.x))


def numbered(n):
    pixels = np.arange(n, dtype=np.uint8)[:, None, None, None]
    return ImageSet(np.broadcast_to(pixels, [n, 2, 2, 1]).copy(), None, "numbered")


@pytest.fixture
def context(monkeypatch):
    monkeypatch.setattr(making, "load_images", lambda path: numbered(12))
    setting = replace(smoke(SETTING), num_data=12)
    return Fixed(Experiment("ensemble", setting, build("ensemble", setting)))


PATHS = {"fake-score": "folder"}


def test_a_part_takes_every_second_image(context):
    def seen(part):
        training = Training("classifier", PRESETS["default"], part=part)
        real, fake = making.training_sets(context, PATHS, training)
        assert np.array_equal(real.images, fake.images)
        return real.images[:, 0, 0, 0].tolist()

    assert seen(None) == list(range(12))
    assert seen((0, 2)) == [0, 2, 4, 6, 8, 10] and seen((1, 2)) == [1, 3, 5, 7, 9, 11]


def test_systems_are_judged_on_test_images_of_their_training(context, tmp_path, monkeypatch):
    known, shown, systems = context.study.trainings, {}, context.study.systems
    made = {"d0": 1.0, "n6": -1.0, "halves": 0.5, "released": 2.0}
    heads = {name: systems[name].heads for name in ("d0", "n6", "halves")}
    heads["released"] = (Head("released"),)
    tried = {name: System(name, heads[name], x=x) for name, x in made.items()}
    study = replace(context.study, systems={"unguided": System("unguided")} | tried)
    context.experiment = replace(context.experiment, study=study)

    def evaluate(discriminator, split, settings):
        assert settings == known["authors"].settings, "one noise for all"
        images = split.images[:, 0, 0, 0].tolist()
        shown[float(discriminator(split.images, None, None)[0])] = images
        return {"loss": 0.5}

    monkeypatch.setattr(judging, "evaluate", evaluate)
    judging.judge_systems(context, tmp_path, PATHS)
    assert read_json(tmp_path / "systems.json") == {name: {"loss": 0.5} for name in made}
    assert shown[1.0] == shown[-1.0] == shown[2.0] and len(shown[1.0]) == 2, "a tenth of each kind"
    assert len(shown[0.5]) == 2 and all(value % 2 == 0 for value in shown[0.5]), "of its half"


def test_members_whose_test_images_another_has_seen_are_refused():
    one = Training("classifier", PRESETS["default"])
    other = replace(one, settings=replace(one.settings, seed=1))
    halves = [replace(one, part=(i, 2)) for i in (0, 1)]
    for fine in ([], [one], [one, one], halves, [one, replace(one, extractor="score")]):
        judging._check_unseen("it", fine)
    for mixed in (
        [one, other],
        [one, halves[0]],
        [*halves, halves[0]],
        [one, replace(one, num_real=9)],
    ):
        with pytest.raises(ValueError, match="the members of “it” have different test images"):
            judging._check_unseen("it", mixed)


def test_the_table_of_test_images_shows_what_was_published(tmp_path):
    values = dict(loss=0.6931, accuracy=0.5, auc=0.5, precision=None, recall=0.0)
    study, names = build("ensemble", SETTING), ("released", "d0", "d1", "mistaken")
    outcome = {
        "tested": {name: values for name in names},
        "systems": plain(study.systems),
        "settings": {"published": SETTING.published},
    }
    (table,) = sections.tested(Source(tmp_path, outcome))
    assert table.columns[-1] == "published precision / recall"
    told = ["0.500 / 0.761", "0.525 / 0.733", "", "0.417 / 0.680"]
    assert [row[-1] for row in table.rows] == told
    assert table.rows[1][:-1] == ["D0 alone", "0.693", "0.500", "0.500", "", "0.000"]
    outcome["tested"] = {"d1": values | {"precision": 0.25}}
    (table,) = sections.tested(Source(tmp_path, outcome))
    assert table.columns[-1] == "recall" and table.rows[0][4] == "0.250"
