"""What exact resume rests on: a state that is complete or absent, a clock."""

import os
import random

import numpy as np
import pytest
import torch

from dg.runtime import training_state
from dg.runtime.randomness import step_generator
from dg.runtime.training_state import Every, load_state, save_state


def trained(steps):
    """The state of a small training run after so many steps."""
    net = torch.nn.Linear(3, 2)
    with torch.no_grad():
        net.weight.fill_(0.3)
        net.bias.fill_(-0.1)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    return run(net, optimizer, range(steps))


def run(net, optimizer, steps):
    for step in steps:
        optimizer.zero_grad()
        net(torch.randn(5, 3, generator=step_generator(0, "test", step))).square().sum().backward()
        optimizer.step()
    return {
        "net": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "log": [{"loss": 0.1, "step": 1}],
        "best": None,
        "settings": {"split": [0.8, 0.2], "S_max": "inf"},
    }


def test_a_state_goes_on_as_if_it_had_never_been_saved(tmp_path):
    save_state(tmp_path / "state.pt", trained(4))
    state = load_state(tmp_path / "state.pt")
    assert state["log"] == [{"loss": 0.1, "step": 1}] and state["best"] is None
    assert state["settings"] == {"split": [0.8, 0.2], "S_max": "inf"}
    net = torch.nn.Linear(3, 2)
    net.load_state_dict(state["net"])
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    optimizer.load_state_dict(state["optimizer"])
    resumed, uninterrupted = run(net, optimizer, range(4, 9))["net"], trained(9)["net"]
    assert all(torch.equal(resumed[name], tensor) for name, tensor in uninterrupted.items())


def test_a_value_that_could_not_be_read_back_is_refused_when_it_is_saved(tmp_path):
    save_state(tmp_path / "state.pt", {"log": [{"test_loss": 2.5}]})
    with pytest.raises(TypeError, match="cannot hold a float64"):
        save_state(tmp_path / "state.pt", {"log": [{"test_loss": np.float64(2.0)}]})
    assert load_state(tmp_path / "state.pt") == {"log": [{"test_loss": 2.5}]}


def test_no_state_is_none(tmp_path):
    assert load_state(tmp_path / "state.pt") is None


def test_a_failed_save_leaves_the_state_before_it(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    save_state(path, {"step": 1})

    def interrupt(state, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_state(path, {"step": 2})
    assert load_state(path) == {"step": 1} and os.listdir(tmp_path) == ["state.pt"]


def broken_states(good):
    """Bytes of states that were cut or changed."""
    yield from (
        b"",
        b"PK\x03\x04",
        b"# notes\n",
        b"\x80\x02}",
        b"cos\nsystem\n(S'touch executed'\ntR.",
        bytes(200),
    )
    yield from (good[:n] for n in range(1, len(good), len(good) // 20))
    draw = random.Random(0)
    for _ in range(300):
        data = bytearray(good)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        yield bytes(data)


@pytest.mark.filterwarnings("ignore")
def test_damage_is_one_line_that_names_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, refused = tmp_path / "state.pt", 0
    save_state(path, trained(1))
    for data in broken_states(path.read_bytes()):
        path.write_bytes(data)
        try:
            load_state(path)  # a changed bit in a number shows nowhere
        except ValueError as error:
            refused += 1
            assert (
                str(error).startswith(f"{path}: not a readable training state")
                and len(str(error).splitlines()) == 1
            )
            assert "delete it to start over" in str(error)
    assert refused > 26 and os.listdir(tmp_path) == ["state.pt"]


def test_every_is_due_once_per_interval(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(training_state.time, "monotonic", lambda: now[0])
    due = Every(20)
    answers = []
    for seconds in (0, 19.9, 0.2, 0, 19, 1.1, 60, 0):
        now[0] += seconds
        answers.append(due())
    assert answers == [False, False, True, False, False, True, True, False]
    assert [Every(0)() for _ in range(3)] == [True] * 3


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    """torch's writer hides the system's error behind many lines of its own."""

    def fail(state, file):
        raise RuntimeError("[enforce fail at inline_container.cc:664]\nframe #0")

    monkeypatch.setattr(training_state.torch, "save", fail)
    with pytest.raises(ValueError, match=r"state\.pt: .*; free some space and run again") as caught:
        save_state(tmp_path / "state.pt", {})
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [[1], torch.ones(2), {(1, 2): 3}])
def test_what_is_no_state_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "state.pt")
    with pytest.raises(ValueError, match=r"state\.pt: .*delete it to start over"):
        load_state(tmp_path / "state.pt")
