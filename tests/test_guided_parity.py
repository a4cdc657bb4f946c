"""The published path by the command line: an NVIDIA pickle and the authors' bare state dicts give
the authors' images."""

import numpy as np
import pytest
import torch

import generate
from dg.data.datasets import load_images
from tests import golden_fill
from tests.dg.test_guidance import stack
from tests.edm.nvidia_writer import write_network
from tests.edm.test_networks import build


@pytest.mark.slow
@pytest.mark.parametrize(
    "case, run",
    [
        ("e_dg_sampler_uncond", "first2"),
        ("e_dg_sampler_uncond", "both11"),
        ("e_dg_sampler_cond", "boost"),
        ("e_dg_sampler_cond", "churn"),
    ],
)
def test_generate_gives_the_authors_images(case, run, tmp_path):
    arrays, config = golden_fill.load(case)
    settings, net, discriminator = (
        config["runs"][run],
        build(config["net"], gain=0.6),
        stack(config["stack"]),
    )
    write_network(
        tmp_path / "net.pkl", net, config["net"]["class_name"], config["net"]["kwargs"], numpy1=True
    )
    torch.save(discriminator.extractor.encoder.state_dict(), tmp_path / "32x32_classifier.pt")
    torch.save(discriminator.heads[0].state_dict(), tmp_path / "discriminator.pt")
    arguments = {
        "network": tmp_path / "net.pkl",
        "outdir": tmp_path / "out",
        "seeds": "0-3",
        "steps": settings["num_steps"],
        "pretrained_classifier_ckpt": tmp_path / "32x32_classifier.pt",
        "discriminator_ckpt": tmp_path / "discriminator.pt",
        "w_dg_1": settings["w1"],
        "w_dg_2": settings["w2"],
        "boosting": settings["boosting"],
        "cond": int(case.rsplit("_", 1)[1] == "cond"),
        "time_min": settings["time_min"],
        "time_max": settings["time_max"],
        "S_churn": settings["S_churn"],
        "S_noise": settings["S_noise"],
        "S_min": settings.get("S_min", 0),
        "S_max": settings.get("S_max", "inf"),
        "dg_clip": 1e-5,
        "precise": 1,
        "device": "cpu",
    }
    generate.main.main(
        [f"--{name}={value}" for name, value in arguments.items()], standalone_mode=False
    )
    images = load_images(tmp_path / "out")
    difference = np.abs(images.images.astype(int) - arrays[f"{run}:uint8"])
    assert difference.max() <= 1 and (difference > 0).mean() <= 0.002
    if net.label_dim:
        np.testing.assert_array_equal(images.labels, arrays[f"{run}:class_labels"].argmax(axis=1))
