"""What a results file says about where its numbers come from."""

import json
import platform

import torch

from dg.runtime.provenance import PACKAGES, provenance, threads_of


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
    json.dumps(entries)


def test_one_thread_is_told_in_the_singular():
    told = [threads_of({"hardware": {"threads": number}}) for number in (1, 2)]
    assert told == ["1 thread per process", "2 threads per process"]
