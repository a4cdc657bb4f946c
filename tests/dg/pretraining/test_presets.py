"""Recipes: the published networks and settings by name, and what may be changed of them."""

import numpy as np
import pytest
import torch

import edm
from dg.data.datasets import ImageSet
from dg.pretraining.presets import AUGMENT_DIM, SCORE_PRESETS, ScoreTraining, score_recipe
from dg.pretraining.score import build_score_network
from tests.golden_fill import layouts


def on_meta(recipe, resolution, channels, num_classes=1, conditional=False):
    """The network of a recipe, without weights."""
    data = ImageSet(
        np.zeros([1, resolution, resolution, channels], np.uint8),
        np.zeros(1, int),
        "meta",
        num_classes,
    )
    with torch.device("meta"):
        return build_score_network(data, recipe[0], 0, conditional)


def layout(net):
    parameters = dict(net.named_parameters())
    return [
        [name, list(t.shape), "param" if name in parameters else "buffer"]
        for name, t in net.state_dict().items()
    ]


@pytest.mark.parametrize(
    ("published", "arguments"),
    [
        ("edm-cifar10-32x32-uncond-vp", (32, 3)),
        ("edm-cifar10-32x32-cond-vp", (32, 3, 10, True)),
        ("edm-cifar10-32x32-uncond-ve", (32, 3)),
        ("baseline-cifar10-32x32-uncond-vp", (32, 3)),
        ("baseline-cifar10-32x32-uncond-ve", (32, 3)),
        ("edm-ffhq-64x64-uncond-vp", (64, 3)),
        ("edm-imagenet-64x64-cond-adm", (64, 3, 1000, True)),
    ],
)
def test_recipes_of_the_published_networks(published, arguments):
    arch = "adm" if "adm" in published else "ncsnpp" if "-ve" in published else "ddpmpp"
    precond = published[-2:] if "baseline" in published else "edm"
    changes = (
        dict(channel_mult=[1, 2, 2, 2], dropout=0.05, batch_size=256, lr=2e-4)
        if "ffhq" in published
        else {}
    )
    network, _ = recipe = score_recipe(
        "imagenet64-edm" if arch == "adm" else "cifar10-edm", arch, precond, **changes
    )
    expected = next(value for name, value in layouts().items() if name.startswith(published))
    net = on_meta(recipe, *arguments)
    assert type(net).__name__ == expected["class_name"] and layout(net) == expected["entries"]
    assert sum(p.numel() for p in net.parameters()) == expected["n_params"]
    told = {name: value for name, value in expected["kwargs"].items() if name in network}
    assert told == {name: network[name] for name in told}


def test_the_published_settings_of_cifar10():
    network, settings = score_recipe("cifar10-edm")
    assert (network["dropout"], network["augment_dim"], AUGMENT_DIM) == (
        0.13,
        edm.AugmentPipe.dim,
        edm.AugmentPipe.dim,
    )
    assert settings.steps * settings.batch_size == 200e6
    assert (settings.batch_size, settings.lr, settings.augment, settings.warmup) == (
        512,
        1e-3,
        0.12,
        10e6,
    )
    assert (settings.ema_halflife, settings.ema_rampup, settings.P_mean, settings.P_std) == (
        5e5,
        0.05,
        -1.2,
        1.2,
    )
    assert sum(p.numel() for p in on_meta((network, settings), 32, 3).parameters()) == 55_733_891


@pytest.mark.parametrize(
    ("preset", "size", "least", "most"),
    [
        ("digits", (8, 1), 4e5, 5e5),
        ("mnist", (28, 1), 7e5, 8e5),
        ("cifar10-small", (32, 3), 3e6, 6e6),
    ],
)
def test_small_recipes_are_small(preset, size, least, most):
    for arch in (None, "ddpmpp", "ncsnpp"):
        assert (
            least
            < sum(p.numel() for p in on_meta(score_recipe(preset, arch), *size).parameters())
            < most
        )


def test_changes_of_a_recipe():
    network, settings = score_recipe(
        "digits", batch_size=128, lr=0.5, dropout=0.2, channel_mult=[2], model_channels=32
    )
    assert (network["dropout"], network["channel_mult"], network["model_channels"]) == (
        0.2,
        [2],
        32,
    )
    assert (settings.steps, settings.batch_size, settings.lr) == (500, 128, 0.5), "as many images"
    assert SCORE_PRESETS["digits"][0]["channel_mult"] == [1, 2], "the preset is left as it was"
    assert score_recipe("digits", batch_size=128, steps=7)[1].steps == 7
    assert score_recipe("digits", duration=0.0001)[1].steps == 2
    assert score_recipe("digits")[0] == SCORE_PRESETS["digits"][0]
    assert "augment_dim" not in score_recipe("cifar10-edm", augment=0.0)[0]
    assert "sigma_data" not in score_recipe("digits", precond="vp")[0]
    with pytest.raises(ValueError, match="3 steps and 1 million images; give one of them"):
        score_recipe("digits", duration=1, steps=3)


@pytest.mark.parametrize(
    "change", [{"batch_size": 0}, {"steps": -1}, {"lr": 0}, {"augment": 1.5}, {"precision": "half"}]
)
def test_impossible_settings_are_refused(change):
    with pytest.raises(ValueError, match=str(*change.values())):
        ScoreTraining(**change)
