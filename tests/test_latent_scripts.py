"""Latents by the command line: encoded, killed, shared, learned on, and what is refused."""

import json
import random
import time

import numpy as np
import pytest
import torch
from PIL import Image

from dg.adapters import cond_fn
from dg.checkpoints import load_discriminator
from dg.data.latents import load_latents
from dg.runtime.files import sha256_of
from guided_diffusion import load_encoder
from tests.scripts import contents, leads_to, run, run_apart, start_together, succeed
from tests.tiny_vae import tiny_vae

pytestmark = pytest.mark.diffusers
ENCODE = "pretrain latents --data {real} --vae {vae} --outdir {out} --resolution 16 --batch 4 "
# Runs a script that does something before every batch, the number of which is `count`.
BEFORE_A_BATCH = """
import os, runpy, signal, sys, time
import dg.pretraining.latents as encoding
encoded, count = encoding._encoded, 0

def encode(*args):
    global count
    count += 1
    {}
    return encoded(*args)

encoding._encoded = encode
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
ASKED = BEFORE_A_BATCH.format("if count == 2: os.kill(os.getpid(), signal.SIGTERM)")
SLOW = BEFORE_A_BATCH.format("time.sleep(0.2)")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """`vae`, a folder of diffusers; `real`, class folders of images of all sizes; `fake`, a shard
    of generated images."""
    folder = tmp_path_factory.mktemp("latents")
    tiny_vae().save_pretrained(folder / "vae")
    rng = np.random.default_rng(0)
    for i in range(18):
        path = folder / "real" / f"n{i % 3:02d}" / f"n{i % 3:02d}_{i}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = rng.integers(16, 50, 2)
        Image.fromarray(rng.integers(0, 256, [height, width, 3], dtype=np.uint8)).save(path)
    (folder / "fake").mkdir()
    np.savez(
        folder / "fake" / "samples_000000-000017.npz",
        samples=rng.integers(80, 200, [18, 16, 16, 3], dtype=np.uint8),
        seeds=np.arange(18),
        label=np.arange(18) % 3,
    )
    return {"vae": folder / "vae", "real": folder / "real", "fake": folder / "fake"}


@pytest.fixture
def at(made, tmp_path):
    return {**made, "out": tmp_path / "out", "tmp": tmp_path}


@pytest.fixture(scope="module")
def latents(made, tmp_path_factory):
    """Folders of real and generated latents."""
    folder = tmp_path_factory.mktemp("encoded")
    for name in ("real", "fake"):
        succeed(ENCODE.replace("{real}", "{data}"), **made, data=made[name], out=folder / name)
    return {name: folder / name for name in ("real", "fake")}


def test_encoding_tells_what_it_did(at, latents):
    done = succeed(ENCODE, **at)
    assert done.out == "" and done.lines[-1].startswith(
        f"18 latents in {at['out']}; float16 rounds off "
    )
    classifier = "classifier --preset imagenet-latent"
    leads_to(done, f"pretrain.py {classifier} --data {at['out']} --outdir CLASSIFIER")
    data = load_latents(at["out"])
    assert (
        data.latents.shape == (18, 4, 8, 8) and data.labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    )
    assert contents(at["out"]) == contents(latents["real"])
    assert succeed(ENCODE, **at).lines[-1] == f"18 latents in {at['out']}"
    settings = json.loads((at["out"] / "manifest.json").read_text())["settings"]
    assert {
        name: settings[name] for name in ("resolution", "sample", "seed", "dtype", "scale")
    } == dict(resolution=16, sample=True, seed=0, dtype="float32", scale=0.18215)
    succeed(ENCODE + "--flip", **at)
    assert len(load_latents(at["out"])) == 36
    done = run(ENCODE + "--sample 0", **at)
    assert done.code == 2 and "other settings (sample true there, false here)" in done.lines[-1]


@pytest.mark.slow
def test_two_processes_give_what_one_gives(at, latents):
    processes = start_together(ENCODE, at)
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert contents(at["out"]) == contents(latents["real"])


@pytest.mark.slow
def test_sigterm_ends_in_good_order_and_a_rerun_ends_with_the_same_bytes(at, latents):
    done = run_apart(ENCODE, ["-c", ASKED], **at)
    assert (
        done.code == 0 and "stopped in good order; the same command again goes on" in done.lines[-1]
    ), done.err
    assert 1 <= len(list(at["out"].glob("*.npz"))) < 5
    succeed(ENCODE, **at)
    assert contents(at["out"]) == contents(latents["real"])


@pytest.mark.slow
def test_killed_runs_end_with_the_bytes_of_an_undisturbed_one(at):
    command, moments = ENCODE.replace("--batch 4", "--batch 1") + "--flip", random.Random(3)
    for _ in range(3):
        before = len(list(at["out"].glob("*.npz")))
        processes = start_together(command, at, SLOW)
        while (
            all(process.poll() is None for process in processes)
            and len(list(at["out"].glob("*.npz"))) <= before + 1
        ):
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.3))
        for process in processes:
            process.kill()
            process.communicate()
        assert before < len(list(at["out"].glob("*.npz"))) < 36, (
            "every kill is to meet a run at work"
        )
        for record in (at["out"] / "shards").glob("*.json"):
            for name, digest in json.loads(record.read_text())["files"].items():
                assert sha256_of(at["out"] / name) == digest
    succeed(command, **at)
    succeed(command, **at | {"out": at["tmp"] / "undisturbed"})
    assert (
        contents(at["out"]) == contents(at["tmp"] / "undisturbed")
        and len(list(at["out"].glob("*.npz"))) == 36
    )


def test_a_classifier_and_a_discriminator_learn_on_latents(tmp_path, latents, monkeypatch):
    from dataclasses import replace

    from dg.pretraining.presets import CLASSIFIER_PRESETS

    small = dict(
        model_channels=64,
        num_res_blocks=1,
        channel_mult=(1,),
        attention_resolutions=(),
        precision="float32",
    )
    monkeypatch.setitem(
        CLASSIFIER_PRESETS,
        "imagenet-latent",
        replace(CLASSIFIER_PRESETS["imagenet-latent"], **small),
    )
    places = {"real": latents["real"], "fake": latents["fake"], "out": tmp_path}
    classify = "pretrain classifier --preset imagenet-latent --data {real} --outdir {out} "
    classify += "--batch 4 --steps 2 "
    done = succeed(classify + "--test {real}", **places)
    assert done.lines[-1].startswith(f"of {latents['real']}, by VP time: ")
    assert load_encoder(tmp_path / "classifier.pt").in_channels == 4
    learn = (
        "train --preset imagenet-latent --pretrained_classifier_ckpt {out}/classifier.pt --data "
        "{real} --sample_dir {fake} --save_dir {out}/disc --cond 1 --width 64 --epochs 1 "
        "--batch_size 6 --eval_images 4 "
    )
    succeed(learn + "--img_resolution 8", **places)
    discriminator = load_discriminator(
        tmp_path / "classifier.pt", tmp_path / "disc" / "last.safetensors"
    )
    gradient = cond_fn(discriminator, clip=1e-5)(
        torch.randn(2, 4, 8, 8), torch.tensor([900, 300]), torch.tensor([0, 2])
    )
    assert gradient.shape == (2, 4, 8, 8) and gradient.isfinite().all() and gradient.abs().max() > 0
    for command, message in (
        (learn + "--flip", "mirror none here, and encode mirrored copies"),
        (learn.replace("{fake}", "digits:train"), "holds images, but"),
        (
            learn + "--img_resolution 256",
            f"--img_resolution 256: {places['real']} has latents of 8 pixels",
        ),
        (classify + "--flip", "latents cannot be mirrored"),
        (
            "pretrain score --data {real} --outdir {out}/score --steps 1",
            "holds latents, not images",
        ),
        (classify + "--test digits:train", "give --test latents of the same size, with labels"),
    ):
        done = run(command, **places)
        assert done.code == 2 and message in done.lines[-1] and len(done.lines) == 1, done.err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("{real}", "{tmp}/none"), "does not exist"),
        (("{vae}", "{tmp}/none"), "does not exist"),
        (("--batch 4", "--batch 0"), "0 is not in the range"),
        (("{real}", "{vae}"), "holds no PNG or JPEG"),
    ],
)
def test_what_cannot_be_encoded_is_one_line(at, change, message):
    done = run(ENCODE.replace(*change), **at)
    assert done.code == 2 and message in done.err and len(done.lines) == 1
    assert not list(at["tmp"].rglob("*.npz"))
