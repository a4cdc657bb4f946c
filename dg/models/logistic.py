"""Logistic distributions of pixels: continuous for drawing, rounded to 256 levels for
likelihoods."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

HALF_LEVEL = 1 / 255  # half the distance of neighbouring 8-bit values on [-1, 1]


def discretized_logistic(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log probability in nats, elementwise like x, that a logistic variable rounds to the 8-bit
    value x on [-1, 1].

    Kingma et al. 2016, appendix; Salimans et al. 2017, section 2.1: the outermost values take the
    tails, so the 256 probabilities add up to one. With a and b at the bin's ends in units of the
    scale, s(a) - s(b) = s(a) s(-b) (1 - e^(b-a)), exact in logarithms however far the value or
    narrow the distribution. Computed in float32 at least.
    """
    dtype = torch.promote_types(mean.dtype, torch.float32)
    x, mean, narrowness = x.to(dtype), mean.to(dtype), (-log_scale.to(dtype)).exp()
    above = logsigmoid((x - mean + HALF_LEVEL) * narrowness).masked_fill(x > 1 - HALF_LEVEL, 0.0)
    below = logsigmoid((mean - x + HALF_LEVEL) * narrowness).masked_fill(x < -1 + HALF_LEVEL, 0.0)
    bin = torch.log(-torch.expm1(-2 * HALF_LEVEL * narrowness))
    return above + below + bin.masked_fill(x.abs() > 1 - HALF_LEVEL, 0.0)


def draw_logistic(mean: Tensor, log_scale: Tensor, normal: Tensor) -> Tensor:
    """Logistic values from standard normal ones; rounded to 8 bits and clipped they have
    `discretized_logistic`."""
    return mean + log_scale.exp() * (
        torch.special.log_ndtr(normal) - torch.special.log_ndtr(-normal)
    )
