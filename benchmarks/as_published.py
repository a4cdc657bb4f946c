"""Guidance at the cost that the published code has, in this project's own layers.

Known of that code: its classifier and head can be trained while they guide; attention blocks keep
nothing of their forward pass, run again for the gradient, and compute that of their weights too;
attention is plain products in float32.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch

from guided_diffusion import layers


class RunAgain(torch.autograd.Function):
    """A block that is forgotten after its forward pass, and gives gradients of its input and of all
    its weights."""

    @staticmethod
    def forward(ctx, run, x, *weights):
        ctx.run, ctx.weights = run, weights
        ctx.save_for_backward(x)
        return run(x)

    @staticmethod
    def backward(ctx, gradient):
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            out = ctx.run(x)
        return None, *torch.autograd.grad(out, (x, *ctx.weights), gradient)


def plain_attention(q, k, v):
    """`layers.attend` without a fused kernel."""
    scores = torch.einsum("nthc,nshc->nhts", q * q.shape[-1] ** -0.5, k)
    return torch.einsum("nhts,nshc->nthc", scores.softmax(dim=-1), v).flatten(2)


@contextmanager
def as_published() -> Iterator[None]:
    """Within it, attention of ADM's networks computes so; results change by rounding alone.

    The other half of the cost is `requires_grad_()` on a discriminator that guides.
    """
    attention = layers.AttentionBlock.forward

    def run_again(block, x):
        if not torch.is_grad_enabled():
            return attention(block, x)
        return RunAgain.apply(lambda x: attention(block, x), x, *block.parameters())

    with (
        mock.patch.object(layers, "attend", plain_attention),
        mock.patch.object(layers.AttentionBlock, "forward", run_again),
    ):
        yield
