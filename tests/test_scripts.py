"""The scripts by their command lines, on tiny networks and sets: what they write, how they go on,
what they refuse."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zlib
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import dg.models.loading
import edm
import generate
from dg.data.datasets import load_images
from dg.data.npz_files import NpzImages
from dg.data.sample_store import SampleStore
from dg.runtime import console
from dg.sampling import GenerationResult
from edm.checkpoint import read_safetensors, write_safetensors
from guided_diffusion import create_classifier
from tests.golden_fill import fill
from tests.scripts import (
    GENERATE,
    ROOT,
    TOLD,
    TRAIN,
    TWELVE,
    contents,
    leads_to,
    pixels,
    run,
    run_apart,
    run_file,
    start_together,
    succeed,
)

# ---- pretrain.py


def test_pretraining_goes_on_to_the_same_weights(at):
    once = "pretrain score --data digits:train --batch_size 8 --outdir {out} --steps "
    succeed(once + "2", **at)
    first = (at["out"] / "network.safetensors").read_bytes()
    succeed(once + "3", **at)
    assert (at["out"] / "network.safetensors").read_bytes() == at["net"].read_bytes() != first


def test_pretraining_of_features_states_its_accuracy(at):
    done = succeed(
        "pretrain features --data digits:train --test digits:heldout --outdir {out} --epochs 1 "
        "--device cpu",
        **at,
    )
    found = re.fullmatch(
        r".*: names (0\.\d+) of digits:train, (0\.\d+) of digits:heldout", done.lines[-1]
    )
    assert min(map(float, found.groups())) > 0.5
    classifier = at["out"] / "classifier.safetensors"
    leads_to(done, f"fid.py --images IMAGES --ref digits:train --features {classifier}")
    assert (at["out"] / "classifier.safetensors").read_bytes() == at["features"].read_bytes()


def test_a_converted_network_is_the_same(at):
    done = succeed("pretrain convert --network {net} --out {out}", **at)
    assert at["out"].read_bytes() == at["net"].read_bytes()
    leads_to(done, f"generate.py --network {at['out']} --outdir OUT --seeds 0-63")


# ---- generate.py


def test_shards_hold_images_of_their_seeds(at):
    done = succeed(GENERATE + "--seeds 3,5-8 --batch 4", **at)
    assert done.out == "" and done.lines[-1].startswith(f"5 images in {at['out']}, ")
    leads_to(
        done,
        f"fid.py --images {at['out']} --ref REFERENCE",
        f"train.py --network {at['net']} --data REAL --sample_dir {at['out']} --save_dir DISC",
    )
    shards = [np.load(path) for path in sorted(at["out"].glob("*.npz"))]
    assert [shard["seeds"].tolist() for shard in shards] == [[3, 5, 6, 7], [8]]
    assert all(
        shard["samples"].dtype == np.uint8 and shard["samples"].shape[1:] == (8, 8, 1)
        for shard in shards
    )
    assert np.array_equal(pixels(at["out"]), pixels(at["fake"])[[3, 5, 6, 7, 8]])
    assert Image.open(at["out"] / "grid.png").size[0] > 8


@pytest.mark.parametrize(
    ("options", "name"),
    [("--save_format png", "{:06d}.png"), ("--save_type=png --subdirs", "000000/{:06d}.png")],
)
def test_pngs_hold_what_shards_hold(at, options, name):
    succeed(GENERATE + f"--seeds 0-11 --batch 4 --grid 0 {options}", **at)
    for seed, image in enumerate(pixels(at["fake"])):
        assert np.array_equal(np.asarray(Image.open(at["out"] / name.format(seed))), image[..., 0])
    assert not (at["out"] / "grid.png").exists()


@pytest.mark.parametrize(
    "options", ["--num_samples 4 --seed 2", "--num_samples 99 --seed 7 --seeds 2-5"]
)
def test_number_of_samples_is_short_for_seeds_which_win(at, options):
    succeed(GENERATE + options, **at)
    assert np.load(at["out"] / "samples_000002-000005.npz")["seeds"].tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize(
    "options",
    [
        "",
        "--S_churn 10",
        "--solver euler --disc vp --schedule vp --scaling vp --S_churn 10",
        "--discriminator_ckpt {head} --w_dg_1 0.1 --boosting",
    ],
)
def test_images_depend_on_their_seeds_alone(at, options):
    sets = []
    for index, how in enumerate(
        ["--seeds 0-6 --batch 7", "--seeds 0-6 --batch 3", "--seeds 4,2,6,0,1,3,5 --batch 4"]
    ):
        succeed(GENERATE + f"{how} {options}", **at | {"out": at["tmp"] / str(index)})
        sets.append(pixels(at["tmp"] / str(index)))
    assert max(np.abs(images - sets[0]).max() for images in sets) <= 1
    assert len(np.unique(sets[0], axis=0)) == 7


@pytest.mark.slow
def test_sampler_options_change_the_images_and_defaults_do_not(at):
    def images(options):
        out = at["tmp"] / f"{zlib.crc32(options.encode())}"
        succeed(
            f"generate --network {{net}} --outdir {{out}} --seeds 0-3 --steps 4 {options}",
            **at | {"out": out},
        )
        return pixels(out)

    default, heun = images(""), "--solver heun --disc edm --schedule linear --scaling none"
    assert np.abs(images(heun) - default).max() <= 1
    assert np.array_equal(images("--S_noise 1.1"), default), (
        "there is no noise to inflate without churn"
    )
    assert np.array_equal(images("--precise"), default), (
        "nothing else is faster for a narrow network on a CPU"
    )
    assert np.abs(images("--precision bfloat16") - default).max() <= 4
    different = [
        "--solver euler",
        "--disc vp",
        "--schedule vp",
        "--scaling vp",
        "--num_steps 5",
        "--rho 3",
        "--sigma_max 20",
        "--sigma_min 0.1",
        "--S_churn 3",
        "--S_churn 3 --S_noise 1.1",
        "--S_churn 3 --S_min 1",
        "--S_churn 3 --S_max 1",
    ]
    distinct = [default, *map(images, different)]
    assert len(np.unique(np.stack(distinct).reshape(len(distinct), -1), axis=0)) == len(distinct)


@pytest.mark.parametrize(("options", "exact"), [("", False), (" --precise", True)])
def test_images_without_tf32_are_others_on_gpus(at, monkeypatch, options, exact):
    """As told by a store that is opened for a GPU, whether or not there is one."""
    holders, load = (torch.backends.cuda.matmul, torch.backends.cudnn), dg.models.loading.load_model
    for holder in holders:
        monkeypatch.setattr(holder, "allow_tf32", exact)
    monkeypatch.setattr(console, "pick_device", lambda *args: torch.device("cuda"))
    monkeypatch.setattr(
        "dg.models.loading.load_model",
        lambda path, device, *told, **more: load(path, "cpu", *told, **more),
    )
    monkeypatch.setattr("dg.sampling.generate", lambda *args: GenerationResult(0, 0.0))
    succeed(GENERATE + "--seeds 0-3 --grid 0" + options, **at)
    assert [holder.allow_tf32 for holder in holders] == [not exact] * 2
    assert stored_settings(at["out"]).get("exact", False) == exact


def test_on_a_cpu_there_is_nothing_to_be_exact_about(at):
    done = succeed(
        "generate --network {net} --outdir {fake} --seeds 0-11 --batch 4 --steps 3 --precise", **at
    )
    assert done.lines[1:] == [
        f"12 images in {at['fake']}, all of them were there already; the first in grid.png"
    ]


@pytest.mark.parametrize(("most", "shards"), [(4, 1), (5, 2), (64, 3)])
def test_the_grid_reads_no_more_shards_than_it_shows(at, monkeypatch, most, shards):
    succeed(GENERATE + "--seeds 0-11 --batch 4 --grid 0", **at)
    read, shown, really = [], [], NpzImages.read
    monkeypatch.setattr(
        NpzImages, "read", lambda self, *where: read.append(self) or really(self, *where)
    )
    monkeypatch.setattr(
        "dg.evaluation.figures.image_grid", lambda path, images: shown.append((path, images))
    )
    generate._write_grid(SampleStore(at["out"], stored_settings(at["out"]), range(12), 4), most)
    ((path, images),) = shown
    assert path == at["out"] / "grid.png" and len(read) == shards
    assert np.array_equal(images, pixels(at["fake"])[:most])


def stored_settings(folder):
    return json.loads((folder / "manifest.json").read_text())["settings"]


def test_classes_are_drawn_per_seed_or_given(at):
    conditional = "generate --network {cond_net} --outdir {out} --steps 2 "
    succeed(conditional + "--seeds 6-11,0-5 --batch 5", **at)
    drawn = load_images(at["out"]).labels
    assert np.array_equal(drawn, load_images(at["cond_fake"]).labels) and len(set(drawn)) > 2
    succeed(
        conditional + "--seeds 0-5 --class 3 --save_type png", **at | {"out": at["tmp"] / "threes"}
    )
    assert load_images(at["tmp"] / "threes").labels.tolist() == [3] * 6  # from dataset.json


def test_a_second_run_finds_everything_done(at):
    before = contents(at["fake"])
    done = succeed(
        "generate --network {net} --outdir {fake} --seeds 0-11 --batch 4 --steps 3", **at
    )
    assert done.lines[1:] == [
        f"12 images in {at['fake']}, all of them were there already; the first in grid.png"
    ]
    assert contents(at["fake"]) == before


def test_lost_and_damaged_shards_are_made_again(at):
    again = GENERATE + "--seeds 0-11 --batch 4"
    succeed(again, **at)
    before = contents(at["out"])
    (at["out"] / "samples_000000-000003.npz").unlink()
    (at["out"] / "samples_000004-000007.npz").write_bytes(b"half")
    done = succeed(again, **at)
    assert sum("was damaged and has been made again" in line for line in done.lines) == 2
    assert contents(at["out"]) == before


def test_an_extended_run_equals_a_longer_one(at):
    succeed(GENERATE + "--num_samples 6 --batch 4", **at)
    succeed(GENERATE + "--num_samples 12 --batch 4", **at)
    assert contents(at["out"]) == contents(at["fake"])


# Runs a script and sends it a signal when its second shard is written but does not bear its name
# yet.
STOPPED = """
import os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # also in the background
number, *sys.argv = sys.argv[1:]
replace, shards = os.replace, []

def replace_or_stop(source, target):
    if str(target).endswith(".npz"):
        shards.append(target)
        if len(shards) == 2:
            os.kill(os.getpid(), int(number))
    replace(source, target)

os.replace = replace_or_stop
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_two_processes_make_what_one_makes(at):
    """As torchrun starts them."""
    processes = start_together(GENERATE + "--seeds 0-11 --batch 4", at, TOLD)
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert f"12 images in {at['out']}" in errors[0] and errors[1] == ""
    assert "3/3 batch" in errors[0], "the first tells of the batches of both"
    assert contents(at["out"]) == contents(at["fake"])


def test_a_killed_run_goes_on_to_the_same_bytes(at):
    command = GENERATE + "--seeds 0-11 --batch 4"
    done = run_apart(command, ["-c", STOPPED, str(int(signal.SIGKILL))], **at)
    assert done.code == -9
    assert [path.name for path in at["out"].glob("*.npz")] == ["samples_000000-000003.npz"]
    assert list(at["out"].glob(".*.tmp")), "the signal came too early or too late"
    succeed(command, **at)
    assert contents(at["out"]) == contents(at["fake"])


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_finishes_the_batch_and_ends_in_good_order(at, number, code):
    command = GENERATE + "--seeds 0-11 --batch 2"
    done = run_apart(command, ["-c", STOPPED, str(int(number))], **at)
    assert done.code == code
    assert done.lines[-1] == (
        "generate.py: stopped in good order; the same command again goes on where this one stopped"
    )
    assert len(done.lines) == 2 + (number == signal.SIGINT)
    assert f"\n{done.lines[-1]}\n" in done.err, "the line is to stand for itself"
    shards = len(list(at["out"].glob("*.npz")))
    assert shards in (2, 3), (
        "the batch that was being saved, and the next one where it had been begun"
    )
    succeed(command, **at)
    succeed(command, **at | {"out": at["tmp"] / "whole"})
    assert contents(at["out"]) == contents(at["tmp"] / "whole")


def test_the_last_seed_makes_an_image_of_its_own(at):
    succeed(GENERATE + "--seeds 0,4294967295", **at)
    first, last = pixels(at["out"])
    assert not np.array_equal(first, last)


@pytest.mark.parametrize("how", ["npz", "png", "png --subdirs"])
def test_a_grid_is_no_sample(at, how):
    command = GENERATE + f"--seeds 0-11 --batch 4 --save_type {how}"
    succeed(command, **at)
    assert (at["out"] / "grid.png").exists() and not list(at["tmp"].glob("*grid*"))
    assert np.array_equal(pixels(at["out"]), pixels(at["fake"]))
    done = succeed(command, **at)
    assert "all of them were there already" in done.lines[-1]


def test_a_grid_holds_as_many_of_the_first_images_as_asked(at):
    command = GENERATE + "--seeds 0-11 --batch 4 --grid_images "
    for number, rows, columns in ((5, 2, 3), (12, 3, 4), (99, 3, 4)):
        succeed(command + str(number), **at)
        with Image.open(at["out"] / "grid.png") as grid:
            assert grid.size == (columns * 66 - 2, rows * 66 - 2)


def test_a_grid_that_cannot_be_written_is_a_notice(at):
    (at["out"] / "grid.png").mkdir(parents=True)
    done = succeed(GENERATE + "--seeds 0-11 --batch 4", **at)
    assert "the grid of the first images has not been written" in done.lines[-2]
    assert done.lines[-1].startswith("12 images")


def test_a_run_says_what_it_used(at):
    command = GENERATE + "--seeds 0-3 --batch 4 --grid 0"
    succeed(command, **at)
    manifest = json.loads((at["out"] / "manifest.json").read_text())
    (run_of_it,) = manifest["runs"]
    assert run_of_it["command"].startswith(f"python generate.py --network {at['net']} ")
    assert run_of_it["paths"] == {"--network": str(at["net"]), "--outdir": str(at["out"])}
    assert torch.__version__.startswith(run_of_it["versions"]["torch"])
    elsewhere = at["tmp"] / "elsewhere"
    shutil.move(at["out"], elsewhere)
    shutil.copy(at["net"], at["tmp"] / "moved.safetensors")
    at = at | {"net": at["tmp"] / "moved.safetensors", "out": elsewhere}
    done = succeed(command, **at)
    assert "all of them were there already" in done.lines[-1]
    again = json.loads((elsewhere / "manifest.json").read_text())
    assert again["settings hash"] == manifest["settings hash"]
    assert [one["paths"]["--outdir"] for one in again["runs"]] == [
        run_of_it["paths"]["--outdir"],
        str(elsewhere),
    ]


def test_trainings_say_what_they_used(at):
    for name, data in (("score", "--data"), ("head", "--sample_dir"), ("features", "--data")):
        record = json.loads((at["made"] / name / "training.json").read_text())
        found = record if name != "head" else record["data"]
        assert re.fullmatch("[0-9a-f]{16}", found["fingerprint"])
        assert record["used"]["command"].startswith("python ") and record["settings"]
        assert {"torch", "numpy", "python"} <= set(record["used"]["versions"])
        assert record["used"]["paths"][data] in ("digits:train", str(at["fake"]))


def test_the_home_folder_is_the_users(at, monkeypatch):
    monkeypatch.setenv("HOME", str(at["tmp"]))
    monkeypatch.chdir(at["tmp"])
    shutil.copy(at["net"], at["tmp"] / "net.safetensors")
    succeed("generate --network=~/net.safetensors --outdir=~/x --seeds 0-1 --steps 2", **at)
    assert (at["tmp"] / "x" / "manifest.json").exists() and not (at["tmp"] / "~").exists()
    succeed("fid ref --data=~/x --dest=~/stats/x.npz --features pixels", **at)
    assert (at["tmp"] / "stats" / "x.npz").exists() and not (at["tmp"] / "~").exists()
    succeed("pretrain convert --network=~/net.safetensors --out=~/new/net.safetensors", **at)
    assert (at["tmp"] / "new" / "net.safetensors").read_bytes() == at["net"].read_bytes()
    done = run("generate --network {net} --outdir=~nobody-of-that-name/x --seeds 0-0", **at)
    assert done.code == 2 and "that home folder is not known" in done.lines[0]
    assert not list(at["tmp"].glob("~*"))


def test_folders_stand_for_what_trainings_have_written_to_them(at):
    command = GENERATE + "--seeds 0-3 --discriminator_ckpt "
    succeed(command + "{head}", **at | {"out": at["tmp"] / "file"})
    done = succeed(command + "{made}/head", **at)
    head = f"{at['made'] / 'head'}: the discriminator best.safetensors in it is taken"
    assert head in done.lines and contents(at["out"]) == contents(at["tmp"] / "file")
    images = "fid --images {fake} --ref digits --metrics fd --features "
    assert succeed(images + "{made}/features", **at).out == succeed(images + "{features}", **at).out
    done = run("generate --network {made} --outdir {tmp}/none --seeds 0-0", **at)
    assert (
        f"{at['made']}: no such network file (a folder without network.safetensors)"
        in done.lines[-1]
    )


# ---- train.py, and generate.py with what it made


def test_guidance_changes_images_and_weights_of_zero_do_not(at):
    guided = GENERATE + "--seeds 0-11 --batch 4 --discriminator_ckpt {head} "
    succeed(guided + "--w_dg_1 0 --w_dg_2 0", **at)
    assert contents(at["out"]) == contents(at["fake"])
    succeed(TRAIN + TWELVE + "--network {net} --save_dir {tmp}/other --seed 1", **at)
    seen = [pixels(at["fake"])]
    for index, options in enumerate(
        (
            "--w_dg_1 1",
            "--w_dg_1 0 --w_dg_2 1",
            "--w_dg_1 2",
            "--w_dg_1 2 --time_mid 0.9",
            "--w_dg_1 2 --time_max 0.9",
            "--w_dg_1 2 --discriminator_ckpt {tmp}/other/last.safetensors",
        )
    ):
        succeed(guided + options, **at | {"out": at["tmp"] / str(index)})
        seen.append(pixels(at["tmp"] / str(index)))
    assert len(np.unique(np.stack(seen).reshape(len(seen), -1), axis=0)) == len(seen)
    succeed(guided + "--w_dg_1 1 --discriminator_ckpt {head}", **at | {"out": at["tmp"] / "twice"})
    assert np.abs(pixels(at["tmp"] / "twice") - seen[1]).max() <= 1, "an ensemble of one head twice"


def test_published_spellings_mean_the_same(at):
    guided = "generate --network{}={{net}} --outdir {{out}} --seeds 0-5 {}"
    ours = (
        "--batch 3 --steps 3 --dg_weight_1st_order 1 --dg_weight_2nd_order 0.5 --time_min 0.02 "
        "--boosting --cond 0 --save_type png --discriminator_ckpt {head}"
    )
    theirs = (
        "--max_batch_size 3 --num_steps 3 --w_dg_1 1 --w_dg_2 0.5 --time_mid 0.02 "
        "--adaptive_weight=True --conditional False --save_format png --discriminator_checkpoint "
        "{head}"
    )
    succeed(guided.format("", ours), **at)
    succeed(guided.format("_pkl", theirs), **at | {"out": at["tmp"] / "theirs"})
    assert contents(at["out"]) == contents(at["tmp"] / "theirs")
    succeed(
        "train --network {net} --extractor score --datadir digits:train --gendir {fake} "
        "--savedir {tmp}/head "
        "--num_data 12 --n_epochs 1 --batch_size 4 --lr 0.01 --conditional 0 --weight_decay 1e-7 "
        "--ema_halflife 0 --eval_images 20",
        **at,
    )
    assert (at["tmp"] / "head" / "best.safetensors").read_bytes() == at["head"].read_bytes()


@pytest.mark.parametrize("options", ["--extractor none --width 64", "--network {cond_net} --cond"])
def test_training_leaves_checkpoints_that_guide(at, options):
    done = succeed(
        TRAIN + "--data digits:train --sample_dir {cond_fake} --num_data 12 --save_dir {tmp}/head "
        "--epoch 2 " + options,
        **at,
    )
    assert done.lines[0].startswith("recipe default: epochs 2, batch_size 4, batches balanced, ")
    assert f"{at['tmp']}/head/best.safetensors: epoch " in done.lines[1]
    assert done.lines[1].endswith("choosing-settings.md: when the last)")
    assert len(done.lines) == 4
    network = "NETWORK" if "none" in options else at["cond_net"]
    leads_to(
        done,
        f"generate.py --network {network} --outdir GUIDED --seeds 0-63 --discriminator_ckpt "
        f"{at['tmp']}/head/best.safetensors",
    )
    log = [json.loads(line) for line in (at["tmp"] / "head" / "log.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in log] == [1, 2] and np.isfinite(
        [entry["valid_loss"] for entry in log]
    ).all()
    assert (at["tmp"] / "head" / "curves.png").exists()
    succeed(
        "generate --network {cond_net} --outdir {out} --seeds 0-11 --steps 2 "
        "--discriminator_ckpt {tmp}/head/last.safetensors",
        **at,
    )
    assert not np.array_equal(pixels(at["out"]), pixels(at["cond_fake"]))


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ("", "finetuned"),
        ("--preset score --epoch 1 ", "score"),
        ("--lora_rank 2 ", "score"),
        ("--extractor none ", "none"),
    ],
)
def test_a_network_alone_is_copied_and_trained_unless_a_recipe_keeps_it_frozen(at, options, kind):
    succeed(TRAIN + TWELVE + options + "--network {net} --save_dir {out}", **at)
    with safe_open(at["out"] / "last.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["config"])["extractor"] == kind


def test_a_second_training_finds_everything_done(at):
    train = TRAIN + TWELVE + "--network {net} --save_dir {out}"
    succeed(train, **at)
    before = contents(at["out"])
    succeed(train, **at)
    after = contents(at["out"])
    assert {name for name in after if after[name] != before.get(name)} <= {"curves.png", "state.pt"}


@pytest.mark.parametrize("rank", [0, 4])
def test_the_published_path_on_a_classifier(at, rank):
    """An ADM classifier under the head, and the names of the authors' files."""
    classifier = create_classifier(
        image_size=8, in_channels=1, classifier_width=64, classifier_depth=1, out_channels=10
    )
    torch.save(fill(classifier).state_dict(), at["tmp"] / "classifier.pt")
    np.savez(at["tmp"] / "true_data.npz", arr_0=load_images("digits").images[:12])
    classified = " --pretrained_classifier_ckpt {tmp}/classifier.pt"
    succeed(
        TRAIN + f"--data {{tmp}}/true_data.npz --gendir {{fake}} --savedir {{tmp}}/head --width 64 "
        f"--lora_rank {rank}" + classified,
        **at,
    )
    guided = GENERATE + "--seeds 0-11 --discriminator_ckpt {tmp}/head/last.safetensors" + classified
    if rank:
        refused = run(guided, **at)
        assert refused.code == 2 and "--lora_checkpoint" in refused.lines[0]
        guided += " --lora_checkpoint {tmp}/head/lora_last.safetensors"
        refused = run(guided + " --lora_rank 7", **at)
        assert refused.code == 2 and f"is of rank {rank}, not 7" in refused.lines[0]
    succeed(guided, **at)
    assert not np.array_equal(pixels(at["out"]), pixels(at["fake"]))


@pytest.mark.parametrize("training", ["--extractor finetuned", "--lora_rank 2"])
def test_a_discriminator_trained_on_the_score_networks_encoder_guides(at, training):
    succeed(TRAIN + TWELVE + "--network {net} --save_dir {tmp}/head " + training, **at)
    guided = GENERATE + "--seeds 0-11 --discriminator_ckpt {tmp}/head"
    if "lora" in training:
        refused = run(guided, **at)
        assert refused.code == 2 and "--lora_checkpoint" in refused.lines[-1]
        guided += " --lora_checkpoint {tmp}/head/lora_best.safetensors"
    succeed(guided, **at)
    assert not np.array_equal(pixels(at["out"]), pixels(at["fake"]))


def test_a_second_round_adds_its_log_ratio(at):
    """A head and itself add up to twice its log ratio; with weights 1 and 0 to the head's."""
    guided = GENERATE + "--seeds 0-11 --discriminator_ckpt {head} --w_dg_1 "
    twice = "2 --discriminator_ckpt {head} --ensemble sum"
    seen = []
    for index, options in enumerate(("2", "4", twice, twice + " --member_weights 1,0")):
        succeed(guided + options, **at | {"out": at["tmp"] / str(index)})
        seen.append(pixels(at["tmp"] / str(index)))
    one, two, added, first = seen
    assert np.abs(added - two).max() <= 1 and np.abs(first - one).max() <= 1
    assert np.abs(added - one).max() > 1


@pytest.mark.slow
def test_heads_on_different_extractors_guide_together(at):
    """Their sum with weights w and 1 - w, at w near 1 and 0, guides like one of them alone."""
    other = "--network {net} --extractor none --width 64 --save_dir {tmp}/other"
    succeed(TRAIN + TWELVE + other, **at)
    guided = GENERATE + "--seeds 0-11 --w_dg_1 2 --discriminator_ckpt "
    mixed, seen = "{head} --discriminator_ckpt {tmp}/other --member_weights ", {}
    for name in ("{head}", "{tmp}/other", mixed + "1,1e-6", mixed + "1e-6,1"):
        succeed(guided + name, **at | {"out": at["tmp"] / str(len(seen))})
        seen[name] = pixels(at["tmp"] / str(len(seen)))
    one, two, first, second = seen.values()
    assert np.abs(first - one).max() <= 1 and np.abs(second - two).max() <= 1
    assert np.abs(one - two).max() > 1


# ---- reproduce.py


@pytest.mark.slow
def test_the_smoke_profile_reports_and_does_nothing_twice(tmp_path):
    command = "reproduce --profile smoke --runs {tmp}/runs --results {tmp}/results"
    first = succeed(command, tmp=tmp_path)
    results = tmp_path / "results" / "quickstart-smoke"
    assert first.out.splitlines()[-1] == f"report: {results / 'report.html'}"
    outcome = json.loads((results / "results.json").read_text())
    assert outcome["experiment"] == "quickstart" and "--profile smoke" in outcome["command"]
    assert {"versions", "hardware", "seconds", "extractor", "settings"} <= set(outcome)
    assert set(outcome["metrics"]) == {"unguided", "guided", "floor"}
    for system in outcome["metrics"]:
        for name in ("fd", "fd_random_vgg", "kid", "precision", "recall"):
            entry = outcome["metrics"][system][name]
            assert len(entry["values"]) == entry["n"] == 2 and np.isclose(
                np.mean(entry["values"]), entry["mean"]
            )
    assert {path.suffix for path in results.iterdir()} >= {".html", ".md", ".png"}
    assert (results / "report.html").stat().st_size > 10_000
    second = succeed(command, tmp=tmp_path)
    assert all("done before" in line for line in second.lines) and second.out == first.out
    again = json.loads((results / "results.json").read_text())
    assert again["metrics"] == outcome["metrics"]


# ---- refusals


@pytest.fixture(scope="session")
def broken(made):
    """Paths of input that is wrong, by name, besides those of `made`."""
    folder = made["made"] / "broken"
    (folder / "empty").mkdir(parents=True)
    (folder / "foreign").mkdir()
    (folder / "text").write_text("These are no weights.\n")
    Image.new("L", (8, 8)).save(folder / "foreign" / "holiday.png")
    for name in ("net", "head", "features"):
        content = made[name].read_bytes()
        (folder / f"short_{name}").write_bytes(content[: len(content) // 2])
    shutil.copytree(made["made"] / "score", folder / "score")
    net = edm.load_network(made["net"])
    with torch.no_grad():
        next(net.parameters()).view(-1)[0] = torch.nan
    edm.save_network(folder / "nan_net", net)
    config, tensors = read_safetensors(made["head"], "discriminator-head")
    write_safetensors(
        folder / "nan_head",
        {name: tensor * torch.nan for name, tensor in tensors.items()},
        "discriminator-head",
        config,
    )
    edm.save_network(folder / "other_net", fill(edm.load_network(made["net"])))
    for name, size, channels in (("large", 16, 1), ("colour", 8, 3), ("plain", 8, 1)):
        np.savez(folder / f"{name}.npz", samples=np.zeros((12, size, size, channels), np.uint8))
    return {**made, "broken": folder}


TRAIN_HERE = TRAIN + "--network {net} --save_dir {out} "
FID = "fid --ref digits:heldout "
REFUSALS = [
    # command, words of the line on standard error
    ("generate --network {net} --outdir {out} --seed 7", "--seeds 0-63 or --num_samples 64"),
    (GENERATE + "--num_samples 0", "--num_samples"),
    (GENERATE + "--seeds 5-3", "5-3"),
    (GENERATE + "--seeds ''", "--seeds"),
    (GENERATE + "--seeds 1,1", "--seeds: seed 1 is given twice"),
    (GENERATE + "--seeds 0,4294967296", "--seeds: seed 4294967296 is too large"),
    (GENERATE + "--seeds 9223372036854775808", "give seeds below 2^32 = 4294967296"),
    (GENERATE + "--seeds 0-9223372036854775808", "more than 100,000,000 seeds"),
    (GENERATE + "--seed 4294967290 --num_samples 7", "--seed: seed 4294967296 is too large"),
    (GENERATE + "--seed 4294967296 --num_samples 1", "--seed"),
    (GENERATE + "--num_samples 4294967296", "--num_samples"),
    (GENERATE + "--seeds 0-3 --steps 0", "--steps"),
    (GENERATE + "--seeds 0-3 --no_such_option", "--no_such_option"),
    (GENERATE + "--seeds 0-3 --solver magic", "magic"),
    (GENERATE + "--seeds 0-3 --rho 1e-9", "rho"),
    (GENERATE + "--seeds 0-3 --sigma_min 5 --sigma_max 1", "sigma_min 5"),
    (GENERATE + "--seeds 0-3 --S_noise nan", "S_noise"),
    (GENERATE + "--seeds 0-3 --device cuda:99", "--device cuda:99"),
    (GENERATE + "--seeds 0-3 --device toaster", "--device toaster"),
    (GENERATE + "--seeds 0-3 --class 1", "unconditional"),
    (
        GENERATE + "--seeds 0-3 --precise --precision bfloat16",
        "--precise computes in float32, not in bfloat16",
    ),
    (
        "generate --network {net} --outdir {fake} --seeds 0-11 --batch 4 --steps 3 --precision "
        "bfloat16",
        "precision null there",
    ),
    ("generate --network {cond_net} --outdir {out} --seeds 0-3 --class 10", "classes 0 to 9"),
    ("generate --network {broken}/none.pkl --outdir {out} --seeds 0-3", "none.pkl"),
    (
        "generate --network edm-cifar10-32x32-uncond-vpp --outdir {out} --seeds 0-3",
        "did you mean edm-cifar10",
    ),
    ("generate --network {broken}/empty --outdir {out} --seeds 0-3", "empty"),
    ("generate --network {broken}/text --outdir {out} --seeds 0-3", "text"),
    ("generate --network {broken}/short_net --outdir {out} --seeds 0-3", "short_net"),
    ("generate --network {broken}/nan_net --outdir {out} --seeds 0-3", "NaN"),
    ("generate --network {features} --outdir {out} --seeds 0-3", "classifier.safetensors"),
    ("generate --network {net} --outdir {broken}/text --seeds 0-3", "text"),
    ("generate --network {net} --outdir {broken}/text/below --seeds 0-3", "text/below"),
    (
        "generate --network {net} --outdir {broken}/foreign --seeds 0-3",
        "holiday.png is not an image of this run",
    ),
    ("generate --network {net} --outdir {fake} --seeds 0-11 --batch 4 --steps 4", '"num_steps": 3'),
    (
        "generate --network {net} --outdir {fake} --seeds 0-11 --batch 6 --steps 3",
        "batch size 4 there, 6 here",
    ),
    (
        "generate --network {broken}/other_net --outdir {fake} --seeds 0-11 --batch 4 --steps 3",
        "network",
    ),
    (
        "generate --network {net} --outdir {fake} --seeds 1-12 --batch 4 --steps 3",
        "holds seeds 0-11",
    ),
    (GENERATE + "--seeds 0-3 --w_dg_1 2", "--discriminator_ckpt"),
    (GENERATE + "--seeds 0-3 --boosting", "--discriminator_ckpt"),
    (GENERATE + "--seeds 0-3 --discriminator_ckpt {broken}/none", "none"),
    (
        GENERATE + "--seeds 0-3 --discriminator_ckpt dg-cifar10-uncond-discriminatr",
        "did you mean dg-cifar10-uncond-discrim",
    ),
    (
        GENERATE + "--seeds 0-3 --discriminator_ckpt {head} --pretrained_classifier_ckpt "
        "dg-cifar10-classifer",
        "did you mean",
    ),
    (
        GENERATE + "--seeds 0-3 --discriminator_ckpt {head} --lora_checkpoint {broken}/none",
        "none does not exist",
    ),
    (GENERATE + "--seeds 0-3 --discriminator_ckpt {broken}/empty", "empty"),
    (
        GENERATE + "--seeds 0-3 --discriminator_ckpt {head} --pretrained_classifier_ckpt {net}",
        "--pretrained_classifier_ckpt means nothing for a discriminator on the extractor score",
    ),
    (
        TRAIN_HERE + TWELVE + "--extractor score --pretrained_classifier_ckpt {net}",
        "--pretrained_classifier_ckpt means nothing for the extractor score",
    ),
    (GENERATE + "--seeds 0-3 --dg_clip nan", "nan is no number to compute with"),
    (GENERATE + "--seeds 0-3 --discriminator_ckpt {broken}/text", "text"),
    (GENERATE + "--seeds 0-3 --discriminator_ckpt {broken}/short_head", "short_head"),
    (GENERATE + "--seeds 0-3 --discriminator_ckpt {broken}/nan_head", "NaN"),
    (GENERATE + "--seeds 0-3 --discriminator_ckpt {net}", "network.safetensors"),
    (GENERATE + "--seeds 0-3 --discriminator_ckpt {head} --cond 1", "unconditional"),
    (
        GENERATE + "--seeds 0-3 --discriminator_ckpt {head} --time_min 0.9 --time_max 0.1",
        "time window",
    ),
    (
        "generate --network {broken}/other_net --outdir {out} --seeds 0-3 --discriminator_ckpt "
        "{head}",
        "another score network",
    ),
    ("train --data digits:train --sample_dir {fake} --save_dir {out}", "--network"),
    (TRAIN_HERE + "--data {broken}/none --sample_dir {fake}", "none"),
    (TRAIN_HERE + "--data {broken}/empty --sample_dir {fake}", "empty"),
    (TRAIN_HERE + "--data {broken}/text --sample_dir {fake}", "text"),
    (
        TRAIN_HERE + "--data digits:train --sample_dir {fake}",
        "take 12 of both, or all with `unequal`",
    ),
    (
        TRAIN_HERE + "--data digits:train --sample_dir {fake} --num_data 13",
        "13 images asked for, 12 found",
    ),
    (TRAIN_HERE + "--data digits:train --sample_dir {broken}/large.npz --num_data 12", "16 pixels"),
    (
        TRAIN_HERE + "--data digits:train --sample_dir {broken}/colour.npz --num_data 12",
        "3 channels",
    ),
    (TRAIN_HERE + "--data {broken}/large.npz --sample_dir {broken}/large.npz", "16 pixels"),
    (TRAIN_HERE + "--data {broken}/colour.npz --sample_dir {broken}/colour.npz", "3 channels"),
    (TRAIN_HERE + TWELVE + "--cond", "no class labels"),
    (TRAIN_HERE + TWELVE + "--batch_size 128", "a smaller batch_size"),
    (TRAIN_HERE + TWELVE + "--extractor classifier", "--pretrained_classifier_ckpt"),
    (TRAIN_HERE + TWELVE + "--network {broken}/nan_net", "NaN"),
    (TRAIN + "--extractor score --save_dir {out} " + TWELVE, "network"),
    (TRAIN_HERE + TWELVE + "--save_dir {broken}/text/below", "text/below"),
    (TRAIN_HERE + TWELVE + "--epoch 2 --save_dir {made}/head", "other settings"),
    (TRAIN_HERE + TWELVE + "--width 16 --save_dir {made}/head", "other"),
    (TRAIN_HERE + TWELVE + "--split nan,nan,nan", "split"),
    ("pretrain score --data {broken}/none --outdir {out} --steps 1", "none"),
    ("pretrain score --data {broken}/plain.npz --outdir {out} --steps 1 --cond", "label"),
    ("pretrain score --data digits:train --outdir {broken}/text --steps 1", "text"),
    (
        "pretrain score --data digits:train --outdir {broken}/score --steps 4 --batch_size 8 "
        "--cond",
        "other",
    ),
    (
        "pretrain score --data digits:train --outdir {broken}/score --steps 4 --batch_size 16",
        "other",
    ),
    (
        "pretrain score --data digits:heldout --outdir {broken}/score --steps 4 --batch_size 8",
        "other",
    ),
    ("pretrain features --data {broken}/plain.npz --outdir {out} --epochs 1", "no labels"),
    (
        "pretrain features --data digits:train --test {broken}/plain.npz --outdir {out} --epochs 1",
        "labels",
    ),
    ("pretrain convert --network {net} --out {broken}/text/below", "text/below"),
    ("pretrain", "command"),
    ("pretrain magic", "magic"),
    (FID + "--images {fake} --features {broken}/none", "pretrain.py features"),
    (FID + "--images {fake} --features {broken}/text", "text"),
    (FID + "--images {fake} --features {broken}/short_features", "short_features"),
    (FID + "--images {fake} --features {net}", "network.safetensors"),
    (FID + "--images {broken}/empty --features {features}", "empty"),
    (FID + "--images {broken}/large.npz --features {features}", "16 pixels"),
    (FID + "--images {broken}/colour.npz --features {features}", "3 channels"),
    (
        FID + "--images {fake} --features {features} --num_samples 13",
        "13 images asked for, 12 found",
    ),
    (FID + "--images {fake} --features {features} --num_samples 3", "at least 6"),
    (FID + "--images {fake} --features {features} --outdir {broken}/text", "text is a file"),
    ("fid ref --data digits --features {features} --dest {broken}/text/x.npz", "text/x.npz"),
    ("fid ref --data digits --features {features} --dest {broken}/empty", "it is a folder"),
    ("reproduce nothing", "digits"),
    ("reproduce --results {broken}/text", "text"),
    ("reproduce --profile smoke --runs {out} --results {out} --device cuda:99", "--device cuda:99"),
]


@pytest.mark.parametrize(
    ("command", "told"),
    REFUSALS,
    ids=[f"{command.split()[0]}: {told}" for command, told in REFUSALS],
)
def test_bad_input_is_one_line_and_exit_code_2(command, told, broken, tmp_path):
    done = run(command, **broken, out=tmp_path / "out")
    assert done.code == 2 and len(done.lines) == 1, done.err
    assert done.lines[0].startswith(f"{command.split()[0]}.py: ") and told in done.lines[0]
    left = [
        path
        for path in tmp_path.rglob("*")
        if path.suffix in (".npz", ".png", ".safetensors", ".pt", ".tmp")
    ]
    assert left == [] and done.out == ""


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (GENERATE + "--seeds 5-3", "5-3"),
        ("generate --network {broken}/short_net --outdir {out} --seeds 0-3", "short_net"),
        ("train --data digits:train --sample_dir {fake} --save_dir {out}", "--network"),
        ("pretrain features --data digits:train --outdir {out} --epochs 0", "--epochs"),
        ("fid --images {fake} --ref digits --features magic", "--features: magic"),
        ("reproduce nothing", "digits"),
    ],
)
def test_every_script_refuses_by_its_file(command, told, broken, tmp_path):
    refused(run_file(command, **broken, out=tmp_path / "out"), told)


def refused(done, told):
    assert done.code == 2 and done.out == "" and "Traceback" not in done.err
    assert len(done.lines) == 1 and told in done.lines[0]


def test_a_script_refuses_in_a_process_of_its_own(tmp_path):
    refused(run_apart("reproduce nothing"), "digits")


def test_a_script_succeeds_in_a_process_of_its_own(at):
    """The help of every script is asked for in test_house."""
    done = run_apart("fid --images {fake} --ref digits:heldout --features {features}", **at)
    assert done.code == 0 and len(done.out.splitlines()) == 4
    assert [line.split(": ")[1] for line in done.lines] == [
        "12 images for 64 features; a distance of fewer images than features says little"
    ]


def test_a_fault_of_the_code_shows_its_traceback(tmp_path):
    with (
        pytest.raises(ZeroDivisionError),
        mock.patch.object(console, "pick_device", side_effect=ZeroDivisionError),
    ):
        run("generate --network x --outdir {out} --seeds 0-3", out=tmp_path / "out")


def test_debugging_shows_the_traceback_of_bad_input(tmp_path):
    with pytest.raises(ValueError), mock.patch.dict(os.environ, DG_DEBUG="1"):
        run("generate --network {tmp}/none.pkl --outdir {tmp}/out --seeds 0-3", tmp=tmp_path)


def test_a_shell_completes_options_and_choices():
    """By click's protocol; the scripts are executable, since a shell completes program names."""
    for words, expected in {
        "./generate.py --out": "--outdir",
        "./generate.py --sampler re": "restart",
    }.items():
        environment = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
        done = subprocess.run(
            [sys.executable, ROOT / "generate.py"],
            env=os.environ | environment | {"_GENERATE_PY_COMPLETE": "bash_complete"},
            capture_output=True,
            check=True,
            text=True,
        )
        assert f"plain,{expected}" in done.stdout.split()
    for script in ("dataset_tool", "fid", "generate", "pretrain", "reproduce", "train"):
        assert os.access(ROOT / f"{script}.py", os.X_OK)
