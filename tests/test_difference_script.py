"""train.py --loss difference and what takes its head, by their command lines."""

import json

import pytest

from dg.data.manifests import MANIFEST
from tests.scripts import GENERATE, TRAIN, pixels, run, succeed

LEARN = TRAIN + "--loss difference --network {net} --data digits:train --num_data 12 "


@pytest.fixture(scope="module")
def learned(made, tmp_path_factory):
    """The folder of a head, and what its training said."""
    folder = tmp_path_factory.mktemp("difference") / "head"
    return folder, succeed(LEARN + "--save_dir {folder}", folder=folder, **made)


def test_a_head_is_trained_on_real_images_alone_and_guides(at, learned):
    folder, done = learned
    assert "valid loss" in done.err and "that of the network alone" in done.err
    assert (folder / "curves.png").stat().st_size > 10_000
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["images"] == {"real": 12, "fake": 0}
    assert {"loss", "network_loss", "levels"} <= summary["best"]["test"].keys()
    assert "sample_dir" not in json.loads((folder / "training.json").read_text())
    command = GENERATE + "--seeds 0-3 "
    succeed(command + "--outdir {tmp}/plain", **at)
    guided = command + "--dg_weight_2nd_order 1 --discriminator_ckpt {folder} --cost "
    done = succeed(guided + "--outdir {tmp}/guided", folder=folder, **at)
    assert (pixels(at["tmp"] / "plain") != pixels(at["tmp"] / "guided")).any()
    settings = json.loads((at["tmp"] / "guided" / MANIFEST).read_text())["settings"]
    assert settings["guidance"]["weights"] == [2, 1]
    counts = json.loads((at["tmp"] / "guided" / "cost.json").read_text())["evaluations per image"]
    assert counts["discriminator forward"] > 0 == counts["discriminator backward"]


ALONE = " --discriminator_ckpt {folder} "
NO_RATIO = "has no log ratio; give a discriminator's"
NO_MEANING = "means nothing for a head that gives a difference of scores; leave it out"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (GENERATE + "--seeds 0-3 --sampler rejection" + ALONE, NO_RATIO),
        (GENERATE + "--seeds 0-3 --sampler particles --resample_steps 1" + ALONE, NO_RATIO),
        (GENERATE + "--seeds 0-3" + ALONE + ALONE, "guides alone; give one --discriminator_ckpt"),
        (GENERATE + "--seeds 0-3 --discriminator_ckpt {head}" + ALONE, "guides alone"),
        (GENERATE + "--seeds 0-3 --boosting 1" + ALONE, NO_MEANING),
        (GENERATE + "--seeds 0-3 --calibrated" + ALONE, NO_MEANING),
        (GENERATE + "--seeds 0-3 --dg_clip 1e-5" + ALONE, NO_MEANING),
        (GENERATE + "--seeds 0-3 --cond 1" + ALONE, "the discriminator is unconditional"),
        (
            "generate --network {cond_net} --outdir {out} --seeds 0-3" + ALONE,
            "trained on another score network",
        ),
        (
            "fid diagnose --network {net} --data digits:heldout --images {fake}" + ALONE,
            NO_RATIO,
        ),
        ("fid nll --network {net} --data digits:heldout --num_samples 2" + ALONE, NO_RATIO),
        (LEARN + "--save_dir {out} --sample_dir {fake}", "which takes real images alone"),
        (LEARN + "--save_dir {out} --extractor none", "not for --extractor none; give score"),
        (LEARN + "--save_dir {out} --lora_rank 2", "the loss difference trains no LoRA"),
        (
            TRAIN + "--loss difference --data digits:train --save_dir {out}",
            "--loss difference needs a score network; give --network",
        ),
    ],
)
def test_what_a_difference_cannot_do_is_one_line(at, learned, command, message):
    done = run(command, folder=learned[0], **at)
    assert done.code in (1, 2) and message in done.err
    assert message in done.lines[-1] and "Traceback" not in done.err
    assert not list(at["out"].glob("*.npz"))
