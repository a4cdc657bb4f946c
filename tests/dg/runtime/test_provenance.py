"""What a results file says about where its numbers come from."""

import json
import platform

import torch

from dg.runtime.hardware import has_bfloat16
from dg.runtime.provenance import PACKAGES, machine_of, provenance, threads_of


def test_it_says_what_ran_on_what_and_for_how_long():
    entries = provenance(
        "python reproduce.py digits", {"score": 12.3456, "fake": 0.1}, torch.device("cpu")
    )
    assert set(entries) == {"command", "versions", "hardware", "seconds"}
    assert entries["command"] == "python reproduce.py digits"
    assert entries["seconds"] == {"score": 12.35, "fake": 0.1, "total": 12.45}
    assert set(entries["versions"]) == {"python", *PACKAGES}
    assert entries["versions"]["python"] == platform.python_version()
    assert entries["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert entries["hardware"]["device"] == "cpu" and entries["hardware"]["cores"] >= 1
    assert entries["hardware"]["threads"] == torch.get_num_threads() and entries["hardware"]["cpu"]
    assert entries["hardware"]["bfloat16"] == has_bfloat16("cpu")
    json.dumps(entries)


def test_the_machine_says_whether_it_has_bfloat16_where_that_is_known():
    found = {"cpu": "AMD EPYC"}
    told = [machine_of({"hardware": found | more}) for more in ({}, {"bfloat16": False})]
    assert told == ["AMD EPYC", "AMD EPYC without bfloat16"]
    assert machine_of({"hardware": found | {"bfloat16": True}}) == "AMD EPYC with bfloat16"
    assert (
        machine_of({"hardware": found | {"gpu": "NVIDIA H200", "bfloat16": True}}) == "NVIDIA H200"
    )


def test_one_thread_is_told_in_the_singular():
    told = [threads_of({"hardware": {"threads": number}}) for number in (1, 2)]
    assert told == ["1 thread per process", "2 threads per process"]
