"""Classifier guidance: against outputs of the original, and on mixtures of Gaussians, where
everything is known."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dg.models.classifier_guidance import (
    check_classifier,
    classifier_gradient,
    sum_of,
    through_encoder,
)
from guided_diffusion import EncoderUNetModel, create_diffusion, load_encoder
from tests.golden_fill import fill, load

REFERENCE, CONFIG = load("adm_unet")
MEANS = torch.tensor(
    [[0.5, -0.4, 0.3, 0.0], [-0.6, 0.2, 0.1, 0.4], [0.0, 0.5, -0.5, -0.2]], dtype=torch.float64
)
PRIOR, SD = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), 0.2
ALPHA_BARS = torch.from_numpy(create_diffusion().schedule.alphas_cumprod)


class Bayes(nn.Module):
    """p(y | x_t) of images [1, 2, 2] from N(MEANS[y], SD^2): linear in x_t. Keeps the times that it
    is given."""

    in_channels, image_size, out_channels = 1, 2, len(MEANS)

    def forward(self, x, time):
        self.time = time
        alpha_bar = ALPHA_BARS[(999 * time).round().long()][:, None]
        means, variance = alpha_bar.sqrt()[:, None] * MEANS, alpha_bar * SD**2 + 1 - alpha_bar
        product = (x.flatten(1)[:, None] * means).sum(dim=2)
        return PRIOR.log() + (product - (means**2).sum(dim=2) / 2) / variance


def mixture(x, t, y=None):
    """The noise in x_t that a perfect model of the whole mixture predicts."""
    alpha_bar = ALPHA_BARS[t][:, None]
    mean = alpha_bar.sqrt() * (Bayes()(x, t / 999).softmax(dim=1) @ MEANS)
    score = (mean - x.flatten(1)) / (alpha_bar * SD**2 + 1 - alpha_bar)
    return (-(1 - alpha_bar).sqrt() * score).reshape(x.shape)


def normal(n, seed=0):
    return torch.randn(
        n, 1, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def test_reference_vectors():
    classifier = load_encoder(
        fill(EncoderUNetModel(**CONFIG["classifier"]), CONFIG["salt"]).state_dict(),
        num_head_channels=32,
    )
    x, t, y = (torch.from_numpy(REFERENCE[name]) for name in ("x", "t", "y"))
    expected = REFERENCE["classifier_gradient"]
    found = classifier_gradient(classifier, CONFIG["classifier_scale"])(x, t, y).numpy()
    assert abs(found - expected).max() < 1e-5 * abs(expected).max()


def test_the_gradient_in_closed_form():
    x, t, y = normal(4), torch.tensor([0, 100, 500, 999]), torch.tensor([2, 0, 1, 1])
    alpha_bar = ALPHA_BARS[t][:, None]
    others = Bayes()(x, t / 999).softmax(dim=1) @ MEANS
    expected = 2.5 * (MEANS[y] - others) * alpha_bar.sqrt() / (alpha_bar * SD**2 + 1 - alpha_bar)
    found = classifier_gradient(Bayes(), 2.5)(x, t, y)
    assert found.dtype == torch.float64 and not found.requires_grad
    torch.testing.assert_close(found.flatten(1), expected, rtol=1e-4, atol=1e-5)
    assert classifier_gradient(Bayes())(x.float(), t, y).dtype == torch.float32


@pytest.mark.parametrize("sampler", ["p_sample_loop", "ddim_sample_loop"])
def test_samples_of_a_mixture_go_to_their_class(sampler):
    """With scale 1 they are those of N(MEANS[y], SD^2), up to the steps' size; without guidance
    they are of all classes."""
    noise, y = normal(200), torch.arange(200) % 3
    diffusion = create_diffusion("linear", 1000, "250", variance="fixed_small")
    generator = torch.Generator().manual_seed(1)
    kwargs = dict(
        clip_denoised=False,
        model_kwargs={"y": y},
        randn_like=lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype),
    )
    guided = getattr(diffusion, sampler)(
        mixture, noise, cond_fn=classifier_gradient(Bayes()), **kwargs
    ).flatten(1)
    free = getattr(diffusion, sampler)(mixture, noise, **kwargs).flatten(1)
    if sampler == "ddim_sample_loop":  # each noise has its own image
        assert (guided - MEANS[y] - SD * noise.flatten(1)).abs().max() < 0.05
    for k in range(3):
        assert (guided[y == k].mean(dim=0) - MEANS[k]).abs().max() < 4.5 * SD / 66**0.5
        assert (free[y == k].mean(dim=0) - MEANS[k]).abs().max() > 0.25
    assert abs((guided - MEANS[y]).std() / SD - 1) < 0.1


def test_a_larger_scale_is_surer_of_the_class():
    noise, y = normal(60), torch.arange(60) % 3
    diffusion, t = (
        create_diffusion("linear", 1000, "50", variance="fixed_small"),
        torch.zeros(60, dtype=torch.int64),
    )

    def certainty(scale):
        x = diffusion.ddim_sample_loop(
            mixture,
            noise,
            cond_fn=classifier_gradient(Bayes(), scale),
            clip_denoised=False,
            model_kwargs={"y": y},
        )
        return Bayes()(x, t / 999).softmax(dim=1).gather(1, y[:, None]).log().mean()

    none, half, exact, sharp = (certainty(scale) for scale in (0.0, 0.5, 1.0, 4.0))
    assert none < half < exact < sharp < 0 and none < -5 and sharp > -1e-3


def test_the_classifier_sees_the_timesteps_to_the_last_bit():
    """The encoder multiplies by 999 and embeds float32 values."""
    classifier, t = Bayes(), torch.arange(1000)
    classifier_gradient(classifier)(normal(1).expand(1000, 1, 2, 2), t, torch.zeros_like(t))
    assert torch.equal((999 * classifier.time).float(), t.float())


def test_gradients_add_up():
    x, t, y = normal(2), torch.tensor([10, 600]), torch.tensor([0, 2])
    one, two = classifier_gradient(Bayes(), 1.0), classifier_gradient(Bayes(), 0.5)
    torch.testing.assert_close(
        sum_of(one, two)(x, t, y=y), classifier_gradient(Bayes(), 1.5)(x, t, y)
    )
    assert torch.equal(sum_of(one)(x, t, y=y), one(x, t, y))


def test_gradients_by_features_in_one_pass():
    """The classifier's own, and the sum with that of the square of the features."""
    classifier = fill(EncoderUNetModel(**CONFIG["classifier"]))
    x, t, y = (torch.from_numpy(REFERENCE[name]) for name in ("x", "t", "y"))
    by_features = classifier_gradient(classifier, 2.0, of_features=True)
    calls = []
    classifier.register_forward_hook(lambda *called: calls.append(1))
    found = through_encoder(classifier, [by_features])(x, t, y=y)
    assert len(calls) == 1 and found.dtype == x.dtype and not found.requires_grad
    expected = classifier_gradient(classifier, 2.0)(x, t, y)
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()
    both = through_encoder(classifier, [by_features, lambda features, t, y: features])(x, t, y=y)
    leaf = x.clone().requires_grad_()
    (classifier(leaf, t / 999, feature=True) ** 2 / 2).sum().backward()
    torch.testing.assert_close(both - expected, leaf.grad, rtol=1e-4, atol=1e-4)


def test_the_classifier_is_frozen_and_autocast_stays_near():
    classifier = fill(EncoderUNetModel(**CONFIG["classifier"])).train()
    x, t, y = (torch.from_numpy(REFERENCE[name]) for name in ("x", "t", "y"))
    gradient = classifier_gradient(classifier)
    exact = gradient(x, t, y)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = gradient(x, t, y)
    assert not classifier.training and not any(
        p.requires_grad or p.grad is not None for p in classifier.parameters()
    )
    assert rounded.dtype == torch.float32 and (rounded - exact).norm() < 0.1 * exact.norm()


def refused(message, function, *args):
    with pytest.raises(ValueError, match=message) as error:
        function(*args)
    assert "\n" not in str(error.value)


def test_unsuitable_classifiers_are_refused():
    classifier = fill(EncoderUNetModel(**CONFIG["classifier"]))
    gradient, t = classifier_gradient(classifier), torch.tensor([5, 6])
    refused("needs classes; give class numbers", gradient, torch.zeros(2, 3, 16, 16), t)
    refused(
        "class 10, but the classifier knows 10 classes",
        gradient,
        torch.zeros(2, 3, 16, 16),
        t,
        torch.tensor([0, 10]),
    )
    refused(
        "features are 4x4, but the attention pool takes 8x8",
        gradient,
        torch.zeros(2, 3, 8, 8),
        t,
        torch.tensor([0, 1]),
    )
    refused(r"give \[N, 3, H, W\]", gradient, torch.zeros(2, 1, 16, 16), t, torch.tensor([0, 1]))

    model = dict(img_channels=3, img_resolution=16, label_dim=10)
    check_classifier(classifier, SimpleNamespace(**model))
    check_classifier(classifier, SimpleNamespace(**model | {"label_dim": 0}))
    for change in (dict(img_channels=1), dict(img_resolution=32), dict(label_dim=5)):
        refused(
            "knows 3 channels, 16 pixels and 10 classes, but the network makes",
            check_classifier,
            classifier,
            SimpleNamespace(**model | change),
        )
