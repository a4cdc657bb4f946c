"""DDPMs and VAEs on the command line: trained, sampled with and without guidance, measured, and
what they refuse."""

import json

import pytest

from dg.data.datasets import load_images
from dg.models.loading import load_model
from tests.scripts import GENERATE, TRAIN, contents, pixels, run, succeed

TINY = "--data digits:train --batch 8 --steps 2 --outdir "
NLL = "fid nll --data digits:heldout --num_samples 3 --json "


@pytest.fixture(scope="module")
def models(made, tmp_path_factory):
    """The shared places, and a DDPM, a conditional one, a VAE, and a discriminator of the DDPM
    trained from scratch."""
    folder = tmp_path_factory.mktemp("models")
    names = ("ddpm", "cond_ddpm", "vae")
    places = (
        made | {name: folder / name / "network.safetensors" for name in names} | {"models": folder}
    )
    succeed("pretrain ddpm --preset digits-ddpm --timesteps 10 " + TINY + "{models}/ddpm", **places)
    succeed(
        "pretrain ddpm --preset digits-ddpm --timesteps 30 --cond --variance learned_range "
        "--schedule linear " + TINY + "{models}/cond_ddpm",
        **places,
    )
    succeed("pretrain vae --preset digits-vae " + TINY + "{models}/vae", **places)
    succeed("generate --network {ddpm} --outdir {models}/fake --seeds 0-11 --steps 2", **places)
    succeed(
        TRAIN + "--extractor none --width 64 --data digits:train --num_data 12 --sample_dir "
        "{models}/fake --save_dir {models}/head",
        **places,
    )
    return places | {"pixel_head": folder / "head" / "last.safetensors"}


@pytest.fixture
def at(models, tmp_path):
    return {**models, "out": tmp_path / "out", "tmp": tmp_path}


@pytest.mark.slow
def test_what_training_leaves_behind(models):
    for name, kind in (("ddpm", "DDPM"), ("cond_ddpm", "DDPM"), ("vae", "VAE")):
        assert sorted(contents(models["models"] / name)) == [
            "log.jsonl",
            "network.safetensors",
            "state.pt",
            "training.json",
        ]
        model, told = (
            load_model(models[name]),
            json.loads((models["models"] / name / "training.json").read_text()),
        )
        assert (
            type(model).__name__ == kind
            and told["network"] == model.init_kwargs
            and told["settings"]["batch_size"] == 8
        )
    assert load_model(models["cond_ddpm"]).init_kwargs["process"] == dict(
        schedule="linear", num_steps=30, variance="learned_range", mean="epsilon"
    )


@pytest.mark.parametrize("options", ["", "--steps 3 --eta 0.5", "--sampler ancestral --steps 3"])
def test_a_ddpm_is_sampled_and_guided(at, options):
    command = "generate --network {ddpm} --seeds 0-3 --batch 3 " + options
    succeed(command + " --outdir {tmp}/plain", **at)
    succeed(command + " --outdir {tmp}/again --batch 2", **at)
    succeed(command + " --outdir {tmp}/guided --discriminator_ckpt {pixel_head} --w_dg_1 100", **at)
    assert (pixels(at["tmp"] / "plain") == pixels(at["tmp"] / "again")).all()
    assert (pixels(at["tmp"] / "plain") != pixels(at["tmp"] / "guided")).any()


def test_steps_as_adm_names_them(at):
    command = "generate --network {ddpm} --seeds 0-3 --outdir {tmp}/"
    for name, options in (
        ("ours", "--sampler ddim --steps 5"),
        ("theirs", "--use_ddim True --timestep_respacing 5"),
        ("strided", "--use_ddim True --timestep_respacing ddim5"),
        ("ancestral", "--use_ddim False --timestep_respacing 5"),
        ("again", "--sampler ancestral --steps 5"),
    ):
        succeed(command + f"{name} {options}", **at)
    found = {name: pixels(at["tmp"] / name) for name in ("ours", "theirs", "strided")}
    assert (found["ours"] == found["theirs"]).all()
    assert (found["ours"] != found["strided"]).any()
    assert (pixels(at["tmp"] / "ancestral") == pixels(at["tmp"] / "again")).all()


def test_the_weight_with_a_ddpm_is_one(at):
    for name, options in (("default", ""), ("one", "--w_dg_1 1 --w_dg_2 0 --boosting 0")):
        succeed(
            "generate --network {ddpm} --seeds 0-1 --steps 2 --discriminator_ckpt {pixel_head} "
            "--outdir {tmp}/" + name + " " + options,
            **at,
        )
    settings = [
        json.loads((at["tmp"] / name / "manifest.json").read_text())["settings"]
        for name in ("default", "one")
    ]
    assert settings[0] == settings[1] and settings[0]["guidance"]["weights"] == [1, 0]


def test_the_same_head_guides_the_score_network(at):
    succeed(GENERATE + "--seeds 0-1", **at | {"out": at["tmp"] / "plain"})
    succeed(GENERATE + "--seeds 0-1 --discriminator_ckpt {pixel_head} --w_dg_1 100", **at)
    assert (pixels(at["tmp"] / "plain") != pixels(at["out"])).any()


def test_classes_of_a_ddpm(at):
    succeed("generate --network {cond_ddpm} --outdir {out} --seeds 0-3 --steps 2 --class 7", **at)
    assert load_images(at["out"]).labels.tolist() == [7] * 4


def test_a_vae_is_sampled(at):
    for sample in ("mean", "draw"):
        succeed(
            f"generate --network {{vae}} --outdir {{tmp}}/{sample} --seeds 0-3 --sample {sample} "
            "--save_type png",
            **at,
        )
    assert (pixels(at["tmp"] / "mean") != pixels(at["tmp"] / "draw")).any()


def test_likelihoods(at):
    def measured(command):
        return json.loads(succeed(command, **at).out)

    bound = measured(NLL + "--network {ddpm}")
    assert (
        bound["kind"] == "variational bound"
        and bound["num_evaluations"] == bound["num_steps"] == 10
    )
    assert sum(bound["terms"].values()) == pytest.approx(bound["bits_per_dim"]) and set(
        bound["terms"]
    ) == {"prior", "steps", "decoder"}
    assert measured(NLL + "--network {ddpm} --steps 4")["num_evaluations"] == 4
    assert measured(NLL + "--network {cond_ddpm} --batch 2 --steps 3")["num_images"] == 3
    guided = measured(NLL + "--network {ddpm} --discriminator_ckpt {pixel_head} --w_dg_1 10")
    assert guided["guided"] and guided["bits_per_dim"] != bound["bits_per_dim"]
    elbo = measured(NLL + "--network {vae}")
    assert elbo["kind"] == "negative ELBO" and set(elbo["terms"]) == {"reconstruction", "kl"}
    assert (
        measured(NLL + "--network {vae} --importance_samples 50")["bits_per_dim"]
        < elbo["bits_per_dim"]
    )
    assert measured(NLL + "--network {net} --steps 3")["kind"] == "probability flow by heun"
    line = succeed("fid nll --network {ddpm} --data digits:heldout --num_samples 2", **at).out
    assert "(variational bound, prior " in line and "evaluations each)" in line


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (
            "generate --network {ddpm} --outdir {out} --seeds 0 --S_churn 3",
            "--S_churn means nothing",
        ),
        (
            "generate --network {ddpm} --outdir {out} --seeds 0 --steps 11",
            "asks for 11 of 10 steps",
        ),
        (
            "generate --network {ddpm} --outdir {out} --seeds 0 --sampler ancestral --eta 1",
            "and 0 unless the method is ddim",
        ),
        (
            "generate --network {ddpm} --outdir {out} --seeds 0 --discriminator_ckpt {pixel_head} "
            "--boosting",
            "--boosting means",
        ),
        (
            "generate --network {ddpm} --outdir {out} --seeds 0 --discriminator_ckpt {pixel_head} "
            "--guide_every 2",
            "--guide_every means nothing for a DDPM; it is for score networks; leave it out",
        ),
        (
            "generate --network {ddpm} --outdir {out} --seeds 0 --discriminator_ckpt {pixel_head} "
            "--w_dg_2 1",
            "--dg_weight_2nd_order means nothing",
        ),
        (
            "generate --network {ddpm} --outdir {out} --seeds 0 --discriminator_ckpt {head}",
            "another score network",
        ),
        (
            "generate --network {net} --outdir {out} --seeds 0 --sampler ddim",
            "--sampler means nothing",
        ),
        (
            "generate --network {net} --outdir {out} --seeds 0 --sample draw",
            "--sample means nothing",
        ),
        ("generate --network {vae} --outdir {out} --seeds 0 --steps 3", "--steps means nothing"),
        ("generate --network {vae} --outdir {out} --seeds 0 --class 3", "unconditional"),
        (
            "generate --network {ddpm} --outdir {out} --seeds 0 --timestep_respacing ddim7",
            "no stride takes exactly 7 of 10 steps",
        ),
        (
            "generate --network {ddpm} --outdir {out} --seeds 0 --timestep_respacing 5 --steps 5",
            "num_steps and respacing are both given",
        ),
        ("generate --network {net} --outdir {out} --seeds 0 --use_ddim 1", "--use_ddim means"),
        (
            "generate --network {net} --outdir {out} --seeds 0 --timestep_respacing 5",
            "--timestep_respacing means nothing",
        ),
        (
            "generate --network {vae} --outdir {out} --seeds 0 --discriminator_ckpt {pixel_head}",
            "--discriminator_ckpt means nothing",
        ),
        (
            "fid nll --network {ddpm} --data digits:heldout --solver rk45",
            "--solver means nothing for a DDPM",
        ),
        (
            "fid nll --network {vae} --data digits:heldout --steps 3",
            "--steps means nothing for a VAE",
        ),
        (
            "fid nll --network {net} --data digits:heldout --importance_samples 3",
            "--importance_samples means nothing for a score",
        ),
        (
            "fid nll --network {ddpm} --data digits:heldout --num_samples 1 --steps 11",
            "asks for 11 of 10 steps",
        ),
        ("pretrain ddpm --preset digits-ddpm --data {vae} --outdir {out}", "npz"),
        ("pretrain vae --data digits:train --outdir {out}", "Missing option '--preset'"),
    ],
)
def test_what_does_not_fit_is_one_line(at, command, told):
    done = run(command, **at)
    assert done.code == 2 and told in done.err and len(done.lines) == 1, done.err
    assert not list(at["tmp"].glob("out/*.npz"))


def test_presets_are_those_of_the_library():
    import pretrain
    from dg.pretraining.presets import DDPM_PRESETS, VAE_PRESETS

    for name, presets in (("ddpm", DDPM_PRESETS), ("vae", VAE_PRESETS)):
        choices = next(
            option for option in pretrain.main.commands[name].params if option.name == "preset"
        ).type.choices
        assert [*choices] == [*presets]
