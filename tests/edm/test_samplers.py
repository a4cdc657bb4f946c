"""Samplers against reference vectors computed with the published code, and against closed forms."""

import math

import numpy as np
import pytest
import torch

import edm
from tests import golden_fill
from tests.edm.test_networks import build


class GaussianDenoiser:
    """The exact denoiser of data N(mean, sd^2), elementwise: linear in x, in float64."""

    img_resolution, img_channels, label_dim, sigma_min, sigma_max = 1, 1, 0, 0.0, math.inf

    def __init__(self, mean, sd):
        self.mean, self.sd = mean, sd

    def __call__(self, x, sigma, class_labels=None):
        variance = torch.as_tensor(sigma).reshape(-1, 1, 1, 1) ** 2
        return (self.sd**2 * x + variance * self.mean) / (self.sd**2 + variance)

    def flow(self, x, sigma_from, sigma_to):
        """Where the probability flow carries x from one noise level to another."""
        ratio = math.sqrt((self.sd**2 + sigma_to**2) / (self.sd**2 + sigma_from**2))
        return self.mean + (x - self.mean) * ratio

    round_sigma = staticmethod(torch.as_tensor)


def runs(case):
    arrays, config = golden_fill.load(case)
    nets = {n: build(c, arrays, gain=0.6, prefix=f"{n}:") for n, c in config["nets"].items()}
    return arrays, config, nets


@pytest.mark.parametrize("case", ["e_edm_sampler", "e_ablation_sampler"])
def test_images_seed_for_seed(case):
    arrays, config, nets = runs(case)
    for name, run in config["runs"].items():
        net, sampler = nets[run["net"]], getattr(edm, f"{run['sampler']}_sampler")
        rnd = edm.StackedRandomGenerator("cpu", config["seeds"])
        latents = rnd.randn(
            [len(config["seeds"]), net.img_channels, net.img_resolution, net.img_resolution]
        )
        np.testing.assert_array_equal(latents, arrays[f"{name}:latents"])
        labels = None
        if net.label_dim:
            labels = torch.eye(net.label_dim)[rnd.randint(net.label_dim, size=[len(latents)])]
            np.testing.assert_array_equal(labels, arrays[f"{name}:class_labels"])
        images = sampler(net, latents, labels, randn_like=rnd.randn_like, **run["kwargs"])
        expected = arrays[f"{name}:images"]
        tolerance = 2e-4 if case == "e_edm_sampler" else 1e-4 * np.abs(expected).max()
        assert np.abs(images.numpy() - expected).max() <= tolerance, name
        pixels = (images * 127.5 + 128).clip(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
        difference = np.abs(pixels.astype(int) - arrays[f"{name}:uint8"])
        assert difference.max() <= 1 and (difference > 0).mean() <= 0.002, name


def convergence_order(sampler, steps, **kwargs):
    """Slope of log error against log steps, on the flow of a Gaussian from sigma 5 to 0.05."""
    net = GaussianDenoiser(0.3, 0.6)
    errors = []
    for num_steps in steps:
        latents = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(-1, 1, 1, 1)
        visited = []

        class Stop(edm.Guidance):
            """Records the state that enters the last step, which is the flow at sigma_min."""

            def denoise(self, net, x, sigma, class_labels, step, order, visited=visited):
                if order == 1:
                    visited.append(x)
                return super().denoise(net, x, sigma, class_labels, step, order)

        sampler(
            net,
            latents,
            num_steps=num_steps,
            sigma_min=0.05,
            sigma_max=5,
            guidance=Stop(),
            **kwargs,
        )
        errors.append((visited[-1] - net.flow(latents * 5, 5, 0.05)).abs().max().item())
    return -np.polyfit(np.log(np.array(steps) - 1), np.log(errors), 1)[0]


def test_heun_converges_at_second_order():
    assert abs(convergence_order(edm.edm_sampler, [33, 65, 129, 257]) - 2) < 0.15


def test_euler_converges_at_first_order():
    assert abs(convergence_order(edm.ablation_sampler, [129, 257, 513], solver="euler") - 1) < 0.15


def test_ablation_sampler_with_edm_settings_is_the_edm_sampler():
    latents = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    for churn in (0, 20):
        draw = [edm.StackedRandomGenerator("cpu", [5, 6, 7]).randn_like for _ in range(2)]
        a = edm.edm_sampler(GaussianDenoiser(0, 0.5), latents, randn_like=draw[0], S_churn=churn)
        b = edm.ablation_sampler(
            GaussianDenoiser(0, 0.5), latents, randn_like=draw[1], S_churn=churn
        )
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_permuting_the_batch_permutes_the_images():
    _, config = golden_fill.load("a_edm_ddpmpp_uncond")
    net = build(config, gain=0.6).double()
    order = [2, 0, 3, 1]

    def images(seeds):
        rnd = edm.StackedRandomGenerator("cpu", seeds)
        x = rnd.randn([len(seeds), net.img_channels, net.img_resolution, net.img_resolution])
        return edm.edm_sampler(net, x, randn_like=rnd.randn_like, num_steps=3, S_churn=5)

    seeds = [11, 12, 13, 14]
    torch.testing.assert_close(
        images([seeds[i] for i in order]), images(seeds)[order], rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(("strength", "steps"), [(0.5, 200), (0.3, 120), (0.2999, 119), (1, 400)])
def test_from_an_image_on_a_gaussian_has_its_closed_form(strength, steps):
    """From x + sigma z the flow of N(mean, sd^2) ends at mean + (x + sigma z - mean) r with
    r = sd / sqrt(sd^2 + sigma^2): its law is N(mean + (x - mean) r, (sigma r)^2)."""
    net, num_steps = GaussianDenoiser(0.3, 0.6), 400
    sigma = float(edm.sampler.noise_schedule(num_steps, 0.002, 80, 7)[num_steps - steps])
    z = torch.randn(4000, 2, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z = (z - z.mean(0)) / z.std(0)
    image = torch.tensor([-0.9, 0.7], dtype=torch.float64).reshape(1, 2, 1, 1)
    found = edm.edm_sampler(net, z, num_steps=num_steps, image=image, strength=strength)
    assert (found - net.flow(image + sigma * z, sigma, 0)).abs().max() < 2e-3
    r = 0.6 / math.hypot(0.6, sigma)
    assert torch.allclose(found.mean(0), (0.3 + (image - 0.3) * r)[0], atol=1e-3)
    assert found.std(0).flatten().tolist() == pytest.approx([sigma * r] * 2, abs=2e-3)


def test_the_whole_strength_begins_with_the_image_at_the_highest_level():
    net = GaussianDenoiser(0.3, 0.6)
    z = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(-1, 1, 1, 1)
    image = torch.linspace(1, -1, 9, dtype=torch.float64).reshape(-1, 1, 1, 1)

    def drawn(num_steps=400, **given):
        return edm.edm_sampler(net, z, randn_like=torch.ones_like, num_steps=num_steps, **given)

    black = dict(image=torch.zeros_like(z))
    assert torch.equal(drawn(18, S_churn=5, **black), drawn(18, S_churn=5))
    left = 0.6 / math.hypot(0.6, 80)  # what the flow leaves of a difference
    assert torch.allclose(drawn(image=image) - drawn(), image * left, rtol=0.01)


def test_an_image_is_taken_on_by_the_sampler_from_there():
    """The steps from an image on are those that the whole sampler takes from that state."""
    net, visited = GaussianDenoiser(0.3, 0.6), {}

    class Steps(edm.Guidance):
        def denoise(self, net, x, sigma, class_labels, step, order):
            visited.setdefault((step, order), []).append((x, sigma))
            return super().denoise(net, x, sigma, class_labels, step, order)

    z = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(-1, 1, 1, 1)
    whole = edm.edm_sampler(net, z, guidance=Steps(), num_steps=10)
    state, sigma = visited[6, 1][0]
    part = edm.edm_sampler(
        net, z, guidance=Steps(), num_steps=10, image=state - sigma * z, strength=0.4
    )
    assert torch.allclose(part, whole, atol=1e-12)
    taken = {place for place, states in visited.items() if len(states) == 2}
    assert taken == {(step, order) for step in range(6, 10) for order in (1, 2)} - {(9, 2)}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(strength=0.5), "strength 0.5 without an image"),
        (dict(strength=0), "strength is 0; give a number above 0"),
        (dict(strength=1.1), "at most 1"),
        (dict(strength=math.nan), "strength is nan"),
        (dict(strength=0.05), "of 18 steps is less than one step; give at least 0.0556"),
    ],
)
def test_impossible_strengths_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        edm.edm_sampler(GaussianDenoiser(0, 1), torch.zeros(1, 1, 1, 1), **given)


def test_a_strength_is_a_whole_number_of_steps():
    assert [edm.sampler.steps_taken(100, s) for s in (0.29, 0.57, 0.295, 1)] == [29, 57, 29, 100]


def test_one_step_is_finite():
    assert torch.isfinite(
        edm.edm_sampler(GaussianDenoiser(0, 0.5), torch.ones(1, 1, 1, 1), num_steps=1)
    ).all()


def test_random_draws_do_not_depend_on_the_batch():
    together = edm.StackedRandomGenerator("cpu", [3, 4, 5])
    alone = edm.StackedRandomGenerator("cpu", [4])
    for draw in (
        lambda g, n: g.randn([n, 2, 2]),
        lambda g, n: g.randint(10, size=[n]),
        lambda g, n: g.randn([n, 3]),
    ):
        assert torch.equal(draw(together, 3)[1:2], draw(alone, 1))
    assert torch.equal(
        edm.StackedRandomGenerator("cpu", [2**32 + 3]).randn([1, 4]),
        edm.StackedRandomGenerator("cpu", [3]).randn([1, 4]),
    )
    with pytest.raises(ValueError, match="seeds"):
        alone.randn([2, 1])


def test_unknown_choices_are_refused():
    for name in ("solver", "discretization", "schedule", "scaling"):
        with pytest.raises(ValueError, match=name):
            edm.ablation_sampler(
                GaussianDenoiser(0, 0.5), torch.ones(1, 1, 1, 1), **{name: "none such"}
            )
