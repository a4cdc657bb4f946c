"""Rebuilding encoders from state dicts, and files that are not what they should be."""

import os
import pickle

import pytest
import torch

from guided_diffusion import EncoderUNetModel, create_classifier, load_encoder
from guided_diffusion.loading import infer_settings, shapes_of
from tests.golden_fill import fill
from tests.guided_diffusion.test_presets import LAYOUTS, build

SMALL = dict(image_size=16, in_channels=4, out_channels=5, model_channels=64, num_res_blocks=2, channel_mult=(0.5, 1),
             attention_resolutions=(8,))


def small(**changes):
    return fill(EncoderUNetModel(**SMALL | changes)).eval()


def on_meta(settings):
    with torch.device("meta"):
        return EncoderUNetModel(**settings)


def assert_inferred(encoder, **expected):
    """The settings inferred from the encoder's tensors rebuild its layout and equal the expected ones."""
    shapes = shapes_of(encoder.state_dict())
    settings = infer_settings(shapes)
    assert list(shapes_of(on_meta(settings).state_dict()).items()) == list(shapes.items())
    assert settings | expected == settings


@pytest.mark.parametrize("name", LAYOUTS)
def test_settings_of_every_layout(name):
    kwargs = LAYOUTS[name]["create_classifier_kwargs"]
    assert_inferred(build(name, kwargs), image_size=kwargs["image_size"], num_res_blocks=kwargs["classifier_depth"],
                    model_channels=kwargs["classifier_width"], in_channels=kwargs["in_channels"],
                    out_channels=kwargs["out_channels"], num_classes=1000 * kwargs["condition"])


@pytest.mark.parametrize("depth", [2, 4])
@pytest.mark.parametrize("image_size, channel_mult", [
    (64, [1, 2, 3, 4]), (128, [1, 1, 2, 3, 4]), (256, [1, 1, 2, 2, 4, 4]), (512, [0.5, 1, 1, 2, 2, 4, 4])])
def test_settings_of_guided_diffusion_classifiers(image_size, channel_mult, depth):
    with torch.device("meta"):
        encoder = create_classifier(image_size=image_size, classifier_depth=depth)
    assert_inferred(encoder, image_size=image_size, num_res_blocks=depth, channel_mult=channel_mult,
                    attention_resolutions=[32, 16, 8])


@pytest.mark.parametrize("pool", ["attention", "adaptive", "spatial", "spatial_v2"])
@pytest.mark.parametrize("changes", [
    {}, dict(use_scale_shift_norm=False), dict(resblock_updown=False), dict(num_classes=10)], ids=str)
def test_settings_of_every_variant(pool, changes):
    settings = SMALL | dict(channel_mult=[0.5, 1], attention_resolutions=[8], pool=pool) | changes
    assert_inferred(on_meta(settings), **settings)


def test_file_gives_the_same_logits(tmp_path):
    encoder = small(num_classes=10)
    torch.save(encoder.state_dict(), tmp_path / "encoder.pt")
    loaded = load_encoder(tmp_path / "encoder.pt", num_head_channels=32)
    assert not loaded.training and all(p.dtype == torch.float32 and p.requires_grad for p in loaded.parameters())
    x, time, condition = torch.randn(2, 4, 16, 16), torch.tensor([0.2, 0.8]), torch.tensor([1, 9])
    wide_heads = load_encoder(encoder.state_dict())
    assert torch.equal(wide_heads(x, time, condition=condition), encoder(x, time, condition=condition))
    assert not torch.equal(loaded(x, time, condition=condition), encoder(x, time, condition=condition))


def test_state_dict_is_copied_and_half_precision_widened():
    encoder = small().half()
    loaded = load_encoder({f"module.{key}": tensor for key, tensor in encoder.state_dict().items()})
    assert torch.equal(loaded.out[0].weight, encoder.out[0].weight.float())
    state = small().state_dict()
    load_encoder(state).out[0].weight.data.zero_()
    assert state["out.0.weight"].any()


def test_several_possible_depths_must_be_told_apart():
    state = EncoderUNetModel(**SMALL | dict(channel_mult=(1, 1), attention_resolutions=())).state_dict()
    with pytest.raises(ValueError, match="fit 1 and 2 and 5 residual blocks per level alike: pass num_res_blocks"):
        load_encoder(state)
    assert load_encoder(state, num_res_blocks=2).image_size == 16
    with pytest.raises(ValueError, match="do not form levels of 3 residual blocks"):
        load_encoder(state, num_res_blocks=3)


def changed(**replacements):
    """A good state dict in which tensors are replaced, or removed where the replacement is None."""
    state = small().state_dict() | {key.replace("__", "."): value for key, value in replacements.items()}
    return {key: value for key, value in state.items() if value is not None}


@pytest.mark.parametrize("state, message", [
    (changed(middle_block__1__norm__weight=torch.ones(3)),
     r"tensor 'middle_block.1.norm.weight' does not fit: expected \(64,\), found \(3,\)"),
    (changed(middle_block__1__norm__weight=None), r"expected \(64,\), found no such tensor"),
    (changed(extra=torch.ones(2)), r"tensor 'extra' does not fit: expected no such tensor, found \(2,\)"),
    (changed(time_embed__0__weight=None), "'time_embed.0.weight' is missing, expected 2 dimensions"),
    (changed(time_embed__0__weight=torch.ones(3)), r"'time_embed.0.weight' has shape \(3,\), expected 2 dimensions"),
    (changed(out__2__c_proj__bias=torch.tensor([1, 2, 3, float("nan"), 5])), "'out.2.c_proj.bias' has NaN"),
    (changed(epoch=7), "entry 'epoch' is a int, not a tensor"),
    ({"model": {}, "optimizer": {}}, "entry 'model' is a dict, not a tensor"),
    ({}, "'time_embed.0.weight' is missing"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_state_dicts_that_do_not_fit(state, message):
    with pytest.raises(ValueError, match="^the state dict: .*" + message) as error:
        load_encoder(state)
    assert "\n" not in str(error.value)


def test_settings_that_contradict_the_tensors():
    with pytest.raises(ValueError, match=r"'out.2.positional_embedding' does not fit: expected \(64, 257\)"):
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
    "other pickle": (lambda path: path.write_bytes(pickle.dumps({"ema": Hostile()})), "not a PyTorch file"),
    "module": (lambda path: torch.save(small(), path), "holds a pickled 'guided_diffusion.encoder.EncoderUNetModel'"),
    "hostile": (lambda path: torch.save({"weight": Hostile()}, path), r"holds a pickled '\w+.mkdir'"),
    "tensor": (lambda path: torch.save(torch.ones(3), path), "holds a Tensor, not a state dict"),
    "NaN": (lambda path: torch.save(changed(out__0__bias=torch.full((64,), torch.nan)), path), "'out.0.bias' has NaN"),
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
