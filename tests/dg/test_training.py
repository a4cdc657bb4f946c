"""Training of discriminators: the authors' steps first, then resume, data, measures, recipes, and
what is refused."""

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import edm
from dg.checkpoints import load_discriminator
from dg.data.datasets import ImageSet, load_images, to_float
from dg.discriminator import Discriminator, build_discriminator
from dg.extractors import ClassifierExtractor, PixelExtractor, ScoreExtractor
from dg.fingerprints import fingerprint
from dg.losses import LOSSES
from dg.recipes import PRESETS, DiscriminatorTraining
from dg.runtime.progress import silent
from dg.runtime.randomness import seeded, step_generator
from dg.training import Trainer, best_entry, train_discriminator
from dg.training_data import (
    check_sets,
    epoch_order,
    noise_level,
    noisy_batch,
    perturb,
    random_subset,
    split_sets,
)
from dg.training_metrics import binary_metrics, calibration_error, evaluate, predict
from guided_diffusion import create_classifier
from tests import golden_fill

ROOT = Path(__file__).parent.parent.parent


class TinyHead(nn.Module):
    """Enough to learn that generated images are darker."""

    def __init__(self, num_classes=0, dropout=0.0):
        super().__init__()
        self.num_classes, self.dropout = num_classes, dropout
        self.conv, self.leave = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4 + num_classes, 1)

    def forward(self, features, time, condition=None):
        h = F.silu(self.conv(features)).mean(dim=(2, 3))
        h = F.dropout(h, self.dropout, self.training)
        return self.leave(h if condition is None else torch.cat([h, condition], dim=1))


def tiny(num_classes=0, dropout=0.0):
    with seeded(3):
        return Discriminator(PixelExtractor(), [TinyHead(num_classes, dropout)])


def image_set(n, name="real", brightness=150, classes=None, size=8, channels=1, seed=0):
    rng = np.random.default_rng([seed, n, brightness])
    images = np.clip(rng.normal(brightness, 60, (n, size, size, channels)), 0, 255).astype(np.uint8)
    labels = None if classes is None else np.arange(n) % classes
    return ImageSet(images, labels, name, classes)


REAL, FAKE = image_set(80), image_set(80, "fake", 110)
SHORT = DiscriminatorTraining(epochs=3, batch_size=16, lr=1e-2, ema_halflife=64, eval_images=40)
MIXED = replace(PRESETS["authors-uncond"], epochs=3, batch_size=16, eval_images=40, lr=1e-2)


def train(folder, settings=SHORT, discriminator=None, real=REAL, fake=FAKE, **kwargs):
    discriminator = discriminator or tiny()
    return train_discriminator(discriminator, real, fake, settings, folder, **kwargs)


def files(folder):
    """What a training left, but for its state."""
    return {path.name: content(path) for path in Path(folder).iterdir() if path.name != "state.pt"}


def content(path):
    data = path.read_bytes()
    if path.suffix != ".safetensors":
        return data
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]  # the header's order may differ


# The authors' training, step by step --------------------------------------------------------------


def stack(config):
    """The authors' classifier and discriminator with synthetic weights."""
    classifier = golden_fill.fill(
        create_classifier(**config["classifier_kwargs"]), config["classifier_salt"]
    )
    head = golden_fill.fill(
        create_classifier(**config["discriminator_kwargs"]), config["discriminator_salt"]
    )
    return Discriminator(ClassifierExtractor(classifier), [head])


def relative(actual, expected):
    return np.abs(np.asarray(actual) - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("case", ["uncond", "cond"])
def test_steps_of_the_authors(case):
    arrays, config = golden_fill.load(f"f_train_{case}")
    discriminator = stack(config)
    settings = replace(PRESETS[f"authors-{case}"], batch_size=len(arrays["labels"][0]))
    trainer = Trainer(discriminator, settings)
    head, initial = trainer.head, [parameter.detach().clone() for parameter in trainer.parameters]
    for k in range(config["steps"]):
        targets, u, z = (torch.from_numpy(arrays[name][k]) for name in ("labels", "u", "z"))
        labels = torch.from_numpy(arrays["class_onehot"][k]) if settings.conditional else None
        batch = perturb(to_float(arrays["images_uint8"][k]), labels, targets, u, z, settings)
        np.testing.assert_allclose(_time(batch.sigma), arrays["t"][k], rtol=2e-6)
        if k == 0:
            features, _ = discriminator.extractor(batch.x, batch.sigma)
            assert relative(features[:, ::16], arrays["features_step0_slice"]) <= 2e-5
        with torch.no_grad():
            logits = discriminator(batch.x, batch.sigma, batch.labels)
        np.testing.assert_allclose(logits.sigmoid(), arrays["prediction"][k], atol=2e-6)
        values = trainer.step(batch)
        assert values["loss"].item() == pytest.approx(arrays["loss"][k], abs=1e-6)
        assert values["accuracy"].item() == arrays["correct_rate"][k]
        norm = math.sqrt(
            sum(parameter.grad.square().sum().item() for parameter in head.parameters())
        )
        assert norm == pytest.approx(arrays["grad_global_norm"][k], rel=1e-4)
        if k == 0:
            largest = max(parameter.grad.abs().max().item() for parameter in head.parameters())
            checked = [
                name.removeprefix("grad0:") for name in arrays.files if name.startswith("grad0:")
            ]
            assert len(checked) == 3
            for name in checked:
                difference = (
                    head.get_parameter(name).grad.flatten()[:512].numpy() - arrays[f"grad0:{name}"]
                )
                assert np.abs(difference).max() <= 1e-5 * largest, name
    moved = {
        name: (parameter.detach() - old).abs().sum().item()
        for (name, parameter), old in zip(head.named_parameters(), initial, strict=True)
    }
    for name, expected in zip(arrays["param_names"], arrays["final_sum_abs_delta"], strict=True):
        # Keys have no gradient but rounding noise, and Adam's first steps take its sign.
        if not name.endswith(("qkv.bias", "qkv_proj.bias")):
            assert moved[name] == pytest.approx(expected, rel=1e-3), name
        if f"final:{name}" in arrays.files:
            final = head.get_parameter(name).detach().flatten()[:2048].numpy()
            assert np.abs(final - arrays[f"final:{name}"]).max() <= 2e-5, name


def _time(sigma):
    from dg import vp

    return vp.from_sigma(sigma)[0].numpy()


def test_cross_entropy_of_logits_is_the_authors_loss_of_probabilities():
    logits, targets = torch.linspace(-12, 12, 49), (torch.arange(49) % 2).float()
    ours = F.binary_cross_entropy_with_logits(logits, targets)
    # 1 - p rounds
    torch.testing.assert_close(
        ours, F.binary_cross_entropy(logits.sigmoid(), targets), rtol=1e-3, atol=0
    )
    close = logits.abs() < 5
    torch.testing.assert_close(
        F.binary_cross_entropy_with_logits(logits[close], targets[close]),
        F.binary_cross_entropy(logits[close].sigmoid(), targets[close]),
        rtol=1e-5,
        atol=0,
    )


# Interrupted and gone on with ---------------------------------------------------------------------


class Stop(Exception):
    pass


def stop_after(n):
    def progress(iterable, **kwargs):
        for i, item in enumerate(iterable):
            if i == n:
                raise Stop
            yield item

    return progress


@pytest.fixture(scope="module")
def whole(request, tmp_path_factory):
    """(settings, the folder of a training with them that was never stopped)."""
    folder = tmp_path_factory.mktemp("whole")
    train(folder, request.param, tiny(dropout=0.3))
    return request.param, folder


@pytest.mark.parametrize(
    "whole",
    [SHORT, MIXED, replace(SHORT, flip=True, microbatch=6, loss="sobolev")],
    indirect=True,
)
@pytest.mark.parametrize("steps", [[1], [5], [8, 3]])
def test_a_stopped_run_goes_on_to_the_same_bytes(tmp_path, whole, steps):
    (settings, whole), parts = whole, tmp_path / "parts"
    for n in steps:  # 8 steps are an epoch of the first and the last
        with pytest.raises(Stop):
            train(parts, settings, tiny(dropout=0.3), progress=stop_after(n), save_seconds=0)
    again = tiny(dropout=0.3)
    log = train(parts, settings, again, save_seconds=0)
    assert files(parts) == files(whole) and len(log) == 3
    assert train(parts, settings, tiny(dropout=0.3)) == log, "a run that is done trains nothing"
    assert files(parts) == files(whole)


KILLED = """
import os, signal, sys
from tests.dg.test_training import SHORT, train
def progress(iterable, **kwargs):
    for i, item in enumerate(iterable):
        if i == 11:
            os.kill(os.getpid(), signal.SIGKILL)
        yield item
train(sys.argv[1], progress=progress, save_seconds=0)
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path):
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "killed")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "last.safetensors").exists()
    train(tmp_path / "killed")
    train(tmp_path / "whole")
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_a_run_of_other_settings_images_or_network_is_not_gone_on_with(tmp_path):
    train(tmp_path)
    with pytest.raises(ValueError, match="other settings"):
        train(tmp_path, replace(SHORT, lr=1e-3))
    changed = image_set(80, "fake", 111)
    with pytest.raises(ValueError, match="other generated images"):
        train(tmp_path, fake=changed)
    (tmp_path / "state.pt").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"state\.pt"):
        train(tmp_path)


def test_global_random_numbers_are_neither_used_nor_changed(tmp_path):
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    train(tmp_path / "a", discriminator=tiny(dropout=0.5))
    assert (
        torch.equal(torch.get_rng_state(), before[0])
        and (np.random.get_state()[1] == before[1]).all()
    )
    torch.manual_seed(2)
    train(tmp_path / "b", discriminator=tiny(dropout=0.5))
    assert files(tmp_path / "a") == files(tmp_path / "b")


# What is trained ----------------------------------------------------------------------------------


def test_training_learns_and_keeps_the_best_and_the_last(tmp_path):
    discriminator = tiny()
    log = train(tmp_path, replace(SHORT, epochs=6, keep_every=2), discriminator)
    assert log[-1]["valid_loss"] < 0.64 and log[-1]["valid_auc"] > 0.7
    assert [entry["step"] for entry in log] == [8 * k for k in range(1, 7)]
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == log
    names = {"best", "last", "epoch_002", "epoch_004", "epoch_006"}
    assert {path.stem for path in tmp_path.glob("*.safetensors")} == names
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["best"]["epoch"] == best_entry(log)["epoch"] and summary["last"]["epoch"] == 6
    assert (
        0 <= summary["best"]["test"]["precision"] <= 1
        and 0 <= summary["best"]["test"]["recall"] <= 1
    )
    assert summary["last"]["valid"]["loss"] == log[-1]["valid_loss"]


def test_the_average_follows_the_head_by_its_half_life():
    trainer = Trainer(tiny(), replace(SHORT, ema_halflife=8, ema_rampup=0.0))
    start = [value.clone() for value in trainer.average]
    trainer.step(_batch(SHORT))  # 16 images, two half-lives
    current = [parameter.detach().clone() for parameter in trainer.parameters]
    for value, old, new in zip(trainer.average, start, current, strict=True):
        torch.testing.assert_close(value, old + 0.75 * (new - old))
    with trainer.averaged():
        torch.testing.assert_close(trainer.parameters[0].detach(), trainer.average[0])
    torch.testing.assert_close(trainer.parameters[0].detach(), current[0])


def test_cosine_rate_falls_to_zero():
    trainer = Trainer(tiny(), replace(SHORT, lr_schedule="cosine", lr=1.0))
    batch = _batch(SHORT)
    rates = []
    for index in (0, 5, 10):
        trainer.step(batch, index, 10)
        rates.append(trainer.stepper.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1.0, 0.5, 0.0])


def _batch(settings, real=REAL, fake=FAKE, n=16):
    split = split_sets(real, fake, settings)[0]
    return noisy_batch(
        split, epoch_order(split, settings, 0)[0][:n], settings, step_generator(0, "test", 0)
    )


@pytest.mark.parametrize("loss", ["bce", "sobolev"])
def test_a_batch_in_parts_gives_the_same_gradient(loss):
    gradients = []
    for microbatch in (None, 3):
        trainer = Trainer(tiny(), replace(SHORT, microbatch=microbatch, loss=loss))
        values = trainer.step(_batch(SHORT))
        gradients.append(
            [values["loss"], values["accuracy"], *(p.grad for p in trainer.parameters)]
        )
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def limited(most):
    """Cross-entropy of a batch of at most so many images."""

    def loss(discriminator, batch, weight, net):
        if len(batch.x) > most:
            raise torch.OutOfMemoryError("tried to allocate\nmuch")
        return LOSSES["bce"](discriminator, batch, weight, net)

    return loss


def test_batches_that_do_not_fit_into_memory_are_cut_and_the_log_says_so(tmp_path, monkeypatch):
    whole = train(tmp_path / "whole")
    monkeypatch.setattr("dg.training.LOSSES", {"bce": limited(5)})
    cut = train(tmp_path / "cut")
    assert [entry.pop("microbatch") for entry in cut] == [4] * len(cut), "16 images at 5 or fewer"
    for one, other in zip(whole, cut, strict=True):
        assert other["train_loss"] == pytest.approx(one["train_loss"], rel=1e-4)
    monkeypatch.setattr("dg.training.LOSSES", {"bce": limited(0)})
    with pytest.raises(ValueError, match="the memory of the GPU does not suffice for one image"):
        train(tmp_path / "none")


def test_early_stopping(tmp_path):
    # a rate that soon overshoots
    settings = replace(SHORT, epochs=40, patience=2, lr=1.0, ema_halflife=0)
    log = train(tmp_path, settings)
    assert len(log) < 40 and len(log) - best_entry(log)["epoch"] == 2
    assert train(tmp_path, settings, tiny()) == log


def test_bfloat16_stays_near(tmp_path):
    train(tmp_path / "a")
    log = train(tmp_path / "b", replace(SHORT, precision="bfloat16"))
    exact = json.loads((tmp_path / "a" / "log.jsonl").read_text().splitlines()[-1])
    assert (
        log[-1]["valid_loss"] == pytest.approx(exact["valid_loss"], abs=0.02) and log[-1] != exact
    )


def test_a_loss_that_is_not_finite_is_said(tmp_path):
    discriminator = tiny()
    with torch.no_grad():
        discriminator.heads[0].leave.bias.fill_(math.nan)
    with pytest.raises(ValueError, match="not finite at step 1"):
        train(tmp_path, discriminator=discriminator)
    assert not list(tmp_path.glob("*.safetensors"))


def test_tensorboard_is_optional(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match="pip install tensorboard"):
        train(tmp_path, tensorboard=True)
    written = []

    class Writer:
        def __init__(self, folder, purge_step):
            written.append((Path(folder).name, purge_step))

        def add_scalar(self, name, value, step):
            written.append((name, step))

        def flush(self):
            pass

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", type(sys)("stand-in"))
    sys.modules["torch.utils.tensorboard"].SummaryWriter = Writer
    train(tmp_path, tensorboard=True)
    assert (
        written[0] == ("tensorboard", 0)
        and ("valid/loss", 8) in written
        and ("train/auc", 24) in written
    )


# Images and noise ---------------------------------------------------------------------------------


def test_splits_are_disjoint_complete_and_fixed_by_the_seed():
    counting = [
        ImageSet(np.arange(n, dtype=np.uint8).reshape(n, 1, 1, 1), None, name)
        for n, name in ((50, "a"), (70, "b"))
    ]
    splits = split_sets(*counting, replace(SHORT, split=(0.5, 0.3, 0.2), unequal=True))
    assert [(split.num_real, split.num_fake) for split in splits] == [(25, 35), (15, 21), (10, 14)]
    for kind, n in ((0, 50), (1, 70)):
        found = [
            split.images[: split.num_real] if kind == 0 else split.images[split.num_real :]
            for split in splits
        ]
        assert sorted(torch.cat(found).flatten().tolist()) == list(range(n))
    again, other = (
        split_sets(*counting, replace(SHORT, unequal=True, seed=seed))[0].images for seed in (0, 1)
    )
    assert torch.equal(again, split_sets(*counting, replace(SHORT, unequal=True))[0].images)
    assert not torch.equal(again, other)


def test_balanced_batches_are_half_real_and_pass_over_the_larger_set():
    # 32 real, 80 generated
    split = split_sets(image_set(40), image_set(100), replace(SHORT, unequal=True))[0]
    order = epoch_order(split, SHORT, 0)
    assert order.shape == (10, 16) and ((order < 32).sum(dim=1) == 8).all()
    assert sorted(order[:, 8:].flatten().tolist()) == list(range(32, 112))
    counts = torch.bincount(order[:, :8].flatten(), minlength=32)
    assert counts.min() == 2 and counts.max() == 3, "the smaller set is passed over again and again"
    assert not torch.equal(order, epoch_order(split, SHORT, 1))


def test_mixed_batches_come_from_one_shuffled_set_and_drop_the_rest():
    split = split_sets(image_set(41), image_set(41), MIXED)[0]
    order = epoch_order(split, MIXED, 0)
    assert order.shape == (5, 16) and len(order.unique()) == 80
    assert len({(row < 41).sum().item() for row in order}) > 1


def test_flips_mirror_images_and_nothing_else():
    settings = replace(SHORT, flip=True)
    plain, flipped = _batch(SHORT), _batch(settings)
    same = (plain.clean == flipped.clean).flatten(1).all(dim=1)
    assert 0 < same.sum() < len(same)
    assert torch.equal(plain.clean.flip(-1)[~same], flipped.clean[~same])
    assert torch.equal(plain.sigma, flipped.sigma)


@pytest.mark.parametrize("sampling", ["importance", "uniform", "lognormal"])
def test_noise_levels(sampling):
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    sigma = noise_level(u, replace(SHORT, time_sampling=sampling, time_min=0.01))
    assert sigma.dtype == torch.float64 and (sigma.diff() > 0).all()
    if sampling == "lognormal":
        assert sigma.log().mean() == pytest.approx(-1.2) and sigma.log().std() == pytest.approx(
            1.2, rel=0.01
        )
    else:
        assert _time(sigma)[0] >= 0.01 and _time(sigma)[-1] <= 1


def test_perturbed_images_have_the_noise_they_say():
    batch = _batch(SHORT, image_set(2000), image_set(2000, "fake", 110), 16)
    z = (batch.x - batch.clean) / batch.sigma.float().reshape(-1, 1, 1, 1)
    assert z.std() == pytest.approx(1, abs=0.05)
    assert batch.clean.min() >= -1 and batch.targets.tolist() == [1.0] * 8 + [0.0] * 8


def test_labels_stay_with_their_images_when_sets_are_cut():
    real, fake = (image_set(90, name, classes=10) for name in ("real", "fake"))
    for data in (real, fake):  # the brightness tells the class
        data.images[:] = (data.labels * 20)[:, None, None, None]
    settings = replace(SHORT, conditional=True)
    for split in split_sets(real.take(57), fake.take(57), settings):
        index = torch.arange(len(split.images))
        images, labels, _ = split.batch(index)
        np.testing.assert_allclose(
            (images[:, 0, 0, 0] + 1) * 127.5 / 20, labels.argmax(dim=1), atol=1e-4
        )
        assert labels.shape[1] == 10


def test_new_samples_under_an_old_name_are_seen(tmp_path):
    log = []
    for k, brightness in enumerate((110, 150)):
        np.savez(
            tmp_path / "samples.npz",
            samples=image_set(80, brightness=brightness, seed=k + 1).images,
        )
        log.append(train(tmp_path / f"run{k}", fake=load_images(tmp_path / "samples.npz"))[-1])
    assert log[0]["valid_auc"] > 0.7 > log[1]["valid_auc"]


def test_sixty_four_pixels_train_at_the_time_they_are_sampled_at():
    _, config = golden_fill.load("d_grad64_uncond")
    classifier = golden_fill.fill(
        create_classifier(**config["classifier_kwargs"]), config["classifier_salt"]
    )
    head = golden_fill.fill(
        create_classifier(**config["discriminator_kwargs"]), config["discriminator_salt"]
    )
    discriminator = Discriminator(ClassifierExtractor(classifier, "cosine"), [head])
    settings = replace(MIXED, conditional=False)
    data = [image_set(16, name, size=64, channels=3) for name in ("real", "fake")]
    batch = _batch(settings, *data, n=2)
    trainer = Trainer(discriminator, replace(settings, batch_size=2))
    seen = []
    for module in (classifier, head):
        module.register_forward_pre_hook(
            lambda module, args: seen.append(args[1].detach().double())
        )
    trainer.step(batch)
    assert len(seen) == 2 and torch.equal(seen[0], seen[1])
    from dg import vp

    torch.testing.assert_close(seen[0], vp.cosine_time(vp.from_sigma(batch.sigma)[0]))


# Measures -----------------------------------------------------------------------------------------


def test_measures_by_hand():
    logits, targets = np.array([2.0, -1.0, 1.0, -2.0]), np.array([1.0, 1.0, 0.0, 0.0])
    found = binary_metrics(logits, targets)
    assert (
        found["accuracy"] == 0.5
        and found["precision"] == 0.5
        and found["recall"] == 0.5
        and found["auc"] == 0.75
    )
    assert found["loss"] == pytest.approx(
        F.binary_cross_entropy_with_logits(*map(torch.tensor, (logits, targets))).item()
    )
    alone = binary_metrics(np.array([-1.0, -2.0]), np.array([0.0, 0.0]))
    assert (
        alone["auc"] is None
        and alone["precision"] is None
        and alone["recall"] is None
        and alone["accuracy"] == 1
    )


def test_calibration_error_of_calibrated_and_overconfident_logits():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1, 40_000)
    real = rng.random(40_000) < 1 / (1 + np.exp(-logits))
    assert calibration_error(logits, real) < 0.01
    assert calibration_error(3 * logits, real) > 0.1


def test_calibration_error_of_a_constant_answer_does_not_depend_on_the_order():
    real = np.repeat([1.0, 0.0], 100)
    assert calibration_error(np.zeros(200), real) == pytest.approx(0, abs=1e-12)
    assert calibration_error(np.full(200, 50.0), real) == pytest.approx(0.5)


def test_evaluation_sees_the_same_noise_at_every_call_at_all_levels():
    discriminator, split = tiny().eval(), split_sets(REAL, FAKE, SHORT)[1]
    settings = replace(SHORT, eval_images=5000)  # but 8 images of each kind with 20 noises
    first = evaluate(discriminator, split, settings)
    assert evaluate(discriminator, split, settings) == first
    assert len(first["levels"]) == 5 and sum(level["n"] for level in first["levels"]) == 320
    _, targets, sigma = predict(discriminator, split, settings)
    for kind in (0, 1):
        expected = noise_level((torch.arange(160, dtype=torch.float64) + 0.5) / 160, settings)
        assert (
            np.abs(np.log(np.sort(sigma[targets == kind])[20:-20] / expected.numpy()[20:-20]))
        ).max() < 0.15


# Recipes ------------------------------------------------------------------------------------------


def test_the_authors_recipe_keeps_every_epoch_and_knows_no_best(tmp_path):
    log = train(tmp_path, MIXED)
    assert {path.stem for path in tmp_path.glob("*.safetensors")} == {
        "last",
        "epoch_001",
        "epoch_002",
        "epoch_003",
    }
    assert "valid_loss" not in log[-1] and best_entry(log) is log[-1]
    assert "best" not in json.loads((tmp_path / "summary.json").read_text())


def test_published_recipes():
    authors = PRESETS["authors-uncond"]
    assert (authors.epochs, authors.batch_size, authors.lr, authors.weight_decay) == (
        60,
        128,
        3e-4,
        1e-7,
    )
    assert (authors.time_sampling, authors.time_min, authors.split) == (
        "importance",
        1e-5,
        (1.0, 0.0, 0.0),
    )
    assert PRESETS["authors-cond"] == replace(authors, epochs=250, conditional=True)
    assert [PRESETS[f"kth-d{k}"].epochs for k in range(6)] == [60, 40, 40, 40, 40, 200]
    assert PRESETS["kth-d2"].time_min == 0.01 and PRESETS["kth-d3"].weight_decay == 1e-3
    assert [PRESETS[f"lora-{rank}"].lora_rank for rank in (16, 128)] == [16, 128]


# A classifier, LoRA -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classifier_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("classifier") / "classifier.pt"
    classifier = create_classifier(
        image_size=8, in_channels=1, out_channels=10, classifier_width=64, classifier_depth=1
    )
    torch.save(golden_fill.fill(classifier).state_dict(), path)
    return path


CLASSES = [
    image_set(40, name, brightness, 4) for name, brightness in (("real", 150), ("fake", 110))
]
LORA = replace(SHORT, epochs=2, lora_rank=2, lr=3e-3, eval_images=10)


def on_classifier(path, conditional=False):
    return build_discriminator("classifier", CLASSES[0], None, path, conditional, 64)


@pytest.mark.slow
def test_lora_is_trained_saved_beside_the_head_and_gone_on_with(tmp_path, classifier_path):
    discriminator = on_classifier(classifier_path)
    train(tmp_path / "whole", LORA, discriminator, *CLASSES)
    with pytest.raises(Stop):
        train(
            tmp_path / "parts",
            LORA,
            on_classifier(classifier_path),
            *CLASSES,
            progress=stop_after(3),
            save_seconds=0,
        )
    train(tmp_path / "parts", LORA, on_classifier(classifier_path), *CLASSES)
    assert files(tmp_path / "whole") == files(tmp_path / "parts")
    assert {"best", "last", "lora_best", "lora_last"} == {
        path.stem for path in (tmp_path / "whole").glob("*.safetensors")
    }
    loaded = load_discriminator(
        classifier_path,
        tmp_path / "whole" / "last.safetensors",
        lora_path=tmp_path / "whole" / "lora_last.safetensors",
    )
    x, sigma = torch.randn(3, 1, 8, 8), torch.tensor([0.1, 1.0, 5.0])
    discriminator.eval()
    torch.testing.assert_close(loaded(x, sigma), discriminator(x, sigma), rtol=1e-4, atol=1e-5)
    without = Discriminator(on_classifier(classifier_path).extractor, loaded.heads)
    assert (without(x, sigma) - loaded(x, sigma)).abs().max() > 1e-4, (
        "the adapter has learned something"
    )


def score_network(salt="", label_dim=0):
    small = dict(model_channels=8, channel_mult=[1, 2], num_blocks=1, attn_resolutions=[])
    net = edm.EDMPrecond(8, 1, label_dim, model_type="SongUNet", dropout=0.5, **small)
    return golden_fill.fill(net, salt)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "rank", "loss"),
    [("finetuned", 0, "bce"), ("finetuned", 0, "matching"), ("score", 2, "matching")],
)
def test_the_score_networks_encoder_is_trained_in_a_copy(tmp_path, kind, rank, loss):
    settings, net = replace(LORA, lora_rank=rank, loss=loss), score_network()
    before, whole, parts = fingerprint(net), tmp_path / "whole", tmp_path / "parts"

    def run(folder, net=net, **how):
        discriminator = build_discriminator(kind, REAL, net)
        train(folder, settings, discriminator, net=net, **how)
        return discriminator

    trained = run(whole)
    with pytest.raises(Stop):
        run(parts, progress=stop_after(3), save_seconds=0)
    run(parts)
    assert files(whole) == files(parts) and fingerprint(net) == before
    with pytest.raises(ValueError, match="network"):
        run(parts, score_network("other:"))

    lora = whole / "lora_last.safetensors"
    assert lora.exists() == (rank > 0)
    given = dict(net=net, lora_path=lora) if rank else {}
    loaded = load_discriminator(None, whole / "last.safetensors", **given)
    x, sigma = torch.randn(3, 1, 8, 8), torch.tensor([0.1, 1.0, 5.0])
    torch.testing.assert_close(loaded(x, sigma), trained(x, sigma), rtol=1e-4, atol=1e-5)
    head = loaded.heads[0] if rank else loaded.heads[0].head
    frozen = Discriminator(ScoreExtractor(net), [head])
    assert (frozen(x, sigma) - loaded(x, sigma)).abs().max() > 1e-4, "the encoder has learned"
    assert not loaded.shares_encoder(net)
    if rank:
        with pytest.raises(ValueError, match="a LoRA of the extractor score; give that file"):
            load_discriminator(None, whole / "last.safetensors", net)


def test_classes_of_the_encoder_are_those_of_the_training(tmp_path):
    net = score_network(label_dim=4)
    with pytest.raises(ValueError, match="train a conditional discriminator"):
        train(tmp_path, discriminator=build_discriminator("finetuned", REAL, net))
    conditional = replace(LORA, lora_rank=0, epochs=1, conditional=True)
    discriminator = build_discriminator("finetuned", CLASSES[0], net, conditional=True)
    train(tmp_path, conditional, discriminator, *CLASSES)
    x, sigma, labels = torch.randn(4, 1, 8, 8), torch.ones(4), torch.eye(4)
    assert not torch.equal(discriminator(x, sigma, labels), discriminator(x, sigma, labels.roll(1)))


def test_conditional_training_on_a_classifier(tmp_path, classifier_path):
    settings = replace(LORA, lora_rank=0, epochs=1)
    log = train(
        tmp_path, settings, on_classifier(classifier_path, True), *CLASSES, conditional=True
    )
    assert np.isfinite(log[-1]["valid_loss"])
    assert load_discriminator(classifier_path, tmp_path / "best.safetensors").conditional


# Refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(split=(0.5, 0.5, 0.5)), "fractions of sum 1"),
        (dict(split=(0.0, 0.5, 0.5)), "the first above 0"),
        (dict(batch_size=15), "odd"),
        (dict(microbatch=0), "microbatch is 0"),
        (dict(precision="half"), "float32 or bfloat16 or float16"),
        (dict(loss="mse"), "bce or matching or sobolev"),
        (dict(batches="half"), "balanced or mixed"),
        (dict(time_sampling="edm"), "lognormal"),
        (dict(split=(1, 0, 0), patience=3), "validation"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        replace(SHORT, **changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "real, fake, changes, message",
    [
        (image_set(80), image_set(60, "fake"), {}, "take 60 of both"),
        (image_set(80), image_set(80, "fake", size=16), {}, "16 pixels"),
        (image_set(80), image_set(80, "fake", channels=3), {}, "3 channels"),
        (image_set(6), image_set(6, "fake"), {}, "fewer than half a batch"),
        (
            image_set(12),
            image_set(12, "fake"),
            dict(split=(0.98, 0.01, 0.01)),
            "too few for the split",
        ),
        (image_set(80), image_set(80, "fake"), dict(conditional=True), "real: has no class labels"),
        (
            image_set(80, classes=3),
            image_set(80, "fake", classes=4),
            dict(conditional=True),
            "label 3",
        ),
    ],
)
def test_sets_that_do_not_fit_are_refused_before_training(tmp_path, real, fake, changes, message):
    settings = replace(SHORT, **changes)
    with pytest.raises(ValueError, match=message) as error:
        check_sets(real, fake, settings)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=message):
        train_discriminator(tiny(), real, fake, settings, tmp_path / "none", progress=silent)
    assert not (tmp_path / "none").exists()


def test_fewer_classes_among_the_generated_images_are_no_fault():
    check_sets(
        image_set(80, classes=4), image_set(80, "fake", classes=3), replace(SHORT, conditional=True)
    )


def test_networks_that_do_not_fit_are_refused(tmp_path, classifier_path):
    with pytest.raises(ValueError, match="classifier takes 8 pixels"):
        train(
            tmp_path,
            discriminator=on_classifier(classifier_path),
            real=image_set(80, size=16),
            fake=image_set(80, size=16),
        )
    with pytest.raises(ValueError, match="make both alike"):
        train(
            tmp_path,
            replace(SHORT, conditional=True),
            real=image_set(80, classes=3),
            fake=image_set(80, classes=3),
        )
    with pytest.raises(ValueError, match="LoRA adapts a frozen network, but the extractor none"):
        train(tmp_path, replace(SHORT, lora_rank=4))
    with pytest.raises(ValueError, match="give that network"):
        train(tmp_path, replace(SHORT, loss="matching"))


# Published command lines --------------------------------------------------------------------------


@pytest.fixture
def published(tmp_path, monkeypatch, classifier_path):
    """A folder as the published commands expect it; what they name by absolute paths lies in it."""
    (tmp_path / "data").mkdir()
    (tmp_path / "checkpoints" / "ADM_classifier").mkdir(parents=True)
    (tmp_path / "checkpoints" / "ADM_classifier" / "32x32_classifier.pt").write_bytes(
        classifier_path.read_bytes()
    )
    one_hot = np.eye(4)[CLASSES[0].labels]
    np.savez(tmp_path / "data" / "true_data_label.npz", samples=CLASSES[0].images, label=one_hot)
    (tmp_path / "samples" / "cifar_cond_vanilla").mkdir(parents=True)
    np.savez(
        tmp_path / "samples" / "cifar_cond_vanilla" / "samples_7.npz",
        samples=CLASSES[1].images,
        label=one_hot,
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(line):
    """Run train.py with the arguments of a command line in this process; returns what it says, or
    the text of its error."""
    from click.testing import CliRunner

    import train as script

    result = CliRunner().invoke(script.main, line.split(), catch_exceptions=True)
    return str(result.exception) if isinstance(result.exception, ValueError) else result.stderr


@pytest.mark.slow
def test_commands_of_the_authors_and_of_reproduction_a_run_as_they_stand(published):
    said = command(
        "--savedir=disc --gendir=/samples/cifar_cond_vanilla --datadir=/data/true_data_label.npz "
        "--epoch=1 --cond=1 --img_resolution=8 --batch_size=16 --num_workers=4 --lr=3e-4 --wd=1e-7 "
        "--num_data=40 --device=cpu "
        "--pretrained_classifier_ckpt=/checkpoints/ADM_classifier/32x32_classifier.pt "
        "--eval_images 20 --width 64"
    )
    assert (
        "taking data/true_data_label.npz in the current folder" in said
        and "best.safetensors: epoch 1" in said
    )
    assert {path.name for path in (published / "disc").iterdir()} == {
        "best.safetensors",
        "last.safetensors",
        "curves.png",
        "log.jsonl",
        "state.pt",
        "summary.json",
        "training.json",
    }
    said = command(
        "--sample_dir samples/cifar_cond_vanilla --data data/true_data_label.npz --save_dir lora "
        "--n_epochs 1 --width 64 --eval_images 20 --lora_rank 2 --conditional 0 --batch_size 16 "
        "--split 0.5,0.25,0.25"
    )
    assert (published / "lora" / "lora_best.safetensors").exists() and "valid loss" in said


@pytest.mark.parametrize(
    ("options", "microbatch", "precision"),
    [
        ({}, None, "float32"),
        ({"accumulate": 1, "bf16": False}, None, "float32"),
        ({"accumulate": 3, "bf16": True, "batch_size": 16}, 6, "bfloat16"),
        ({"microbatch": 4, "lr": None}, 4, "float32"),
    ],
)
def test_parts_and_precision_of_a_command(options, microbatch, precision):
    import train as script

    settings = script._settings("digits", **{"accumulate": None, "bf16": None} | options)
    assert (settings.microbatch, settings.precision) == (microbatch, precision)
    kept = dict(microbatch=None, precision="float32", batch_size=128)
    assert replace(settings, **kept) == PRESETS["digits"]


def test_a_command_that_cannot_be_done_is_refused_in_one_line(published):
    usual = "--gendir samples/cifar_cond_vanilla --datadir data/true_data_label.npz "
    usual += "--savedir disc --batch_size 16 "
    for more, message in (
        ("--img_resolution 32", "has images of 8 pixels"),
        ("--split 0.5", "fractions"),
        ("--split a,b", "no list of numbers"),
        ("--loss matching", "--network"),
        ("--accumulate 17", "--accumulate 17, but a batch has 16 images"),
        ("--accumulate 2 --microbatch 8", "--accumulate and --microbatch are both given"),
        ("--extractor none --lora_rank 2", "--lora_rank needs a frozen extractor"),
        ("--extractor finetuned", "the extractor finetuned starts from a score network"),
        ("--num_data 41", "--num_data: "),
        ("--lora_rank 99999", "rank"),
        ("--pretrained_classifier_ckpt nothing.pt", "nothing.pt"),
    ):
        error = command(usual + more)
        assert message in error and "\n" not in error.rpartition("Error: ")[2].strip(), more
        assert not list((published / "disc").glob("*.safetensors"))
    (published / "checkpoints" / "ADM_classifier" / "32x32_classifier.pt").unlink()
    assert "the features for the head are missing" in command(usual)


def test_a_part_of_a_sorted_set_holds_every_class():
    images = image_set(100)
    by_class = replace(images, labels=np.repeat(np.arange(10), 10), num_classes=10)
    part = random_subset(by_class, 50, seed=0)
    assert len(part) == 50 and len(set(part.labels.tolist())) == 10
    assert np.array_equal(part.images, random_subset(by_class, 50, seed=0).images)
    assert random_subset(by_class, None, seed=0) is by_class
    with pytest.raises(ValueError, match="100 found"):
        random_subset(by_class, 101, seed=0)
