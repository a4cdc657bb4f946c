"""Training of score networks: exactly resumable, reproducible from the seed alone, with the average that is promised."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import edm
from dg.pretraining import SCORE_PRESETS, ScoreTraining, build_score_network, train_score_network
from dg.runtime.datasets import ImageSet, load_images, to_float
from dg.runtime.training_state import load_state

SMALL = dict(model_type="SongUNet", model_channels=8, channel_mult=[1], num_blocks=1, attn_resolutions=[], dropout=0.0)
QUICK = ScoreTraining(steps=50, batch_size=4, warmup_steps=5, ema_halflife=40)


def image_set(n=24, resolution=4, num_classes=3):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, [n, resolution, resolution, 1], dtype=np.uint8)
    return ImageSet(images, np.arange(n) % num_classes, "noise", num_classes)


def trained(settings, state_path=None, conditional=False, data=None, **kwargs):
    data = data or image_set()
    return train_score_network(build_score_network(data, SMALL, settings.seed, conditional), data, settings, state_path,
                               **kwargs)


def equal(a, b):
    a, b = (net if isinstance(net, dict) else net.state_dict() for net in (a, b))
    return all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def stopping_after(steps):
    def progress(iterable, **kwargs):
        for count, item in enumerate(iterable):
            if count == steps:
                raise KeyboardInterrupt
            yield item

    return progress


def test_an_interrupted_run_ends_like_one_that_never_stopped(tmp_path):
    settings = replace(QUICK, steps=60)
    whole, whole_log = trained(settings, tmp_path / "whole.pt", conditional=True)
    with pytest.raises(KeyboardInterrupt):
        trained(settings, tmp_path / "parts.pt", conditional=True, progress=stopping_after(55), save_seconds=0)
    assert load_state(tmp_path / "parts.pt")["step"] == 50
    torch.manual_seed(99)
    ranges = []

    def spy(iterable, **kwargs):
        ranges.append((list(iterable), kwargs["initial"], kwargs["total"]))
        return iterable

    parts, log = trained(settings, tmp_path / "parts.pt", conditional=True, progress=spy)
    assert ranges == [(list(range(50, 60)), 50, 60)], "only what is missing is trained, and the bar says so"
    assert log == whole_log and [entry["step"] for entry in log] == [50, 60]
    assert equal(parts, whole)
    states = [load_state(tmp_path / f"{name}.pt") for name in ("parts", "whole")]
    assert equal(states[0]["net"], states[1]["net"]) and not equal(states[0]["net"], whole)


def test_more_steps_continue_an_ended_run_and_fewer_do_not_rewind_it(tmp_path):
    whole, log = trained(replace(QUICK, steps=100))
    first, _ = trained(replace(QUICK, steps=50), tmp_path / "state.pt")
    for steps in (50, 20):
        again, _ = trained(replace(QUICK, steps=steps), tmp_path / "state.pt", progress=stopping_after(0))
        assert equal(again, first), "an ended run trains nothing more"
    longer, longer_log = trained(replace(QUICK, steps=100), tmp_path / "state.pt")
    assert equal(longer, whole) and longer_log == log and not equal(first, whole)


def test_dropout_is_drawn_from_the_seed_too():
    dropping = SMALL | {"dropout": 0.5, "label_dropout": 0.5}
    results = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        net = build_score_network(image_set(), dropping, 0, conditional=True)
        results.append(train_score_network(net, image_set(), replace(QUICK, steps=3))[0])
        assert torch.equal(torch.get_rng_state(), before)
    assert equal(*results)
    plain, _ = trained(replace(QUICK, steps=3), conditional=True)
    assert not equal(plain, results[0])


def test_a_conditional_network_needs_labels():
    with pytest.raises(ValueError, match="noise: has no labels"):
        build_score_network(replace(image_set(), labels=None, num_classes=None), SMALL, 0, conditional=True)


def test_a_state_of_another_run_is_refused(tmp_path):
    path, data = tmp_path / "state.pt", image_set()
    trained(replace(QUICK, steps=1), path)
    other = replace(data, images=255 - data.images)
    for what, network, settings, images in (
            ("settings", SMALL, replace(QUICK, lr=1e-3), data), ("settings", SMALL, replace(QUICK, seed=1), data),
            ("images", SMALL, QUICK, other), ("network", SMALL | {"model_channels": 16}, QUICK, data)):
        with pytest.raises(ValueError, match=f"of a run with other {what}; choose another folder") as caught:
            train_score_network(build_score_network(images, network, 0), images, settings, path)
        assert len(str(caught.value).splitlines()) == 1
    assert load_state(path)["step"] == 1


def test_the_seed_decides_and_the_global_random_numbers_are_left_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, log = trained(replace(QUICK, steps=10))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, again_log = trained(replace(QUICK, steps=10))
    other, _ = trained(replace(QUICK, steps=10, seed=1))
    assert equal(first, again) and log == again_log and not equal(first, other)


def test_initial_weights_depend_on_their_seed_alone():
    torch.manual_seed(1)
    first = build_score_network(image_set(), SMALL, 5)
    torch.manual_seed(2)
    assert equal(build_score_network(image_set(), SMALL, 5), first)
    assert not equal(build_score_network(image_set(), SMALL, 6), first)


def test_a_network_takes_its_shape_from_the_data():
    net = build_score_network(image_set(resolution=8), SMALL | {"sigma_data": 0.75}, 0, conditional=True)
    assert (net.img_resolution, net.img_channels, net.label_dim, net.sigma_data) == (8, 1, 3, 0.75)
    assert build_score_network(image_set(), SMALL, 0).label_dim == 0
    network, settings = SCORE_PRESETS["digits"]
    digits = build_score_network(load_images("digits:train"), network, settings.seed)
    assert (digits.img_resolution, digits.img_channels) == (8, 1)


def test_the_result_is_the_frozen_average_and_the_network_goes_on_living():
    net = build_score_network(image_set(), SMALL, 0)
    average, _ = train_score_network(net, image_set(), replace(QUICK, steps=5))
    assert not average.training and not any(p.requires_grad for p in average.parameters())
    assert not equal(average, net) and all(p.requires_grad for p in net.parameters())
    assert average.init_kwargs == net.init_kwargs, "it can be saved"


def weights_after_each_step(settings):
    """(the trained network's first weight before training and after each step, the average's at the end)."""
    net, seen = build_score_network(image_set(), SMALL, 0), []

    def spy(iterable, **kwargs):
        for item in iterable:
            seen.append(next(net.parameters()).detach().clone())
            yield item
        seen.append(next(net.parameters()).detach().clone())

    average, _ = train_score_network(net, image_set(), settings, progress=spy)
    return seen, next(average.parameters())


def test_the_average_forgets_half_in_a_halflife():
    """Half-life 8 images at 4 per step: a step keeps 1/sqrt(2) of the old average."""
    seen, average = weights_after_each_step(replace(QUICK, steps=6, ema_halflife=8, ema_rampup=1e9, lr=0.1))
    keep, expected = 0.5**0.5, seen[0]
    for weight in seen[1:]:
        expected = keep * expected + (1 - keep) * weight
    torch.testing.assert_close(average, expected, rtol=1e-5, atol=1e-6)
    assert (average - seen[-1]).abs().max() > 1e-3


def test_early_on_the_average_is_as_young_as_the_run():
    """The half-life is at most `ema_rampup` of the images seen: 2, 4, 6 of 4, 8, 12 and so on, until it is 10."""
    seen, average = weights_after_each_step(replace(QUICK, steps=8, ema_halflife=10, ema_rampup=0.5, lr=0.1))
    expected = seen[0]
    for step, weight in enumerate(seen[1:], start=1):
        keep = 0.5 ** (4 / min(10, 0.5 * 4 * step))
        expected = keep * expected + (1 - keep) * weight
    torch.testing.assert_close(average, expected, rtol=1e-5, atol=1e-6)


def test_the_learning_rate_rises_linearly(monkeypatch):
    rates = []

    class Spy(torch.optim.Adam):
        def step(self):
            rates.append(self.param_groups[0]["lr"])
            super().step()

    monkeypatch.setattr(torch.optim, "Adam", Spy)
    trained(replace(QUICK, steps=6, warmup_steps=4, lr=0.4))
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


@pytest.fixture
def batches(monkeypatch):
    """The batches (images, one-hot labels) that the loss is called with."""
    seen = []

    class Spy(edm.EDMLoss):
        def __call__(self, net, images, labels=None, **kwargs):
            seen.append((images, labels))
            return super().__call__(net, images, labels, **kwargs)

    monkeypatch.setattr(edm, "EDMLoss", Spy)
    return seen


@pytest.mark.parametrize("flip", [False, True])
def test_flips_mirror_half_of_the_images_and_labels_stay_with_their_image(batches, flip):
    data = image_set()
    trained(replace(QUICK, flip=flip), conditional=True)
    originals = to_float(data.images)
    mirrored = 0
    for images, labels in batches:
        for image, label in zip(images, labels, strict=True):
            plain = (originals == image).all(dim=(1, 2, 3))
            mirror = (originals.flip(3) == image).all(dim=(1, 2, 3))
            assert plain.sum() + mirror.sum() == 1, "an image of the set or its mirror image, and nothing else"
            mirrored += int(mirror.any())
            assert label.argmax() == data.labels[(plain | mirror).nonzero().item()] and label.sum() == 1
    assert 70 < mirrored < 130 if flip else mirrored == 0  # of 200


def test_all_images_are_drawn(batches):
    trained(QUICK)
    seen = torch.cat([images for images, _ in batches])
    assert len(seen.unique(dim=0)) == len(image_set()) and batches[0][1] is None


def test_the_loss_falls():
    rng = np.random.default_rng(0)
    bright = np.clip(rng.normal(200, 5, [32, 1, 1, 1]), 0, 255) * np.ones([1, 4, 4, 1])
    data = ImageSet(bright.astype(np.uint8), None, "bright")
    _, log = trained(ScoreTraining(steps=100, batch_size=16, warmup_steps=10, lr=5e-3), data=data)
    assert [entry["step"] for entry in log] == [50, 100]
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]


def test_the_log_averages_over_the_steps_between_its_entries(monkeypatch):
    losses = []

    class Spy(edm.EDMLoss):
        def __call__(self, *args, **kwargs):
            loss = super().__call__(*args, **kwargs)
            losses.append(loss.mean().item())
            return loss

    monkeypatch.setattr(edm, "EDMLoss", Spy)
    _, log = trained(replace(QUICK, steps=60))
    assert [entry["step"] for entry in log] == [50, 60]
    assert [entry["loss"] for entry in log] == pytest.approx([np.mean(losses[:50]), np.mean(losses[50:])])


def test_a_loss_that_is_not_finite_is_one_line_and_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="the loss is not finite at step 50; lower the learning rate") as caught:
        trained(replace(QUICK, lr=1e30, warmup_steps=0), tmp_path / "state.pt", save_seconds=0)
    assert len(str(caught.value).splitlines()) == 1 and not (tmp_path / "state.pt").exists()
