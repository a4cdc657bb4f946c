"""Noise schedules of discrete Gaussian diffusion, and which of their steps are used; float64 numpy
throughout."""

import math
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

MAX_BETA = (
    0.999  # Nichol & Dhariwal 2021, section 3.2; cuts the linear schedule too, below 21 steps
)
COSINE_S = 0.008  # Nichol & Dhariwal 2021, Eq. 17


def linear_betas(num_steps: int) -> np.ndarray:
    """[num_steps] from 1e-4 to 0.02 in 1000 steps (Ho et al. 2020, section 4), scaled so that
    others end as noisy."""
    return np.minimum(np.linspace(0.1, 20, num_steps) / num_steps, MAX_BETA)


def cosine_betas(num_steps: int) -> np.ndarray:
    """[num_steps] of Nichol & Dhariwal 2021, Eq. 17: alpha_bar falls like a squared cosine."""
    angle = (np.arange(num_steps + 1) / num_steps + COSINE_S) / (1 + COSINE_S) * math.pi / 2
    alpha_bar = np.cos(angle) ** 2
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], MAX_BETA)


BETAS = {"linear": linear_betas, "cosine": cosine_betas}


def space_timesteps(num_steps: int, spec: str | Sequence[int] | None) -> np.ndarray:
    """Which steps of a process are used: increasing int64, from 0 to num_steps - 1.

    spec  "250" takes so many, evenly spaced from the first step to the last; "10,15,20", or a
          sequence, splits the process into sections of equal length and takes so many of each;
          "ddim25" takes every n-th from 0 such that they are 25; None or "" takes all

    Nichol & Dhariwal 2021, section 4; "ddim" as Song et al. 2021. ValueError for a spec that the
    steps cannot meet.
    """
    if spec is None or spec == "":
        return np.arange(num_steps)
    if isinstance(spec, str) and spec.startswith("ddim"):
        count = _counts(spec[len("ddim") :], spec)[0]
        for stride in range(1, num_steps + 1):
            if len(range(0, num_steps, stride)) == count:
                return np.arange(0, num_steps, stride)
        raise ValueError(
            f"respacing {spec!r}: no stride takes exactly {count} of {num_steps} steps; take "
            "another number"
        )
    counts = _counts(spec, spec) if isinstance(spec, str) else list(spec)
    lengths = [num_steps // len(counts) + (i < num_steps % len(counts)) for i in range(len(counts))]
    starts = [0, *accumulate(lengths)]
    sections = [_evenly(*section, spec) for section in zip(starts, lengths, counts, strict=False)]
    return np.concatenate(sections)


def _counts(text: str, spec: str) -> list[int]:
    try:
        return [int(count) for count in text.split(",")]
    except ValueError:
        raise ValueError(
            f"respacing {spec!r} is unknown; give a number of steps, numbers separated by commas, "
            "or "
            "'ddim' and a number"
        ) from None


def _evenly(start: int, length: int, count: int, spec) -> np.ndarray:
    if not 0 < count <= length:
        raise ValueError(
            f"respacing {spec!r} asks for {count} of {length} steps; give 1 to {length}"
        )
    # Strides are summed, not multiplied, so that halves are rounded as in the published code.
    stride = (length - 1) / max(count - 1, 1)
    return start + np.array(
        [round(offset) for offset in accumulate([0.0] + [stride] * (count - 1))]
    )


class NoiseSchedule:
    """The coefficients of a process with `num_steps` steps, float64 [num_steps] each, under their
    published names.

    betas         [num_steps]  variance of the noise that each step adds
    timestep_map  [num_steps]  int64, each step's number in the longer process that the network was
                               trained on; None: 0, 1, ...
    time_scale    factor on the timesteps that networks get

    q(x_t | x_0) = N(sqrt_alphas_cumprod x_0, 1 - alphas_cumprod), and the posterior q(x_{t-1} |
    x_t, x_0) has the mean posterior_mean_coef1 x_0 + posterior_mean_coef2 x_t and the variance
    posterior_variance (Ho et al. 2020, Eqs. 4-7). ValueError unless all betas are in (0, 1).
    """

    def __init__(
        self, betas: np.ndarray, timestep_map: np.ndarray | None = None, time_scale: float = 1.0
    ):
        self.betas = np.asarray(betas, dtype=np.float64)
        if (
            self.betas.ndim != 1
            or not len(self.betas)
            or not ((self.betas > 0) & (self.betas < 1)).all()
        ):
            raise ValueError("the betas are not numbers between 0 and 1 in a row; give such betas")
        self.num_steps, self.time_scale = len(self.betas), time_scale
        self.timestep_map = (
            np.arange(self.num_steps)
            if timestep_map is None
            else np.asarray(timestep_map, dtype=np.int64)
        )
        self.alphas_cumprod = np.cumprod(1 - self.betas)
        self.alphas_cumprod_prev = np.append(1.0, self.alphas_cumprod[:-1])
        self.sqrt_alphas_cumprod = np.sqrt(self.alphas_cumprod)
        self.sqrt_one_minus_alphas_cumprod = np.sqrt(1 - self.alphas_cumprod)
        self.log_one_minus_alphas_cumprod = np.log(1 - self.alphas_cumprod)
        self.sqrt_recip_alphas_cumprod = np.sqrt(1 / self.alphas_cumprod)
        self.sqrt_recipm1_alphas_cumprod = np.sqrt(1 / self.alphas_cumprod - 1)
        rest = 1 - self.alphas_cumprod
        self.posterior_variance = self.betas * (1 - self.alphas_cumprod_prev) / rest
        self.posterior_mean_coef1 = self.betas * np.sqrt(self.alphas_cumprod_prev) / rest
        self.posterior_mean_coef2 = (1 - self.alphas_cumprod_prev) * np.sqrt(1 - self.betas) / rest
        # The first posterior has no variance; the second one's stands in for it wherever a
        # logarithm is needed.
        self.first_variance = self.posterior_variance[1] if self.num_steps > 1 else self.betas[0]
        self.posterior_log_variance_clipped = np.log(
            np.append(self.first_variance, self.posterior_variance[1:])
        )

    def respaced(self, timesteps: np.ndarray) -> "NoiseSchedule":
        """The process that visits only these steps: the same noise levels, longer jumps."""
        alphas_cumprod = self.alphas_cumprod[timesteps]
        betas = 1 - alphas_cumprod / np.append(1.0, alphas_cumprod[:-1])
        return NoiseSchedule(betas, self.timestep_map[timesteps], self.time_scale)
