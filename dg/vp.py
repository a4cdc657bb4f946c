"""Variance-preserving (VP) time, the clock of the discriminator: pure functions in the dtype of
their argument.

The linear schedule has beta(tau) = BETA_MIN + (BETA_MAX - BETA_MIN) tau on tau in [0, 1] (Song et
al. 2021). A noisy image x = x_0 + sigma z of EDM and its VP twin mean(tau) x_0 + std(tau) z differ
by the factor mean(tau) = 1 / sqrt(1 + sigma^2).
"""

import math

import torch
from torch import Tensor

BETA_MIN, BETA_MAX = 0.1, 20.0
SLOPE = BETA_MAX - BETA_MIN
COSINE_S = 0.008  # offset of the cosine schedule, Nichol & Dhariwal 2021, Eq. 17


def integral_beta(tau: Tensor) -> Tensor:
    """B(tau), the integral of beta from 0 to tau, same shape."""
    return 0.5 * tau**2 * SLOPE + tau * BETA_MIN


def mean(tau: Tensor) -> Tensor:
    """Factor of the clean image at time tau."""
    return (-0.5 * integral_beta(tau)).exp()


def std(tau: Tensor) -> Tensor:
    """Standard deviation of the noise at time tau."""
    return (1 - (-integral_beta(tau)).exp()).sqrt()


def to_sigma(tau: Tensor) -> Tensor:
    """EDM noise level std(tau) / mean(tau) at time tau."""
    return integral_beta(tau).expm1().sqrt()


def from_sigma(sigma: Tensor) -> tuple[Tensor, Tensor]:
    """(tau, mean) at an EDM noise level, each of the shape of sigma; inverse of `to_sigma`."""
    return _time_at(torch.log1p(sigma**2)), (1 + sigma**2).rsqrt()


def check_window(time_min: float, time_max: float) -> None:
    """ValueError unless these bound a part of [0, 1]."""
    if not 0 <= time_min <= time_max <= 1:
        raise ValueError(f"the time window [{time_min}, {time_max}] is empty or leaves [0, 1]")


def in_window(sigma: Tensor, time_min: float, time_max: float) -> Tensor:
    """Whether the time of an EDM noise level is in [time_min, time_max]: boolean, like sigma."""
    tau, _ = from_sigma(sigma.to(torch.float64))
    return (tau >= time_min) & (tau <= time_max)


def cosine_time(tau: Tensor) -> Tensor:
    """Time of the cosine schedule with the same signal-to-noise ratio, for classifiers that were
    trained on it."""
    angle = torch.arccos(math.cos(COSINE_S / (1 + COSINE_S) * math.pi / 2) * mean(tau))
    return (1 + COSINE_S) * angle * 2 / math.pi - COSINE_S


def importance_antiderivative(tau: Tensor) -> Tensor:
    """Antiderivative of beta(tau) / std(tau)^2, up to a constant."""
    integral = integral_beta(tau)
    return (1 - (-integral).exp()).log() + integral


def importance_time(u: Tensor, tau_min: float) -> tuple[Tensor, Tensor]:
    """(times on [tau_min, 1], normaliser): density proportional to g^2 / std^2, from uniform u [N]
    in [0, 1].

    Kim et al. 2023, section 3.3. In float32, tau below 1e-4 is off by up to 7% from cancellation;
    the authors' training computes it so. Use float64 unless that is to be reproduced.
    """
    start = importance_antiderivative(torch.as_tensor(tau_min, dtype=u.dtype, device=u.device))
    normalizer = importance_antiderivative(torch.ones_like(start)) - start
    return _time_at((normalizer * u + start).exp().add(1).log()), normalizer


def uniform_time(u: Tensor, tau_min: float) -> Tensor:
    """Times uniform on [tau_min, 1] from uniform u [N] in [0, 1]."""
    return u * (1 - tau_min) + tau_min


def _time_at(integral: Tensor) -> Tensor:
    """The time at which B(tau) has a given value."""
    return ((BETA_MIN**2 + 2 * SLOPE * integral).sqrt() - BETA_MIN) / SLOPE
