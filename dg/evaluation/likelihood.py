"""Likelihood of images under a denoiser, with or without guidance, by the probability flow.

The flow dx/dsigma = (x - D(x; sigma)) / sigma (Karras et al. 2022, Eq. 1 and 3) carries the data's
density into a Gaussian. Along it log p falls by the integral of its divergence (Song et al. 2021,
appendix D.2), estimated with Hutchinson's probes.
"""

import math
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from edm.guidance import Guidance
from edm.random import StackedRandomGenerator
from edm.sampler import check_range, noise_schedule

SOLVERS = ("heun", "rk45")
PROBES = ("rademacher", "gaussian")
LEVELS_PER_UNIT = 127.5  # a pixel u in 0..255 is u / 127.5 - 1 at EDM scale


@dataclass(frozen=True)
class Likelihood:
    """Negative log likelihood of N images.

    bits_per_dim     float64 [N]
    num_evaluations  int64 [N]    evaluations of the score network; each is followed by one backward
                                  pass per probe
    terms            float64 [N] by name, in bits/dim, that add up to bits_per_dim; empty where it
                     has none
    """

    bits_per_dim: np.ndarray
    num_evaluations: np.ndarray
    terms: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        return float(self.bits_per_dim.mean())

    @property
    def standard_error(self) -> float:
        """Standard error of the mean; NaN for a single image."""
        count = len(self.bits_per_dim)
        return float(self.bits_per_dim.std(ddof=1) / math.sqrt(count)) if count > 1 else math.nan


def bits_per_dim(
    net,
    images,
    class_labels: Tensor | None = None,
    guidance: Guidance | None = None,
    *,
    seeds=None,
    num_probes: int = 1,
    probe: str = "rademacher",
    batch_size: int = 64,
    **flow,
) -> Likelihood:
    """Negative log likelihood of 8-bit images in bits per dimension, lower is better.

    net           denoiser(x, sigma, class_labels)
    images        [N, H, W, C]  uint8 array or tensor; the flow runs on a tensor's device
    class_labels  [N, K]        one-hot, for a conditional network
    guidance                    corrects the denoised image; None: the network as it is
    seeds         [N]           one per image, for its dequantisation and its probes; None: 0..N-1
    num_probes, probe           Hutchinson's probes per image, "rademacher" (less variance) or
                                "gaussian"
    batch_size                  images at once; the result does not depend on it
    flow                        num_steps, solver, sigma_min, sigma_max, rho, tolerance: see
                                `log_density`

    The images are dequantised uniformly, so the mean over seeds bounds -log2 of the probability of
    the bytes from above (Theis et al. 2016). ValueError of one line for images that do not fit the
    network, and for what `log_density` refuses.
    """
    images = _checked_images(net, images)
    seeds = range(len(images)) if seeds is None else seeds
    if len(seeds) != len(images):
        raise ValueError(f"{len(seeds)} seeds for {len(images)} images; give one each")
    if num_probes < 1 or probe not in PROBES or batch_size < 1:
        raise ValueError(
            f"num_probes {num_probes}, probe {probe!r}, batch_size {batch_size}; give at least one "
            f"probe and one image, and {' or '.join(PROBES)}"
        )
    bits, counts = [], []
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        rnd = StackedRandomGenerator("cpu", seeds[part])  # the same numbers on every device
        x = dequantize(images[part], rnd)
        probes = torch.stack([_draw_probe(x, rnd, probe) for _ in range(num_probes)])
        labels = None if class_labels is None else class_labels[part]
        log_p, evaluations = log_density(net, x, probes, labels, guidance, **flow)
        bits.append(to_bits_per_dim(log_p, x[0].numel()).cpu().numpy())
        counts.append(evaluations)
    return Likelihood(np.concatenate(bits), np.concatenate(counts))


def dequantize(images: Tensor, rnd: StackedRandomGenerator) -> Tensor:
    """uint8 [N, H, W, C] -> float64 [N, C, H, W] at EDM scale, uniform over each value's bin of
    width 1 / 127.5."""
    u = images.permute(0, 3, 1, 2).to(torch.float64)
    v = rnd.randint(2**53, size=u.shape).to(u.device, torch.float64) / 2**53  # [0, 1)
    return (u + v - 0.5) / LEVELS_PER_UNIT - 1


def to_bits_per_dim(log_density: Tensor, dims: int) -> Tensor:
    """Log density in nats at EDM scale -> bits per dimension of the 8-bit image; a uniform density
    gives 8."""
    return -log_density / (dims * math.log(2)) + math.log2(LEVELS_PER_UNIT)


def log_density(
    net,
    x: Tensor,
    probes: Tensor,
    class_labels: Tensor | None = None,
    guidance: Guidance | None = None,
    *,
    num_steps: int = 128,
    solver: str = "heun",
    sigma_min: float = 0.002,
    sigma_max: float = 80,
    rho: float = 7,
    tolerance: float = 1e-5,
) -> tuple[Tensor, np.ndarray]:
    """(log density in nats, float64 [N]; evaluations of the network, int64 [N]) of continuous
    images.

    x          [N, C, H, W]     images at EDM scale with the noise of sigma_min; clean ones will do
    probes     [P, N, C, H, W]  Hutchinson's vectors of identity covariance, the same along the
                                whole flow; the trace is exact for an orthogonal basis with vectors
                                of length sqrt(C H W)
    num_steps  "heun": steps of EDM's rho-schedule from sigma_min to sigma_max, two evaluations
               each; on Gaussian data 64, 128, 256 steps give 0.006, 0.0015, 0.0004 bits/dim too
               much
    tolerance  "rk45": relative and absolute error of SciPy's adaptive RK45, which takes the images
               one at a time; about 140 evaluations and 1e-4 bits/dim on Gaussian data

    At sigma_max the density is taken as N(0, sigma_max^2 I). With guidance it is that of the
    corrected flow. Heun's two stages are guided by the guidance's two weights, as in the sampler;
    (2, 0) therefore comes near (1, 1) as steps get short. "rk45" has no such stages and wants equal
    weights.
    """
    guidance = guidance or Guidance()
    sigma_min, sigma_max = max(sigma_min, net.sigma_min), min(sigma_max, net.sigma_max)
    _check(net, x, probes, class_labels, guidance, num_steps, solver, sigma_min, sigma_max)
    x = x.to(torch.float64)
    probes = probes.to(x)
    if solver == "heun":
        levels = net.round_sigma(
            noise_schedule(num_steps + 1, sigma_min, sigma_max, rho, x.device).flip(0)
        )
        x_end, fall = _heun(net, x, probes, class_labels, guidance, levels)
        counts = np.full(len(x), 2 * num_steps)
    else:
        labels = [None] * len(x) if class_labels is None else class_labels.split(1)
        ends = [
            _rk45(net, *one, guidance, math.log(sigma_min), math.log(sigma_max), tolerance)
            for one in zip(x.split(1), probes.split(1, dim=1), labels, strict=True)
        ]
        x_end, fall = (torch.cat(parts) for parts in list(zip(*ends, strict=True))[:2])
        counts = np.array([count for _, _, count in ends])
    prior = -0.5 * ((x_end / sigma_max) ** 2 + math.log(2 * math.pi * sigma_max**2)).sum(
        dim=(1, 2, 3)
    )
    return prior + fall, counts


def _flow(net, x, probes, class_labels, guidance, sigma, step=0, order=1) -> tuple[Tensor, Tensor]:
    """dx / d log sigma = x - D(x; sigma), [N, C, H, W], and the estimate of its divergence, [N]."""
    # Fused attention has no second derivative, which a correction that is a gradient itself would
    # ask for.
    with (
        torch.enable_grad(),
        nullcontext() if type(guidance) is Guidance else sdpa_kernel(SDPBackend.MATH),
    ):
        leaf = x.detach().requires_grad_()
        denoised = guidance.denoise(net, leaf, sigma, class_labels, step, order)
        pulls = [
            torch.autograd.grad(denoised, leaf, probe, retain_graph=True)[0] for probe in probes
        ]
    trace = torch.stack(
        [(pull * probe).sum(dim=(1, 2, 3)) for pull, probe in zip(pulls, probes, strict=True)]
    ).mean(dim=0)
    drift = x - denoised.detach()
    broken = int((~(drift.sum(dim=(1, 2, 3)) + trace).isfinite()).sum())
    if broken:
        raise ValueError(
            f"the flow of {broken} of {len(x)} images is NaN or infinite at sigma {sigma:g}; check "
            "the weights of "
            "the network and of the guidance"
        )
    return drift, x[0].numel() - trace


def _heun(net, x, probes, class_labels, guidance, levels) -> tuple[Tensor, Tensor]:
    """Return the end point of the flow from x, and the integral of its divergence [N]. It takes one
    Heun step between neighbouring levels.

    x is integrated over sigma, in which flows are nearly straight, the divergence over log sigma,
    in which it is bounded.
    """
    guidance.begin(x)
    integral = x.new_zeros(len(x))
    for step, (sigma, sigma_next) in enumerate(pairwise(levels)):
        drift, divergence = _flow(net, x, probes, class_labels, guidance, sigma, step, order=1)
        ahead = x + (sigma_next - sigma) * drift / sigma
        drift_next, divergence_next = _flow(
            net, ahead, probes, class_labels, guidance, sigma_next, step, order=2
        )
        x = x + (sigma_next - sigma) * (drift / sigma + drift_next / sigma_next) / 2
        integral = integral + (sigma_next / sigma).log() * (divergence + divergence_next) / 2
    return x, integral


def _rk45(
    net, x, probes, class_labels, guidance, start, end, tolerance
) -> tuple[Tensor, Tensor, int]:
    """Return the same for one image, and the number of evaluations. Steps over log sigma are as
    long as the tolerance allows."""
    from scipy.integrate import solve_ivp

    def slope(log_sigma, state):
        here = torch.as_tensor(state[:-1], device=x.device).reshape(x.shape)
        sigma = torch.tensor(math.exp(log_sigma), dtype=torch.float64, device=x.device)
        return _joined(*_flow(net, here, probes, class_labels, guidance, sigma))

    guidance.begin(x)
    solution = solve_ivp(
        slope,
        (start, end),
        _joined(x, x.new_zeros(1)),
        method="RK45",
        rtol=tolerance,
        atol=tolerance,
    )
    if not solution.success:
        raise ValueError(
            f"rk45 stopped ({solution.message.rstrip('.')}); check the network's weights or "
            "raise the tolerance"
        )
    state = torch.as_tensor(solution.y[:, -1], device=x.device)
    return state[:-1].reshape(x.shape), state[-1:], solution.nfev


def _joined(x, integral) -> np.ndarray:
    return torch.cat([x.flatten(), integral]).cpu().numpy()


def _draw_probe(x: Tensor, rnd: StackedRandomGenerator, probe: str) -> Tensor:
    draw = (
        rnd.randint(2, size=x.shape) * 2 - 1
        if probe == "rademacher"
        else rnd.randn(x.shape, dtype=torch.float64)
    )
    return draw.to(x)


def _checked_images(net, images) -> Tensor:
    images = torch.as_tensor(images)
    expected = [net.img_resolution, net.img_resolution, net.img_channels]
    if images.dtype != torch.uint8 or list(images.shape[1:]) != expected or not len(images):
        raise ValueError(
            f"{images.dtype} {list(images.shape)} does not fit the network; give uint8 [N, "
            f"{', '.join(map(str, expected))}], at least one image"
        )
    return images


def _check(net, x, probes, class_labels, guidance, num_steps, solver, sigma_min, sigma_max) -> None:
    """ValueError for settings or images that the flow cannot be computed from."""
    expected = [net.img_channels, net.img_resolution, net.img_resolution]
    if list(x.shape[1:]) != expected or not len(x) or not x.isfinite().all():
        raise ValueError(
            f"images {list(x.shape)} do not fit the network or hold NaN; give finite values "
            f"[N, {', '.join(map(str, expected))}], at least one"
        )
    if probes.ndim != 5 or probes.shape[1:] != x.shape or not len(probes):
        raise ValueError(
            f"probes {list(probes.shape)} do not fit; give [P, {', '.join(map(str, x.shape))}]"
        )
    if net.label_dim and (
        class_labels is None or list(class_labels.shape) != [len(x), net.label_dim]
    ):
        raise ValueError(
            f"the network is conditional; give one-hot class_labels [{len(x)}, {net.label_dim}]"
        )
    if solver not in SOLVERS:
        raise ValueError(f"solver is {solver!r}; use one of {', '.join(SOLVERS)}")
    if num_steps < 1 or sigma_min <= 0:
        raise ValueError(
            f"num_steps {num_steps} and sigma_min {sigma_min:g}; give positive numbers"
        )
    check_range(sigma_min, sigma_max)
    if guidance.needs_step:
        raise ValueError(
            "the guidance needs the sampler's steps, as boosting does, so there is no flow "
            "and no likelihood; leave boosting out, and guide at every step"
        )
    if solver == "rk45" and guidance.needs_order:
        raise ValueError(
            "rk45 has no first and second stage, but the guidance weights differ by stage; "
            "give equal weights"
        )
