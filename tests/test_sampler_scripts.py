"""generate.py with the samplers beside EDM's: images, resuming, costs and refusals."""

import json
import time

import numpy as np
import pytest

from dg.data.datasets import load_images
from tests.scripts import GENERATE, contents, pixels, run, start, succeed

DISC = " --seeds 0-11 --batch 4 --discriminator_ckpt {head}"
REJECTION = GENERATE + "--sampler rejection --warmup 8 --max_iter 15" + DISC


@pytest.mark.parametrize(
    "options",
    [
        """--sampler restart --restart_info '{{"0": [3, 1, 0.5, 2]}}' --seeds 0-11 --batch 4""",
        "--sampler particles --particles 2 --resample_steps 1" + DISC,
    ],
)
def test_restart_and_particles_go_on_to_the_same_bytes(options, at):
    succeed(GENERATE + options + " --cost", **at)
    whole, again = at["out"], at["tmp"] / "again"
    assert set(json.loads((whole / "cost.json").read_text())) == {
        "images",
        "evaluations per image",
        "multiply-adds per image",
        "of these",
    }
    made = pixels(whole)
    assert len(made) == len(set(map(bytes, made.astype("uint8")))) == 12
    succeed(GENERATE + options, **at | {"out": again})
    (again / "samples_000004-000007.npz").unlink()
    done = succeed(GENERATE + options, **at | {"out": again})
    assert any("made again" in line for line in done.lines)
    (whole / "cost.json").unlink()
    assert contents(again) == contents(whole)


EDITED = GENERATE.replace("--steps 3", "--steps 6") + "--image digits:heldout --strength 0.5 "


@pytest.mark.parametrize("guided", ["", "--discriminator_ckpt {head} "])
def test_image_to_image_goes_on_to_the_same_bytes(guided, at):
    command = EDITED + guided + "--seeds 0-11 --batch 4"
    succeed(command + " --cost", **at)
    whole, again = at["out"], at["tmp"] / "again"
    settings = json.loads((whole / "manifest.json").read_text())["settings"]
    assert settings["image"] == load_images("digits:heldout").fingerprint()
    assert settings["sampling"]["strength"] == 0.5
    cost = json.loads((whole / "cost.json").read_text())["evaluations per image"]
    assert cost["network"] == 5
    succeed(command, **at | {"out": again})
    (again / "samples_000004-000007.npz").unlink()
    (again / "cost.json").write_bytes((whole / "cost.json").read_bytes())
    done = succeed(command, **at | {"out": again})
    assert any("made again" in line for line in done.lines)
    assert contents(again) == contents(whole)
    for other in ("--strength 0.7", "--image digits:train"):
        done = run(command + f" {other}", **at)
        assert done.code == 2 and "made with other settings" in done.lines[-1]


def test_little_strength_leaves_the_image_and_seeds_begin_with_theirs(at):
    digits = load_images("digits:heldout").images[:5]
    np.savez(at["tmp"] / "five.npz", samples=digits)
    command = GENERATE + "--image {tmp}/five.npz --strength 0.34 --sigma_max 0.1 --rho 1 "
    succeed(command.replace("--steps 3", "--steps 30") + "--seeds 3-9", **at)
    left = np.abs(pixels(at["out"]) - digits[np.arange(3, 10) % 5]).mean((1, 2, 3))
    others = np.abs(pixels(at["out"]) - digits[np.arange(4, 11) % 5]).mean((1, 2, 3))
    assert left.max() < 10 < others.min()


def test_rejection_goes_on_to_the_same_bytes(at):
    succeed(REJECTION, **at)
    whole, again = at["out"], at["tmp"] / "again"
    record = json.loads((whole / "shards" / "000004-000007.json").read_text())
    assert len(record["evaluations"]) == 4 and min(record["evaluations"]) >= 5
    assert len(load_images(whole)) == 12
    succeed(REJECTION, **at | {"out": again})
    for name in ("shards/000004-000007.json", "samples_000004-000007.npz"):
        (again / name).unlink()
    succeed(REJECTION, **at | {"out": again})
    assert contents(again) == contents(whole)
    done = run(REJECTION + " --rej_percentile 0.5", **at)
    assert done.code == 2 and "constants.json is of other settings" in done.lines[-1]


def test_sparse_guidance_costs_half_and_goes_on_to_the_same_bytes(at):
    made, costs, command = [], [], GENERATE + "--cost" + DISC
    for options in ("", " --guide_every 1", " --guide_every 2"):
        folder = at["tmp"] / str(len(made))
        succeed(command + options, **at | {"out": folder})
        made.append(contents(folder))
        costs.append(json.loads((folder / "cost.json").read_text())["evaluations per image"])
    assert made[0] == made[1]
    assert [cost["discriminator forward"] for cost in costs] == [2, 2, 1]
    described = json.loads((folder / "manifest.json").read_text())["settings"]["guidance"]
    assert described["every"] == 2 and described["between"] == "rescale"
    (folder / "samples_000004-000007.npz").unlink()
    succeed(command + " --guide_every 2 --guide_between rescale", **at | {"out": folder})
    assert contents(folder) == made[2]
    done = run(command + " --guide_every 2 --guide_between keep", **at | {"out": folder})
    assert done.code == 2 and "between" in done.lines[-1]


@pytest.mark.slow
def test_kills_leave_the_bytes_of_an_undisturbed_rejection(at):
    command = REJECTION.replace("0-11", "0-31")
    kills, done = 0, 0
    while kills < 3:
        process = start(command, at)
        while process.poll() is None:
            found = len(list((at["out"] / "shards").glob("*.json")))
            if found > done:
                break
            time.sleep(0.01)
        assert process.poll() is None, "every kill is to meet a run at work"
        process.kill()
        process.communicate()
        kills, done = kills + 1, len(list((at["out"] / "shards").glob("*.json")))
    succeed(command, **at)
    succeed(command, **at | {"out": at["tmp"] / "undisturbed"})
    assert contents(at["out"]) == contents(at["tmp"] / "undisturbed")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--sampler rejection", "needs the log ratio of a discriminator; give --discriminator"),
        ("--max_iter 7", "--max_iter means nothing for a run without the --sampler that takes it"),
        (
            "--guide_between keep" + DISC,
            "--guide_between means nothing for guidance at every step",
        ),
        (
            "--sampler rejection --guide_every 2 --dg_weight_1st_order 1" + DISC,
            "guidance at every K-th step depend on the step",
        ),
        (
            "--sampler particles --resample_steps 1 --guide_every 2 --dg_weight_1st_order 1" + DISC,
            "but resampling replaces particles by others; leave them out",
        ),
        ("--sampler restart --max_iter 7", "--max_iter means nothing for --sampler restart"),
        ("--sampler restart --restart '[3'", "'[3' is no JSON; write for example"),
        ("--sampler restart --restart '[3]'", "give [levels, repeats, t_min, t_max]"),
        ("--sampler restart --solver euler", "--solver means nothing for --sampler restart"),
        ("--strength 0.4", "--strength means nothing for a run without --image"),
        ("--image digits --strength 0.1", "less than one step; give at least 0.333, or more steps"),
        ("--image digits --strength 0", "--strength"),
        ("--image digits --sampler restart", "not for --sampler restart; leave one of them out"),
        ("--image digits --solver euler", "--solver means nothing for --image; leave it out"),
        ("--image digits --max_iter 7", "--max_iter means nothing for --image"),
        (
            "--image mnist-small-14",
            "14 pixels and 1 channels, but the network makes 8 pixels and 1",
        ),
        ("--image {tmp}/none", "--image: {tmp}/none does not exist"),
        ("--sampler rejection --precision bfloat16" + DISC, "too coarse where a log ratio decides"),
    ],
)
def test_what_means_nothing_is_refused(options, told, at):
    seeds = "" if "--seeds" in options else " --seeds 0-3"
    done = run(GENERATE + options + seeds, **at)
    assert done.code == 2 and told.format_map(at) in done.lines[-1], done.err
