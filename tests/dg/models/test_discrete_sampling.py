"""DDPMs sampled from seeds, and guidance in them: on Gaussians in closed form, and one head for
both kinds of sampler."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch

import edm
from dg import vp
from dg.data.datasets import ImageSet, load_images, to_uint8
from dg.data.sample_store import SampleStore
from dg.discriminator import Discriminator, build_discriminator
from dg.extractors import ClassifierExtractor
from dg.guidance import BOOSTING, DiscriminatorGuidance
from dg.lora import add_lora
from dg.models.classifier_guidance import classifier_gradient
from dg.models.ddpm import DDPM
from dg.models.discrete_diffusion import DiscreteDiffusion
from dg.models.discrete_sampling import (
    DDPMSampling,
    _in_one_pass,
    as_cond_fn,
    ddpm_sampler,
)
from dg.sampling import Sampling, check_class, describe, draw_images, generate
from guided_diffusion import EncoderUNetModel, create_classifier, create_diffusion
from tests import golden_fill
from tests.dg.test_guidance import DATA, MODEL, guidance, latents

SMALL = dict(
    image_size=4,
    in_channels=1,
    model_channels=32,
    channel_mult=[1],
    num_res_blocks=1,
    attention_resolutions=[],
    num_head_channels=32,
)


def small(num_classes=0, **process):
    process = dict(schedule="cosine", num_steps=20, variance="fixed_small") | process
    return (
        golden_fill.fill(DDPM(process, SMALL | {"num_classes": num_classes}), gain=0.6)
        .eval()
        .requires_grad_(False)
    )


class ExactDDPM(DiscreteDiffusion):
    """The DDPM of data N(mean, sd^2) that knows the noise exactly."""

    img_resolution, img_channels, label_dim, null_class, classifier = 2, 1, 0, None, None

    def __init__(self, denoiser, schedule="cosine", variance="fixed_small"):
        self.denoiser, self.process = (
            denoiser,
            dict(schedule=schedule, num_steps=1000, variance=variance),
        )
        self.alpha_bars = torch.from_numpy(create_diffusion(**self.process).schedule.alphas_cumprod)

    def respaced(self, spec=None):
        return create_diffusion(**self.process, respacing=spec)

    def net(self, x, t):
        alpha_bar = self.alpha_bars[t].reshape(-1, 1, 1, 1)
        sigma = ((1 - alpha_bar) / alpha_bar).sqrt()
        noisy = x / alpha_bar.sqrt()
        return (noisy - self.denoiser(noisy, sigma.flatten())) / sigma


# Seeds and stores.


@pytest.mark.parametrize(
    "sampling",
    [DDPMSampling("ddim", 5), DDPMSampling("ddim", 5, eta=1.0), DDPMSampling("ancestral", 5)],
)
def test_images_depend_on_their_seed_alone(sampling):
    model, seeds = small(num_classes=3), [3, 7, 2**31]
    together, labels = draw_images(model, seeds, sampling)
    assert together.shape == (3, 1, 4, 4) and together.dtype == torch.float64
    for index, seed in enumerate(seeds):
        alone, label = draw_images(model, [seed], sampling)
        assert (alone[0] - together[index]).abs().max() < 1e-5 and label == labels[index]
    assert len(together.unique(dim=0)) == 3


def test_every_seed_draws_its_latent_then_its_label_then_its_noise():
    model, sampling = small(num_classes=10), DDPMSampling("ancestral", 4)
    rnd = edm.StackedRandomGenerator("cpu", [5, 6])
    x = rnd.randn([2, 1, 4, 4])
    y = rnd.randint(10, size=[2])
    expected = model.respaced("4").p_sample_loop(
        model.net, x.double(), randn_like=rnd.randn_like, model_kwargs={"y": y}
    )
    images, labels = draw_images(model, [5, 6], sampling)
    assert torch.equal(images, expected) and torch.equal(labels, y)


def test_a_store_is_filled_and_gone_on_with(tmp_path):
    model, sampling = small(num_classes=3), DDPMSampling(num_steps=3)
    settings = describe(model, sampling, class_idx=1)
    assert settings["sampling"] == dict(method="ddim", num_steps=3, eta=0.0, clip_denoised=True)
    store = SampleStore(tmp_path / "images", settings, [4, 5, 6], 2)
    generate(model, store, sampling, class_idx=1)
    images = load_images(tmp_path / "images")
    np.testing.assert_array_equal(
        images.images, to_uint8(draw_images(model, [4, 5, 6], sampling, class_idx=1)[0])
    )
    assert images.labels.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="sampling"):
        SampleStore(
            tmp_path / "images",
            describe(model, DDPMSampling("ancestral", 3), class_idx=1),
            [4, 5, 6],
            2,
        )


def test_clipping_keeps_samples_in_range():
    model = golden_fill.fill(small(), gain=3.0)
    for method in ("ddim", "ancestral"):
        clipped, loose = (
            draw_images(model, range(4), DDPMSampling(method, 5, clip_denoised=clip))[0]
            for clip in (True, False)
        )
        assert clipped.abs().max() <= 1 + 1e-9 < loose.abs().max()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(method="heun"), "use ddim or ancestral"),
        (dict(num_steps=0), "at least 1"),
        (dict(eta=1.5), "from 0 to 1"),
        (dict(method="ancestral", eta=0.5), "and 0 unless the method is ddim"),
        (dict(LT_cfg=float("nan")), "LT_cfg is nan"),
        (dict(classifier_scale=float("inf")), "classifier_scale is inf"),
        (dict(branch_time=200), "give LT_cfg and ST_cfg too"),
        (dict(cfg_channels=0, LT_cfg=2.0), "cfg_channels is 0"),
        (dict(dg_time="sigma"), "use level or step"),
    ],
)
def test_impossible_sampling(wrong, message):
    with pytest.raises(ValueError, match=message):
        DDPMSampling(**wrong)
    with pytest.raises(ValueError, match="asks for 21 of 20 steps"):
        draw_images(small(), [0], DDPMSampling(num_steps=21))


# Guidance.


def sampled(denoiser, steer=None, **kwargs):
    model = ExactDDPM(
        denoiser, kwargs.pop("schedule", "cosine"), kwargs.pop("variance", "fixed_small")
    )
    randn_like = (
        kwargs.pop("randn_like", None) or edm.StackedRandomGenerator("cpu", range(16)).randn_like
    )
    return ddpm_sampler(
        model, latents(), randn_like=randn_like, guidance=steer, clip_denoised=False, **kwargs
    )


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_exact_ratio_in_ddim_is_the_true_models_sampler(schedule, eta):
    """However few the steps: the score is corrected, not the mean. Without its time window, which
    ends at sigma 152."""
    steer = guidance((1, 0))
    steer._in_window = lambda sigma, batch: torch.ones(batch, dtype=torch.bool)
    guided = sampled(MODEL, steer, method="ddim", num_steps=7, eta=eta, schedule=schedule)
    true = sampled(DATA, method="ddim", num_steps=7, eta=eta, schedule=schedule)
    assert (guided - true).abs().max() < 1e-8 and (
        guided - sampled(MODEL, method="ddim", num_steps=7, eta=eta, schedule=schedule)
    ).abs().max() > 0.1


def mean_error(num_steps, schedule, variance, method="ancestral", **kwargs):
    """Where the guided sampler carries the mean, from the mean of the true data; the mean follows
    the mean without noise."""
    model = ExactDDPM(MODEL, schedule, variance)
    x = ddpm_sampler(
        model,
        torch.zeros(1, 1, 2, 2),
        randn_like=torch.zeros_like,
        guidance=guidance((1, 0)),
        method=method,
        num_steps=num_steps,
        clip_denoised=False,
        **kwargs,
    )
    return (x - DATA.mean).abs().max().item()


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_the_mean_comes_nearer_to_the_true_one_with_more_steps(schedule, variance):
    """By the mean of the step the guidance is exact only for short steps: the error falls about
    like 1 / steps."""
    unguided = MODEL.mean - DATA.mean
    errors = [mean_error(n, schedule, variance) for n in (10, 20, 50, 100, 200)]
    assert all(later < 0.7 * earlier for earlier, later in pairwise(errors)), errors
    limit = 2 * errors[-1] - errors[-2]  # of errors that fall like 1 / steps
    assert errors[0] < unguided and abs(limit) < 0.005


def test_correction_and_score_agree_at_every_noise_level():
    """as_cond_fn of the exact ratio is the difference of the scores of the two Gaussians at x_t, on
    a respaced process too."""
    diffusion = create_diffusion("cosine", 1000, "13", variance="fixed_small")
    generator = torch.Generator().manual_seed(0)
    t = torch.from_numpy(diffusion.schedule.timestep_map[:-1])
    x = torch.randn(len(t), 1, 2, 2, dtype=torch.float64, generator=generator)
    found = as_cond_fn(guidance((1, 0)), diffusion)(x, t)
    bar = torch.from_numpy(diffusion.schedule.alphas_cumprod[:-1]).reshape(-1, 1, 1, 1)
    scores = [-(x - bar.sqrt() * net.mean) / (bar * net.sd**2 + 1 - bar) for net in (DATA, MODEL)]
    torch.testing.assert_close(found, scores[0] - scores[1], rtol=1e-9, atol=1e-9)
    assert (as_cond_fn(guidance((0, 1)), diffusion)(x, t) == 0).all(), (
        "every step is of first order"
    )


def test_steps_are_counted_and_state_is_reset():
    class Listener(edm.Guidance):
        def __init__(self):
            self.calls = []

        def begin(self, x):
            self.calls.append("begin")

        def correction(self, x, sigma, class_labels, step, order):
            self.calls.append((step, order, float(sigma[0]), class_labels))

    model, listener = small(num_classes=3), Listener()
    plain, _ = draw_images(model, [0, 1], DDPMSampling(num_steps=4))
    heard, _ = draw_images(model, [0, 1], DDPMSampling(num_steps=4), listener)
    assert (heard - plain).abs().max() < 1e-6, "no correction, no change but rounding"
    begin, *calls = listener.calls
    bars = model.respaced("4").schedule.alphas_cumprod[::-1]
    assert begin == "begin" and [call[:2] for call in calls] == [(step, 1) for step in range(4)]
    assert [call[2] for call in calls] == pytest.approx(list(((1 - bars) / bars) ** 0.5))
    assert all(call[3].shape == (2, 3) for call in calls)


def test_boosting_is_refused():
    with pytest.raises(ValueError, match="needs the steps of EDM's sampler"):
        draw_images(
            small(), [0], DDPMSampling(num_steps=2), guidance((1, 0), boosting=BOOSTING["authors"])
        )


@pytest.mark.parametrize("conditional", [False, True])
def test_one_head_from_scratch_guides_both_samplers_at_28_pixels(conditional):
    """A U-Net encoder on pixels, levels 28, 14, 7, one channel."""
    data = ImageSet(np.zeros([4, 28, 28, 1], np.uint8), np.array([0, 1, 2, 2]), "data")
    discriminator = build_discriminator("none", data, conditional=conditional, width=32)
    golden_fill.fill(discriminator.heads[0], gain=2.0)
    steer = DiscriminatorGuidance(discriminator.eval().requires_grad_(False), (30.0, 0.0))
    classes = 3 if conditional else 0
    score = edm.EDMPrecond(
        28,
        1,
        label_dim=classes,
        model_type="SongUNet",
        model_channels=8,
        channel_mult=[1],
        num_blocks=1,
        attn_resolutions=[],
    )
    ddpm = DDPM(
        dict(schedule="cosine", num_steps=20, variance="fixed_small"),
        SMALL | dict(image_size=28, num_classes=classes, channel_mult=[1, 1, 1]),
    )
    for net, sampling in (
        (score, Sampling(num_steps=3)),
        (ddpm, DDPMSampling("ddim", 3)),
        (ddpm, DDPMSampling("ancestral", 3)),
    ):
        golden_fill.fill(net, gain=0.6).eval().requires_grad_(False)
        plain, labels = draw_images(net, [1, 2], sampling)
        guided, same = draw_images(net, [1, 2], sampling, steer)
        assert (
            guided.shape == (2, 1, 28, 28)
            and guided.isfinite().all()
            and (guided - plain).abs().max() > 1e-3
        )
        assert not conditional or torch.equal(labels, same)
    x, sigma = torch.randn(2, 1, 28, 28), torch.ones(2, dtype=torch.float64)
    if conditional:
        ratios = [steer.log_ratio(x, sigma, torch.eye(3)[[label, label]]) for label in (0, 1)]
        assert (ratios[0] - ratios[1]).abs().max() > 1e-4, "the class is heard"
        with pytest.raises(ValueError, match="conditional"):
            draw_images(
                DDPM(ddpm.init_kwargs["process"], ddpm.init_kwargs["network"] | {"num_classes": 0}),
                [1],
                DDPMSampling(num_steps=2),
                steer,
            )


# Classes.


def classifier(num_classes=3, **kwargs):
    encoder = EncoderUNetModel(
        image_size=4,
        in_channels=1,
        model_channels=64,
        out_channels=num_classes,
        num_res_blocks=1,
        channel_mult=[1],
        attention_resolutions=[],
        **kwargs,
    )
    return golden_fill.fill(encoder, gain=2.0).eval().requires_grad_(False)


@pytest.mark.parametrize("method", ["ddim", "ancestral"])
def test_gradients_of_classifier_and_discriminator_add_up(method):
    model = small(num_classes=3, num_steps=1000).with_classifier(classifier())
    sampling = DDPMSampling(method, 3, clip_denoised=False, classifier_scale=2.0)
    steer = guidance((1, 0))
    found, labels = draw_images(model, [0, 1], sampling, steer)
    diffusion, rnd = model.respaced("3"), edm.StackedRandomGenerator("cpu", [0, 1])
    x, y = rnd.randn([2, 1, 4, 4]).double(), rnd.randint(3, size=[2])
    parts = as_cond_fn(steer, diffusion), classifier_gradient(model.classifier, 2.0)
    loop = diffusion.ddim_sample_loop if method == "ddim" else diffusion.p_sample_loop
    expected = loop(
        model.net,
        x,
        randn_like=rnd.randn_like,
        clip_denoised=False,
        model_kwargs={"y": y},
        cond_fn=lambda x, t, y: parts[0](x, t) + parts[1](x, t, y),
    )
    assert torch.equal(labels, y)
    torch.testing.assert_close(found, expected)
    for other in (
        draw_images(model, [0, 1], sampling),
        draw_images(model, [0, 1], DDPMSampling(method, 3), steer),
    ):
        assert (found - other[0]).abs().max() > 1e-3


def test_a_classifier_gets_the_timesteps_that_the_network_gets():
    """As in guided-diffusion: of 4000 steps, trained on timesteps scaled to 1000, the classifier of
    1000 steps sees the scaled ones. Others it does not know."""
    seen, net = [], small(num_classes=3, num_steps=4000, rescale_timesteps=True)

    class Listening(EncoderUNetModel):
        def forward(self, x, time, **kwargs):
            seen.append(999 * time[0].item())
            return super().forward(x, time, **kwargs)

    listening = classifier()
    listening.__class__ = Listening
    sampling = DDPMSampling("ancestral", 5, classifier_scale=1.0)
    draw_images(net.with_classifier(listening), [0], sampling)
    assert seen == pytest.approx([t / 4 for t in (3999, 2999, 2000, 1000, 0)], abs=1e-9)
    for steps in (20, 4000):
        model = small(num_classes=3, num_steps=steps).with_classifier(classifier())
        with pytest.raises(ValueError, match=f"1000 timesteps, but this process has {steps}"):
            draw_images(model, [0], sampling)
    x, y = torch.zeros(1, 1, 4, 4), torch.zeros(1, dtype=torch.int64)
    gradient = classifier_gradient(classifier())
    with pytest.raises(ValueError, match="timestep 1000, but classifiers know 0 to 999"):
        gradient(x, torch.tensor([1000]), y)


def test_a_classifier_leads_an_unconditional_network_to_classes():
    model = small(num_steps=1000).with_classifier(classifier())
    sampling = DDPMSampling("ancestral", 3, classifier_scale=5.0)
    images, labels = draw_images(model, range(8), sampling)
    other, same = draw_images(model, range(8), sampling, class_idx=1)
    assert (
        len(labels.unique()) > 1
        and (same == 1).all()
        and (images - other)[labels != 1].abs().max() > 1e-4
    )
    assert (
        torch.equal(images[labels == 1], other[labels == 1])
        or (images - other)[labels == 1].abs().max() < 1e-5
    )
    check_class(model, 2, sampling)
    for wrong in (
        lambda: check_class(model, 3, sampling),
        lambda: check_class(model, 0, DDPMSampling()),
    ):
        with pytest.raises(ValueError, match=r"class [03], but the network"):
            wrong()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(LT_cfg=2.0), "needs a network with a null class"),
        (dict(ST_cfg=0.0), "needs a network with a null class"),
        (dict(classifier_scale=1.0), "needs a classifier of noisy images"),
    ],
)
def test_guidance_that_the_model_has_nothing_for(wrong, message):
    with pytest.raises(ValueError, match=message):
        draw_images(small(num_classes=3), [0], DDPMSampling(num_steps=2, **wrong))
    draw_images(
        small(num_classes=3),
        [0],
        DDPMSampling(num_steps=2, LT_cfg=1.0, ST_cfg=1.0, classifier_scale=0.0),
    )


def test_a_classifier_of_other_images_or_classes():
    other, plain = classifier(num_classes=3), small(num_classes=2)
    with pytest.raises(ValueError, match="use another classifier"):
        plain.with_classifier(other)
    model = DDPM(**plain.init_kwargs, net=plain.net, classifier=other)
    with pytest.raises(ValueError, match="use another classifier"):
        draw_images(model, [0], DDPMSampling(num_steps=2, classifier_scale=1.0))


def test_what_a_classifier_and_scales_are_is_described():
    model = small(num_classes=3).with_classifier(classifier())
    described = describe(model, DDPMSampling(classifier_scale=1.5))
    assert len(described["classifier"]) == 16 and described["sampling"]["classifier_scale"] == 1.5
    assert "classifier" not in describe(small(num_classes=3), DDPMSampling())


# One pass of an encoder that classifier and discriminator both stand on.


def on_classifier(encoder, schedule="linear", average="logits", **kwargs):
    """Guidance by two heads on a copy of a classifier, as files give it."""
    sizes = dict(image_size=4, in_channels=64, classifier_width=64, channel_mult=[1])
    heads = [
        create_classifier(**sizes, out_channels=1, condition=conditional)
        for conditional in (True, False)
    ]
    for salt, head in enumerate(heads):
        golden_fill.fill(head, f"head-{salt}:", gain=2.0)
    extractor = ClassifierExtractor(copy.deepcopy(encoder), schedule)
    discriminator = Discriminator(extractor, heads, [3.0, 1.0], average).eval()
    return DiscriminatorGuidance(discriminator.requires_grad_(False), (2.0, 0.0), **kwargs)


def led(encoder, **process):
    process = dict(schedule="linear", num_steps=1000) | process
    return small(num_classes=3, **process).with_classifier(encoder)


def passes(model, steer, **sampling):
    """Images, the last log ratios, and how often the encoder ran; those of two passes too."""
    found = []
    for apart in (False, True):
        one, calls = copy.copy(steer), []
        if apart:
            one.on_features = lambda encoder: None
        encoders = {model.classifier, one.discriminator.extractor.encoder}
        hooks = [
            encoder.register_forward_hook(lambda *called, calls=calls: calls.append(1))
            for encoder in encoders
        ]
        settings = dict(classifier_scale=3.0, dg_time="step", clip_denoised=False) | sampling
        images, _ = draw_images(model, [1, 2], DDPMSampling(**settings), one)
        found.append((images, one.last_log_ratio, len(calls)))
        for hook in hooks:
            hook.remove()
    return found


def assert_near(found, expected):
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", ["ddim", "ancestral"])
def test_a_classifier_under_both_guidances_runs_once(method, dtype):
    """All steps but the last, t = 0, are in the window of the discriminator."""
    encoder = classifier()
    model, steer = led(encoder), on_classifier(encoder)
    for network in (model, encoder, steer.discriminator):
        network.to(dtype)
    shared, apart = passes(model, steer, method=method, num_steps=10)
    assert_near(shared[0], apart[0])
    assert (shared[2], apart[2]) == (10, 19)
    unguided, _ = draw_images(model, [1, 2], DDPMSampling(method, 10, clip_denoised=False))
    assert (shared[0] - unguided).abs().max() > 1e-2


@pytest.mark.parametrize(
    "kwargs",
    [
        dict(time_min=0.3, time_max=0.7),
        dict(clip=0.3),
        dict(average="probabilities"),
        dict(average="sum"),
    ],
)
def test_window_clip_and_averages_keep_their_meaning_in_one_pass(kwargs):
    """Of samples at different times, too: each is in the window or outside for itself."""
    encoder = classifier()
    model, steer = led(encoder), on_classifier(encoder, **kwargs)
    for network in (model, encoder, steer.discriminator):
        network.double()
    shared, apart = passes(model, steer, num_steps=10)
    assert_near(shared[0], apart[0])
    inside = 4 if "time_min" in kwargs else 9
    assert (shared[2], apart[2]) == (10, 10 + inside)
    diffusion, generator = model.respaced(), torch.Generator().manual_seed(0)
    t, y = torch.tensor([1, 15, 350, 500, 699, 998]), torch.tensor([0, 1, 2, 0, 1, 2])
    x = torch.randn(6, 1, 4, 4, dtype=torch.float64, generator=generator)
    one_hot, leading = torch.eye(3)[y], classifier_gradient(encoder, 3.0)
    guiding = as_cond_fn(steer, diffusion, one_hot, "step")
    expected = guiding(x, t) + leading(x, t, y)
    ratios = steer.last_log_ratio
    together = _in_one_pass(None, encoder, 3.0, steer, diffusion, one_hot)(x, t, y=y)
    assert_near(together, expected)
    torch.testing.assert_close(steer.last_log_ratio, ratios, rtol=1e-5, atol=1e-5)
    outside = (t / 999 < steer.time_min) | (t / 999 > steer.time_max)
    assert torch.equal(ratios.isinf(), outside) and outside.any() and not outside.all()
    assert_near(together[outside], leading(x, t, y)[outside])


def test_at_the_time_of_the_step_both_see_the_same():
    """To the last bit of the float32 values that the encoder embeds, but at t = 0."""
    t = torch.arange(1000)
    seen = {}
    for time in ("step", "level"):
        steer = guidance((1, 0), time_min=0.0)
        steer.correction = lambda x, sigma, *rest, time=time: seen.update({time: (x, sigma)})
        x = torch.ones(1000, 1, 1, 1, dtype=torch.float64)
        as_cond_fn(steer, create_diffusion("linear", 1000), None, time)(x, t)
    times = {name: (999 * vp.from_sigma(sigma)[0]).float() for name, (_, sigma) in seen.items()}
    assert torch.equal(times["step"][1:], t[1:].float()) and times["step"][0] > 0.009
    later = times["level"] - t
    assert later.min() > 0.5 and 3.3 < later.max() < 3.4, "by levels, no two times agree"
    x, sigma = seen["step"]
    rescaled = x * vp.from_sigma(sigma)[1].reshape(-1, 1, 1, 1)
    torch.testing.assert_close(rescaled, torch.ones_like(x), rtol=1e-12, atol=0)


def test_the_first_timestep_of_the_process_takes_two_passes():
    encoder = classifier()
    shared, apart = passes(led(encoder), on_classifier(encoder, time_min=0.0), num_steps=10)
    assert_near(shared[0], apart[0])
    assert (shared[2], apart[2]) == (11, 20)


def test_what_is_not_the_same_takes_two_passes():
    encoder, other = classifier(), classifier()
    golden_fill.fill(other, "other:", gain=2.0)
    narrow = classifier(num_head_channels=32)
    assert list(narrow.state_dict()) == list(encoder.state_dict())
    adapted = on_classifier(encoder)
    add_lora(adapted.discriminator.extractor.encoder, 2)
    steer, same = on_classifier(encoder), on_classifier(encoder)
    for model, guide, kwargs in (
        (led(encoder), steer, dict(dg_time="level")),
        (led(other), steer, {}),
        (led(narrow), steer, {}),
        (led(encoder), on_classifier(encoder, schedule="cosine"), {}),
        (led(classifier(pool="spatial")), on_classifier(classifier(pool="spatial")), {}),
        (led(encoder), adapted, {}),
    ):
        shared, apart = passes(model, guide, num_steps=3, **kwargs)
        assert shared[2] == apart[2] > 3 and torch.equal(shared[0], apart[0])
    assert same.on_features(encoder) is not None and (steer + same).on_features(encoder) is None
    assert passes(led(encoder), steer, num_steps=3)[0][2] == 3, "t = 0 is outside of the window"
