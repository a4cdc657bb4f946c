"""Weights in a published file's layout with random values, to measure and test what needs weights
that cannot be had."""

import io
from unittest import mock

import torch

from dg.evaluation.features import FIDELITY
from dg.runtime.randomness import seeded


def write_random_weights(path, name="inception", seed=0):
    """Write a state dict that torch-fidelity's extractor of that name loads (Inception or VGG16);
    values drawn by `seed`."""
    import importlib

    module, class_name, feature, _ = FIDELITY[name]
    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    # it insists on loading a file
    with (
        seeded(seed),
        mock.patch("torch.nn.Module.load_state_dict"),
    ):
        network = getattr(importlib.import_module(f"torch_fidelity.{module}"), class_name)(
            name, [feature], feature_extractor_weights_path=empty
        )
    state = network.model.state_dict() if hasattr(network, "model") else network.state_dict()
    if name == "vgg16":  # the last layer is in the file, and cut off after loading
        state |= {
            "classifier.6.weight": torch.zeros(1000, 4096),
            "classifier.6.bias": torch.zeros(1000),
        }
    torch.save(state, path)
