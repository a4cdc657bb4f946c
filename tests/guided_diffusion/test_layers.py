"""Building blocks: what the reference vectors of the whole encoder would not localise."""

import math

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from guided_diffusion.layers import (
    AttentionBlock,
    AttentionPool,
    GroupNorm,
    ResBlock,
    timestep_embedding,
)
from tests.golden_fill import fill


def test_timestep_embedding_holds_cosines_then_sines():
    frequencies = [math.exp(-math.log(10000) * i / 3) for i in range(3)]
    expected = [
        [f(t * w) for f in (math.cos, math.sin) for w in frequencies] for t in (0.0, 7.5, 999.0)
    ]
    embedding = timestep_embedding(torch.tensor([0.0, 7.5, 999.0], dtype=torch.float64), 6)
    assert embedding.dtype == torch.float32
    torch.testing.assert_close(embedding, torch.tensor(expected), rtol=0, atol=1e-4)


def test_group_norm_computes_in_float32():
    x = 300 + torch.randn(2, 64, 4, 4, generator=torch.Generator().manual_seed(0))
    half = GroupNorm(64)(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half, GroupNorm(64)(x.bfloat16().float()).bfloat16())


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("scale_shift", [False, True])
def test_new_residual_block_is_its_skip_path(scale_shift, down):
    block = ResBlock(32, 32, 16, use_scale_shift_norm=scale_shift, dropout=0.0, down=down)
    x = torch.randn(2, 32, 4, 4)
    expected = torch.nn.functional.avg_pool2d(x, 2) if down else x
    assert torch.equal(block(x, torch.randn(2, 16)), expected)


def test_dropout_acts_in_train_mode_only():
    block = fill(ResBlock(32, 32, 16, use_scale_shift_norm=True, dropout=0.5))
    x, emb = torch.randn(2, 32, 4, 4), torch.randn(2, 16)
    assert not torch.equal(block(x, emb), block(x, emb))
    block.eval()
    assert torch.equal(block(x, emb), block(x, emb))


def test_new_attention_block_is_the_identity():
    x = torch.randn(2, 64, 4, 4)
    assert torch.equal(AttentionBlock(64, 32)(x), x)


def test_attention_has_second_derivatives_without_fused_kernels():
    block = fill(AttentionBlock(32, 16).double())
    x = torch.randn(1, 32, 2, 2, dtype=torch.float64, requires_grad=True)
    with sdpa_kernel(SDPBackend.MATH):
        assert torch.autograd.gradgradcheck(lambda x: block(x)[:, :2], x)


def test_attention_pool_refuses_other_sizes():
    with pytest.raises(ValueError, match="features are 8x8, but the attention pool takes 4x4"):
        AttentionPool(4, 32, 32, 1)(torch.zeros(1, 32, 8, 8))


def test_heads_must_fill_the_channels():
    with pytest.raises(ValueError, match="96 channels do not divide into attention heads of 64"):
        AttentionBlock(96, 64)
