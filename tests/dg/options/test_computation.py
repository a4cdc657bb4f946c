"""How generate.py comes to its precision, threads and batches at once."""

import json

import click
import pytest
import torch

from dg.data.manifests import FORMAT
from dg.options.computation import THREADS, computation
from dg.runtime import self_benchmark
from dg.runtime.processes import SINGLE_PROCESS
from dg.runtime.self_benchmark import Speed
from dg.samplers.constants import RejectionSampling
from dg.sampling import Sampling
from tests.dg.test_sampling import network


@pytest.fixture
def compute(tmp_path, monkeypatch):
    """`computation` in a folder, where bfloat16 is twice as fast; it returns the precision, and
    what was told."""
    monkeypatch.setenv("DG_CACHE_DIR", str(tmp_path / "cache"))
    rates = {"float32": 1.0, "bfloat16": 2.0}
    monkeypatch.setattr(
        self_benchmark,
        "measure",
        lambda net, device, precisions, pairs: [
            Speed(precision, *pair, 4, rates[precision])
            for pair in pairs
            for precision in precisions
        ],
    )

    def call(asked="auto", sampling=None, fixed=True, anew=False):
        told, run, how = (
            [],
            (tmp_path, 2, SINGLE_PROCESS),
            {"compiled": fixed, "speeds": anew, "precise": False},
        )
        sampling = sampling or Sampling()
        found = computation(network(), sampling, "cpu", *run, told.append, asked, how)
        return found, told

    return call


@pytest.mark.parametrize("supported", [True, False])
def test_auto_is_bfloat16_only_where_there_are_instructions_for_it(supported, monkeypatch, compute):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: supported)
    found, told = compute()
    assert found.precision == ("bfloat16" if supported else "float32")
    assert told == ["computing in bfloat16; --precision float32 is slower and exact"] * supported
    assert compute("float16")[0].precision == "float16"
    found, told = compute("bfloat16")  # asked for: nothing to tell
    assert found.precision == "bfloat16" and not told
    assert compute(sampling=Sampling(num_steps=8))[0].precision == "float32"


def test_a_run_that_goes_on_keeps_its_precision(tmp_path, monkeypatch, compute):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    for settings, expected in (({}, "float32"), ({"precision": "bfloat16"}, "bfloat16")):
        (tmp_path / "manifest.json").write_text(
            json.dumps({"format": FORMAT, "settings": settings})
        )
        assert compute()[0].precision == expected
    for damaged in ("", "[]", "{}", '{"settings": 3}'):
        (tmp_path / "manifest.json").write_text(damaged)
        assert compute()[0].precision == "bfloat16"


def test_where_a_log_ratio_decides_float32_is_the_default(monkeypatch, compute):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    deciding = RejectionSampling()
    assert compute(sampling=deciding)[0].precision == "float32"
    assert compute("float16", deciding)[0].precision == "float16"
    with pytest.raises(click.UsageError, match="too coarse where a log ratio decides"):
        compute("bfloat16", deciding)


def test_threads_are_chosen_unless_the_environment_tells_them(monkeypatch, compute):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert len(compute("float32", fixed=False)[0].speeds) == 0  # the suite sets OMP_NUM_THREADS
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
    found, told = compute("float32", fixed=False, anew=True)
    assert [(row.threads, row.at_once) for row in found.speeds] == [(4, 1), (2, 2), (1, 4), (1, 1)]
    assert found.at_once == 1 and len(told) == 4 and "evaluations/s" in told[0]
    assert compute("float32", fixed=True)[0].speeds == []
