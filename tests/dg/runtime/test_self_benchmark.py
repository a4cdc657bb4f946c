"""Choices by what was measured: which is taken, what is kept, and that two seconds are enough."""

import json

import pytest
import torch

from dg.runtime import self_benchmark
from dg.runtime.self_benchmark import FILE, Speed, chosen, measure, pick
from tests.dg.test_sampling import network

BOTH = ("float32", "bfloat16")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DG_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def speeds(monkeypatch):
    """Two cores, and speeds by (precision, threads, batches at once) in place of measured ones."""
    rates, seen = {}, []

    def instead(net, device, precisions, pairs):
        seen.append((precisions, pairs))
        return [
            Speed(precision, *pair, 16, rates.get((precision, *pair), 100.0))
            for pair in pairs
            for precision in precisions
        ]

    monkeypatch.setattr(self_benchmark, "measure", instead)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    return rates, seen


def speed(precision="float32", threads=2, at_once=1, rate=100.0):
    return Speed(precision, threads, at_once, 16, rate)


@pytest.mark.parametrize(("rate", "precision"), [(109, "float32"), (111, "bfloat16")])
def test_another_precision_must_be_clearly_faster(rate, precision):
    found = pick([speed(), speed("bfloat16", rate=rate)], batches=1)
    assert (found.precision, found.threads, found.at_once) == (precision, 2, 1)


@pytest.mark.parametrize(
    ("batches", "expected"), [(1, (1, 1)), (2, (1, 2)), (3, (1, 2)), (0, (1, 1))]
)
def test_batches_at_once_are_no_more_than_there_are_and_leave_no_core_idle(batches, expected):
    rows = [speed(rate=50), speed(threads=1, at_once=2, rate=190), speed(threads=1, rate=200)]
    found = pick(rows, batches)
    assert (found.threads, found.at_once) == expected and found.speeds == rows


def test_the_precision_does_not_depend_on_the_number_of_batches():
    rows = [speed(rate=100), speed("bfloat16", rate=90)]
    rows += [speed(threads=1, at_once=2, rate=100), speed("bfloat16", 1, 2, 150)]
    assert {pick(rows, batches).precision for batches in (1, 2, 9)} == {"bfloat16"}


def test_the_first_use_measures_and_later_ones_do_not(cache, speeds):
    rates, seen = speeds
    rates["float32", 1, 2] = 180.0
    first = chosen(network(), "cpu", BOTH, 4)
    assert seen == [(BOTH, [(2, 1), (1, 2), (1, 1)])]
    assert (first.precision, first.threads, first.at_once) == ("float32", 1, 2)
    rates["bfloat16", 1, 2] = 900.0
    assert chosen(network(), "cpu", BOTH, 4) == first and len(seen) == 1
    assert chosen(network(model_channels=64), "cpu", BOTH, 4).precision == "bfloat16"
    assert chosen(network(), "cpu", BOTH, 4, anew=True).precision == "bfloat16" and len(seen) == 3
    assert chosen(network(), "cpu", BOTH, 4).precision == "bfloat16" and len(seen) == 3


def test_a_network_of_many_weights_computes_one_batch_at_a_time(cache, speeds, monkeypatch):
    _, seen = speeds
    monkeypatch.setattr(self_benchmark, "MOST_WEIGHTS", 10)
    found = chosen(network(), "cpu", BOTH, 9)
    assert seen == [(BOTH, [(2, 1), (1, 1)])] and (found.threads, found.at_once) == (2, 1)


def test_where_there_is_no_choice_nothing_is_measured(cache, speeds, monkeypatch):
    found = chosen(network(), "cpu", ("float16",), 4, threads=False)
    assert (found.precision, found.threads, found.at_once, found.speeds) == ("float16", 2, 1, [])
    assert found.table() == ["nothing to choose: float16, 2 threads"]
    assert chosen(network(), "cuda", ("float32",), 4).precision == "float32"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert chosen(network(), "cpu", ("float32",), 4).speeds == []
    assert not speeds[1] and not cache.exists()


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": [[1]]}', '{"a": 3}', "null"])
def test_a_damaged_file_is_measured_anew(cache, speeds, content):
    cache.mkdir()
    (cache / FILE).write_text(content)
    chosen(network(), "cpu", BOTH, 1)
    assert len(speeds[1]) == 1 and len(json.loads((cache / FILE).read_text())) == 1


def test_where_nothing_can_be_kept_it_is_told(tmp_path, speeds, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DG_CACHE_DIR", str(tmp_path / "file"))
    told = []
    assert chosen(network(), "cpu", BOTH, 1, notify=told.append).precision == "float32"
    assert len(told) == 1 and told[0].startswith("the self-benchmark is not kept")


class Machine:
    """A clock that evaluations move on: seconds of an image on one thread, by precision."""

    def __init__(self, monkeypatch, **seconds):
        self.now, self.seconds, self.calls = 0.0, seconds, []
        monkeypatch.setattr(self_benchmark.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(self_benchmark, "_evaluate", self.evaluate)

    def evaluate(self, net, device, precision, batch):
        self.calls.append((precision, batch))
        self.now += batch * self.seconds[precision] / torch.get_num_threads()


@pytest.mark.parametrize("seconds", [1e-5, 1e-3, 0.03])
def test_two_seconds_are_enough(monkeypatch, seconds):
    machine = Machine(monkeypatch, float32=seconds, bfloat16=seconds / 4)
    found = measure(None, "cpu", BOTH, [(1, 1)])
    assert [row.precision for row in found] == list(BOTH) and machine.now < 2
    assert found[0].rate == pytest.approx(1 / seconds)
    assert found[1].rate == pytest.approx(4 / seconds)
    assert found[0].batch * seconds < 0.2 and found[0].batch in (64, 2)


def test_a_large_network_is_measured_by_its_precisions_alone(monkeypatch):
    machine = Machine(monkeypatch, float32=1.0, bfloat16=0.1)
    before = torch.get_num_threads()
    found = measure(None, "cpu", BOTH, [(2, 1), (1, 2), (1, 1)])
    assert [(row.precision, row.threads, row.batch) for row in found] == [
        ("float32", 2, 1),
        ("bfloat16", 2, 1),
    ]
    assert torch.get_num_threads() == before and machine.calls[0] == ("float32", 1)


def test_a_real_network_is_evaluated_as_asked():
    seen, net = [], network()
    net.register_forward_pre_hook(
        lambda module, inputs: seen.append((len(inputs[0]), torch.get_autocast_dtype("cpu")))
    )
    found = measure(net, torch.device("cpu"), BOTH, [(1, 1)])
    assert {precision for _, precision in seen} >= {torch.bfloat16}
    assert all(row.rate > 0 and row.batch == found[0].batch for row in found)
    assert max(batch for batch, _ in seen) == found[0].batch
    assert found[0].batch >= 1 and len(pick(found, 1).table()) == 2
    assert set(pick(found, 1).describe()) == {"precision", "threads", "at_once", "speeds"}
