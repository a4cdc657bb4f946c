"""The study of methods: its plan, images by every sampler, counts of compute, and its verdict."""

from dataclasses import replace

import pytest
import torch

from dg.data.datasets import open_images
from dg.discriminator import LogRatio
from dg.experiments import making
from dg.experiments import methods_report as report
from dg.experiments.compute import _seen
from dg.experiments.context import Context, Experiment
from dg.experiments.drawing import SPARE_SEED, draw_sets, pool_seeds
from dg.experiments.methods import Methods
from dg.experiments.settings import SETTINGS, smoke
from dg.experiments.studies import build
from dg.experiments.study import Head, Kept, System
from dg.runtime.files import read_json, write_json
from dg.samplers.acceptance import finished_log_ratios, most_acceptable
from dg.samplers.constants import RejectionSampling
from dg.samplers.cost import (
    BACKWARD,
    FORWARD,
    NETWORK,
    ratio_multiply_adds,
    training_multiply_adds,
)
from tests.dg.test_sampling import guidance, network

HEAD = (Head("shipped"),)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("size", ["full", "smoke"])
def test_systems_that_share_a_choice_have_options_alike(name, size):
    setting = SETTINGS[name] if size == "full" else smoke(SETTINGS[name])
    systems = Methods(setting).systems()
    assert next(iter(systems)) == "unguided" and 20 < len(systems) < 35
    for system in systems.values():
        if system.options:
            chosen = systems[system.choice]
            assert chosen.choice == system.choice and chosen.line == system.line
            assert len(chosen.options) == len(system.options)
            assert {option.heads for option in system.options} == {system.heads}
            shapes = [
                [one.weights, one.window, one.kept and one.kept.sigma]
                for one in (*system.options, *chosen.options)
            ]
            assert shapes[: len(system.options)] == shapes[len(system.options) :]
    assert set(build("methods", setting).aside) <= set(systems)


def test_choices_and_tables_use_other_images():
    for setting in SETTINGS.values():
        assert setting.choice_split != setting.reference_split
        assert setting.selection_seed >= setting.num_images * setting.num_sets


def test_a_pool_begins_with_the_seeds_of_the_set():
    seeds = pool_seeds(range(500, 1000), 1 / 3)
    assert seeds[:500] == list(range(500, 1000)) and len(set(seeds)) == len(seeds) == 1500
    assert min(seeds[500:]) == SPARE_SEED + 16 * 500
    other = pool_seeds(range(1000, 1500), 1 / 3)
    assert not set(seeds) & set(other)


class Fixed(Context):
    """A context whose network and discriminator are given."""

    def model(self, paths, name="score"):
        return NET

    def discriminator(self, paths, net, system):
        return GUIDANCE.discriminator if system.heads else None


NET = network(label_dim=0)
GUIDANCE = guidance(NET)


@pytest.fixture
def context():
    setting = replace(smoke(SETTINGS["mnist-14"]), batch_size=4)
    return Fixed(Experiment("methods", setting, build("methods", setting)))


def test_the_most_acceptable_of_a_pool_are_kept(context, tmp_path):
    system = System("kept", HEAD, (0.0, 0.0), num_steps=3, kept=Kept(0.5, 0.3))
    draw_sets(context, tmp_path, {}, system, [0, 6], 6)
    pool, kept = (open_images(tmp_path / name) for name in ("pool1", "set1"))
    images, seeds = pool.load(None).images, pool.seeds.tolist()
    assert sorted(seeds) == sorted(pool_seeds(range(6, 12), 0.5)) and len(kept.seeds) == 6
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
    found = finished_log_ratios(LogRatio(GUIDANCE.discriminator), x, 0.3, seeds)
    chosen = most_acceptable(found, 6, seeds).tolist()
    assert sorted(kept.seeds.tolist()) == sorted(seeds[place] for place in chosen)
    there = dict(zip(kept.seeds.tolist(), kept.load(None).images, strict=True))
    assert all((there[seeds[place]] == images[place]).all() for place in chosen)
    again = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    draw_sets(context, tmp_path, {}, system, [0, 6], 6)
    assert again == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}


def test_a_pool_of_another_stage_gives_the_same_images(context, tmp_path):
    system = System("kept", HEAD, (0.0, 0.0), num_steps=3, kept=Kept(0.5, 0.3))
    setting = context.setting
    firsts = [index * setting.num_images for index in range(setting.num_sets)]
    draw_sets(context, tmp_path / "alone", {}, system, firsts, setting.num_images)
    paths = {"pool-kept": tmp_path / "shared", "score": None}
    making.make_pools(context, paths["pool-kept"], paths, replace(system, heads=()))
    drawn = {path: path.stat().st_mtime_ns for path in tmp_path.glob("shared/**/*")}
    making.sample_sets(context, tmp_path / "kept", paths, system, "pool-kept")
    assert drawn == {path: path.stat().st_mtime_ns for path in tmp_path.glob("shared/**/*")}
    assert {path.name for path in (tmp_path / "kept").iterdir() if path.is_dir()} == {
        f"set{index}" for index in range(setting.num_sets)
    }
    for path in (tmp_path / "kept").rglob("*.npz"):
        alone = tmp_path / "alone" / path.relative_to(tmp_path / "kept")
        assert path.read_bytes() == alone.read_bytes()


def test_rejection_measures_its_constants_once(context, tmp_path):
    sampling = RejectionSampling(3, warmup=8, max_iter=15)
    system = System("rejection", HEAD, (0.0, 0.0), boosting=False, sampling=sampling)
    draw_sets(context, tmp_path, {}, system, [0, 4], 4)
    assert len(read_json(tmp_path / "constants.json")["marginal"]) == 4
    assert open_images(tmp_path / "set1").seeds.tolist() == [4, 5, 6, 7]
    found = _seen(tmp_path, {NETWORK: 5.0, BACKWARD: 2.0})
    records = [read_json(path) for path in tmp_path.glob("set*/shards/*.json")]
    mean = sum(sum(record["evaluations"]) for record in records) / 8
    asked = sum(sum(record["ratios"]) for record in records) / 8
    assert found == {
        NETWORK: pytest.approx(mean),
        FORWARD: pytest.approx(asked + 0.4 * mean),
        BACKWARD: pytest.approx(0.4 * mean),
    }


def test_trainings_are_counted_on_images_with_channels_first(context):
    """Grey images count as contiguous in any order, and torch ends the process in the backward pass
    of a head on features with channels last."""
    images = context.few_images()
    assert images.shape == (8, 1, 8, 8) and images.stride() == torch.empty(8, 1, 8, 8).stride()
    head = guidance(network(label_dim=0, img_resolution=8)).discriminator
    assert training_multiply_adds(head, images) > ratio_multiply_adds(head, images)


def test_a_system_is_settled_by_the_choice_it_names(context, tmp_path):
    options = tuple(System(f"option {i}", num_steps=i + 2) for i in range(3))
    system = System("line", options=options, choice="line-2")
    write_json(tmp_path / "choice.json", {"index": 1})
    assert context.settled({"choice-line-2": tmp_path}, system) is options[1]
    assert context.settled({}, options[2]) is options[2]


def outcome(fd, compute):
    """Results of systems by name with their distances and multiply-adds."""
    lines = {"unguided": "unguided", "more": "unguided", "restart": "Restart", "guided": "guidance"}
    return {
        "systems": {
            name: dict(title=name, line=lines[name], num_steps=18, options=[], heads=[])
            | dict(heads=[{"training": "head"}] if name == "guided" else [])
            for name in fd
        },
        "metrics": {
            name: {"fd": {"mean": sum(values) / 3, "sd": 0.1, "n": 3, "values": values}}
            for name, values in (*fd.items(), ("floor", [1.0] * 3))
        },
        "costs": {
            name: {"compute": {"multiply-adds": {"network": number}}}
            for name, number in compute.items()
        },
        "training_compute": {"head": {"multiply-adds": 5000.0}},
        "extractor": {"name": "classifier"},
        "settings": {"reference_split": "all"},
    }


def test_the_verdict_names_the_best_within_the_compute():
    fd = {"unguided": [4.0, 4.5, 5.0], "more": [3.9, 4.4, 4.9], "restart": [3.4, 4.1, 4.2]}
    fd |= {"guided": [2.0, 2.5, 3.0]}
    compute = {"unguided": 10.0, "more": 30.0, "restart": 11.0, "guided": 34.0}
    told = report.verdict(outcome(fd, compute))
    assert told == (
        "With the compute of 18 unguided steps “Restart” is best, at 1.10 times: FD 3.90 against "
        "4.50 unguided (-13%; p = 0.035 over 3 sets); with at most three times as much “guidance” "
        "is best, at 3.40 times: FD 2.50 against 4.40 unguided (-43%). The discriminator takes the "
        "compute of 500 unguided images to train, and real images against real ones have 1.00."
    )
    assert told.count(". ") == 1, "two sentences"
    fd["restart"] = fd["guided"] = [9.0, 9.1, 9.2]
    told = report.verdict(outcome(fd, compute))
    assert told.startswith(
        "With the compute of 18 unguided steps no method beats unguided sampling (FD 4.50); with "
        "at most three times as much no method beats unguided sampling (FD 4.40)."
    )
