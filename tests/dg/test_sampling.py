"""From seeds to images: an image depends on its seed alone, and a store never mixes what was made
differently."""

import hashlib
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

import edm
from dg.data.datasets import load_images, to_uint8
from dg.data.sample_store import SampleStore
from dg.discriminator import Discriminator
from dg.extractors import ClassifierExtractor, ScoreExtractor
from dg.guidance import BOOSTING, DiscriminatorGuidance
from dg.heads import ScoreHead
from dg.runtime.progress import Stopped, silent
from dg.sampling import Sampling, check_class, describe, draw_images, generate
from edm.guidance import Guidance, WrappedGuidance
from guided_diffusion import create_classifier
from tests import golden_fill

SMALL = dict(
    img_resolution=4,
    img_channels=1,
    model_type="SongUNet",
    model_channels=8,
    channel_mult=[1, 2],
    num_blocks=1,
    attn_resolutions=[],
    sigma_data=0.5,
)
QUICK = Sampling(num_steps=3)


def network(label_dim=3, salt="", **changes):
    net = golden_fill.fill(edm.EDMPrecond(**SMALL | changes, label_dim=label_dim), salt, gain=0.6)
    return net.eval().requires_grad_(False)


def guidance(net, num_heads=1, salt="", member_weights=None, **kwargs):
    extractor = ScoreExtractor(net)
    heads = [ScoreHead(*extractor.dims(), width=8) for _ in range(num_heads)]
    for index, head in enumerate(heads):
        golden_fill.fill(head, f"{salt}{index}", gain=3.0)
    return DiscriminatorGuidance(
        Discriminator(extractor, heads, member_weights).eval().requires_grad_(False), **kwargs
    )


class Linear:
    """A denoiser without batch effects, D = x / 2; keeps the noisy images it is called with."""

    img_resolution, img_channels, sigma_min, sigma_max = 4, 2, 0.0, float("inf")
    round_sigma = staticmethod(torch.as_tensor)

    def __init__(self, label_dim=0):
        self.label_dim, self.seen = label_dim, []

    def __call__(self, x, sigma, class_labels=None):
        self.seen.append(x)
        return x / 2


# Seeds.


def test_noise_does_not_depend_on_the_batch():
    churning, seeds = Sampling(num_steps=4, S_churn=2), [3, 7, 2**31, 11]
    together, labels = draw_images(Linear(10), seeds, churning)
    for index, seed in enumerate(seeds):
        alone, label = draw_images(Linear(10), [seed], churning)
        assert torch.equal(alone[0], together[index]) and label == labels[index]
    assert len(together.unique(dim=0)) == 4


@pytest.mark.parametrize("guided", [False, True])
def test_images_do_not_depend_on_the_batch(guided):
    net, seeds = network(), [3, 7, 11]
    steering = guidance(net, boosting=BOOSTING["authors"]) if guided else None
    churning = Sampling(num_steps=4, S_churn=2)
    together, labels = draw_images(net, seeds, churning, steering)
    assert (
        together.shape == (3, 1, 4, 4) and together.dtype == torch.float64 and labels.shape == (3,)
    )
    for index, seed in enumerate(seeds):
        alone, label = draw_images(net, [seed], churning, steering)
        assert (
            alone[0] - together[index]
        ).abs().max() < 1e-5 * together.abs().max() and label == labels[index]


def test_every_seed_draws_its_latent_then_its_label_then_its_noise():
    """Karras et al. 2022: one generator per seed, in this order; the same images as their
    script's."""
    net, seeds = Linear(10), [5, 6]
    images, labels = draw_images(
        net, seeds, Sampling(num_steps=1, S_churn=1, sigma_max=80, S_noise=1.5)
    )
    for index, seed in enumerate(seeds):
        generator = torch.Generator().manual_seed(seed)
        latent = torch.randn(2, 4, 4, generator=generator).double()
        assert labels[index] == torch.randint(10, [], generator=generator)
        noise = torch.randn(2, 4, 4, generator=generator, dtype=torch.float64)
        sigma_hat = 80 * 2**0.5  # churn is at its limit of sqrt(2) - 1
        noisy = 80 * latent + (sigma_hat**2 - 80**2) ** 0.5 * 1.5 * noise
        torch.testing.assert_close(net.seen[0][index], noisy, rtol=1e-12, atol=1e-9)
        torch.testing.assert_close(images[index], noisy / 2, rtol=1e-12, atol=1e-9)


def test_labels_reach_the_network_and_an_unconditional_one_gets_none():
    seen = []

    class Spy(Linear):
        def __call__(self, x, sigma, class_labels=None):
            seen.append(class_labels)
            return super().__call__(x, sigma)

    _, labels = draw_images(Spy(10), [1, 2, 3], QUICK)
    assert len(set(labels.tolist())) > 1
    assert all(torch.equal(one_hot, torch.eye(10)[labels]) for one_hot in seen)
    seen.clear()
    assert draw_images(Spy(), [1], QUICK)[1] is None and seen == [None] * 5


def test_a_chosen_class_keeps_latents_and_noise():
    nets = Linear(10), Linear(10)
    drawn, chosen = (
        draw_images(net, [1, 2, 3], Sampling(num_steps=3, S_churn=1), class_idx=class_idx)
        for net, class_idx in zip(nets, (None, 4), strict=True)
    )
    assert chosen[1].tolist() == [4, 4, 4] and drawn[1].tolist() != [4, 4, 4]
    assert torch.equal(drawn[0], chosen[0]) and all(map(torch.equal, nets[0].seen, nets[1].seen))
    net = network()
    first, second = (draw_images(net, [1], QUICK, class_idx=class_idx)[0] for class_idx in (0, 1))
    assert not torch.equal(first, second), "the network sees the class"


def test_classes_that_the_network_lacks_are_refused():
    check_class(network(), None)
    check_class(network(), 2)
    for net, class_idx, words in (
        (network(), 3, "classes 0 to 2"),
        (network(), -1, "classes 0 to 2"),
        (network(0), 0, "unconditional"),
    ):
        with pytest.raises(ValueError, match=words):
            check_class(net, class_idx)


def test_the_global_random_numbers_are_left_alone():
    net, before = network(), torch.get_rng_state()
    draw_images(net, [1, 2], Sampling(num_steps=2, S_churn=2))
    assert torch.equal(torch.get_rng_state(), before)


# Samplers.


def test_any_ablation_option_selects_the_generalised_sampler():
    assert (
        Sampling().sampler is edm.edm_sampler
        and Sampling(S_churn=3, rho=5, sigma_max=9).sampler is edm.edm_sampler
    )
    for name, value in (
        ("solver", "heun"),
        ("discretization", "edm"),
        ("schedule", "linear"),
        ("scaling", "none"),
    ):
        assert Sampling(**{name: value}).sampler is edm.ablation_sampler
    with pytest.raises(ValueError, match="0 sampling steps"):
        Sampling(num_steps=0)


def test_settings_reach_the_sampler():
    net, seeds = Linear(), [1, 2]
    latents = edm.StackedRandomGenerator("cpu", seeds).randn([2, 2, 4, 4])
    plain, _ = draw_images(net, seeds, Sampling(num_steps=5, rho=3, sigma_min=0.1, sigma_max=20))
    assert torch.equal(
        plain, edm.edm_sampler(net, latents, num_steps=5, rho=3, sigma_min=0.1, sigma_max=20)
    )
    kwargs = dict(num_steps=5, solver="euler", discretization="ve", schedule="ve")
    assert torch.equal(
        draw_images(net, seeds, Sampling(**kwargs))[0], edm.ablation_sampler(net, latents, **kwargs)
    )


@pytest.mark.parametrize("num_steps", [1, 2, 7])
@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"solver": "heun"},
        {"solver": "euler"},
        {"discretization": "iddpm"},
        {"discretization": "vp", "schedule": "vp", "scaling": "vp", "S_churn": 5},
    ],
)
def test_the_number_of_evaluations_is_counted_right(num_steps, kwargs):
    net, sampling = Linear(), Sampling(num_steps=num_steps, **kwargs)
    draw_images(net, [1], sampling)
    assert (
        len(net.seen)
        == sampling.num_evaluations
        == (num_steps if "euler" in kwargs.values() else 2 * num_steps - 1)
    )


def test_guidance_on_the_networks_own_encoder_costs_no_further_evaluation(monkeypatch):
    net, calls = network(), []
    encode = edm.EDMPrecond.encode
    monkeypatch.setattr(edm.EDMPrecond, "encode", lambda *args: calls.append(1) or encode(*args))
    steering = guidance(net, weights=(1.0, 1.0))
    calls.clear()
    draw_images(net, [1, 2], Sampling(num_steps=5), steering)
    assert len(calls) == Sampling(num_steps=5).num_evaluations == 9


# The store.


def contents(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def fill(folder, net, progress=silent, **how):
    """Seven images in three batches."""
    store = SampleStore(folder, describe(net, QUICK), range(7), 3, **how)
    return generate(net, store, QUICK, progress=progress)


@pytest.mark.parametrize("save_type", ["npz", "png"])
def test_a_deleted_shard_is_made_again_and_no_other(tmp_path, monkeypatch, save_type):
    net = network()
    made = fill(tmp_path, net, save_type=save_type)
    assert made.images == 7 and made.seconds > 0
    before = contents(tmp_path)
    assert fill(tmp_path, net, save_type=save_type) == (0, 0.0)
    next(tmp_path.glob("*000003*")).unlink()
    drawn = []
    monkeypatch.setattr(
        "dg.sampling.draw_images",
        lambda net, seeds, *rest: drawn.append(seeds) or draw_images(net, seeds, *rest),
    )
    fill(tmp_path, net, save_type=save_type)
    assert drawn == [[3, 4, 5]] and contents(tmp_path) == before


def test_an_interrupted_run_ends_with_the_bytes_of_one_that_never_stopped(tmp_path, monkeypatch):
    net, calls = network(), []

    def failing(net, seeds, *rest):
        calls.append(seeds)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return draw_images(net, seeds, *rest)

    fill(tmp_path / "whole", net)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("dg.sampling.draw_images", failing)
        fill(tmp_path / "parts", net)
    fill(tmp_path / "parts", net)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_the_store_holds_the_images_and_labels_that_were_drawn(tmp_path):
    net = network()
    fill(tmp_path, net)
    images, labels = draw_images(net, [0, 1, 2], QUICK)
    stored = load_images(tmp_path)
    assert len(stored) == 7 and np.array_equal(stored.images[:3], to_uint8(images))
    assert stored.labels[:3].tolist() == labels.tolist()
    fill(tmp_path / "unconditional", network(0))
    assert load_images(tmp_path / "unconditional").labels is None


def test_the_progress_bar_counts_the_batches_that_are_missing(tmp_path):
    counted, totals = [], []

    def bar(iterable, total, **kwargs):
        totals.append(total)
        for item in iterable:
            counted.append(item)
            yield item

    fill(tmp_path, network(), bar)
    next(tmp_path.glob("*000000*")).unlink()
    fill(tmp_path, network(), bar)
    assert totals == [3, 1] and len(counted) == 4


def test_nan_is_refused_and_nothing_half_written(tmp_path):
    net = network()
    next(iter(net.model.parameters())).fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        fill(tmp_path, net)
    assert not list(tmp_path.glob("*.npz"))


def test_a_class_that_the_network_lacks_is_refused_before_any_image(tmp_path):
    net = network()
    store = SampleStore(tmp_path, describe(net, QUICK, class_idx=9), range(3), 3)
    with pytest.raises(ValueError, match="class 9, but"):
        generate(net, store, QUICK, class_idx=9)
    assert store.pending() == [0]


def failing_at(number, error, drawn):
    """`draw_images` that raises `error` at its call of this number; `drawn` gets the seeds of every
    call."""

    def draw(net, seeds, *rest):
        drawn.append(list(seeds))
        if len(drawn) == number:
            raise error
        return draw_images(net, seeds, *rest)

    return draw


def test_a_batch_that_does_not_fit_into_memory_is_drawn_in_halves(tmp_path, monkeypatch):
    net, drawn, told = network(), [], []
    fill(tmp_path / "whole", net)
    store = SampleStore(tmp_path / "parts", describe(net, QUICK), range(7), 3)
    monkeypatch.setattr(
        "dg.sampling.draw_images",
        failing_at(1, torch.OutOfMemoryError("CUDA out of memory"), drawn),
    )
    generate(net, store, QUICK, notify=told.append)
    assert drawn == [[0, 1, 2], [0, 1], [2], [3, 4], [5], [6]]
    assert told == ["out of memory; going on with 2 images at once"]
    parts, whole = load_images(tmp_path / "parts"), load_images(tmp_path / "whole")
    assert np.abs(parts.images.astype(int) - whole.images).max() <= 1 and np.array_equal(
        parts.labels, whole.labels
    )


def test_one_image_that_does_not_fit_is_refused(tmp_path, monkeypatch):
    def full(*args):
        raise torch.OutOfMemoryError

    net, told = network(), []
    monkeypatch.setattr("dg.sampling.draw_images", full)
    with pytest.raises(ValueError, match="does not suffice for one image"):
        generate(
            net, SampleStore(tmp_path, describe(net, QUICK), range(5), 5), QUICK, notify=told.append
        )
    assert [line.split()[6] for line in told] == ["3", "2", "1"]


def stopping_after(count):
    """A progress that asks to end once `count` batches are there."""

    def progress(iterable, **kwargs):
        for number, item in enumerate(iterable):
            if number == count:
                raise Stopped
            yield item

    return progress


def test_a_run_that_is_asked_to_end_saves_what_it_has(tmp_path):
    net = network()
    fill(tmp_path / "whole", net)
    with pytest.raises(Stopped):
        fill(tmp_path / "parts", net, stopping_after(2))
    assert sorted(path.name for path in (tmp_path / "parts").glob("*.npz")) == [
        "samples_000000-000002.npz",
        "samples_000003-000005.npz",
    ]
    fill(tmp_path / "parts", net, stopping_after(3))  # there is nothing left to be asked for
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_batches_drawn_at_the_same_time_are_the_same(tmp_path):
    net = network()
    fill(tmp_path / "one", net)
    store = SampleStore(tmp_path / "two", describe(net, QUICK), range(7), 3)
    assert generate(net, store, QUICK, at_once=2).images == 7
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


class Remembering(edm.Guidance):
    """Adds a little of the state that its batch began with."""

    def __init__(self, meet):
        self._meet = meet

    def begin(self, x):
        self._first = x
        self._meet()

    def correction(self, x, sigma, class_labels, step, order):
        return 0.01 * self._first


@pytest.mark.parametrize("wrapped", ["alone", "wrapped", "sum"])
def test_batches_drawn_at_the_same_time_have_a_guidance_each(tmp_path, wrapped):
    """Both batches begin before one of them goes on."""
    net, made = network(), []
    for at_once, meet in ((1, lambda: None), (2, threading.Barrier(2, timeout=30).wait)):
        steering = Remembering(meet)
        if wrapped != "alone":
            steering = WrappedGuidance(steering) if wrapped == "wrapped" else steering + Guidance()
        store = SampleStore(tmp_path / str(at_once), describe(net, QUICK, steering), range(6), 3)
        generate(net, store, QUICK, steering, at_once=at_once)
        made.append(contents(store.outdir))
    assert made[0] == made[1]


def test_sparse_guidance_goes_on_to_the_same_bytes(tmp_path):
    net, sampling = network(), Sampling(num_steps=6, S_churn=2)
    sparse = dict(every=2, boosting=BOOSTING["paper"])

    def fill(name, progress=silent, at_once=1, **changes):
        steering = guidance(net, **sparse | changes)
        described = describe(net, sampling, steering)
        store = SampleStore(tmp_path / name, described, range(12), 3)
        generate(net, store, sampling, steering, progress=progress, at_once=at_once)
        return contents(store.outdir)

    whole = fill("whole")
    with pytest.raises(Stopped):
        fill("parts", stopping_after(1), at_once=2)
    for changes in (dict(every=3), dict(every=1), dict(between="keep")):
        with pytest.raises(ValueError, match="other settings"):
            fill("parts", **changes)
    assert fill("parts", at_once=2) == whole
    known = {"every", "between"} & set(guidance(net, between="keep").describe())
    assert not known, "guidance at every step is described as before"


def test_what_is_in_work_when_a_run_is_asked_to_end_is_saved(tmp_path):
    net = network()
    store = SampleStore(tmp_path, describe(net, QUICK), range(12), 3)
    with pytest.raises(Stopped):
        generate(net, store, QUICK, progress=stopping_after(1), at_once=2)
    assert len(list(tmp_path.glob("*.npz"))) == 2  # one that was done, one in work


def test_a_run_that_is_asked_to_end_does_not_take_damaged_shards_for_done(tmp_path):
    net = network()
    fill(tmp_path, net)
    before = contents(tmp_path)
    for shard in tmp_path.glob("*.npz"):
        shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(Stopped):
        fill(tmp_path, net, stopping_after(2))
    fill(tmp_path, net)
    assert contents(tmp_path) == before


def test_an_error_in_saving_is_raised_and_no_batch_after_the_next_is_drawn(tmp_path, monkeypatch):
    net, drawn = network(), []

    def full(self, index, images, labels):
        raise ValueError("cannot write: no space left")

    monkeypatch.setattr("dg.sampling.draw_images", failing_at(0, None, drawn))
    monkeypatch.setattr(SampleStore, "write", full)
    with pytest.raises(ValueError, match="no space left"):
        fill(tmp_path, net)
    assert drawn == [[0, 1, 2], [3, 4, 5]]


def test_batches_are_saved_beside_the_drawing(tmp_path, monkeypatch):
    """The second batch is being drawn while the first one is still being saved."""
    net, order, drawing, write = network(), [], threading.Event(), SampleStore.write

    def slow(self, index, *rest):
        assert drawing.wait(60)
        write(self, index, *rest)
        order.append(f"saved {index}")

    def draw(net, seeds, *rest):
        order.append(f"drawing {seeds}")
        if seeds[0] == 3:
            drawing.set()
        return draw_images(net, seeds, *rest)

    monkeypatch.setattr("dg.sampling.draw_images", draw)
    monkeypatch.setattr(SampleStore, "write", slow)
    fill(tmp_path, net)
    assert order[:2] == ["drawing [0, 1, 2]", "drawing [3, 4, 5]"]
    assert [entry for entry in order if entry.startswith("saved")] == [
        "saved 0",
        "saved 1",
        "saved 2",
    ]


# What a store is labelled with.


def variants():
    """Descriptions of everything that images depend on, one thing changed at a time."""
    net = network()
    yield describe(net, QUICK)
    yield describe(network(salt="another:"), QUICK)
    one_weight = network()
    next(one_weight.parameters()).view(-1)[0] += 1e-6
    yield describe(one_weight, QUICK)
    yield describe(network(sigma_data=0.7), QUICK)
    for change in (
        dict(num_steps=4),
        dict(rho=6),
        dict(S_churn=1),
        dict(S_min=0.1),
        dict(S_max=5),
        dict(S_noise=1.1),
        dict(sigma_min=0.1),
        dict(sigma_max=9),
        dict(solver="euler"),
        dict(solver="heun"),
        dict(schedule="vp"),
        dict(discretization="vp"),
        dict(scaling="vp"),
    ):
        yield describe(net, replace(QUICK, **change))
    yield from (describe(net, QUICK, class_idx=class_idx) for class_idx in (0, 1))
    yield from (describe(net, QUICK, precision=precision) for precision in ("bfloat16", "float16"))
    for kwargs in (
        {},
        dict(weights=(2.0, 1.0)),
        dict(weights=(1.0, 0.0)),
        dict(time_min=0.02),
        dict(time_max=0.9),
        dict(clip=1e-5),
        dict(salt="another:"),
        dict(num_heads=2),
        dict(num_heads=2, member_weights=[1, 2]),
        dict(boosting=BOOSTING["authors"]),
        dict(boosting=BOOSTING["paper"]),
        dict(boosting=replace(BOOSTING["authors"], S_churn=3.0)),
    ):
        yield describe(net, QUICK, guidance(net, **kwargs))
    head = golden_fill.fill(
        create_classifier(
            8, in_channels=64, classifier_width=64, out_channels=1, classifier_depth=1
        )
    )
    for salt, schedule in (("", "linear"), ("another:", "linear"), ("", "cosine")):
        encoder = golden_fill.fill(
            create_classifier(8, in_channels=1, classifier_width=64, classifier_depth=1), salt
        )
        yield describe(
            net,
            QUICK,
            DiscriminatorGuidance(Discriminator(ClassifierExtractor(encoder, schedule), [head])),
        )


def test_a_description_tells_apart_whatever_changes_the_images():
    descriptions = list(variants())
    for index, description in enumerate(descriptions):
        assert description not in descriptions[:index], index


def test_a_description_depends_on_nothing_else(tmp_path):
    assert list(variants()) == list(variants()), "the same weights in other objects"
    net = network()
    edm.save_network(tmp_path / "net.safetensors", net)
    loaded = edm.load_network(tmp_path / "net.safetensors")
    assert describe(loaded, QUICK, guidance(loaded)) == describe(net, QUICK, guidance(net))


def test_a_store_of_another_guidance_is_refused(tmp_path):
    net = network()
    SampleStore(tmp_path, describe(net, QUICK, guidance(net)), range(3), 3).write(
        0, np.zeros([3, 4, 4, 1], np.uint8)
    )
    SampleStore(tmp_path, describe(net, QUICK, guidance(net)), range(3), 3)
    with pytest.raises(ValueError, match="made with other settings"):
        SampleStore(tmp_path, describe(net, QUICK, guidance(net, weights=(3.0, 0.0))), range(3), 3)


def test_seeds_that_generators_would_take_for_others_are_refused():
    with pytest.raises(ValueError, match="seed 4294967296 is too large"):
        draw_images(network(), [0, 2**32], Sampling(num_steps=2))
