"""One-pixel Gaussians whose laws at every noise level of a sampler are known exactly.

A Heun step of a Gaussian's denoiser is affine, so the sampler's states stay Gaussian. The ratio
between the chains of two denoisers is exact for the discretised samplers, and no test has to allow
for the error of their steps.
"""

from itertools import pairwise

import torch

from dg.samplers.constants import Constants
from edm.sampler import heun_step, sampling_levels
from tests.edm.test_samplers import GaussianDenoiser

DATA, MODEL = GaussianDenoiser(0.0, 0.5), GaussianDenoiser(0.3, 0.6)
HOW = dict(num_steps=6, sigma_min=0.05, sigma_max=5)


def laws(net, churned=()):
    """(noise levels, means, variances, slopes, shifts) of EDM's sampler; `churned` are the steps
    that raise the noise by the largest amount, S_noise 1."""
    sigmas = sampling_levels(net, rho=7, **HOW)
    means, variances, slopes, shifts = [0.0], [float(sigmas[0] ** 2)], [], []
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        raised = sigma * 2**0.5 if step in churned else sigma
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64).reshape(2, 1, 1, 1)
        second = step < len(sigmas) - 2
        shift, end = (
            heun_step(net, ends, raised, sigma_next, second_order=second).flatten().tolist()
        )
        variance = variances[-1] + float(raised**2 - sigma**2)
        means.append(shift + (end - shift) * means[-1])
        variances.append((end - shift) ** 2 * variance)
        slopes.append(end - shift)
        shifts.append(shift)
    return sigmas, means, variances, slopes, shifts


class ExactRatio:
    """log N(x; data) - log N(x; model) at the levels of the two chains."""

    def __init__(self, data=DATA, model=MODEL, churned=()):
        self.sigmas, *self.model = laws(model, churned)
        self.data = laws(data, churned)[1:]
        self.calls = 0

    def at(self, x, level):
        def log_density(chain):
            mean, variance = (torch.tensor(chain[i], dtype=torch.float64)[level] for i in (0, 1))
            return -0.5 * ((x - mean) ** 2 / variance + variance.log())

        return log_density(self.data) - log_density(self.model)

    def __call__(self, x, sigma, class_labels=None):
        self.calls += len(x)
        sigma = torch.as_tensor(sigma, dtype=torch.float64).expand(len(x))
        level = (sigma[:, None] - self.sigmas).abs().argmin(dim=1)
        assert torch.equal(self.sigmas[level], sigma)
        return self.at(x.flatten(), level)

    def suprema(self):
        """The largest log ratios, and the largest changes of it in one step, on a fine grid."""
        marginal, stepwise = [], [0.0]
        for level, (mean, variance) in enumerate(zip(self.model[0], self.model[1], strict=True)):
            x = mean + variance**0.5 * torch.linspace(-12, 12, 200_001, dtype=torch.float64)
            here = self.at(x, torch.full([len(x)], level))
            marginal.append(float(here.max()))
            if level < len(self.sigmas) - 1:
                there = self.model[3][level] + self.model[2][level] * x
                change = self.at(there, torch.full([len(x)], level + 1)) - here
                stepwise.append(float(change.max()))
        return Constants([max(0, value) for value in marginal], stepwise)


def assert_law(x, chain, bias=0.0):
    """Mean and variance within four standard errors (and a known bias) of a chain's last law."""
    x, mean, variance = x.flatten().double(), chain[0][-1], chain[1][-1]
    n = len(x)
    assert abs(x.mean() - mean) < 4 * (variance / n) ** 0.5 + bias
    assert abs(x.var() - variance) < 4 * variance * (2 / n) ** 0.5 + bias
