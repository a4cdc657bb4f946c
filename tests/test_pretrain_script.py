"""pretrain.py by its command line: trainings that are shared, killed and gone on with, and what is
refused."""

import json
import re
import signal

import numpy as np
import pytest
import torch

import edm
from dg.data.datasets import load_images
from dg.pretraining.presets import CLASSIFIER_PRESETS, SCORE_PRESETS
from dg.runtime import console
from guided_diffusion import load_encoder
from tests.scripts import TOLD, contents, leads_to, run, run_apart, start_together, succeed

TINY = "--data digits:train --outdir {out} --batch 8 --cbase 8 --cres 1,2 "
SCORE = (
    "pretrain score " + TINY + "--batch 150 --cond --augment 0.3 --dropout 0.2 --snap 1 --steps 8 "
)
CLASSIFIER = "pretrain classifier --preset mnist --data digits:train --outdir {out} --batch 8 "
# Runs a script that gets a signal in the middle of its seventh step.
STOPPED = """
import os, runpy, signal, sys, torch
signal.signal(signal.SIGINT, signal.default_int_handler)  # also in the background
number, sys.argv = int(sys.argv[1]), sys.argv[2:]
def stopping(optimizer):
    step, calls = optimizer.step, []
    def step_or_stop(self, *args, **kwargs):
        calls.append(None)
        if len(calls) == 7:
            os.kill(os.getpid(), number)
        return step(self, *args, **kwargs)
    optimizer.step = step_or_stop
stopping(torch.optim.Adam)
stopping(torch.optim.AdamW)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def without_state(folder):
    return {name: content for name, content in contents(folder).items() if name != "state.pt"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a score network's training that was never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    succeed(SCORE, out=folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGKILL, -9)]
)
def test_a_stopped_training_goes_on_to_the_same_bytes(whole, tmp_path, number, code, monkeypatch):
    monkeypatch.setattr(console, "PLAIN_SECONDS", 0)
    done = run_apart(SCORE + "--save_seconds 0", ["-c", STOPPED, str(int(number))], out=tmp_path)
    assert (
        done.code == code
        and (tmp_path / "state.pt").exists()
        and not (tmp_path / "network.safetensors").exists()
    )
    if number != signal.SIGKILL:
        assert "the same command again goes on" in done.lines[-1]
        assert len(done.lines) == 1 + (number == signal.SIGINT)
    found = 6 if number == signal.SIGKILL else 7  # one step more: it ends in good order
    told = re.findall(r" (\d)/8 ", succeed(SCORE, out=tmp_path).err)
    assert told[0] == str(found + 1), "the first step of the second run"
    assert without_state(tmp_path) == without_state(whole)
    assert sorted(without_state(tmp_path)) == [
        "log.jsonl",
        "network-snapshot-000001.safetensors",
        "network.safetensors",
        "training.json",
    ]


@pytest.mark.slow
def test_a_stopped_classifier_goes_on_to_the_same_bytes(tmp_path):
    succeed(CLASSIFIER + "--steps 9", out=tmp_path / "whole")
    done = run_apart(
        CLASSIFIER + "--steps 9 --save_seconds 0",
        ["-c", STOPPED, str(int(signal.SIGKILL))],
        out=tmp_path / "parts",
    )
    assert done.code == -9
    succeed(CLASSIFIER + "--steps 9", out=tmp_path / "parts")
    assert without_state(tmp_path / "parts") == without_state(tmp_path / "whole")


def together(command, **places):
    """The errors of two processes of one run, as torchrun starts them."""
    processes = start_together(command, places, TOLD)
    errors = [process.communicate(timeout=120)[1] for process in processes]
    return [process.returncode for process in processes], errors


@pytest.mark.slow
def test_two_processes_go_on_with_what_one_began(tmp_path):
    """And end where one ends, to rounding; with micro-batches that both have, dropout's masks agree
    too."""
    command = (
        SCORE.replace("--batch 150", "--batch 8").replace("--steps 8", "")
        + "--batch_gpu 2 --steps "
    )
    succeed(command + "5", out=tmp_path / "one")
    succeed(command + "3", out=tmp_path / "two")
    codes, errors = together(command + "5", out=tmp_path / "two")
    assert codes == [0, 0], errors
    assert (
        " 5 steps, loss" in errors[0]
        and re.findall(r" (\d)/5 ", errors[0]) == ["4", "5"]
        and errors[1] == ""
    )
    one, two = (
        edm.load_network(tmp_path / name / "network.safetensors").state_dict()
        for name in ("one", "two")
    )
    assert all((one[name] - two[name]).abs().max() < 1e-5 for name in one)
    assert sorted(contents(tmp_path / "two")) == sorted(contents(tmp_path / "one"))


@pytest.mark.parametrize("flag", ["-n", "--dry-run"])
def test_a_dry_run_prints_the_settings_and_writes_nothing(tmp_path, flag):
    done = succeed(
        "pretrain score --outdir={out} --data=digits:train --nosubdir --lr=3e-4 --cbase=8 " + flag,
        out=tmp_path / "out",
    )
    told = json.loads(done.out)
    assert told["settings"]["lr"] == 3e-4 and told["network"]["model_channels"] == 8
    assert not (tmp_path / "out").exists()


def test_published_command_lines_of_edm(tmp_path):
    done = succeed(
        "pretrain score --outdir={out} --data=digits:train --cond=1 --arch=ncsnpp --batch=16 "
        "--batch-gpu=8 --cbase=8 --cres=1,2 --lr=2e-4 --ema=0.001 --dropout=0.05 --augment=0.15 "
        "--xflip=True --duration=0.00003 --fp16=0 --ls=1 --tick=1 --seed=3 --nosubdir",
        out=tmp_path,
    )
    settings = json.loads((tmp_path / "training.json").read_text())["settings"]
    told = dict(
        steps=2,
        batch_size=16,
        lr=2e-4,
        ema_halflife=1000,
        augment=0.15,
        flip=True,
        precision="float32",
        seed=3,
    )
    assert {name: settings[name] for name in told} == told and settings["warmup"] == 10_000_000
    net = edm.load_network(tmp_path / "network.safetensors")
    assert (net.label_dim, net.model.map_augment.in_features, net.init_kwargs["encoder_type"]) == (
        10,
        9,
        "residual",
    )
    told = (
        re.escape(str(tmp_path / "network.safetensors")) + r": [\d,]+ parameters, 2 steps, loss .*"
    )
    assert done.out == "" and re.fullmatch(told, done.lines[-1])
    network = tmp_path / "network.safetensors"
    leads_to(done, f"generate.py --network {network} --outdir OUT --seeds 0-63")


@pytest.mark.parametrize(
    ("precond", "kind"), [("vp", edm.VPPrecond), ("ve", edm.VEPrecond), ("edm", edm.EDMPrecond)]
)
def test_preconditionings(tmp_path, precond, kind):
    succeed("pretrain score " + TINY + f"--steps 2 --precond {precond} --bf16", out=tmp_path)
    assert type(edm.load_network(tmp_path / "network.safetensors")) is kind
    succeed(
        "generate --network {out}/network.safetensors --outdir {out}/images --seeds 0-1 --steps 3",
        out=tmp_path,
    )


@pytest.mark.slow
def test_a_classifier_serves_train_and_generate(tmp_path):
    places = {"out": tmp_path, "net": tmp_path / "net"}
    done = succeed(CLASSIFIER + "--steps 2 --flip --test digits:heldout", **places)
    assert re.fullmatch(
        r".*classifier\.pt: [\d,]+ parameters, 2 steps, names 0\.\d+ of noisy images",
        done.lines[-2],
    )
    assert re.fullmatch(
        r"of digits:heldout, by VP time: (0\.\d{4} at [\d.]+(, )?)+", done.lines[-1]
    )
    leads_to(
        done,
        f"train.py --pretrained_classifier_ckpt {tmp_path / 'classifier.pt'} --data digits:train "
        "--sample_dir GENERATED --save_dir DISC",
    )
    assert load_encoder(tmp_path / "classifier.pt").out.training is False
    succeed("pretrain score " + TINY.replace("{out}", "{net}") + "--steps 1", **places)
    succeed(
        "generate --network {net}/network.safetensors --outdir {out}/fake --seeds 0-11 --steps 2",
        **places,
    )
    succeed(
        "train --extractor classifier --pretrained_classifier_ckpt {out}/classifier.pt --data "
        "digits:train --num_data 12 --sample_dir {out}/fake --save_dir {out}/head --epochs 1 "
        "--batch_size 4 --width 64 --eval_images 4",
        **places,
    )
    succeed(
        "generate --network {net}/network.safetensors --outdir {out}/guided --seeds 0-1 --steps 2 "
        "--pretrained_classifier_ckpt {out}/classifier.pt --discriminator_ckpt "
        "{out}/head/last.safetensors",
        **places,
    )


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "pretrain score " + TINY + "--steps 2 --fp16 --device cpu",
            "float16 trains on GPUs only, not on cpu",
        ),
        (
            "pretrain score " + TINY + "--steps 2 --fp16 --bf16",
            "--bf16 and --fp16 are both given",
        ),
        (
            "pretrain score " + TINY + "--steps 2 --duration 1",
            "2 steps and 1.0 million images; give one of them",
        ),
        (
            "pretrain score " + TINY + "--steps 2 --cres 1,x",
            "'1,x' is not a list of integers; write for example 1,2,2",
        ),
        (
            "pretrain score " + TINY + "--steps 2 --cres 1,1,1,1,1",
            "images of 8 pixels cannot be halved 4 times",
        ),
        ("pretrain score " + TINY + "--steps 2 --cbase 6", "18 channels cannot be normalised"),
        ("pretrain score " + TINY + "--steps 2 --augment 1.5", "1.5 is not in the range"),
        (
            "pretrain score "
            + TINY.replace("digits:train", "{out}/unlabelled")
            + "--steps 2 --cond",
            "has no labels",
        ),
        (CLASSIFIER.replace("digits:train", "{out}/unlabelled") + "--steps 2", "has no labels"),
        (
            CLASSIFIER + "--steps 2 --test {out}/unlabelled",
            "does not fit digits:train; give --test images of the same size, with labels",
        ),
        (CLASSIFIER.replace("--preset mnist", "") + "--steps 2", "Missing option '--preset'"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, command, message):
    from PIL import Image

    (tmp_path / "unlabelled").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "unlabelled" / "a.png")
    done = run(command, out=tmp_path)
    assert done.code == 2 and message in done.err and len(done.lines) == 1
    assert not list(tmp_path.glob("*.*"))


def test_presets_are_those_of_the_library():
    import pretrain

    choices = {
        name: next(o for o in command.params if o.name == "preset").type.choices
        for name, command in pretrain.main.commands.items()
        if name in ("score", "classifier")
    }
    assert [*choices["score"]] == [*SCORE_PRESETS] and [*choices["classifier"]] == [
        *CLASSIFIER_PRESETS
    ]
    assert set(pretrain.EDM_PRESETS.values()) <= set(SCORE_PRESETS)


@pytest.mark.slow
@pytest.mark.parametrize("has_bfloat16", [True, False])
@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("score --preset cifar10-small", "--cbase 16 --cres 1"),
        ("classifier --preset cifar10-small", ""),
    ],
)
def test_bfloat16_of_a_preset_is_float32_on_a_cpu_without_it(
    at, monkeypatch, has_bfloat16, command, options
):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bfloat16)
    data = "--data digits:train" if "classifier" in command else "--data {tmp}/colour.npz"
    np.savez(at["tmp"] / "colour.npz", samples=np.zeros((8, 32, 32, 3), np.uint8))
    command = f"pretrain {command} {options} {data} --outdir {{out}} --batch_size 2 --steps 1 "
    done = succeed(command, **at)
    expected = "bfloat16" if has_bfloat16 else "float32"
    assert precision_in(at["out"]) == expected
    assert ("computing in float32: the preset asks for bfloat16" in done.err) != has_bfloat16
    done = succeed(command + "--bf16 1", **at | {"out": at["tmp"] / "insisted"})
    assert precision_in(at["tmp"] / "insisted") == "bfloat16" and "float32" not in done.err


def precision_in(folder):
    return json.loads((folder / "training.json").read_text())["settings"]["precision"]


def test_a_transferred_network_goes_on_from_its_weights(at):
    once = "pretrain score --data digits:train --batch_size 8 --steps 1 --lr 1e-9 --outdir {out}"
    succeed(once + " --transfer {net}", **at)
    before, after = (edm.load_network(path) for path in (at["net"], at["out"]))
    for old, new in zip(before.parameters(), after.parameters(), strict=True):
        assert torch.allclose(old, new, atol=1e-6)
    for option in ("--cbase 8", "--cres 1,2", "--dropout 0.1", "--cond 1"):
        refused = run(f"{once} --transfer {{net}} {option}", **at)
        told = f"{option.split()[0]} means nothing for the network of --transfer"
        assert refused.code == 2 and told in refused.err


DDO = "pretrain score --data digits:train --batch 8 --ddo {fake} --outdir {out} "


def test_a_network_trains_against_its_frozen_copy(at):
    done = succeed(DDO + "--transfer {net} --steps 1 --alpha 3 --beta 0.5", **at)
    assert "1 steps, loss 2.7726" in done.err, "four times log 2, at the copy itself"
    told = json.loads((at["out"] / "training.json").read_text())
    assert told["ddo"] == {
        "generated": str(at["fake"]),
        "fingerprint": load_images(at["fake"]).fingerprint(),
        "alpha": 3.0,
        "beta": 0.5,
    }
    assert told["data"] == "digits:train" and told["used"]["paths"]["--ddo"] == str(at["fake"])
    assert set(told["network"]) == set(edm.load_network(at["net"]).init_kwargs)
    again = run(DDO + "--transfer {net} --steps 1 --alpha 3", **at)
    assert again.code == 2 and "of a run with other settings" in again.err
    dry = succeed(DDO + "--transfer {net} --beta 0.5 -n", **at)
    assert json.loads(dry.out)["ddo"] == {"generated": str(at["fake"]), "alpha": 1.0, "beta": 0.5}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "--ddo needs the network that made its images; give --transfer"),
        ("--transfer {net} --beta 0", "--beta"),
        ("--transfer {net} --alpha -1", "--alpha"),
        ("--transfer {cond_net}", "classes, but the network has 10; give a set of these classes"),
    ],
)
def test_ddo_refuses_what_does_not_fit(at, options, message):
    done = run(DDO + options, **at)
    assert done.code == 2 and message in done.err and len(done.lines) == 1
    assert not (at["out"] / "network.safetensors").exists()


def test_coefficients_belong_to_ddo(at):
    for option in ("--alpha 1", "--beta 2"):
        done = run("pretrain score --data digits:train --outdir {out} " + option, **at)
        assert done.code == 2
        assert f"{option.split()[0]} means nothing for a training without --ddo" in done.err
