"""Discrete Gaussian diffusion: noising, the reverse step of a network, ancestral and DDIM sampling,
guidance by gradients.

Ho et al. 2020 (DDPM), Nichol & Dhariwal 2021 (learned variances, fewer steps), Song et al. 2021
(DDIM), Dhariwal & Nichol 2021 (classifier guidance). Losses and the variational bound:
guided_diffusion.losses.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .schedules import BETAS, NoiseSchedule, space_timesteps

MEANS = ("epsilon", "x_start")
MOST_STEPS = 100_000  # of a process; the published ones have 1000 and 4000
RESCALED_TO = 1000.0  # timesteps of networks that were trained with rescaled ones
VARIANCES = ("fixed_small", "fixed_large", "learned", "learned_range")


class ReverseStep(NamedTuple):
    """p(x_{t-1} | x_t), each [N, C, H, W]."""

    mean: Tensor
    variance: Tensor
    log_variance: Tensor
    pred_xstart: Tensor  # the clean image that the mean stands for


def create_diffusion(
    schedule: str = "linear",
    num_steps: int = 1000,
    respacing: str | Sequence[int] | None = None,
    mean: str = "epsilon",
    variance: str = "learned_range",
    rescale_timesteps: bool = False,
) -> "GaussianDiffusion":
    """A process by name: the defaults are those of ADM and DiT.

    schedule        "linear" or "cosine"
    num_steps       steps of the process that the network was trained on
    respacing       the steps of them that are used: see `space_timesteps`
    mean, variance  the network's predictions: see `GaussianDiffusion`
    rescale_timesteps  give the network timesteps of 0 to 1000 however many there are, as
                    improved-diffusion does unless told otherwise (Nichol & Dhariwal 2021)
    """
    if schedule not in BETAS:
        raise ValueError(f"schedule is {schedule!r}; use one of {', '.join(BETAS)}")
    if not 1 <= num_steps <= MOST_STEPS:
        raise ValueError(f"num_steps is {num_steps}; give at least 1, at most {MOST_STEPS}")
    time_scale = RESCALED_TO / num_steps if rescale_timesteps else 1.0
    full = NoiseSchedule(BETAS[schedule](num_steps), time_scale=time_scale)
    return GaussianDiffusion(
        full.respaced(space_timesteps(num_steps, respacing)) if respacing else full, mean, variance
    )


class GaussianDiffusion:
    """A discrete diffusion process, and the meaning of a network's output in it.

    mean      the network predicts the noise ("epsilon") or the clean image ("x_start")
    variance  of the reverse step: that of the posterior ("fixed_small") or of the forward step
              ("fixed_large"), or a second set of C channels gives its logarithm ("learned") or
              where it lies between the two ("learned_range")

    Networks are called as `model(x, t, **model_kwargs)`, gradients for guidance as `cond_fn(x, t,
    **model_kwargs)`, with int64 t [N] in steps of the process they were trained on, rescaled ones
    float32 for networks. Everywhere else t counts the steps of this process, 0 to num_steps - 1.
    Arithmetic is in the dtype of x.
    """

    def __init__(
        self, schedule: NoiseSchedule, mean: str = "epsilon", variance: str = "learned_range"
    ):
        for name, value, choices in (("mean", mean, MEANS), ("variance", variance, VARIANCES)):
            if value not in choices:
                raise ValueError(f"{name} is {value!r}; use one of {', '.join(choices)}")
        self.schedule, self.mean, self.variance = schedule, mean, variance

    @property
    def num_steps(self) -> int:
        return self.schedule.num_steps

    @property
    def learns_variance(self) -> bool:
        return self.variance.startswith("learned")

    # The forward process.

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t [N, C, H, W] of clean images at step t [N], from standard normal noise; Ho et al.
        2020, Eq. 4."""
        s = self.schedule
        return (
            at(s.sqrt_alphas_cumprod, t, x_start) * x_start
            + at(s.sqrt_one_minus_alphas_cumprod, t, x_start) * noise
        )

    def q_posterior_mean(self, x_start: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Mean of q(x_{t-1} | x_t, x_0), like x [N, C, H, W]; Ho et al. 2020, Eq. 7."""
        s = self.schedule
        return at(s.posterior_mean_coef1, t, x) * x_start + at(s.posterior_mean_coef2, t, x) * x

    def predict_xstart(self, x: Tensor, t: Tensor, epsilon: Tensor) -> Tensor:
        """The clean image that explains x_t with this noise."""
        s = self.schedule
        return (
            at(s.sqrt_recip_alphas_cumprod, t, x) * x
            - at(s.sqrt_recipm1_alphas_cumprod, t, x) * epsilon
        )

    def predict_epsilon(self, x: Tensor, t: Tensor, x_start: Tensor) -> Tensor:
        """The noise that explains x_t with this clean image."""
        s = self.schedule
        return (at(s.sqrt_recip_alphas_cumprod, t, x) * x - x_start) / at(
            s.sqrt_recipm1_alphas_cumprod, t, x
        )

    # One reverse step.

    def model_timesteps(self, t: Tensor) -> Tensor:
        """The networks' timesteps for the steps t [N] of this process, int64 [N]."""
        return torch.as_tensor(self.schedule.timestep_map, device=t.device)[t]

    def model_output(self, model, x: Tensor, t: Tensor, model_kwargs: dict | None = None) -> Tensor:
        """[N, C, H, W], or [N, 2C, H, W] with learned variances; ValueError for another shape."""
        times = self.model_timesteps(t)
        if self.schedule.time_scale != 1:
            times = times.to(torch.float32) * self.schedule.time_scale
        output = model(x, times, **(model_kwargs or {}))
        expected = [len(x), x.shape[1] * (2 if self.learns_variance else 1), *x.shape[2:]]
        if list(output.shape) != expected:
            raise ValueError(
                f"the network gives {list(output.shape)}, but mean and variance "
                f"{self.variance!r} take {expected}; choose another variance or another "
                "network"
            )
        return output

    def p_mean_variance(
        self,
        model,
        x: Tensor,
        t: Tensor,
        clip_denoised: bool = True,
        denoised_fn: Callable[[Tensor], Tensor] | None = None,
        model_kwargs: dict | None = None,
    ) -> ReverseStep:
        """p(x_{t-1} | x_t) of the network, for x [N, C, H, W] at steps t [N].

        clip_denoised  clip the predicted clean image to [-1, 1]; not for latents
        denoised_fn    applied to the predicted clean image before that
        """
        return self.reverse_step(
            self.model_output(model, x, t, model_kwargs), x, t, clip_denoised, denoised_fn
        )

    def reverse_step(
        self, output: Tensor, x: Tensor, t: Tensor, clip_denoised: bool = True, denoised_fn=None
    ) -> ReverseStep:
        """The same from the network's output."""
        prediction, values = (
            output.split(x.shape[1], dim=1) if self.learns_variance else (output, None)
        )
        pred_xstart = (
            prediction if self.mean == "x_start" else self.predict_xstart(x, t, prediction)
        )
        if denoised_fn is not None:
            pred_xstart = denoised_fn(pred_xstart)
        if clip_denoised:
            pred_xstart = pred_xstart.clamp(-1, 1)
        variance, log_variance = self._variance(values, x, t)
        return ReverseStep(
            self.q_posterior_mean(pred_xstart, x, t), variance, log_variance, pred_xstart
        )

    def _variance(self, values: Tensor | None, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(variance, its logarithm) like x; Nichol & Dhariwal 2021, Eq. 15 for "learned_range"."""
        s = self.schedule
        match self.variance:
            case "fixed_small":
                variance, log_variance = s.posterior_variance, s.posterior_log_variance_clipped
                return at(variance, t, x).expand_as(x), at(log_variance, t, x).expand_as(x)
            case "fixed_large":
                variance = np.append(s.first_variance, s.betas[1:])
                return at(variance, t, x).expand_as(x), at(np.log(variance), t, x).expand_as(x)
            case "learned":
                log_variance = values
            case "learned_range":
                share = (values + 1) / 2
                low, high = at(s.posterior_log_variance_clipped, t, x), at(np.log(s.betas), t, x)
                log_variance = share * high + (1 - share) * low
        return log_variance.exp(), log_variance

    def condition_mean(
        self, cond_fn, step: ReverseStep, x: Tensor, t: Tensor, model_kwargs: dict | None = None
    ) -> ReverseStep:
        """`step` with its mean moved by variance * cond_fn; Dhariwal & Nichol 2021, algorithm 1."""
        gradient = cond_fn(x, self.model_timesteps(t), **(model_kwargs or {}))
        return step._replace(mean=step.mean + step.variance * gradient)

    def condition_score(
        self, cond_fn, step: ReverseStep, x: Tensor, t: Tensor, model_kwargs: dict | None = None
    ) -> ReverseStep:
        """`step` after sqrt(1 - alpha_bar) * cond_fn is taken off the noise; Dhariwal & Nichol
        2021, algorithm 2."""
        gradient = cond_fn(x, self.model_timesteps(t), **(model_kwargs or {}))
        epsilon = (
            self.predict_epsilon(x, t, step.pred_xstart)
            - at(self.schedule.sqrt_one_minus_alphas_cumprod, t, x) * gradient
        )
        pred_xstart = self.predict_xstart(x, t, epsilon)
        return step._replace(mean=self.q_posterior_mean(pred_xstart, x, t), pred_xstart=pred_xstart)

    # Sampling.

    @torch.no_grad()
    def p_sample(
        self,
        model,
        x: Tensor,
        t: Tensor,
        randn_like=torch.randn_like,
        clip_denoised: bool = True,
        denoised_fn=None,
        cond_fn=None,
        model_kwargs: dict | None = None,
    ) -> Tensor:
        """x_{t-1} [N, C, H, W] drawn from p(x_{t-1} | x_t), with `condition_mean` if there is a
        cond_fn.

        randn_like  source of the noise; called once, also at step 0, where no noise is added
        """
        step = self.p_mean_variance(model, x, t, clip_denoised, denoised_fn, model_kwargs)
        if cond_fn is not None:
            step = self.condition_mean(cond_fn, step, x, t, model_kwargs)
        scale = (0.5 * step.log_variance).exp() * at(np.arange(self.num_steps) > 0, t, x)
        return step.mean + scale * randn_like(x)

    @torch.no_grad()
    def ddim_sample(
        self,
        model,
        x: Tensor,
        t: Tensor,
        eta: float = 0.0,
        randn_like=torch.randn_like,
        clip_denoised: bool = True,
        denoised_fn=None,
        cond_fn=None,
        model_kwargs: dict | None = None,
    ) -> Tensor:
        """x_{t-1} [N, C, H, W] of DDIM (Song et al. 2021, Eq. 12), with `condition_score` if there
        is a cond_fn.

        eta  from 0, deterministic, to 1, which has the noise of ancestral sampling with small
             variances
        """
        step = self.p_mean_variance(model, x, t, clip_denoised, denoised_fn, model_kwargs)
        if cond_fn is not None:
            step = self.condition_score(cond_fn, step, x, t, model_kwargs)
        epsilon = self.predict_epsilon(x, t, step.pred_xstart)
        # Eq. 16
        alpha_bar_prev, variance = (
            self.schedule.alphas_cumprod_prev,
            eta**2 * self.schedule.posterior_variance,
        )
        mean = (
            at(np.sqrt(alpha_bar_prev), t, x) * step.pred_xstart
            + at(np.sqrt(1 - alpha_bar_prev - variance), t, x) * epsilon
        )
        return mean + at(np.sqrt(variance), t, x) * randn_like(x)  # none at step 0

    def p_sample_loop(self, model, noise: Tensor, **kwargs) -> Tensor:
        """Images [N, C, H, W] from standard normal noise by `p_sample` from the last step to the
        first; kwargs are its."""
        return self._loop(self.p_sample, model, noise, kwargs)

    def ddim_sample_loop(self, model, noise: Tensor, **kwargs) -> Tensor:
        """The same by `ddim_sample`."""
        return self._loop(self.ddim_sample, model, noise, kwargs)

    def _loop(self, sample, model, x, kwargs):
        for step in reversed(range(self.num_steps)):
            x = sample(model, x, torch.full([len(x)], step, device=x.device), **kwargs)
        return x


def at(coefficients: np.ndarray, t: Tensor, x: Tensor) -> Tensor:
    """One coefficient per image for its step t [N], shaped to broadcast against x [N, ...]."""
    values = torch.as_tensor(coefficients, device=x.device)[t]
    return values.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
