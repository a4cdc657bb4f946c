"""Stages that make something compute in a precision that the device is fast in."""

from types import SimpleNamespace

import pytest
import torch

from dg.experiments import making
from dg.experiments.setting import Setting
from dg.runtime.files import read_json


@pytest.mark.parametrize("supported", [True, False])
def test_trainings_use_bfloat16_only_where_there_are_instructions_for_it(
    supported, monkeypatch, tmp_path
):
    def train(*args, **kwargs):
        precisions = [value.precision for value in args if hasattr(value, "precision")]
        return torch.nn.Linear(1, 1), precisions

    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: supported)
    monkeypatch.setattr(making, "train_noisy_classifier", train)
    kind = SimpleNamespace(train=train, save=lambda file, net: None, bound=None)
    monkeypatch.setitem(making.KINDS, "edm", kind)
    setting = Setting("photographs", None)
    told = []
    context = SimpleNamespace(
        setting=setting,
        device="cpu",
        notify=told.append,
        progress=None,
        ranks=None,
        images=lambda split: None,
    )
    making.make_classifier(context, tmp_path, {})
    expected = ["bfloat16" if supported else "float32"]
    assert read_json(tmp_path / "log.json") == expected
    making.make_model(context, tmp_path, {}, "score")
    assert read_json(tmp_path / "log.json")["log"] == expected
    assert len(told) == (0 if supported else 2)
    assert all(line.startswith("computing in float32: the setting asks") for line in told)
