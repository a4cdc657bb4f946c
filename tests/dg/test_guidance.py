"""Guidance: the exact-ratio oracle first, then reference vectors computed with the authors' code,
then each rule alone."""

import functools
import math

import numpy as np
import pytest
import torch

import edm
from dg.discriminator import Discriminator
from dg.extractors import ClassifierExtractor, ScoreExtractor
from dg.guidance import BOOSTING, DiscriminatorGuidance
from dg.heads import ScoreHead
from guided_diffusion import create_classifier
from tests import golden_fill
from tests.edm.test_networks import build
from tests.edm.test_samplers import GaussianDenoiser

DATA, MODEL = GaussianDenoiser(0.0, 0.5), GaussianDenoiser(0.3, 0.6)


class ExactRatio:
    """The discriminator that is right: log N(x; data, sigma) - log N(x; model, sigma), summed over
    pixels; counts its calls."""

    def __init__(self, model=MODEL):
        self.model, self.calls = model, 0

    def __call__(self, x, sigma, class_labels=None):
        self.calls += 1

        def log_density(net):
            variance = (net.sd**2 + sigma**2).reshape(-1, 1, 1, 1)
            return -0.5 * ((x - net.mean) ** 2 / variance + variance.log())

        return (log_density(DATA) - log_density(self.model)).sum(dim=(1, 2, 3))

    def shares_encoder(self, net):
        return False


def guidance(weights, **kwargs):
    return DiscriminatorGuidance(ExactRatio(), weights, **dict(time_min=0.0) | kwargs)


def latents(n=16):
    return torch.randn(n, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("num_steps", [5, 18])
@pytest.mark.parametrize("S_churn", [0, 10])
def test_exact_ratio_with_both_orders_is_the_true_models_sampler(num_steps, S_churn):
    seeds = range(16)
    draw = [edm.StackedRandomGenerator("cpu", seeds).randn_like for _ in range(2)]
    kwargs = dict(num_steps=num_steps, S_churn=S_churn)
    guided = edm.edm_sampler(
        MODEL, latents(), randn_like=draw[0], guidance=guidance((1, 1)), **kwargs
    )
    true = edm.edm_sampler(DATA, latents(), randn_like=draw[1], **kwargs)
    assert (guided - true).abs().max() < 1e-9


def test_exact_ratio_in_the_ablation_sampler():
    for kwargs in (
        dict(schedule="vp", scaling="vp"),
        dict(discretization="ve", schedule="ve"),
        dict(alpha=0.7),
    ):
        guided = edm.ablation_sampler(MODEL, latents(), guidance=guidance((1, 1)), **kwargs)
        assert (guided - edm.ablation_sampler(DATA, latents(), **kwargs)).abs().max() < 1e-9


@pytest.mark.slow
def test_doubled_first_order_converges_to_both_orders_at_first_order():
    def gap(num_steps):
        runs = [
            edm.edm_sampler(MODEL, latents(), num_steps=num_steps, guidance=guidance(w))
            for w in ((2, 0), (1, 1))
        ]
        return (runs[0] - runs[1]).abs().max().item()

    steps = [64, 128, 256, 512]
    slope = np.polyfit(np.log(steps), np.log([gap(n) for n in steps]), 1)[0]
    assert abs(slope + 1) < 0.15


def gap(model=MODEL, weights=(1, 1), **kwargs):
    """(distance of the guided sampler's images from those of the true data, calls of the ratio)."""
    ratio = ExactRatio(model)
    steering = DiscriminatorGuidance(ratio, weights, 0.0, **kwargs)
    guided = edm.edm_sampler(model, latents(), guidance=steering)
    return (guided - edm.edm_sampler(DATA, latents())).abs().max().item(), ratio.calls


@pytest.mark.parametrize("every", [2, 3])
def test_a_rescaled_correction_is_exact_for_gaussians_of_one_spread(every):
    shifted = GaussianDenoiser(0.3, 0.5)
    assert gap(shifted, every=every)[0] < 1e-9
    for between in ("keep", "none"):
        assert gap(shifted, every=every, between=between)[0] > 0.03


def test_every_second_step_stays_near_the_data_at_half_the_cost():
    unguided = gap(weights=(0, 0))[0]
    assert gap()[1] == 35 and gap(weights=(2, 0))[1] == 18
    gaps = {between: gap(every=2, between=between) for between in ("rescale", "keep", "none")}
    # steps 0 to 16; the last one, 17, has a single stage
    assert [calls for _, calls in gaps.values()] == [18] * 3
    assert gap(weights=(2, 0), every=2)[1] == 9
    assert gaps["rescale"][0] < 0.12 * unguided
    assert gaps["rescale"][0] < gaps["keep"][0] < gaps["none"][0] < unguided


def test_between_evaluations_the_last_gradient_guides():
    x, y = latents(3), 2 * latents(3)
    first = torch.tensor([2.0, 0.5, 30.0], dtype=torch.float64)  # the last one is outside
    later = torch.tensor([1.0, 0.001, 1.0], dtype=torch.float64)  # the second one is outside
    for between, factor in (("rescale", (1 / 1.25) / (4 / 4.25)), ("keep", 1.0)):
        kwargs = dict(time_min=0.01, time_max=0.5, every=2, between=between)
        sparse = guidance((2, 1), **kwargs)
        sparse.begin(x)
        assert sparse.correction(x, later, step=1) is None, "nothing is known yet"
        own = sparse.correction(x, first, step=2)
        assert torch.equal(own, guidance((2, 1), time_min=0.01, time_max=0.5).correction(x, first))
        calls = sparse.discriminator.calls
        kept = sparse.correction(y, later, step=3)
        assert sparse.discriminator.calls == calls
        torch.testing.assert_close(kept[0], factor * own[0])
        assert (kept[1:] == 0).all() and (own[0] != 0).all()
        assert sparse.last_log_ratio.isinf().tolist() == [False, True, True]
        second = sparse.correction(y, later, step=3, order=2)
        torch.testing.assert_close(second[0], factor * own[0] / 2)
        fresh = sparse.correction(y, later, step=4)
        assert torch.equal(fresh[0], guidance((2, 1)).correction(y, later)[0])
        assert sparse.correction(x, torch.full_like(first, 30.0), step=6) is None
        assert sparse.correction(x, later, step=7) is None, "outside at the last evaluation"
    none = guidance((2, 0), every=2, between="none")
    assert none.correction(x, first, step=0) is not None
    assert none.correction(x, first, step=1) is None


def test_boosting_goes_by_the_last_log_ratio():
    x, sigma = latents(8), torch.tensor(1.0, dtype=torch.float64)
    boosted, plain = (
        guidance((1, 0), every=3, boosting=boosting) for boosting in (BOOSTING["authors"], None)
    )
    for step, factor in ((3, 1.0), (4, 2.0), (5, 1.0)):
        ratio = boosted.correction(x, sigma, step=step) / plain.correction(x, sigma, step=step)
        low = plain.log_ratio(x, sigma) < 0
        torch.testing.assert_close(ratio[low], torch.full_like(ratio[low], factor))
        torch.testing.assert_close(ratio[~low], torch.ones_like(ratio[~low]))
    assert torch.equal(boosted.churn(0.0, 1.0, 5)[0] == 4, low)


@pytest.mark.parametrize("net", [MODEL, "network"])
def test_zero_weights_change_no_bit(net):
    if net == "network":
        _, config = golden_fill.load("a_edm_ddpmpp_uncond")
        net = build(config, gain=0.6)
    x = torch.randn(
        3,
        net.img_channels,
        net.img_resolution,
        net.img_resolution,
        generator=torch.Generator().manual_seed(1),
    )
    plain = edm.edm_sampler(net, x, randn_like=torch.zeros_like, num_steps=4, S_churn=4)
    zero = edm.edm_sampler(
        net, x, randn_like=torch.zeros_like, num_steps=4, S_churn=4, guidance=guidance((0, 0))
    )
    assert torch.equal(plain, zero)


def test_window_acts_per_sample():
    # tau about 0.001, 0.26, 0.83
    x, sigma = (
        latents(3),
        torch.tensor([0.01, 1.0, 30.0], dtype=torch.float64),
    )
    windowed = guidance((1, 1), time_min=0.01, time_max=0.5)
    windowed.begin(x)
    correction = windowed.correction(x, sigma)
    alone = guidance((1, 1)).correction(x, sigma)
    assert (correction[0] == 0).all() and (correction[2] == 0).all()
    assert torch.equal(correction[1], alone[1]) and (correction[1] != 0).all()
    assert windowed.last_log_ratio.isinf().tolist() == [True, False, True]


def test_boosting_doubles_and_churns_single_samples():
    x, sigma = latents(8), torch.tensor(1.0, dtype=torch.float64)
    plain, boosted = guidance((1, 1)), guidance((1, 1), boosting=BOOSTING["authors"])
    boosted.begin(x)
    low = plain.log_ratio(x, sigma) < 0
    assert low.any() and not low.all()
    assert boosted.churn(0.5, 1.003, step=0) == (0.5, 1.003), (
        "nothing is known before the first step"
    )
    for step, factor in ((4, 2.0), (3, 1.0)):
        ratio = boosted.correction(x, sigma, step=step) / plain.correction(x, sigma, step=step)
        torch.testing.assert_close(ratio[low], torch.full_like(ratio[low], factor))
        torch.testing.assert_close(ratio[~low], torch.ones_like(ratio[~low]))
    assert torch.equal(
        boosted.correction(x, sigma, step=4, order=2), plain.correction(x, sigma, step=4, order=2)
    )
    churn, noise = boosted.churn(0.5, 1.003, step=5)
    assert churn[low].unique().tolist() == [4.0] and churn[~low].unique().tolist() == [0.5]
    assert noise[low].unique().tolist() == [1.0] and noise[~low].unique().tolist() == [1.003]
    assert boosted.churn(0.5, 1.003, step=6) == (0.5, 1.003)
    boosted.begin(x)
    assert boosted.churn(0.5, 1.003, step=5) == (0.5, 1.003), "a new batch remembers nothing"


def test_boosting_as_in_the_paper_churns_at_odd_steps():
    x, sigma = latents(8), torch.tensor(1.0, dtype=torch.float64)
    boosted = guidance((1, 1), boosting=BOOSTING["paper"])
    boosted.begin(x)
    boosted.correction(x, sigma)
    assert [
        isinstance(boosted.churn(0.0, 1.0, step), tuple)
        and torch.is_tensor(boosted.churn(0.0, 1.0, step)[0])
        for step in range(6)
    ] == [False, True] * 3


@pytest.mark.parametrize("every", [1, 3])
def test_guided_sampling_permutes_with_the_batch(every):
    order = [3, 1, 0, 2]
    boosted = guidance((2, 0), boosting=BOOSTING["authors"], every=every, time_max=0.6)

    def run(x, seeds):
        return edm.edm_sampler(
            MODEL,
            x,
            randn_like=edm.StackedRandomGenerator("cpu", seeds).randn_like,
            guidance=boosted,
            num_steps=12,
        )

    x, seeds = latents(4), [5, 6, 7, 8]
    together = run(x, seeds)
    torch.testing.assert_close(
        run(x[order], [seeds[i] for i in order]), together[order], rtol=0, atol=1e-12
    )
    alone = torch.cat([run(x[i : i + 1], seeds[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-12)


def stack(config, time_schedule="linear"):
    """The authors' classifier and discriminator with synthetic weights."""
    classifier = golden_fill.fill(
        create_classifier(**config["classifier_kwargs"]), config["classifier_salt"]
    )
    head = golden_fill.fill(
        create_classifier(**config["discriminator_kwargs"]), config["discriminator_salt"]
    )
    with torch.no_grad():
        head.out[2].c_proj.weight.mul_(config["out_scale"])
        if config["out_bias"] is not None:
            head.out[2].c_proj.bias.fill_(config["out_bias"])
    extractor = ClassifierExtractor(classifier, time_schedule)
    return Discriminator(extractor, [head]).eval().requires_grad_(False)


def relative(actual, expected):
    return np.abs(np.asarray(actual) - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(
    "case", ["d_grad32_uncond", "d_grad32_cond_onehot", "d_grad32_saturated", "d_grad64_uncond"]
)
def test_log_ratio_and_gradient(case):
    arrays, config = golden_fill.load(case)
    discriminator = stack(config, "cosine" if config["img_resolution"] == 64 else "linear")
    labels = torch.from_numpy(arrays["class_labels"]) if "class_labels" in arrays.files else None
    for k, sigma in enumerate(torch.from_numpy(arrays["sigma"])):
        if not arrays["active"][k]:
            # inactive as a whole batch there, per sample here: test_window_acts_per_sample
            continue
        x = torch.from_numpy(arrays["image"]) + sigma.reshape(-1, 1, 1, 1) * torch.from_numpy(
            arrays["noise"]
        )
        unwindowed = DiscriminatorGuidance(discriminator, (1.0, 0.0), 0.0, 1.0, clip=1e-5)
        correction = unwindowed.correction(x, sigma, labels)
        assert relative(-correction, arrays["guidance"][k]) <= 1e-4
        log_ratio = unwindowed.log_ratio(x, sigma, labels)
        assert np.abs(log_ratio.numpy() - arrays["log_ratio"][k]).max() <= 4e-5
        if "saturated" in case:  # without the authors' clip the worst samples are guided too
            clipped = np.abs(arrays["log_ratio"][k]) > 11.51
            free = DiscriminatorGuidance(discriminator, (1.0, 0.0), 0.0, 1.0).correction(
                x, sigma, labels
            )
            assert (correction[clipped] == 0).all() and (
                free[clipped].abs().amax(dim=(1, 2, 3)) > 0
            ).all()


@functools.cache
def systems(case):
    """(arrays, config, network, discriminator) of a reference case."""
    arrays, config = golden_fill.load(case)
    return arrays, config, build(config["net"], gain=0.6), stack(config["stack"])


RUNS = {
    "e_dg_sampler_uncond": ("w0", "first2", "both11", "window", "window_both", "boost"),
    "e_dg_sampler_cond": ("first2", "boost", "churn"),
}
IN_DEFAULT = ("e_dg_sampler_cond", "boost")


@pytest.mark.parametrize(
    ("case", "name"),
    [
        pytest.param(case, name, marks=[] if (case, name) == IN_DEFAULT else pytest.mark.slow)
        for case, names in RUNS.items()
        for name in names
    ],
)
def test_guided_images_seed_for_seed(case, name):
    arrays, config, net, discriminator = systems(case)
    assert tuple(config["runs"]) == RUNS[case]
    kwargs = dict(config["runs"][name])
    boosting = BOOSTING["authors"] if kwargs.pop("boosting") else None
    weights = kwargs.pop("w1"), kwargs.pop("w2")
    window = kwargs.pop("time_min"), kwargs.pop("time_max")
    rnd = edm.StackedRandomGenerator("cpu", config["seeds"])
    x = rnd.randn([len(config["seeds"]), 3, 32, 32])
    np.testing.assert_array_equal(x, arrays[f"{name}:latents"])
    labels = torch.eye(10)[rnd.randint(10, size=[len(x)])] if net.label_dim else None
    steered = DiscriminatorGuidance(discriminator, weights, *window, boosting=boosting, clip=1e-5)
    images = edm.edm_sampler(net, x, labels, randn_like=rnd.randn_like, guidance=steered, **kwargs)
    assert np.abs(images.numpy() - arrays[f"{name}:images"]).max() <= 2e-4
    pixels = (images * 127.5 + 128).clip(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    difference = np.abs(pixels.astype(int) - arrays[f"{name}:uint8"])
    assert difference.max() <= 1 and (difference > 0).mean() <= 0.002


def score_discriminator(net, num_classes=0):
    extractor = ScoreExtractor(net)
    head = ScoreHead(*extractor.dims(), num_classes=num_classes, width=16)
    golden_fill.fill(head, gain=3.0)
    return Discriminator(extractor, [head]).eval().requires_grad_(False)


@pytest.mark.parametrize("case", ["a_edm_ddpmpp_cond", "a_edm_adm_cond", "a_vp_ddpmpp_uncond"])
def test_shared_encoder_pass_equals_two_passes(case):
    arrays, config = golden_fill.load(case)
    net = build(config, arrays)
    discriminator = score_discriminator(net, net.label_dim)
    x, sigma = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["sigma"])
    labels = torch.eye(10)[: len(x)] if net.label_dim else None
    steered = DiscriminatorGuidance(discriminator, (1.5, 0.5))
    steered.begin(x)
    for order in (1, 2):
        correction = steered.correction(x, sigma, labels, 0, order)
        assert correction.abs().max() > 0
        two_passes = net(x, sigma, labels).to(x.dtype) + correction
        one_pass = steered.denoise(net, x, sigma, labels, 0, order)
        assert relative(one_pass, two_passes.numpy()) < 1e-5
    sparse = DiscriminatorGuidance(discriminator, (1.5, 0.5), every=2, between="keep")
    sparse.begin(x)
    first = sparse.denoise(net, x, sigma, labels, 0, 1) - net(x, sigma, labels)
    later = sparse.denoise(net, x, sigma, labels, 1, 1) - net(x, sigma, labels)
    assert relative(later, first.numpy()) < 1e-4


def test_correction_carries_a_gradient_where_one_is_asked_for():
    """Linear in x for two Gaussians, so its slope is known; without a gradient the same bits come
    out."""
    x, sigma = latents(4), torch.tensor([0.5, 1.0, 2.0, 40.0], dtype=torch.float64)
    steered = guidance((1.5, 0), time_max=0.8)  # the last one is outside
    leaf = x.clone().requires_grad_()
    correction = steered.correction(leaf, sigma)
    assert torch.equal(correction.detach(), steered.correction(x, sigma))
    (slope,) = torch.autograd.grad(correction.sum(), leaf)
    variance = sigma.reshape(-1, 1, 1, 1) ** 2
    expected = (
        1.5
        * variance
        * (1 / (MODEL.sd**2 + variance) - 1 / (DATA.sd**2 + variance))
        * torch.ones_like(x)
    )
    expected[3] = 0
    torch.testing.assert_close(slope, expected)
    with torch.no_grad():
        assert not steered.correction(leaf, sigma).requires_grad


def test_ensemble_averages_logits():
    _, config = golden_fill.load("d_grad32_uncond")
    one = stack(config)
    second = golden_fill.fill(create_classifier(**config["discriminator_kwargs"]), "other:")
    x, sigma = torch.randn(2, 3, 32, 32), torch.tensor([0.5, 2.0])
    alone = [one(x, sigma), Discriminator(one.extractor, [second])(x, sigma)]
    both = Discriminator(one.extractor, [one.heads[0], second], weights=[3, 1])(x, sigma)
    torch.testing.assert_close(both, (3 * alone[0] + alone[1]) / 4)
    with pytest.raises(ValueError, match="ensemble weights"):
        Discriminator(one.extractor, [second], weights=[1, 2])


def test_bad_settings_are_refused():
    for kwargs in (
        dict(time_min=0.5, time_max=0.2),
        dict(time_min=-1),
        dict(weights=(math.nan, 0)),
        dict(every=0),
        dict(every=1.5),
        dict(between="half"),
    ):
        with pytest.raises(ValueError):
            DiscriminatorGuidance(ExactRatio(), **kwargs)
