"""Published configurations: names, shapes and order of every tensor."""

import pytest
import torch

from guided_diffusion import create_classifier
from guided_diffusion.layers import AttentionBlock
from tests.golden_fill import layouts

LAYOUTS = {name: layout for name, layout in layouts().items() if "create_classifier_kwargs" in layout}


def build(layout_name, kwargs):
    """The encoder of a layout without memory for its weights."""
    latent = {"channel_mult": (1, 2, 3)} if "channel_mult (1,2,3)" in layout_name else {}
    with torch.device("meta"):
        return create_classifier(**kwargs, **latent)


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_equals_the_published_checkpoint(name):
    encoder = build(name, LAYOUTS[name]["create_classifier_kwargs"])
    assert [[key, list(t.shape), "param"] for key, t in encoder.state_dict().items()] == LAYOUTS[name]["entries"]
    assert sum(p.numel() for p in encoder.parameters()) == LAYOUTS[name]["n_params"]


@pytest.mark.parametrize("image_size", [8, 16, 32, 64, 128, 256, 512])
def test_every_published_size_ends_at_8x8_with_attention_at_32_16_8(image_size):
    with torch.device("meta"):
        encoder = create_classifier(image_size=image_size)
    sizes = set()
    for module in encoder.modules():
        if isinstance(module, AttentionBlock):
            module.register_forward_hook(lambda module, inputs, output: sizes.add(output.shape[-1]))
    x, time = torch.zeros(2, 3, image_size, image_size, device="meta"), torch.zeros(2, device="meta")
    feature = encoder(x, time, feature=True)
    assert feature.shape == (2, encoder.feature_channels, 8, 8)
    assert sizes == {size for size in (32, 16, 8) if size <= image_size}


def test_image_size_without_preset_needs_channel_mult():
    with pytest.raises(ValueError, match="image_size 28 has no published channel_mult"):
        create_classifier(image_size=28)
    encoder = create_classifier(image_size=28, classifier_width=64, channel_mult=(1, 1, 1),
                                classifier_attention_resolutions="14,7", in_channels=1, out_channels=10)
    assert encoder(torch.zeros(1, 1, 28, 28), torch.tensor(0.5)).shape == (1, 10)


def test_half_precision_is_refused():
    with pytest.raises(ValueError, match="autocast"):
        create_classifier(classifier_use_fp16=True)
