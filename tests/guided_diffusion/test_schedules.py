"""Schedules and respacing against reference vectors computed with the published code, and against
their definitions."""

import numpy as np
import pytest

from guided_diffusion import create_diffusion
from guided_diffusion.schedules import NoiseSchedule, cosine_betas, linear_betas, space_timesteps
from tests import golden_fill

ARRAYS, _ = golden_fill.load("h_diffusion")
CASES = sorted(
    {tuple(name.split(":")[:2]) for name in ARRAYS.files if name.startswith(("linear:", "cosine:"))}
)


@pytest.mark.parametrize("schedule, respacing", CASES)
def test_every_coefficient(schedule, respacing):
    found = create_diffusion(schedule, 1000, None if respacing == "full" else respacing).schedule
    names = [name for name in ARRAYS.files if name.startswith(f"{schedule}:{respacing}:")]
    assert len(names) == (13 if respacing == "full" else 7)
    for name in names:
        values = getattr(found, name.split(":")[2])
        assert values.dtype == ARRAYS[name].dtype
        np.testing.assert_allclose(values, ARRAYS[name], rtol=1e-12, atol=0, err_msg=name)


def test_the_default_diffusion_is_that_of_latents():
    found = create_diffusion(respacing="250")
    np.testing.assert_array_equal(
        found.schedule.timestep_map, ARRAYS["create_diffusion_250:timestep_map"]
    )
    np.testing.assert_allclose(
        found.schedule.betas, ARRAYS["create_diffusion_250:betas"], rtol=1e-12
    )
    mean, variance = ARRAYS["create_diffusion_250:types"]
    assert (mean, variance) == ("ModelMeanType.EPSILON", "ModelVarType.LEARNED_RANGE")
    assert (found.mean, found.variance) == ("epsilon", "learned_range")


@pytest.mark.parametrize(
    "spec", [n.split(":")[1] for n in ARRAYS.files if n.startswith("space_timesteps_1000:")]
)
def test_used_steps(spec):
    np.testing.assert_array_equal(
        space_timesteps(1000, spec), ARRAYS[f"space_timesteps_1000:{spec}"]
    )
    if "," in spec:
        np.testing.assert_array_equal(
            space_timesteps(1000, [int(n) for n in spec.split(",")]), space_timesteps(1000, spec)
        )


def test_uneven_sections_and_all_steps():
    assert space_timesteps(10, "2,1,1").tolist() == [0, 3, 4, 7]  # sections of 4, 3 and 3 steps
    assert space_timesteps(7, None).tolist() == space_timesteps(7, "").tolist() == list(range(7))
    assert space_timesteps(8, "8").tolist() == list(range(8))


@pytest.mark.parametrize("num_steps", [1, 2, 7, 50, 4000])
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_any_number_of_steps(name, num_steps):
    schedule = create_diffusion(name, num_steps).schedule
    assert (
        schedule.num_steps == num_steps
        and np.isfinite(schedule.posterior_log_variance_clipped).all()
    )
    assert (np.diff(schedule.alphas_cumprod) < 0).all()
    assert num_steps == 1 or schedule.alphas_cumprod[-1] < 0.01


def test_definitions():
    assert linear_betas(1000)[[0, -1]] == pytest.approx([1e-4, 0.02])
    alpha_bar = np.cumprod(1 - cosine_betas(1000))
    t = np.arange(1, 1001) / 1000
    expected = (np.cos((t + 0.008) / 1.008 * np.pi / 2) / np.cos(0.008 / 1.008 * np.pi / 2)) ** 2
    np.testing.assert_allclose(alpha_bar[:-1], expected[:-1], rtol=1e-9)
    full = NoiseSchedule(linear_betas(1000))
    twice = full.respaced(space_timesteps(1000, "100")).respaced(space_timesteps(100, "ddim10"))
    np.testing.assert_array_equal(
        twice.timestep_map, full.timestep_map[space_timesteps(1000, "100")][::10]
    )
    np.testing.assert_allclose(
        twice.alphas_cumprod, full.alphas_cumprod[twice.timestep_map], rtol=1e-12
    )


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: space_timesteps(1000, "ddim999"), "no stride takes exactly 999 of 1000"),
        (lambda: space_timesteps(1000, "ddim"), "'ddim' is unknown"),
        (lambda: space_timesteps(1000, "10,many"), "'10,many' is unknown"),
        (lambda: space_timesteps(10, "3,8"), "asks for 8 of 5 steps"),
        (lambda: space_timesteps(10, "0"), "asks for 0 of 10 steps"),
        (lambda: NoiseSchedule(np.array([0.1, 1.0])), "between 0 and 1"),
        (lambda: NoiseSchedule(np.array([])), "between 0 and 1"),
        (lambda: create_diffusion("quadratic"), "use one of linear, cosine"),
        (lambda: create_diffusion(num_steps=0), "at least 1"),
        (
            lambda: create_diffusion(mean="velocity"),
            "mean is 'velocity'; use one of epsilon, x_start",
        ),
        (lambda: create_diffusion(variance="none"), "variance is 'none'"),
    ],
)
def test_errors_are_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
