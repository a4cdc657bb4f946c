"""Published configurations: names, shapes and order of every tensor."""

import hashlib
import json

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from guided_diffusion import create_classifier, create_unet
from guided_diffusion.layers import AttentionBlock
from guided_diffusion.layouts import infer_settings, shapes_of
from guided_diffusion.presets import UNETS, published_unet
from tests.golden_fill import GOLDEN, layouts

# Of every file of guided-diffusion, from its own code: a digest of the tensors' names and shapes in
# order.
PUBLISHED = json.loads((GOLDEN / "unet_layouts.json").read_text())
CLASSIFIER_DEPTHS = {64: 4, 128: 2, 256: 2, 512: 2}
LAYOUTS = {
    name: layout for name, layout in layouts().items() if "create_classifier_kwargs" in layout
}


def build(layout_name, kwargs):
    """The encoder of a layout without memory for its weights."""
    latent = {"channel_mult": (1, 2, 3)} if "channel_mult (1,2,3)" in layout_name else {}
    with torch.device("meta"):
        return create_classifier(**kwargs, **latent)


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_equals_the_published_checkpoint(name):
    encoder = build(name, LAYOUTS[name]["create_classifier_kwargs"])
    assert [[key, list(t.shape), "param"] for key, t in encoder.state_dict().items()] == LAYOUTS[
        name
    ]["entries"]
    assert sum(p.numel() for p in encoder.parameters()) == LAYOUTS[name]["n_params"]


@pytest.mark.parametrize("image_size", [8, 16, 32, 64, 128, 256, 512])
def test_every_published_size_ends_at_8x8_with_attention_at_32_16_8(image_size):
    with torch.device("meta"):
        encoder = create_classifier(image_size=image_size)
    sizes = set()
    for module in encoder.modules():
        if isinstance(module, AttentionBlock):
            module.register_forward_hook(lambda module, inputs, output: sizes.add(output.shape[-1]))
    x, time = (
        torch.zeros(2, 3, image_size, image_size, device="meta"),
        torch.zeros(2, device="meta"),
    )
    feature = encoder(x, time, feature=True)
    assert feature.shape == (2, encoder.feature_channels, 8, 8)
    assert sizes == {size for size in (32, 16, 8) if size <= image_size}


def test_image_size_without_preset_needs_channel_mult():
    with pytest.raises(ValueError, match="image_size 28 has no published channel_mult"):
        create_classifier(image_size=28)
    encoder = create_classifier(
        image_size=28,
        classifier_width=64,
        channel_mult=(1, 1, 1),
        classifier_attention_resolutions="14,7",
        in_channels=1,
        out_channels=10,
    )
    assert encoder(torch.zeros(1, 1, 28, 28), torch.tensor(0.5)).shape == (1, 10)


def test_half_precision_is_refused():
    with pytest.raises(ValueError, match="autocast"):
        create_classifier(classifier_use_fp16=True)


def digest(net):
    shapes = shapes_of(net.state_dict())
    lines = [f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items()]
    return dict(
        parameters=sum(p.numel() for p in net.parameters()),
        tensors=len(lines),
        sha256=hashlib.sha256("\n".join(lines).encode()).hexdigest(),
    )


@pytest.mark.parametrize("name", UNETS)
def test_unet_layout_equals_the_published_file(name):
    with torch.device("meta"):
        net = create_unet(name)
    assert digest(net) == PUBLISHED[name]
    shapes = shapes_of(net.state_dict())
    assert published_unet(shapes) == name and published_unet(shapes | {"more": (1,)}) is None


@pytest.mark.parametrize("size", CLASSIFIER_DEPTHS)
def test_classifier_layout_equals_the_published_file(size):
    with torch.device("meta"):
        classifier = create_classifier(image_size=size, classifier_depth=CLASSIFIER_DEPTHS[size])
    assert digest(classifier) == PUBLISHED[f"{size}x{size}_classifier"]
    settings = infer_settings(shapes_of(classifier.state_dict()))
    assert (settings["image_size"], settings["num_res_blocks"], settings["out_channels"]) == (
        size,
        CLASSIFIER_DEPTHS[size],
        1000,
    )


@pytest.mark.parametrize("condition", [False, True])
def test_the_published_head_sits_on_the_classifier_of_256_pixels(condition):
    with FakeTensorMode():  # shapes only, no memory and no arithmetic
        classifier = create_classifier(image_size=256)
        head = create_classifier(image_size=8, in_channels=512, out_channels=1, condition=condition)
        x, time, classes = (
            torch.zeros(2, 3, 256, 256),
            torch.zeros(2),
            torch.zeros(2, dtype=torch.int64),
        )
        features = classifier(x, time, feature=True)
        assert (classifier.feature_channels, classifier.feature_size) == (
            512,
            8,
        ) and features.shape == (2, 512, 8, 8)
        assert head(features, time, condition=classes).shape == (2, 1)
    assert sum(p.numel() for p in head.parameters()) == (3_395_841 if condition else 2_883_841)
