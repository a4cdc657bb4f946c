"""Extractors: what they take, what they give, which weights they accept."""

import importlib
import pickle

import numpy as np
import pytest
import torch

from benchmarks.random_weights import write_random_weights
from dg.data.datasets import load_images
from dg.evaluation import dinov2
from dg.evaluation.classifier import FeatureClassifier, extract_features, save_classifier
from dg.evaluation.features import FIDELITY, load_extractor
from dg.runtime.catalogue import CATALOGUE
from dg.runtime.files import sha256_of


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    write_random_weights(path, seed=1)
    return path


@pytest.fixture(scope="module")
def inception(weights):
    return load_extractor("inception", weights, unpublished_weights=True)


def images(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_inception_gives_features_logits_and_spatial_ones(inception):
    named = inception(images(2, 32, 32, 3))
    assert {name: tuple(value.shape) for name, value in named.items()} == {
        "features": (2, 2048),
        "logits": (2, 1008),
        "spatial": (2, 17 * 17 * 7),
    }
    assert all(value.dtype == torch.float32 for value in named.values())
    assert (
        inception.metric == "fid"
        and inception.published is False
        and not inception.network.training
    )


def test_inception_is_torch_fidelitys_own(inception, weights):
    module = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    direct = module.FeatureExtractorInceptionV3(
        "inception", ["2048", "logits_unbiased"], str(weights)
    )
    batch = images(2, 20, 20, 3)
    features, logits = direct(torch.from_numpy(batch).permute(0, 3, 1, 2))
    named = inception(batch)
    torch.testing.assert_close(named["features"], features)
    torch.testing.assert_close(named["logits"], logits)


def test_grey_is_repeated(inception):
    grey = images(1, 16, 16, 1)
    torch.testing.assert_close(
        inception(grey)["features"], inception(grey.repeat(3, axis=3))["features"]
    )


def test_other_weights_than_the_published_are_refused(weights):
    with pytest.raises(ValueError, match=r"SHA-256 [0-9a-f]{64}, the published weights 6726825d"):
        load_extractor("inception", weights)


def test_pickles_are_not_executed(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "touched"), "w"))

    (tmp_path / "hostile.pth").write_bytes(pickle.dumps(Hostile()))
    torch.save({"a": Hostile()}, tmp_path / "zipped.pth")
    told = {"hostile.pth": "not a PyTorch file", "zipped.pth": "loading it could run code"}
    for name, reason in told.items():
        with pytest.raises(ValueError, match=reason):
            load_extractor("inception", tmp_path / name, unpublished_weights=True)
    with pytest.raises(ValueError, match="not executed"):
        load_extractor(str(tmp_path / "inception-2015-12-05.pkl"))
    assert not (tmp_path / "touched").exists()


def test_names_stand_for_what_torch_fidelity_has():
    for name, (module, class_name, feature, short) in FIDELITY.items():
        cls = getattr(importlib.import_module(f"torch_fidelity.{module}"), class_name)
        assert feature in cls.get_provided_features_list()
        if hasattr(importlib.import_module(f"torch_fidelity.{module}"), "MODEL_METADATA"):
            assert name in importlib.import_module(f"torch_fidelity.{module}").MODEL_METADATA
        assert short is None or short in CATALOGUE


def test_clip_addresses_are_torch_fidelitys():
    from torch_fidelity.feature_extractor_clip import MODEL_URLS

    for name in ("clip-vit-b-32", "clip-vit-l-14"):
        assert (
            CATALOGUE[name].url == MODEL_URLS[name] and CATALOGUE[name].sha256 in MODEL_URLS[name]
        )


class TinyCLIP(torch.nn.Module):
    """The layout of OpenAI's archives, with the visual part of torch-fidelity."""

    def __init__(self):
        super().__init__()
        from torch_fidelity.feature_extractor_clip import VisionTransformer

        self.visual = VisionTransformer(64, 32, 64, 2, 1, 16)
        self.text_projection = torch.nn.Parameter(torch.zeros(8, 16))

    def forward(self, x):
        return self.visual(x)


def test_clip_is_read_out_of_its_archive_without_running_it(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = TinyCLIP().eval()
    torch.jit.trace(model, torch.zeros(1, 3, 64, 64)).save(tmp_path / "clip.pt")
    monkeypatch.setattr(torch.jit, "load", None)
    monkeypatch.setattr(torch, "load", None)
    extractor = load_extractor("clip-vit-b-32", tmp_path / "clip.pt", unpublished_weights=True)
    for name, tensor in model.visual.state_dict().items():
        half = tensor.half().float() if name.endswith(("in_proj_weight", "conv1.weight")) else None
        found = extractor.network.inner.model.visual.state_dict()[name]
        assert torch.equal(found, tensor) or half is None or torch.equal(found, half)
    assert extractor(images(2, 20, 20, 3))["features"].shape == (2, 16)
    with pytest.raises(ValueError, match="SHA-256"):
        load_extractor("clip-vit-b-32", tmp_path / "clip.pt")


def test_dinov2_is_built_here(tmp_path, monkeypatch):
    """Position embeddings and norms by hand; nothing is asked of torch.hub."""
    monkeypatch.setattr(torch.hub, "load", None)
    monkeypatch.setitem(dinov2.SIZES, "s", (48, 2, 3))
    torch.manual_seed(0)
    net = dinov2.DINOv2("s")
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    torch.save(net.state_dict(), tmp_path / "dino.pth")
    extractor = load_extractor("dinov2-vit-s-14", tmp_path / "dino.pth")
    assert extractor.published is None and extractor.sha256 == sha256_of(tmp_path / "dino.pth")
    grey = np.full((1, 224, 224, 3), 128, dtype=np.uint8)
    mean, sd = (torch.tensor(values) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x = ((128 / 255 - mean) / sd)[None, :, None, None].expand(1, 3, 224, 224)
    torch.testing.assert_close(extractor(grey)["features"], net.eval()(x), rtol=1e-4, atol=1e-4)
    torch.save({"cls_token": torch.zeros(1, 1, 48)}, tmp_path / "part.pth")
    with pytest.raises(ValueError, match=r"part\.pth: .*patch_embed|part\.pth: .*missing"):
        load_extractor("dinov2-vit-s-14", tmp_path / "part.pth")


def test_dinov2_has_the_published_tensors():
    """Numbers of values of dinov2_vit{s,b,l,g}14_pretrain.pth, as published in millions."""
    with torch.device("meta"):
        nets = {size: dinov2.DINOv2(size) for size in dinov2.SIZES}
    counts = {size: sum(p.numel() for p in net.parameters()) for size, net in nets.items()}
    assert {size: round(count / 1e6) for size, count in counts.items()} == {
        "s": 22,
        "b": 87,
        "l": 304,
        "g": 1136,
    }
    names = set(nets["s"].state_dict())
    assert {"cls_token", "pos_embed", "mask_token", "norm.weight", "patch_embed.proj.bias"} <= names
    assert {"blocks.11.ls1.gamma", "blocks.0.attn.qkv.bias", "blocks.3.mlp.fc1.weight"} <= names
    assert nets["g"].blocks[0].mlp.w12.weight.shape == (8192, 1536)


def test_a_classifier_is_an_extractor(tmp_path):
    torch.manual_seed(0)
    model = FeatureClassifier(8, 1, 10).eval().requires_grad_(False)
    save_classifier(tmp_path / "c.safetensors", model)
    extractor, digits = load_extractor(str(tmp_path / "c.safetensors")), load_images("digits", 20)
    np.testing.assert_allclose(
        extractor(digits.images)["features"], extract_features(model, digits), rtol=1e-5, atol=1e-6
    )
    assert extractor.metric == "fd"
    with pytest.raises(ValueError, match="16x16 pixels"):
        extractor.check("a", (16, 16, 1))
    with pytest.raises(ValueError, match="3 channels"):
        extractor.check("a", (8, 8, 3))


def test_pixels_are_the_images_at_edm_scale():
    batch = images(3, 4, 5, 3)
    found = load_extractor("pixels")(batch)["features"].numpy()
    np.testing.assert_allclose(
        found, batch.transpose(0, 3, 1, 2).reshape(3, -1) / 127.5 - 1, atol=1e-6
    )
    with pytest.raises(ValueError, match="12288 values"):
        load_extractor("pixels").check("a", (64, 64, 3))
