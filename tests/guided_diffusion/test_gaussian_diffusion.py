"""Discrete diffusion against reference vectors computed with the published code, and against
Gaussian data."""

import numpy as np
import pytest
import torch

import edm
from guided_diffusion import create_diffusion
from tests import golden_fill

ARRAYS, _ = golden_fill.load("h_diffusion")
CASES = sorted({":".join(name.split(":")[:5]) for name in ARRAYS.files if name.startswith("pmv:")})
GUIDED = {"p_sample_guided", "ddim_sample_eta0.5_guided"}  # without clipping in the reference


def time(t):
    return t.float().reshape(-1, 1, 1, 1)


def build(case):
    _, schedule, respacing, variance, mean = case.split(":")
    return create_diffusion(
        schedule,
        1000,
        None if respacing == "full" else respacing,
        {"EPSILON": "epsilon", "START_X": "x_start"}[mean],
        variance.lower(),
    )


def network(diffusion):
    """The formula of the reference case."""

    def model(x, t):
        prediction = 0.7 * x + 0.3 * torch.sin(3 * x + 0.01 * time(t))
        return (
            torch.cat([prediction, torch.cos(2 * x + 0.02 * time(t))], dim=1)
            if diffusion.learns_variance
            else prediction
        )

    return model


def cond_fn(x, t):
    return 0.5 * torch.sin(2 * x + 0.03 * time(t))


def close(found, name, rtol=1e-6):
    expected = ARRAYS[name]
    assert found.dtype == torch.float32 and found.shape == expected.shape
    assert np.abs(found.numpy() - expected).max() <= rtol * np.abs(expected).max(), name


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_reverse_step_and_guidance(case, clip):
    diffusion, x, t = (
        build(case),
        torch.from_numpy(ARRAYS["x"]),
        torch.from_numpy(ARRAYS[f"{case}:t"]),
    )
    step = diffusion.p_mean_variance(network(diffusion), x, t, clip_denoised=clip)
    by_score = diffusion.condition_score(cond_fn, step, x, t)
    found = {
        **step._asdict(),
        "condition_mean": diffusion.condition_mean(cond_fn, step, x, t).mean,
        "condition_score_mean": by_score.mean,
        "condition_score_pred_xstart": by_score.pred_xstart,
    }
    prefix = f"{case}:clip{int(clip)}:"
    assert {name.removeprefix(prefix) for name in ARRAYS.files if name.startswith(prefix)} == set(
        found
    )
    for name, values in found.items():
        close(values, prefix + name)


@pytest.mark.parametrize("case", CASES)
def test_draws(case):
    diffusion = build(case)
    model = network(diffusion)
    x, x_start, z = (torch.from_numpy(ARRAYS[name]) for name in ("x", "x_start", "z"))
    t = torch.from_numpy(ARRAYS[f"{case}:t"])
    noise = dict(randn_like=lambda like: z)
    found = {
        "q_sample": diffusion.q_sample(x_start, t, x),
        "q_posterior_mean": diffusion.q_posterior_mean(x_start, x, t),
        "p_sample": diffusion.p_sample(model, x, t, **noise),
        "p_sample_guided": diffusion.p_sample(
            model, x, t, clip_denoised=False, cond_fn=cond_fn, **noise
        ),
        "ddim_sample_eta0": diffusion.ddim_sample(model, x, t, **noise),
        "ddim_sample_eta0.5_guided": diffusion.ddim_sample(
            model, x, t, 0.5, clip_denoised=False, cond_fn=cond_fn, **noise
        ),
    }
    assert {name.split(":")[5] for name in ARRAYS.files if name.startswith(case)} - {
        "clip0",
        "clip1",
        "t",
    } == set(found)
    for name, values in found.items():
        close(values, f"{case}:{name}")


# Gaussian data ------------------------------------------------------------------------------------


class ExactNetwork:
    """The best prediction of the noise for images N(mean, sd^2), elementwise, at the steps of
    `create_diffusion(...)`.

    learned  give the true variance of p(x_{t-1} | x_t) too, for a process without respacing
    """

    def __init__(self, mean, sd, schedule="linear", num_steps=1000, learned=False):
        self.mean, self.sd, self.learned = mean, sd, learned
        self.schedule = create_diffusion(schedule, num_steps).schedule
        self.alpha_bar = torch.from_numpy(self.schedule.alphas_cumprod)
        self.times = []

    def spread(self):
        """Variance of x_0 given x_t, float64 numpy [T]."""
        alpha_bar = self.schedule.alphas_cumprod
        return self.sd**2 * (1 - alpha_bar) / (alpha_bar * self.sd**2 + 1 - alpha_bar)

    def score(self, x, t):
        self.times.append(t.tolist())
        alpha_bar = self.alpha_bar[t].reshape(-1, 1, 1, 1).to(x.dtype)
        return -(x - alpha_bar.sqrt() * self.mean) / (alpha_bar * self.sd**2 + 1 - alpha_bar)

    def __call__(self, x, t):
        epsilon = -(1 - self.alpha_bar[t]).sqrt().reshape(-1, 1, 1, 1).to(x.dtype) * self.score(
            x, t
        )
        if not self.learned:
            return epsilon
        variance = (
            self.schedule.posterior_variance + self.schedule.posterior_mean_coef1**2 * self.spread()
        )
        return torch.cat(
            [epsilon, torch.from_numpy(np.log(variance))[t].reshape(-1, 1, 1, 1).expand_as(x)],
            dim=1,
        )


def noise(n=4, size=4):
    return torch.randn(
        n, 1, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )


def test_ancestral_samples_have_the_moments_of_the_data():
    """With the true variances twenty steps are exact but for the noise that the last one leaves
    out."""
    diffusion = create_diffusion("cosine", 20, variance="learned")
    draw = edm.StackedRandomGenerator("cpu", range(4)).randn_like
    net = ExactNetwork(0.3, 0.2, "cosine", 20, learned=True)
    x = diffusion.p_sample_loop(net, noise(size=100), randn_like=draw, clip_denoised=False)
    left_out = net.spread()[0]
    assert x.dtype == torch.float64 and 0 < left_out < 0.3 * 0.2**2
    assert abs(x.mean() - 0.3) < 0.004 and abs((x.var() + left_out) / 0.2**2 - 1) < 0.03


def test_ddim_follows_the_flow_at_first_order():
    def error(respacing):
        diffusion = create_diffusion(respacing=respacing, variance="fixed_small")
        x = diffusion.ddim_sample_loop(ExactNetwork(0.3, 0.5), noise(), clip_denoised=False)
        alpha_bar = diffusion.schedule.alphas_cumprod[-1]
        expected = (
            0.3 + 0.5 * (noise() - alpha_bar**0.5 * 0.3) / (alpha_bar * 0.25 + 1 - alpha_bar) ** 0.5
        )
        return (x - expected).abs().max().item()

    assert error("1000") < 6e-3 and error("100") == pytest.approx(2 * error("200"), rel=0.2)


def test_full_eta_is_ancestral_with_small_variance():
    net, diffusion = (
        ExactNetwork(0.3, 0.5),
        create_diffusion(respacing="20", variance="fixed_small"),
    )
    runs = [
        loop(
            net,
            noise(),
            randn_like=edm.StackedRandomGenerator("cpu", range(4)).randn_like,
            **kwargs,
        )
        for loop, kwargs in (
            (diffusion.p_sample_loop, {}),
            (diffusion.ddim_sample_loop, dict(eta=1.0)),
        )
    ]
    torch.testing.assert_close(runs[1], runs[0], rtol=0, atol=1e-9)


def test_exact_ratio_makes_the_model_the_data():
    """The log ratio's gradient is the difference of scores, so the guided flow is the data's to
    rounding."""
    data, model = ExactNetwork(0.0, 0.5), ExactNetwork(0.3, 0.6)
    diffusion = create_diffusion(respacing="ddim25", variance="fixed_small")
    kwargs = dict(clip_denoised=False)
    guided = diffusion.ddim_sample_loop(
        model, noise(), cond_fn=lambda x, t: data.score(x, t) - model.score(x, t), **kwargs
    )
    assert (guided - diffusion.ddim_sample_loop(data, noise(), **kwargs)).abs().max() < 1e-9
    assert (guided - diffusion.ddim_sample_loop(model, noise(), **kwargs)).abs().max() > 0.1
    assert data.times[0] == [960] * 4 and data.times[24] == [0] * 4, (
        "networks and cond_fn see the original steps"
    )


@pytest.mark.parametrize("loop", ["p_sample_loop", "ddim_sample_loop"])
def test_samples_depend_on_their_seed_alone(loop):
    diffusion = create_diffusion(respacing="10", variance="fixed_large")

    def run(seeds):
        rnd = edm.StackedRandomGenerator("cpu", seeds)
        x = rnd.randn([len(seeds), 1, 2, 2])
        kwargs = dict(eta=0.7) if loop.startswith("ddim") else {}
        return getattr(diffusion, loop)(
            ExactNetwork(0.0, 0.5), x, randn_like=rnd.randn_like, **kwargs
        )

    torch.testing.assert_close(run([5, 7]), run([7, 6, 5])[[2, 0]])


def test_learned_variance_and_processing_of_the_clean_image():
    x, t = noise(2), torch.tensor([3, 700])
    learned = create_diffusion(variance="learned")
    values = torch.full_like(x, -2.0)
    step = learned.p_mean_variance(
        lambda x, t, scale: torch.cat([scale * x, values], dim=1),
        x,
        t,
        denoised_fn=lambda image: 0 * image + 0.5,
        model_kwargs={"scale": 2},
    )
    assert torch.equal(step.log_variance, values) and torch.equal(step.variance, values.exp())
    assert (step.pred_xstart == 0.5).all() and torch.equal(
        step.mean, learned.q_posterior_mean(step.pred_xstart, x, t)
    )


def test_wrong_channels_are_refused():
    with pytest.raises(
        ValueError, match=r"gives \[4, 1, 4, 4\], but .*'learned_range' take \[4, 2, 4, 4\]"
    ) as error:
        create_diffusion().p_sample_loop(lambda x, t: x, noise())
    assert "\n" not in str(error.value)
