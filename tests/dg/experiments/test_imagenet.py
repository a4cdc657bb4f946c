"""The experiments on ImageNet from end to end: tiny models with random weights in the published
formats."""

import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from dg.checkpoints import trained_head
from dg.data.datasets import load_images
from dg.evaluation.features import load_extractor
from dg.evaluation.metrics import statistics
from dg.experiments import imagenet_report
from dg.experiments.imagenet import ImageNetRun, _run_shard, run
from dg.experiments.imagenet_report import text_table
from dg.experiments.imagenet_settings import SETTINGS
from dg.experiments.pipeline import Stages
from dg.models.dit import load_dit
from dg.runtime.catalogue import CATALOGUE
from dg.runtime.files import plain, read_json
from dg.runtime.progress import silent
from dg.sampling import describe
from guided_diffusion import EncoderUNetModel, create_classifier
from tests import golden_fill
from tests.dg.models.test_loading import unet
from tests.scripts import ROOT
from tests.scripts import run as run_script
from tests.tiny_adm import publish
from tests.tiny_dit import original_state

NEEDS_VAE = pytest.mark.diffusers
PIXELS = load_extractor("pixels")


@pytest.fixture(autouse=True)
def published(monkeypatch):
    publish(monkeypatch, 3)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Class folders of photographs, and the models' files by name."""
    folder, rng = tmp_path_factory.mktemp("imagenet"), np.random.default_rng(0)
    for i in range(24):
        path = folder / "train" / f"n{i % 3:02d}" / f"n{i % 3:02d}_{i}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = rng.integers(16, 50, 2)
        Image.fromarray(rng.integers(0, 256, [height, width, 3], dtype=np.uint8)).save(path)
    latent, pixel = (
        dict(
            image_size=size,
            model_channels=64,
            num_res_blocks=1,
            channel_mult=[1],
            attention_resolutions=[],
        )
        for size in (8, 8)
    )
    nets = {
        "adm": unet(num_classes=3),
        "adm-classifier": EncoderUNetModel(in_channels=3, out_channels=3, **pixel),
        "latent-classifier": EncoderUNetModel(in_channels=4, out_channels=3, **latent),
        "head": create_classifier(
            image_size=8, in_channels=64, out_channels=1, classifier_width=64, condition=True
        ),
    }
    for name, net in nets.items():
        torch.save(golden_fill.fill(net, gain=0.8).state_dict(), folder / f"{name}.pt")
    torch.save(original_state(num_classes=3), folder / "dit.pt")
    return folder


def reference(folder, size):
    """An npz as ADM's reference batches: some images, and statistics of more."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, [40, size, size, 3], dtype=np.uint8)
    mu, sigma = statistics(PIXELS(images)["features"].numpy())
    np.savez(folder / f"reference-{size}.npz", arr_0=images[:10], mu=mu, sigma=sigma)
    return str(folder / f"reference-{size}.npz")


def tiny(name, files):
    """The setting of that name on the tiny files: three steps, few images."""
    setting = SETTINGS[name]
    latents = setting.vae is not None
    if latents:
        from tests.tiny_vae import tiny_vae

        tiny_vae().save_pretrained(files / "vae")
    size = 16 if latents else 8
    changes = dict(
        network=str(files / ("dit.pt" if latents else "adm.pt")),
        vae=str(files / "vae") if latents else None,
        resolution=size,
        classifier=str(files / ("latent-classifier.pt" if latents else "adm-classifier.pt")),
        reference=reference(files, size),
        features="pixels",
        num_data=8,
        num_images=6,
        part=4,
        batch_size=2,
        fake=replace(setting.fake, num_steps=3),
        recipe=replace(
            setting.recipe, epochs=1, batch_size=4, split=(1.0, 0.0, 0.0), eval_images=8
        ),
    )
    systems = {
        key: replace(
            system,
            sampling=replace(system.sampling, num_steps=3),
            head=str(files / "head.pt") if key == "released" else system.head,
        )
        for key, system in setting.systems.items()
    }
    return replace(setting, systems=systems, **changes)


def experiment(name, files, shard=None):
    return ImageNetRun(
        name, tiny(name, files), files / "train", silent, lambda line: None, "cpu", shard
    )


BOTH = [pytest.param("imagenet-dit", marks=NEEDS_VAE), "imagenet-adm"]


@pytest.mark.slow
@pytest.mark.parametrize("name", BOTH)
def test_from_published_files_to_a_table(name, files, tmp_path, monkeypatch):
    if name == "imagenet-dit":
        pytest.importorskip("diffusers")
        # which a file does not show
        monkeypatch.setattr("dg.experiments.imagenet.load_model", partial(load_dit, num_heads=2))
    (tmp_path / "results").mkdir()
    outcome = run(
        experiment(name, files), tmp_path / "runs", tmp_path / "results", "python reproduce.py"
    )
    systems = SETTINGS[name].systems
    assert list(outcome["metrics"]) == list(systems)
    for metrics in outcome["metrics"].values():
        assert (
            metrics["fd"]["mean"] > 0
            and 0 <= metrics["precision"]["mean"] <= 1
            and metrics["recall"]["n"] == 1
        )
    images = {
        key: load_images(next((tmp_path / "runs").glob(f"sample-{key}-*")) / "all")
        for key in systems
    }
    for found in images.values():
        assert (
            len(found) == 6
            and found.num_classes <= 3
            and found.resolution == tiny(name, files).resolution
        )
    assert (images["guided"].images != images["unguided"].images).any(), (
        "guidance changes the images"
    )
    assert len(read_json(tmp_path / "results" / "results.json")["training"]["log"]) == 1
    table = text_table(outcome)
    assert all(system.title in table for system in systems.values())
    assert f"({3.18 if name == 'imagenet-adm' else 1.83})" in table, "published values stand beside"
    report = (tmp_path / "results" / "report.md").read_text()
    assert "not those of the published numbers" in report and "guided.png" in report
    told = []
    again = experiment(name, files)
    again.notify = told.append
    run(again, tmp_path / "runs", tmp_path / "results", "python reproduce.py")
    assert told and all("done before" in line for line in told)


def test_a_sweep_takes_the_stages_of_its_experiment(files, tmp_path, monkeypatch):
    stages = {}
    for name in ("imagenet-adm", "imagenet-adm-weights"):
        at = Stages(tmp_path)
        stages[name] = {stage.name: at.path(stage) for stage in experiment(name, files).plan()}
    adm, swept = stages.values()
    shared = {"real", "fake-images", "train", "reference"}
    assert {name for name in swept if swept[name] in adm.values()} == shared
    folders = []
    monkeypatch.setattr("dg.experiments.imagenet.run", lambda *told: folders.append(told[1:3]))
    command = "reproduce {} --data . --stage real --runs {{tmp}}/runs --results {{tmp}}/results"
    for name in stages:
        assert run_script(command.format(name), tmp=tmp_path).code == 0
    runs, results = zip(*folders, strict=True)
    assert set(runs) == {tmp_path / "runs" / "imagenet-adm"}
    assert list(results) == [tmp_path / "results" / name for name in stages]


def test_a_sweep_has_every_pair_of_weights_once():
    told = [
        (system.sampling.classifier_scale or 0.0, system.weight if system.head else 0.0)
        for system in SETTINGS["imagenet-adm-weights"].systems.values()
    ]
    assert sorted(told) == [(s, w) for s in (0.0, 0.5, 1.0) for w in (0.0, 1.0, 2.0, 4.0)]


def test_a_sweep_names_the_best_weights_by_both_measures():
    values = {"s0-w1": (7.0, 0.66), "s1-w0": (4.6, 0.52), "s1-w1": (3.25, 0.55)}
    systems = SETTINGS["imagenet-adm-weights"].systems
    outcome = {
        "settings": {"swept": True, "systems": {name: plain(systems[name]) for name in values}},
        "metrics": {
            name: {"fd": {"mean": fd}, "recall": {"mean": recall}}
            for name, (fd, recall) in values.items()
        },
        "extractor": {"name": "inception"},
    }
    assert imagenet_report.verdict(outcome) == (
        "FID is lowest with classifier 1, discriminator 1: FID 3.25, recall 0.55. Recall is "
        "highest with classifier 0, discriminator 1: FID 7, recall 0.66."
    )
    assert imagenet_report.shown(outcome) == ["s1-w1", "s0-w1"]
    outcome["settings"]["swept"] = False
    assert imagenet_report.shown(outcome) == list(values)


@pytest.mark.slow
def test_a_sweep_of_weights_reports(files, tmp_path):
    made = experiment("imagenet-adm-weights", files)
    systems = {name: made.setting.systems[name] for name in ("s0-w0", "s0-w4", "s1-w0", "s1-w4")}
    made.setting = replace(made.setting, systems=systems)
    (tmp_path / "results").mkdir()
    outcome = run(made, tmp_path / "runs", tmp_path / "results", "python reproduce.py")
    distances = {name: found["fd"]["mean"] for name, found in outcome["metrics"].items()}
    assert len(set(distances.values())) == 4, "both weights change the images"
    report = (tmp_path / "results" / "report.md").read_text()
    lowest = systems[min(distances, key=distances.get)]
    assert f"is lowest with {lowest.title}: " in report
    pictures = {path.stem for path in (tmp_path / "results").glob("*.png")} - {"curves"}
    assert pictures == set(imagenet_report.shown(outcome))


@pytest.mark.slow
def test_machines_take_parts_and_the_rest_is_made_afterwards(files, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(experiment("imagenet-adm", files), whole, tmp_path, "", only="sample-classifier")
    for i in (1, 0):
        assert (
            run(
                experiment("imagenet-adm", files, (i, 2)),
                parts,
                tmp_path,
                "",
                only="sample-classifier",
            )
            is None
        )
        (stage,) = parts.glob("sample-classifier-*")
        assert (stage / f"part-000{i}").is_dir() and not (stage / "done.json").exists()
        if i:
            assert not (stage / "part-0000").exists()
    shutil.rmtree(stage / "part-0001")  # a machine that was lost
    run(experiment("imagenet-adm", files), parts, tmp_path, "", only="sample-classifier")
    (expected,) = whole.glob("sample-classifier-*")
    assert stage.name == expected.name and (stage / "done.json").exists()
    for path in sorted(expected.glob("part-*/samples_*.npz")):
        assert path.read_bytes() == (stage / path.parent.name / path.name).read_bytes()


def test_networks_are_hashed_once_for_all_parts(files, tmp_path, monkeypatch):
    """They are gigabytes."""
    asked = []
    monkeypatch.setattr(
        "dg.experiments.imagenet.describe", lambda *args: asked.append(describe(*args)) or asked[-1]
    )
    monkeypatch.setattr("dg.sampling.describe", None)
    monkeypatch.setattr("dg.sampling.generate", lambda *args, **kwargs: None)
    experiment("imagenet-adm", files).make_images(tmp_path, {}, "classifier")
    assert len(asked) == 1 and "classifier" in asked[0]
    manifests = [
        read_json(path)["settings"] for path in sorted(tmp_path.glob("part-*/manifest.json"))
    ]
    assert manifests == [plain(asked[0])] * 2


def test_training_images_of_the_same_folder_name_are_told_apart(files, tmp_path):
    run(experiment("imagenet-adm", files), tmp_path / "runs", tmp_path, "", only="real")
    other = experiment("imagenet-adm", files)
    other.data = tmp_path / "elsewhere" / "train"
    shutil.copytree(files / "train", other.data)
    run(other, tmp_path / "runs", tmp_path, "", only="real")  # the same images
    next(other.data.rglob("*.JPEG")).unlink()
    assert other.plan()[0].settings == experiment("imagenet-adm", files).plan()[0].settings
    for only in (None, "real", "train", "sample-guided", "measure-guided"):
        with pytest.raises(
            ValueError,
            match=r"was made of other images than those of .*elsewhere/train; give those",
        ) as caught:
            run(other, tmp_path / "runs", tmp_path, "", only=only)
        assert "\n" not in str(caught.value)
    run(other, tmp_path / "runs", tmp_path, "", only="reference")  # needs none
    with pytest.raises(ValueError, match="there is no stage 'none'"):
        run(other, tmp_path / "runs", tmp_path, "", only="none")


@pytest.mark.parametrize("name", SETTINGS)
def test_training_images_without_labels_are_refused_before_anything_is_computed(name, tmp_path):
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (300, 300)).save(tmp_path / "flat" / "a.png")
    flat = ImageNetRun(name, SETTINGS[name], tmp_path / "flat", silent, None, "cpu")
    with pytest.raises(
        ValueError, match="flat: has no labels; give a folder with a sub-folder for each class"
    ):
        run(flat, tmp_path / "runs", tmp_path, "")
    assert [path.name for path in (tmp_path / "runs").glob("*/*")] == ["seconds.json"]


def test_latents_are_encoded_in_large_batches(files, tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr("dg.experiments.imagenet.load_vae", lambda *args: None)
    monkeypatch.setattr(
        "dg.experiments.imagenet.latent_store", lambda *args: sizes.append(args[-1])
    )
    monkeypatch.setattr("dg.experiments.imagenet.encode", lambda *args, **kwargs: None)
    dit = ImageNetRun(
        "", replace(SETTINGS["imagenet-dit"], vae=str(files)), files / "train", silent, None, "cpu"
    )
    dit.make_real(tmp_path, {})
    assert sizes == [256] and len(read_json(tmp_path / "pictures.json")["fingerprint"]) == 16


def test_the_head_of_lowest_validation_loss_guides(tmp_path):
    (tmp_path / "last.safetensors").touch()
    assert trained_head(tmp_path).name == "last.safetensors"
    (tmp_path / "best.safetensors").touch()
    assert trained_head(tmp_path).name == "best.safetensors"
    assert SETTINGS["imagenet-adm"].recipe.split[1], "keeps images for validation"


def test_shards_are_for_what_generates_and_wait_for_what_they_need(files, tmp_path):
    adm = experiment("imagenet-adm", files, (0, 2))
    for only, told in (
        (None, "parts are of a stage that generates"),
        ("train", "parts are of a stage that generates"),
        ("sample-guided", "needs train, which is not done; run train first"),
    ):
        with pytest.raises(ValueError, match=told):
            _run_shard(adm, Stages(tmp_path), adm.plan(), only)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", SETTINGS)
def test_the_published_settings_name_known_files_and_rows(name):
    setting = SETTINGS[name]
    named = [
        setting.network,
        setting.vae,
        setting.classifier,
        setting.reference,
        *(system.head for system in setting.systems.values() if system.head != "trained"),
    ]
    assert all(file in CATALOGUE for file in named if file)
    published = {
        row["system"]
        for row in read_json(ROOT / "stats" / "published.json")["rows"]
        if row["data"] == "imagenet-256"
    }
    assert {system.published for system in setting.systems.values()} - {None} <= published
    assert setting.recipe.conditional and all(
        system.sampling.num_steps == 250 for system in setting.systems.values()
    )


def test_the_cost_counts_both_passes_of_classifier_free_guidance_and_gradients():
    plan = {
        stage.name: stage.cost
        for stage in ImageNetRun("", SETTINGS["imagenet-dit"], "x", silent, None, "cpu").plan()
    }
    assert plan["sample-unguided"].evaluations == 50_000 * 250 and plan["train"].images == 0
    assert plan["sample-unguided"].gpu_hours == pytest.approx(
        2 * 50_000 * 250 * 2 * 114e9 / 50e12 / 3600
    )
    adm = {
        stage.name: stage.cost
        for stage in ImageNetRun("", SETTINGS["imagenet-adm"], "x", silent, None, "cpu").plan()
    }
    assert (
        adm["sample-unguided"].gpu_hours
        < adm["sample-classifier"].gpu_hours
        < adm["sample-guided"].gpu_hours
    )


def test_a_gradient_through_frozen_weights_costs_as_much_as_the_evaluation():
    from torch.utils.flop_counter import FlopCounterMode

    net = (
        EncoderUNetModel(
            in_channels=3,
            out_channels=3,
            image_size=8,
            model_channels=64,
            num_res_blocks=1,
            channel_mult=[1],
            attention_resolutions=[],
        )
        .eval()
        .requires_grad_(False)
    )
    counted = []
    for with_gradient in (False, True):
        with FlopCounterMode(display=False) as counter:
            logits = net(torch.zeros(1, 3, 8, 8, requires_grad=with_gradient), torch.zeros(1))
            if with_gradient:
                logits.sum().backward()
        counted.append(counter.get_total_flops())
    assert counted[1] == pytest.approx(2 * counted[0], rel=0.05)


def test_the_operations_are_those_of_the_networks():
    from torch._subclasses import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    from guided_diffusion import create_unet

    with FakeTensorMode():
        unet, classifier = create_unet("256x256_diffusion"), create_classifier(image_size=256)
        x, t, counted = torch.zeros(1, 3, 256, 256), torch.zeros(1), []
        for call in (
            lambda: unet(x, t, torch.zeros(1, dtype=torch.long)),
            lambda: classifier(x, t),
        ):
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                call()
            counted.append(counter.get_total_flops() / 2)
    network, gradient = SETTINGS["imagenet-adm"].operations
    assert counted == pytest.approx([network, gradient / 2], rel=0.01)


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("imagenet-dit", "needs the training images of ImageNet; give --data FOLDER"),
        ("imagenet-adm --data . --shard 2/2", "--shard 2/2: give I/N with I from 0 to N - 1"),
        ("imagenet-adm --data . --shard x", "--shard x: give I/N"),
        ("imagenet-adm --data . --profile smoke", "--profile means nothing for imagenet-adm"),
        (
            "imagenet-adm --data . --shard 0/2 --stage sample-guided --fresh",
            "--fresh would remove the images that other machines made",
        ),
        ("digits --shard 0/2", "--shard means nothing for digits"),
    ],
)
def test_what_does_not_fit_is_one_line(command, told):
    done = run_script("reproduce " + command)
    assert done.code == 2 and told in done.err and len(done.lines) == 1


@pytest.mark.parametrize("name", SETTINGS)
def test_gpus_may_round_to_tf32_as_the_authors_let_them(name, tmp_path, monkeypatch):
    holders = torch.backends.cuda.matmul, torch.backends.cudnn
    for holder in holders:
        monkeypatch.setattr(holder, "allow_tf32", False)
    done = run_script(
        f"reproduce {name} --data . --stage none --runs {{tmp}}/runs --results {{tmp}}/results",
        tmp=tmp_path,
    )
    assert done.code == 2 and "there is no stage 'none'" in done.err
    assert all(holder.allow_tf32 for holder in holders)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_cost_is_told_before_anything_is_loaded(name, tmp_path):
    done = run_script(f"reproduce {name} --data . --dry-run --runs {{tmp}}", tmp=tmp_path)
    assert (
        done.code == 0
        and "still to do" in done.out
        and "50 TFLOP/s" in done.out
        and f"sample-{list(SETTINGS[name].systems)[-1]}" in done.out
    )
