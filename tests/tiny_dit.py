"""Small transformers of DiT's kind: eight latent pixels, weights by formula, in the original file
and as diffusers keeps them."""

import pytest
import torch

from tests import golden_fill

SHAPE = dict(
    num_attention_heads=2,
    attention_head_dim=16,
    in_channels=4,
    out_channels=8,
    num_layers=2,
    sample_size=8,
    patch_size=2,
    norm_eps=1e-6,
)


def tiny_transformer(num_classes=10):
    """diffusers' DiTTransformer2DModel; skips the test where diffusers is not installed."""
    diffusers = pytest.importorskip("diffusers")
    return golden_fill.fill(
        diffusers.DiTTransformer2DModel(**SHAPE, num_embeds_ada_norm=num_classes)
    ).eval()


def original_state(num_classes=10):
    """The reference vectors' network as a state dict of the original code."""
    arrays, config = golden_fill.load("dit_forward")
    state = {
        name: torch.from_numpy(
            golden_fill.weight(name, tuple(shape), config["salt"], config["gain"])
        )
        for name, shape in config["layout"].items()
    }
    state["y_embedder.embedding_table.weight"] = state["y_embedder.embedding_table.weight"][
        torch.arange(num_classes + 1) % 11
    ]
    return state | {"pos_embed": torch.from_numpy(arrays["pos_embed"])}
