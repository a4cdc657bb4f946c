"""DiT and ADM on the command line, small ones with random weights in the published forms."""

import json

import pytest

from dg.data.datasets import load_images
from dg.models.loading import load_model
from tests.scripts import contents, pixels, run, succeed
from tests.tiny_adm import publish
from tests.tiny_imagenet import write_models

pytestmark = pytest.mark.diffusers


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder as of facebook/DiT-XL-2-256, another autoencoder, ADMs with and without classes, a
    classifier for them, and a discriminator of DiT's latents with its classifier."""
    folder = tmp_path_factory.mktemp("imagenet")
    pytest.importorskip("diffusers")
    return write_models(folder)


@pytest.fixture
def at(models, tmp_path, monkeypatch):
    publish(monkeypatch, 0, 5)
    return {**models, "out": tmp_path / "out", "tmp": tmp_path}


def settings(folder):
    return json.loads((folder / "manifest.json").read_text())["settings"]


def test_dit_is_sampled_as_published(at):
    command = "generate --network {dit} --seeds 0-2 --steps 3 "
    for name, options in (
        ("plain", ""),
        ("again", "--batch 2 --cfg_scale 1.5"),
        ("none", "--cfg_scale 1"),
        ("branched", "--cfg_scale 2 --LT_cfg 1.25 --ST_cfg 3 --branch_time 600"),
        ("vae", "--vae {models}/other-vae"),
    ):
        succeed(command + options + " --outdir {tmp}/" + name, **at)
    found = {
        name: settings(at["tmp"] / name) for name in ("plain", "again", "none", "branched", "vae")
    }
    assert found["plain"]["sampling"] == dict(
        method="ancestral", num_steps=3, eta=0.0, clip_denoised=False, LT_cfg=1.5, ST_cfg=1.5
    )
    assert (
        found["again"] == found["plain"]
        and (pixels(at["tmp"] / "again") == pixels(at["tmp"] / "plain")).all()
    )
    assert {**found["branched"]["sampling"], "method": ""} == dict(
        method="",
        num_steps=3,
        eta=0.0,
        clip_denoised=False,
        LT_cfg=1.25,
        ST_cfg=3.0,
        branch_time=600,
    )
    assert found["vae"]["vae"] != found["plain"]["vae"] and len(found["plain"]["vae"]) == 16
    assert load_images(at["tmp"] / "plain").images.shape == (3, 16, 16, 3)
    assert (pixels(at["tmp"] / "vae") != pixels(at["tmp"] / "plain")).any()


def test_the_command_line_of_dit_and_of_its_guided_form(at):
    command = "generate --network {dit} --outdir {tmp}/"
    theirs = "--num-sampling-steps 3 --num-fid-samples 3 --image-size 64 --cfg-scale 1.5"
    succeed(command + "ours --seeds 0-2 --steps 3", **at)
    succeed(command + "dit " + theirs, **at)
    last = "--steps 3 --num_samples 3 --LT_cfg=1.5 --ST_cfg=1.5 --time_min=1000"
    done = succeed(command + "dg " + last, **at)
    assert "unguided: no timestep is above --time_min 1000" in done.lines
    assert (pixels(at["tmp"] / "dit") == pixels(at["tmp"] / "ours")).all()
    assert (pixels(at["tmp"] / "dg") == pixels(at["tmp"] / "ours")).all()


def test_dit_is_guided_by_a_discriminator_of_latents(at):
    command = (
        "generate --network {dit} --seeds 0-1 --steps 3 --pretrained_classifier_ckpt {features} "
        "--discriminator_ckpt {head} "
    )
    for name, options in (
        ("level", "--dg_scale 1"),
        ("step", "--dg_time step"),
        ("strong", "--w_dg_1 1000"),
    ):
        succeed(command + options + " --outdir {tmp}/" + name, **at)
    described = settings(at["tmp"] / "level")["guidance"]
    assert described["window"] == [0.101, 1.0] and described["weights"] == [1.0, 0]
    assert settings(at["tmp"] / "step")["sampling"]["dg_time"] == "step"
    assert (pixels(at["tmp"] / "strong") != pixels(at["tmp"] / "level")).any()


def test_adm_is_led_by_a_classifier(at):
    for name, options in (
        ("plain", "--network {adm}"),
        ("led", "--network {adm} --classifier_scale 50"),
        ("uncond", "--network {uncond} --classifier_scale 50 --class 3"),
    ):
        succeed(
            f"generate {options} --classifier_ckpt {{classifier}} --seeds 0-3 --steps 3 --outdir "
            f"{{tmp}}/{name}"
            if name != "plain"
            else f"generate {options} --seeds 0-3 --steps 3 --outdir {{tmp}}/{name}",
            **at,
        )
    plain, led = settings(at["tmp"] / "plain"), settings(at["tmp"] / "led")
    assert (
        plain["sampling"] == dict(method="ancestral", num_steps=3, eta=0.0, clip_denoised=True)
        and "classifier" not in plain
    )
    assert led["sampling"]["classifier_scale"] == 50 and len(led["classifier"]) == 16
    assert (pixels(at["tmp"] / "led") != pixels(at["tmp"] / "plain")).any()
    assert load_images(at["tmp"] / "uncond").labels.tolist() == [3] * 4


def test_an_unconditional_adm_that_is_led_to_classes_takes_a_discriminator_of_classes(at):
    guided = (
        "generate --network {uncond} --seeds 0-1 --steps 3 --pretrained_classifier_ckpt "
        "{classifier} --discriminator_ckpt {head} "
    )
    led = guided + "--classifier_ckpt {classifier} --classifier_scale 1 "
    for name, weight in (("weak", 1), ("strong", 1000)):
        succeed(led + f"--w_dg_1 {weight} --outdir {{tmp}}/{name}", **at)
    assert (pixels(at["tmp"] / "strong") != pixels(at["tmp"] / "weak")).any()
    refused = run(guided + "--outdir {out}", **at)
    assert (
        refused.code == 2
        and "the discriminator is conditional, but the network draws no classes" in refused.err
    )


def test_a_discriminator_and_its_classifier_go_by_published_names(at, monkeypatch):
    """As in the help's command for ADM-G++."""
    named = {
        "adm-256": at["adm"],
        "adm-256-classifier": at["classifier"],
        "adm-8-classifier": at["classifier"],
        "dg-head": at["head"],
    }
    command = (
        "generate --seeds 0-1 --steps 3 --classifier_scale 1 --network {adm} "
        "--pretrained_classifier_ckpt {classifier} --discriminator_ckpt {head} --outdir {out} "
    )
    succeed(command + "--classifier_ckpt {classifier}", **at)
    expected = contents(at["out"])
    monkeypatch.setattr("dg.runtime.downloads.resolve", lambda name, *args: named[name])
    succeed(
        command,
        **at
        | {
            "adm": "adm-256",
            "classifier": "adm-256-classifier",
            "head": "dg-head",
            "out": at["tmp"] / "named",
        },
    )
    assert contents(at["tmp"] / "named") == expected


def test_250_steps_are_the_default(at):
    assert (
        load_model(at["adm"]).sampling_defaults["num_steps"]
        == load_model(at["dit"]).sampling_defaults["num_steps"]
        == 250
    )


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (
            "--network {adm} --cfg_scale 2",
            "--cfg_scale means nothing for a network without a null class",
        ),
        ("--network {adm} --LT_cfg 2", "--LT_cfg means nothing for"),
        (
            "--network {adm} --vae {models}/other-vae",
            "--vae means nothing for a network that diffuses images",
        ),
        (
            "--network {adm} --classifier_ckpt {classifier}",
            "--classifier_ckpt means nothing for a run without --classifier_scale",
        ),
        ("--network {adm} --classifier_scale 1", "adm-8-classifier does not exist"),
        (
            "--network {adm} --classifier_scale 1 --classifier_ckpt {features}",
            "use another classifier",
        ),
        (
            "--network {dit} --classifier_scale 1 --classifier_ckpt {classifier}",
            "use another classifier",
        ),
        ("--network {uncond} --class 3", "unconditional"),
        ("--network {dit} --S_churn 3", "--S_churn means nothing"),
        ("--network {dit} --boosting", "--boosting means nothing for a LatentDiffusion"),
        ("--network {dit} --vae {models}/absent", "does not exist"),
        ("--network {dit} --dg_time step", "give --discriminator_ckpt"),
        ("--network {dit} --image-size 256", "makes images of 64 pixels, not 256"),
        ("--network {dit} --steps 1001", "asks for 1001 of 1000 steps"),
        ("--network {dit} --cfg_scale inf", "inf is no number to compute with"),
        ("--network {classifier}", "neither an ADM's U-Net nor a DiT"),
    ],
)
def test_what_does_not_fit_is_one_line(at, command, told):
    done = run("generate --outdir {out} --seeds 0 " + command, **at)
    assert done.code == 2 and told in done.err and len(done.lines) == 1, done.err
    assert not list(at["tmp"].glob("out/*.npz"))


def test_what_the_tensors_of_a_network_do_not_tell_is_asked_for_and_told(at, monkeypatch):
    monkeypatch.undo()  # no published network is like it
    command = "generate --network {uncond} --outdir {out} --seeds 0-1 --steps 2 "
    refused = run(command, **at)
    missing = "--image_size --num_heads --noise_schedule --diffusion_steps"
    assert refused.code == 2 and refused.lines[0].endswith(f"; give {missing}"), refused.err
    assert len(refused.lines) == 1 and not at["out"].exists()
    given = "--image_size {} --num_heads 2 --noise_schedule {} --diffusion_steps {} "
    made = {}
    for number, values in enumerate([(8, "linear", 1000), (8, "cosine", 4000), (16, "cosine", 50)]):
        out = at["tmp"] / str(number)
        done = succeed(command + given.format(*values), **at | {"out": out})
        scaled = ", scaled to 1000 for the network" if values[2] != 1000 else ""
        assert (
            f"uncond.pt: {values[0]} pixels, 2 heads, {values[1]} schedule of {values[2]} steps"
            f"{scaled}, as given" in done.lines[0]
        )
        assert load_images(out).images.shape == (2, values[0], values[0], 3)
        made[settings(out)["network"]] = out
    assert len(made) == 3, "the images depend on them"
    other = run(command + given.format(8, "cosine", 1000), **at | {"out": at["tmp"] / "0"})
    assert other.code == 2 and len(other.lines) >= 1, "two processes are not mixed in one folder"
    told = run(command.replace("{uncond}", "{dit}") + "--image_size 8", **at)
    assert told.code == 2 and "makes images of 64 pixels, not 8" in told.err
