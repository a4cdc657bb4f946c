"""Guidance in foreign samplers."""

from itertools import pairwise

import numpy as np
import pytest
import torch

import edm
from dg import vp
from dg.adapters import GuidedDenoiser, cond_fn, guided_prediction
from dg.discriminator import Discriminator
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


def test_boosting_is_refused_where_the_step_is_unknown():
    with pytest.raises(ValueError, match="boosting"):
        GuidedDenoiser(MODEL, guidance((1, 0), boosting=BOOSTING["authors"]))


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

    class ExactAtVP:
        def at_vp(self, x, time, y):
            bar = self.alpha_bar[(time * 999).round().long()].reshape(-1, 1, 1, 1).to(x.dtype)
            total = 0.0
            for net, sign in ((DATA, 1), (MODEL, -1)):
                total = total - sign * 0.5 * (x - bar.sqrt() * net.mean) ** 2 / (
                    bar * net.sd**2 + 1 - bar
                )
            return total.sum(dim=(1, 2, 3))

    def mean_error(num_steps):
        betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
        ratio = ExactAtVP()
        ratio.alpha_bar = (1 - betas).cumprod(0)
        used = torch.linspace(0, 999, num_steps).round().long()
        # the mean follows the mean: no noise needed for it
        x = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
        for position in range(num_steps - 1, -1, -1):
            t = used[position]
            bar = ratio.alpha_bar[t]
            bar_before = (
                ratio.alpha_bar[used[position - 1]]
                if position
                else torch.ones((), dtype=torch.float64)
            )
            alpha = bar / bar_before
            sigma = ((1 - bar) / bar).sqrt()
            x_0 = MODEL(x / bar.sqrt(), sigma)
            mean = (bar_before.sqrt() * (1 - alpha) * x_0 + alpha.sqrt() * (1 - bar_before) * x) / (
                1 - bar
            )
            variance = (1 - bar_before) / (1 - bar) * (1 - alpha)
            x = mean + variance * cond_fn(ratio)(x, t[None])
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
        GuidedDenoiser(model, steer, torch.arange(16))


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
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["array", "tensor"])
def test_cond_fn_of_any_process_reaches_the_true_mean(name, prediction_type, kind):
    """DDIM from a model N(0, 0.25) to data N(0.3, 0.36): a mean of 0.3 within discretisation."""
    exact, bars = ModelAtVP(), torch.from_numpy(alphas(name))
    gradient = cond_fn(exact, alphas_cumprod=kind(alphas(name)))

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
    assert abs(mean(50) - expected) < 0.01 and abs(mean(1000) - expected) < 2e-3


def test_the_default_process_is_the_linear_one_by_the_authors_time():
    """Levels of the linear schedule are those of t / 999 up to 0.5%, so the gradients are alike."""

    class ByTime(ModelAtVP):
        def at_vp(self, x, time, y):
            scale, sigma = vp.mean(time), vp.to_sigma(time)
            return self(x / scale.reshape(-1, 1, 1, 1), sigma, y)

    x, t = torch.randn(4, 1, 2, 2, dtype=torch.float64), torch.tensor([100, 350, 700, 900])
    default, given = cond_fn(ByTime()), cond_fn(ByTime(), alphas_cumprod=alphas("linear"))
    torch.testing.assert_close(default(x, t).double(), given(x, t), rtol=0.02, atol=0.01)
    assert not cond_fn(ByTime(), time_min=0.2, alphas_cumprod=alphas("linear"))(x, t)[0].any()


def test_what_fits_no_process_is_refused():
    x = torch.zeros(1, 1, 2, 2)
    for given, t in ((None, 1000), (None, -1), (alphas("cosine"), 1000), (None, 2.5)):
        with pytest.raises(ValueError, match="whole numbers 0 to 999"):
            cond_fn(ModelAtVP(), alphas_cumprod=given)(x, torch.tensor([t]))
    for wrong in ([[0.9]], [], [0.1, 0.9], [1.2, 0.5], alphas("linear")[::-1].copy()):
        with pytest.raises(ValueError, match="alphas_cumprod must fall"):
            cond_fn(ModelAtVP(), alphas_cumprod=wrong)
    with pytest.raises(ValueError, match="prediction_type is 'flow_prediction'; use epsilon"):
        guided_prediction(x, x, 0.5, "flow_prediction")
    variances = torch.arange(8.0).reshape(1, 2, 2, 2)
    guided = guided_prediction(variances, torch.ones(1, 1, 2, 2), torch.tensor([0.75]))
    assert torch.equal(guided[:, 1:], variances[:, 1:])
    torch.testing.assert_close(guided[:, :1], variances[:, :1] - 0.5)
    last = guided_prediction(x, torch.zeros_like(x), 0.0, "v_prediction")
    assert last.isfinite().all(), "also where nothing is left of the image"


def test_edm_networks_are_k_diffusion_denoisers():
    net = golden_fill.fill(
        edm.EDMPrecond(
            8,
            1,
            model_type="SongUNet",
            model_channels=8,
            channel_mult=[1],
            num_blocks=1,
            attn_resolutions=[],
            dropout=0,
        )
    ).eval()
    x = torch.randn(2, 1, 8, 8)
    guided = GuidedDenoiser(net, edm.Guidance())
    assert torch.equal(guided(x, torch.ones(2)), net(x, torch.ones(2)))
