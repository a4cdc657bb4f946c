"""Rebuilding encoders and U-Nets from state dicts, and files that are not what they should be."""

import argparse
import os
import pickle

import pytest
import torch

from guided_diffusion import (
    EncoderUNetModel,
    UNetModel,
    create_classifier,
    create_unet,
    load_encoder,
    load_unet,
)
from guided_diffusion.layers import AttentionBlock
from guided_diffusion.layouts import infer_settings, infer_unet_settings, shapes_of
from guided_diffusion.loading import MissingSettings
from guided_diffusion.presets import UNETS
from tests.golden_fill import fill
from tests.guided_diffusion.test_presets import LAYOUTS, build

SMALL = dict(
    image_size=16,
    in_channels=4,
    out_channels=5,
    model_channels=64,
    num_res_blocks=2,
    channel_mult=(0.5, 1),
    attention_resolutions=(8,),
)


def small(**changes):
    return fill(EncoderUNetModel(**SMALL | changes)).eval()


def on_meta(settings):
    with torch.device("meta"):
        return EncoderUNetModel(**settings)


def assert_inferred(encoder, **expected):
    """The settings inferred from the encoder's tensors rebuild its layout and equal the expected
    ones."""
    shapes = shapes_of(encoder.state_dict())
    settings = infer_settings(shapes)
    assert list(shapes_of(on_meta(settings).state_dict()).items()) == list(shapes.items())
    assert settings | expected == settings


@pytest.mark.parametrize("name", LAYOUTS)
def test_settings_of_every_layout(name):
    kwargs = LAYOUTS[name]["create_classifier_kwargs"]
    assert_inferred(
        build(name, kwargs),
        image_size=kwargs["image_size"],
        num_res_blocks=kwargs["classifier_depth"],
        model_channels=kwargs["classifier_width"],
        in_channels=kwargs["in_channels"],
        out_channels=kwargs["out_channels"],
        num_classes=1000 * kwargs["condition"],
    )


@pytest.mark.parametrize("depth", [2, 4])
@pytest.mark.parametrize(
    "image_size, channel_mult",
    [
        (64, [1, 2, 3, 4]),
        (128, [1, 1, 2, 3, 4]),
        (256, [1, 1, 2, 2, 4, 4]),
        (512, [0.5, 1, 1, 2, 2, 4, 4]),
    ],
)
def test_settings_of_guided_diffusion_classifiers(image_size, channel_mult, depth):
    with torch.device("meta"):
        encoder = create_classifier(image_size=image_size, classifier_depth=depth)
    assert_inferred(
        encoder,
        image_size=image_size,
        num_res_blocks=depth,
        channel_mult=channel_mult,
        attention_resolutions=[32, 16, 8],
    )


@pytest.mark.parametrize("pool", ["attention", "adaptive", "spatial", "spatial_v2"])
@pytest.mark.parametrize(
    "changes",
    [{}, dict(use_scale_shift_norm=False), dict(resblock_updown=False), dict(num_classes=10)],
    ids=str,
)
def test_settings_of_every_variant(pool, changes):
    settings = SMALL | dict(channel_mult=[0.5, 1], attention_resolutions=[8], pool=pool) | changes
    assert_inferred(on_meta(settings), **settings)


def test_file_gives_the_same_logits(tmp_path):
    encoder = small(num_classes=10)
    torch.save(encoder.state_dict(), tmp_path / "encoder.pt")
    loaded = load_encoder(tmp_path / "encoder.pt", num_head_channels=32)
    assert not loaded.training and all(
        p.dtype == torch.float32 and p.requires_grad for p in loaded.parameters()
    )
    x, time, condition = torch.randn(2, 4, 16, 16), torch.tensor([0.2, 0.8]), torch.tensor([1, 9])
    wide_heads = load_encoder(encoder.state_dict())
    assert torch.equal(
        wide_heads(x, time, condition=condition), encoder(x, time, condition=condition)
    )
    assert not torch.equal(
        loaded(x, time, condition=condition), encoder(x, time, condition=condition)
    )


def test_state_dict_is_copied_and_half_precision_widened():
    encoder = small().half()
    loaded = load_encoder({f"module.{key}": tensor for key, tensor in encoder.state_dict().items()})
    assert torch.equal(loaded.out[0].weight, encoder.out[0].weight.float())
    state = small().state_dict()
    load_encoder(state).out[0].weight.data.zero_()
    assert state["out.0.weight"].any()


def test_several_possible_depths_must_be_told_apart():
    state = EncoderUNetModel(
        **SMALL | dict(channel_mult=(1, 1), attention_resolutions=())
    ).state_dict()
    with pytest.raises(
        ValueError, match="fit 1 and 2 and 5 residual blocks per level alike; give num_res_blocks"
    ):
        load_encoder(state)
    assert load_encoder(state, num_res_blocks=2).image_size == 16
    with pytest.raises(ValueError, match="do not form levels of 3 residual blocks"):
        load_encoder(state, num_res_blocks=3)


def changed(**replacements):
    """A good state dict in which tensors are replaced, or removed where the replacement is None."""
    state = small().state_dict() | {
        key.replace("__", "."): value for key, value in replacements.items()
    }
    return {key: value for key, value in state.items() if value is not None}


@pytest.mark.parametrize(
    "state, message",
    [
        (
            changed(middle_block__1__norm__weight=torch.ones(3)),
            r"tensor 'middle_block.1.norm.weight' does not fit: expected \(64,\), found \(3,\)",
        ),
        (changed(middle_block__1__norm__weight=None), r"expected \(64,\), found no such tensor"),
        (
            changed(extra=torch.ones(2)),
            r"tensor 'extra' does not fit: expected no such tensor, found \(2,\)",
        ),
        (
            changed(time_embed__0__weight=None),
            "'time_embed.0.weight' is missing, expected 2 dimensions",
        ),
        (
            changed(time_embed__0__weight=torch.ones(3)),
            r"'time_embed.0.weight' has shape \(3,\), expected 2 dimensions",
        ),
        (
            changed(out__2__c_proj__bias=torch.tensor([1, 2, 3, float("nan"), 5])),
            "'out.2.c_proj.bias' has NaN",
        ),
        (changed(epoch=7), "entry 'epoch' is a int, not a tensor"),
        ({"model": {}, "optimizer": {}}, "entry 'model' is a dict, not a tensor"),
        ({}, "'out.2.weight' is missing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_state_dicts_that_do_not_fit(state, message):
    with pytest.raises(ValueError, match="^the state dict: .*" + message) as error:
        load_encoder(state)
    assert "\n" not in str(error.value)


def test_settings_that_contradict_the_tensors():
    with pytest.raises(
        ValueError, match=r"'out.2.positional_embedding' does not fit: expected \(64, 257\)"
    ):
        load_encoder(small().state_dict(), image_size=32)
    with pytest.raises(ValueError, match="heads of 48"):
        load_encoder(small().state_dict(), num_head_channels=48)


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def write_truncated(path):
    torch.save(small().state_dict(), path)
    path.write_bytes(path.read_bytes()[:100_000])


BAD_FILES = {
    "missing": (lambda path: None, "no such file"),
    "folder": (lambda path: path.mkdir(), "no such file"),
    "empty": (lambda path: path.touch(), "damaged or truncated"),
    "truncated": (write_truncated, "damaged or truncated"),
    "web page": (lambda path: path.write_text("<html>Quota exceeded</html>"), "not a PyTorch file"),
    "other pickle": (
        lambda path: path.write_bytes(pickle.dumps({"ema": Hostile()})),
        "not a PyTorch file",
    ),
    "module": (
        lambda path: torch.save(small(), path),
        "holds a pickled 'guided_diffusion.encoder.EncoderUNetModel'",
    ),
    "hostile": (
        lambda path: torch.save({"weight": Hostile()}, path),
        r"holds a pickled '\w+.mkdir'",
    ),
    "sparse": (
        lambda path: torch.save({"a": torch.ones(2, 2).to_sparse()}, path),
        r"tensors of an unusual kind \(_rebuild_sparse_tensor\)",
    ),
    "meta": (
        lambda path: torch.save({"a": torch.ones(2, device="meta")}, path),
        "tensors of an unusual kind",
    ),
    "integers": (
        lambda path: torch.save(changed(out__0__bias=torch.ones(64, dtype=torch.int64)), path),
        "'out.0.bias' is int64, not floating point",
    ),
    "stride 0": (
        lambda path: torch.save({"a": torch.zeros(1).expand(10**9)}, path),
        "larger than its storage, which no PyTorch file does",
    ),
    "tensor": (lambda path: torch.save(torch.ones(3), path), "holds a Tensor, not a state dict"),
    "NaN": (
        lambda path: torch.save(changed(out__0__bias=torch.full((64,), torch.nan)), path),
        "'out.0.bias' has NaN",
    ),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_files(kind, tmp_path, monkeypatch, recwarn):
    monkeypatch.chdir(tmp_path)
    write, message = BAD_FILES[kind]
    path = tmp_path / "encoder.pt"
    write(path)
    with pytest.raises(ValueError, match=message) as error:
        load_encoder(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
    assert not (tmp_path / "executed").exists() and not recwarn


# U-Nets.

SMALL_UNET = dict(
    image_size=16,
    in_channels=3,
    out_channels=6,
    model_channels=64,
    num_res_blocks=2,
    channel_mult=[0.5, 1],
    attention_resolutions=[8],
)


def small_unet(**changes):
    return fill(UNetModel(**SMALL_UNET | changes)).eval()


@pytest.mark.parametrize("name", UNETS)
def test_settings_of_every_published_unet(name):
    with torch.device("meta"):
        net = create_unet(name)
        settings = infer_unet_settings(shapes_of(net.state_dict()))
        found = UNetModel(**settings)
    assert settings | UNETS[name] == settings and settings["image_size"] == net.image_size
    assert list(shapes_of(found.state_dict()).items()) == list(shapes_of(net.state_dict()).items())

    def attention(net):
        return [
            (type(module), module.heads)
            for module in net.modules()
            if isinstance(module, AttentionBlock)
        ]

    assert attention(found) == attention(net)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(use_scale_shift_norm=False),
        dict(resblock_updown=False),
        dict(num_classes=10),
        dict(out_channels=3),
        dict(in_channels=1),
        dict(channel_mult=[1, 1], attention_resolutions=[]),
        dict(image_size=8, channel_mult=[1]),
        dict(
            image_size=32,
            num_res_blocks=1,
            channel_mult=[1, 1, 1],
            attention_resolutions=[32, 16, 8],
        ),
    ],
    ids=str,
)
def test_settings_of_every_unet_variant(changes):
    settings = SMALL_UNET | changes
    if settings["image_size"] == 8:
        settings["attention_resolutions"] = [8]
    found = infer_unet_settings(shapes_of(UNetModel(**settings).state_dict()))
    assert found | settings == found


def test_unet_file_gives_the_same_output(tmp_path):
    net = small_unet(num_classes=10, resblock_updown=False)
    torch.save(net.state_dict(), tmp_path / "unet.pt")
    x, t, y = torch.randn(2, 3, 16, 16), torch.tensor([3, 900]), torch.tensor([1, 9])
    told = dict(image_size=16, num_head_channels=64)
    loaded = load_unet(tmp_path / "unet.pt", **told)
    assert torch.equal(loaded(x, t, y), net(x, t, y))
    assert not loaded.training and all(
        p.dtype == torch.float32 and p.requires_grad for p in loaded.parameters()
    )
    half = load_unet(
        {f"module.{key}": tensor.half() for key, tensor in net.state_dict().items()}, **told
    )
    assert torch.equal(half.out[2].weight, net.out[2].weight.half().float())
    for overrides in (dict(num_head_channels=32), dict(num_heads=2)):
        assert {
            m.heads
            for m in load_unet(net.state_dict(), image_size=16, **overrides).modules()
            if isinstance(m, AttentionBlock)
        } == {2}
    assert not torch.equal(
        load_unet(net.state_dict(), image_size=16, num_heads=2, use_new_attention_order=True)(
            x, t, y
        ),
        load_unet(net.state_dict(), image_size=16, num_heads=2)(x, t, y),
    )


def test_overrides_win_over_the_published_file():
    with torch.device("meta"):
        shapes = shapes_of(create_unet("128x128_diffusion").state_dict())
    assert infer_unet_settings(shapes)["num_heads"] == 4
    assert infer_unet_settings(shapes, num_heads=8)["num_heads"] == 8
    by_width = infer_unet_settings(shapes, num_head_channels=32)
    assert by_width["num_head_channels"] == 32 and "num_heads" not in by_width
    larger = infer_unet_settings(shapes, image_size=256)
    assert larger["image_size"] == 256 and larger["attention_resolutions"] == [64, 32, 16]


def changed_unet(**replacements):
    state = small_unet().state_dict() | {
        key.replace("__", "."): value for key, value in replacements.items()
    }
    return {key: value for key, value in state.items() if value is not None}


@pytest.mark.parametrize(
    "state, message",
    [
        (
            changed_unet(output_blocks__5__0__out_layers__3__bias=torch.ones(3)),
            r"tensor 'output_blocks.5.0.out_layers.3.bias' does not fit: expected \(32,\), found "
            r"\(3,\)",
        ),
        (
            changed_unet(output_blocks__5__0__out_layers__3__bias=None),
            r"expected \(32,\), found no such tensor",
        ),
        (
            changed_unet(extra=torch.ones(2)),
            r"tensor 'extra' does not fit: expected no such tensor, found \(2,\)",
        ),
        (changed_unet(time_embed__0__weight=None), "'time_embed.0.weight' is missing"),
        (
            changed_unet(out__2__bias=torch.full((6,), torch.inf)),
            "'out.2.bias' has NaN or infinite weights",
        ),
        (small().state_dict(), "tensor 'out.2.weight' is missing"),
        (
            {"out.2.weight": torch.ones(6, 32, 3, 3)},
            "'output_blocks.0.0.in_layers.2.weight' is missing",
        ),
        ({"model": {}}, "entry 'model' is a dict, not a tensor"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_state_dicts_of_no_unet(state, message):
    with pytest.raises(ValueError, match="^the state dict: .*" + message) as error:
        load_unet(state)
    assert "\n" not in str(error.value)


def test_a_unet_is_no_encoder(tmp_path):
    with pytest.raises(
        ValueError, match=r"'out.2.weight' has shape \(6, 32, 3, 3\), expected 2 dimensions"
    ):
        load_encoder(small_unet().state_dict())
    with pytest.raises(ValueError, match="no such file"):
        load_unet(tmp_path / "absent.pt")


@pytest.mark.parametrize("changes", [{}, dict(attention_resolutions=[])], ids=str)
def test_settings_that_no_tensor_shows_are_asked_for(changes):
    state = small_unet(**changes).state_dict()
    with pytest.raises(MissingSettings, match="do not tell the size of the images") as error:
        load_unet(state)
    assert error.value.names == ["image_size", "num_heads"]
    assert load_unet(state, image_size=32, num_heads=2).image_size == 32
    with pytest.raises(ValueError, match="both given; give one of them"):
        load_unet(state, image_size=32, num_heads=2, num_head_channels=32)


# What training code saves.


def averaged(net):
    return torch.optim.swa_utils.AveragedModel(net).state_dict()


def prefixed(prefix):
    return lambda net: {f"{prefix}{key}": tensor for key, tensor in net.state_dict().items()}


CHECKPOINTS = {
    "compiled": prefixed("_orig_mod."),
    "parallel, compiled": prefixed("module._orig_mod."),
    "compiled, parallel": prefixed("_orig_mod.module."),
    "averaged": averaged,
    "ema": lambda net: {"ema": net.state_dict(), "model": small(num_classes=3).state_dict()},
    "model": lambda net: {"model": prefixed("module.")(net), "epoch": 3, "opt": {"state": {}}},
    "state_dict": lambda net: {"state_dict": net.state_dict(), "args": argparse.Namespace(lr=1e-4)},
    "ema, averaged": lambda net: {"ema": averaged(net), "n": 3},
    "module that holds it": lambda net: {"state_dict": prefixed("model.")(net), "epoch": 3},
    "long names": lambda net: {"model_state_dict": {}, "ema_state_dict": net.state_dict()},
    "its network": lambda net: {"net": prefixed("module.")(net), "step": 5},
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_checkpoints_of_trainings(kind, tmp_path):
    for net, load in ((small(), load_encoder), (small_unet(), load_unet)):
        told = {} if load is load_encoder else dict(image_size=16, num_head_channels=64)
        torch.save(CHECKPOINTS[kind](net), tmp_path / "training.pt")
        loaded = load(tmp_path / "training.pt", **told).state_dict()
        for name, tensor in net.state_dict().items():
            assert torch.equal(loaded[name], tensor)
