"""Guidance in foreign samplers."""

from itertools import pairwise

import numpy as np
import pytest
import torch

import edm
from dg.adapters import GuidedDenoiser, cond_fn, guided_prediction
from dg.discriminator import Discriminator, build_discriminator
from dg.extractors import ClassifierExtractor
from dg.guidance import BOOSTING, DiscriminatorGuidance
from guided_diffusion import create_classifier
from guided_diffusion.schedules import cosine_betas, linear_betas
from tests import golden_fill
from tests.dg.test_guidance import DATA, MODEL, ExactRatio, guidance, latents
from tests.edm.test_samplers import GaussianDenoiser


def heun_of_another_library(model, x, sigmas):
    """A sampler that knows only model(x, sigma[N])."""
    ones = x.new_ones(len(x))
    for sigma, sigma_next in pairwise(sigmas):
        slope = (x - model(x, sigma * ones)) / sigma
        ahead = x + (sigma_next - sigma) * slope
        if sigma_next > 0:
            slope = (slope + (ahead - model(ahead, sigma_next * ones)) / sigma_next) / 2
        x = x + (sigma_next - sigma) * slope
    return x


def test_exact_ratio_in_a_foreign_sampler_is_the_true_model():
    sigmas = torch.cat(
        [torch.logspace(1.9, -2.7, 18, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)]
    )
    guided = heun_of_another_library(
        GuidedDenoiser(MODEL, guidance((1, 0))), latents() * sigmas[0], sigmas
    )
    true = heun_of_another_library(DATA, latents() * sigmas[0], sigmas)
    assert (guided - true).abs().max() < 1e-9


def test_what_needs_the_step_is_refused_where_it_is_unknown():
    for steering in (guidance((1, 0), boosting=BOOSTING["authors"]), guidance((1, 0), every=2)):
        with pytest.raises(ValueError, match="leave boosting out, and guide at every step"):
            GuidedDenoiser(MODEL, steering)


def test_cond_fn_on_latents():
    """Against reference vectors of the authors' latent classifier and discriminator."""
    arrays, config = golden_fill.load("b_imagenet_latent_stack")
    kwargs = dict(config["classifier_kwargs"])
    classifier = golden_fill.fill(
        create_classifier(**kwargs, channel_mult=(1, 2, 3)), config["classifier_salt"]
    )
    head = golden_fill.fill(
        create_classifier(**config["discriminator_kwargs"]), config["discriminator_salt"]
    )
    with torch.no_grad():
        head.out[2].c_proj.weight.mul_(config.get("out_scale", 1.0))
        if config.get("out_bias") is not None:
            head.out[2].c_proj.bias.fill_(config["out_bias"])
    discriminator = (
        Discriminator(ClassifierExtractor(classifier), [head]).eval().requires_grad_(False)
    )
    x, t = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["t"])
    labels = (
        torch.from_numpy(arrays["y"]) if "y" in arrays.files else torch.from_numpy(arrays["labels"])
    )
    gradient = cond_fn(discriminator, clip=1e-5)(x, t, labels).numpy()
    assert np.abs(gradient - arrays["grad"]).max() / np.abs(arrays["grad"]).max() < 1e-4
    late = cond_fn(discriminator, scale=2.0, time_min=0.5, clip=1e-5)(x, t, labels).numpy()
    np.testing.assert_allclose(late[t > 500], 2 * gradient[t > 500], rtol=1e-5)
    assert (late[t < 500] == 0).all()


def test_cond_fn_in_a_discrete_sampler_reaches_the_true_mean():
    """Ancestral sampling of N(0.3, 0.6^2) with the exact ratio to N(0, 0.5^2); the error falls with
    the step size."""

    def mean_error(num_steps):
        betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
        bars = (1 - betas).cumprod(0)
        used = torch.linspace(0, 999, num_steps).round().long()
        # the mean follows the mean: no noise needed for it
        x = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
        for position in range(num_steps - 1, -1, -1):
            t = used[position]
            bar = bars[t]
            bar_before = (
                bars[used[position - 1]] if position else torch.ones((), dtype=torch.float64)
            )
            alpha = bar / bar_before
            sigma = ((1 - bar) / bar).sqrt()
            x_0 = MODEL(x / bar.sqrt(), sigma)
            mean = (bar_before.sqrt() * (1 - alpha) * x_0 + alpha.sqrt() * (1 - bar_before) * x) / (
                1 - bar
            )
            variance = (1 - bar_before) / (1 - bar) * (1 - alpha)
            x = mean + variance * cond_fn(ExactRatio())(x, t[None])
        return abs(float(x) - DATA.mean)

    errors = [mean_error(n) for n in (25, 100, 400)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.02


class TwoClasses(GaussianDenoiser):
    """A denoiser of one Gaussian for each class, whose mean is that of the base plus 0, 1 ..."""

    label_dim = 2

    def __call__(self, x, sigma, class_labels=None):
        shift = 0 if class_labels is None else class_labels.argmax(dim=1).reshape(-1, 1, 1, 1)
        return super().__call__(x - shift, sigma) + shift


class RatioOfClasses(ExactRatio):
    def __call__(self, x, sigma, class_labels=None):
        shift = class_labels.argmax(dim=1).reshape(-1, 1, 1, 1)
        return super().__call__(x - shift, sigma)


def test_labels_reach_the_network_and_the_guidance():
    labels = torch.eye(2, dtype=torch.float64)[torch.arange(16) % 2]
    steer = DiscriminatorGuidance(RatioOfClasses(), (1, 0), time_min=0.0)
    model, data = TwoClasses(MODEL.mean, MODEL.sd), TwoClasses(DATA.mean, DATA.sd)
    x, sigma = 3 * latents(), torch.full([16], 2.0, dtype=torch.float64)
    expected = data(x, sigma, labels)
    made = GuidedDenoiser(model, steer, labels)
    for found in (
        made(x, sigma),
        made(x, sigma, class_labels=labels.clone()),
        GuidedDenoiser(model, steer)(x, sigma, labels),
        GuidedDenoiser(lambda x, sigma, y=None: model(x, sigma, y), steer, labels)(x, sigma),
        GuidedDenoiser(lambda x, sigma, **rest: model(x, sigma, **rest), steer, labels)(x, sigma),
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    for other in (labels.flip(1), labels[:8]):
        with pytest.raises(ValueError, match="not those that the denoiser was made with"):
            made(x, sigma, class_labels=other)
    with pytest.raises(ValueError, match="takes no class_labels"):
        GuidedDenoiser(lambda x, sigma: x, steer, labels)
    with pytest.raises(ValueError, match="one-hot"):
        GuidedDenoiser(model, steer, torch.zeros(16))


def alphas(name):
    """[1000] of the processes in use: of DDPM and DiT, of Nichol & Dhariwal, of Stable
    Diffusion."""
    betas = {
        "linear": linear_betas(1000),
        "cosine": cosine_betas(1000),
        "scaled linear": np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2,
    }
    return np.cumprod(1 - betas[name])


class ModelAtVP:
    """What networks predict that know N(0, 0.5^2) exactly, and the exact ratio to N(0.3, 0.6^2)."""

    model, data = GaussianDenoiser(0.0, 0.5), GaussianDenoiser(0.3, 0.6)

    def shares_encoder(self, net):
        return False

    def __call__(self, x, sigma, class_labels=None):
        def log_density(net):
            variance = (net.sd**2 + sigma**2).reshape(-1, 1, 1, 1)
            return -0.5 * ((x - net.mean) ** 2 / variance + variance.log())

        return (log_density(self.data) - log_density(self.model)).sum(dim=(1, 2, 3))

    def predict(self, x, bar, prediction_type):
        scale, std = bar.sqrt(), (1 - bar).sqrt()
        image = self.model(x / scale, std / scale)
        noise = (x - scale * image) / std
        of = {"epsilon": noise, "v_prediction": scale * noise - std * image, "sample": image}
        return of[prediction_type]


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", ["linear", "cosine", "scaled linear"])
def test_cond_fn_of_any_process_reaches_the_true_mean(name, prediction_type):
    """DDIM from a model N(0, 0.25) to data N(0.3, 0.36): a mean of 0.3 within discretisation."""
    exact, bars = ModelAtVP(), torch.from_numpy(alphas(name))
    gradient = cond_fn(exact, alphas_cumprod=alphas(name))
    of_tensor = cond_fn(exact, alphas_cumprod=bars)
    x, t = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.tensor([500])
    assert of_tensor(x, t).equal(gradient(x, t))

    def mean(num_steps):
        x = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
        used = torch.linspace(0, 999, num_steps).round().long().tolist()
        for t, before in zip(used[::-1], [*used[-2::-1], None], strict=True):
            bar = bars[t]
            bar_before = torch.ones((), dtype=torch.float64) if before is None else bars[before]
            predicted = guided_prediction(
                exact.predict(x, bar, prediction_type),
                gradient(x, torch.tensor([t])),
                bar,
                prediction_type,
            )
            scale, std = bar.sqrt(), (1 - bar).sqrt()
            image = {
                "epsilon": lambda: (x - std * predicted) / scale,  # noqa: B023
                "v_prediction": lambda: scale * x - std * predicted,  # noqa: B023
                "sample": lambda: predicted,  # noqa: B023
            }[prediction_type]()
            noise = (x - scale * image) / std
            x = bar_before.sqrt() * image + (1 - bar_before).sqrt() * noise
        return float(x)

    last = float(((1 - bars[-1]) / bars[-1]).sqrt())
    expected = exact.data.flow(0.0, last, 0.0)  # 0.288 to 0.3: a process starts where some is left
    assert abs(mean(50) - expected) < 0.01 and abs(mean(400) - expected) < 2e-3


def test_the_default_process_is_the_linear_one_by_the_authors_time():
    """Levels of the linear schedule are those of t / 999 up to 0.5%, so the gradients are alike."""

    exact = ModelAtVP()
    x, t = torch.randn(4, 1, 2, 2, dtype=torch.float64), torch.tensor([100, 350, 700, 900])
    default, given = cond_fn(exact), cond_fn(exact, alphas_cumprod=alphas("linear"))
    torch.testing.assert_close(default(x, t).double(), given(x, t), rtol=0.02, atol=0.01)
    assert not cond_fn(exact, time_min=0.2, alphas_cumprod=alphas("linear"))(x, t)[0].any()


def test_what_fits_no_process_is_refused():
    x = torch.zeros(1, 1, 2, 2)
    for given, t in ((None, 1000), (None, -1), (alphas("cosine"), 1000), (None, 2.5)):
        with pytest.raises(ValueError, match="whole numbers 0 to 999"):
            cond_fn(ModelAtVP(), alphas_cumprod=given)(x, torch.tensor([t]))
    for wrong in ([[0.9]], [], [0.1, 0.9], [1.2, 0.5], alphas("linear")[::-1].copy()):
        with pytest.raises(ValueError, match="alphas_cumprod must fall"):
            cond_fn(ModelAtVP(), alphas_cumprod=wrong)
    with pytest.raises(ValueError, match="prediction_type is 'noise'; use score"):
        guided_prediction(x, x, 0.5, "noise")
    variances = torch.arange(8.0).reshape(1, 2, 2, 2)
    guided = guided_prediction(variances, torch.ones(1, 1, 2, 2), torch.tensor([0.75]))
    assert torch.equal(guided[:, 1:], variances[:, 1:])
    torch.testing.assert_close(guided[:, :1], variances[:, :1] - 0.5)
    last = guided_prediction(x, torch.zeros_like(x), 0.0, "v_prediction")
    assert last.isfinite().all(), "also where nothing is left of the image"


def test_edm_networks_are_k_diffusion_denoisers():
    net, x = network(), torch.randn(2, 1, 8, 8)
    guided = GuidedDenoiser(net, edm.Guidance())
    assert torch.equal(guided(x, torch.ones(2)), net(x, torch.ones(2)))


def network(label_dim=0):
    return golden_fill.fill(
        edm.EDMPrecond(
            8,
            1,
            label_dim=label_dim,
            model_type="SongUNet",
            model_channels=8,
            channel_mult=[1],
            num_blocks=1,
            attn_resolutions=[],
            dropout=0,
        )
    ).eval()


@pytest.mark.parametrize("kind", ["score", "finetuned"])
@pytest.mark.parametrize("label_dim", [0, 3])
def test_cond_fn_on_the_score_networks_encoder(label_dim, kind):
    """Class numbers and one-hot labels, timesteps of every type, a guidance in place of its
    discriminator."""
    net = network(label_dim)
    discriminator = build_discriminator(kind, None, net, conditional=label_dim > 0).eval()
    golden_fill.fill(discriminator.heads[0])
    x, bars = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), alphas("cosine")
    numbers = torch.tensor([2, 0]) if label_dim else None
    labels = torch.eye(3)[numbers] if label_dim else None
    bar = torch.tensor(bars[400])
    leaf = (x / bar.sqrt()).float().requires_grad_()
    discriminator(leaf, ((1 - bar) / bar).sqrt(), labels).sum().backward()
    expected = leaf.grad / bar.sqrt()
    for guide in (discriminator, DiscriminatorGuidance(discriminator, (1, 0))):
        condition = cond_fn(guide, alphas_cumprod=bars)
        for y in (labels, numbers):
            for t in (
                400,
                torch.tensor(400),
                torch.tensor([400.0, 400.0]),
                torch.tensor([400] * 2),
            ):
                torch.testing.assert_close(condition(x, t, y), expected, rtol=1e-4, atol=1e-6)
    assert cond_fn(discriminator)(x, 400, labels).any(), "by the authors' time too"
    if label_dim:
        with pytest.raises(ValueError, match="numbers from 0 to 2"):
            condition(x, 400, torch.tensor([3, 0]))
        with pytest.raises(ValueError, match="whole numbers"):
            condition(x, 400, torch.tensor([0.5, 0.0]))


def dpm_2_of_another_library(model, x, sigmas, extra_args=None):
    """Two evaluations a step, the second in the middle."""
    ones, extra = x.new_ones(len(x)), extra_args or {}
    for sigma, sigma_next in pairwise(sigmas):
        slope = (x - model(x, sigma * ones, **extra)) / sigma
        if sigma_next > 0:
            middle = (sigma * sigma_next).sqrt()
            ahead = x + (middle - sigma) * slope
            slope = (ahead - model(ahead, middle * ones, **extra)) / middle
        x = x + (sigma_next - sigma) * slope
    return x


class Orders(edm.Guidance):
    """Adds nothing and keeps the orders that it is asked for."""

    needs_order = True

    def __init__(self):
        self._asked, self._begun = [], 0

    def begin(self, x):
        self._begun += 1

    def correction(self, x, sigma, class_labels, step, order):
        self._asked.append(order)


@pytest.mark.parametrize("name", ["sample_heun", "sample_dpm_2", "sample_euler"])
def test_stages_are_known_where_the_sampler_is_given(name):
    sampler = dpm_2_of_another_library if name == "sample_dpm_2" else heun_of_another_library
    sigmas, asked = torch.tensor([80.0, 5.0, 1.0, 0.0], dtype=torch.float64), Orders()
    model = GuidedDenoiser(MODEL, asked, sampler=name)
    for _ in range(2):  # the second sampling begins anew, after an odd number of evaluations
        sampler(model, latents() * sigmas[0], sigmas)
    assert asked._asked == ([1] * 10 if name == "sample_euler" else [1, 2, 1, 2, 1] * 2)
    assert asked._begun == 2


def test_unknown_stages_are_told():
    with pytest.warns(UserWarning, match="every call counts as a first one; give the sampler"):
        GuidedDenoiser(MODEL, guidance((1, 0)))
    with pytest.raises(ValueError, match="the stages of sample_dpm_fast are not known"):
        GuidedDenoiser(MODEL, guidance((1, 0)), sampler="sample_dpm_fast")
    assert GuidedDenoiser(MODEL, guidance((1, 1)), sampler="sample_dpm_fast").stages == 1


def test_labels_by_the_names_of_k_diffusion():
    """`extra_args` carry class numbers by the name that the model has for them."""
    steer = DiscriminatorGuidance(RatioOfClasses(), (1, 1), time_min=0.0)
    model, data = TwoClasses(MODEL.mean, MODEL.sd), TwoClasses(DATA.mean, DATA.sd)
    numbers = torch.arange(16) % 2
    labels, x = torch.eye(2, dtype=torch.float64)[numbers], 3 * latents()
    sigma = torch.full([16], 2.0, dtype=torch.float64)

    def own(x, sigma, mapping_cond=None, class_cond=None):
        return model(x, sigma, class_cond)

    def guided_diffusions(x, sigma, y=None):
        return model(x, sigma, y)

    for called, name in ((own, "class_cond"), (guided_diffusions, "y"), (own, "class_labels")):
        found = GuidedDenoiser(called, steer)(x, sigma, **{name: labels})
        torch.testing.assert_close(found, data(x, sigma, labels), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="labels twice"):
        GuidedDenoiser(own, steer)(x, sigma, class_cond=labels, y=labels)


@pytest.mark.parametrize("label_dim", [0, 3])
def test_the_networks_encoder_pass_is_shared(label_dim, monkeypatch):
    """A fine-tuned encoder takes a pass of its own."""
    net = network(label_dim)
    shared, tuned = (
        build_discriminator(kind, None, net, conditional=label_dim > 0).eval()
        for kind in ("score", "finetuned")
    )
    for one in (shared, tuned):
        golden_fill.fill(one.heads[0])
    steer, apart = (DiscriminatorGuidance(one, (1, 1), 0.0) for one in (shared, tuned))
    x, sigma = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.ones(2)
    numbers = torch.tensor([2, 0]) if label_dim else None
    labels = torch.eye(3)[numbers] if label_dim else None
    expected, other = (
        net(x, sigma, labels) + g.correction(x, sigma, labels) for g in (steer, apart)
    )
    passes = []
    encode = net.encode
    monkeypatch.setattr(net, "encode", lambda *args: passes.append(1) or encode(*args))
    extra = {"class_cond": numbers} if label_dim else {}
    found = GuidedDenoiser(net, steer)(x, sigma, **extra)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert len(passes) == 1
    found = GuidedDenoiser(net, apart)(x, sigma, **extra)
    torch.testing.assert_close(found, other, rtol=1e-5, atol=1e-5)
    assert len(passes) == 2 and not torch.equal(other, expected)
