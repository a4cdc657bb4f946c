"""Processes that share a list of work: real ones, joined by gloo as torchrun would join them."""

import multiprocessing
import os
import socket
import time

import pytest

from dg.runtime.processes import Ranks, WorkList, process_group

SPAWN = multiprocessing.get_context("spawn")


def test_one_process_takes_everything_in_order():
    assert list(WorkList(Ranks(), ["a", "b", "c"])) == [(0, "a"), (1, "b"), (2, "c")]
    assert list(WorkList(Ranks(), [])) == [] and Ranks().broadcast("item") == "item"
    assert WorkList(Ranks(), ["a", "b"]).done(2) and not WorkList(Ranks(), ["a", "b"]).done(1)
    assert Ranks().any(True) and not Ranks().any(False)


def test_a_closed_list_gives_nothing_more():
    work, taken = WorkList(Ranks(), list(range(10))), []
    for place, _ in work:
        taken.append(place)
        if place == 2:
            work.close()
    assert taken == [0, 1, 2] and list(work) == []


def in_a_group(rank, port, world, results, task):
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(world), RANK=str(rank)
    )
    try:
        with process_group() as ranks:
            results.put((rank, task(ranks)))
    except OSError as error:
        results.put((rank, str(error)))


def together(task, world=2):
    """What `task(ranks)` returns in every process, by rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results = SPAWN.Queue()
    processes = [
        SPAWN.Process(target=in_a_group, args=(rank, port, world, results, task))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=120) for _ in processes if task is not leave_the_first_alone)
    if task is leave_the_first_alone:
        found = dict([results.get(timeout=120)])
    for process in processes:
        process.join()
    return found


def take_slowly(ranks):
    """The second process is slow: it takes one item and holds it until the first has taken the
    others."""
    work, taken = WorkList(ranks, list("abcdef") if ranks.first else None), []
    ranks.barrier()
    for place, item in work:
        taken.append((place, item))
        if not ranks.first:
            time.sleep(3)
    return taken if work.done(len(taken)) else None


def take_until_closed(ranks):
    work, taken = WorkList(ranks, list(range(1000)) if ranks.first else None), []
    for place, _ in work:
        taken.append(place)
        time.sleep(0.01)
        if len(taken) == 5 and not ranks.first:
            work.close()
    told = ranks.broadcast("from the first" if ranks.first else "from another")
    return len(taken), told, work.done(len(taken)), ranks.any(ranks.rank == 1), ranks.any(False)


def disagree(ranks):
    def fail():
        raise ValueError("no such file")

    found = [ranks.by_first(lambda: ranks.rank)]
    for call in (
        lambda: ranks.agree({"seed": 1, "steps": [2, float("inf")]}),
        lambda: ranks.agree({"seed": 1, "steps": ranks.rank, "lr": ranks.rank}),
        lambda: ranks.by_first(fail),
    ):
        try:
            found.append(call())
        except ValueError as error:
            found.append(str(error))
    return found


def leave_the_first_alone(ranks):
    if not ranks.first:
        os._exit(1)
    ranks.barrier()


@pytest.mark.slow
def test_a_slow_process_does_not_hold_the_others():
    found = together(take_slowly)
    assert sorted(found[0] + found[1]) == list(enumerate("abcdef")) and len(found[1]) <= 1


@pytest.mark.slow
def test_closing_ends_the_list_for_all_and_the_first_tells():
    found = together(take_until_closed)
    assert found[1][0] == 5 and found[0][0] < 900
    assert found[0][1:] == found[1][1:] == ("from the first", False, True, False)


@pytest.mark.slow
def test_all_processes_learn_of_a_difference_and_of_what_the_first_meets():
    told = "process 1 of this run has other steps and lr than process 0; give all processes the "
    expected = [0, None, told + "same command", "no such file"]
    assert together(disagree) == {0: expected, 1: expected}


@pytest.mark.slow
def test_a_process_that_has_gone_is_one_line():
    (message,) = together(leave_the_first_alone).values()
    assert message == "another process of this run has ended; the same command again goes on"


@pytest.mark.parametrize("call", ["barrier", "gather", "broadcast"])
def test_every_meeting_point_says_so(call, monkeypatch):
    import torch.distributed

    def gone(*args, **kwargs):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:1] Connection closed by peer\nat line 1")

    for name in ("all_reduce", "gather_object", "broadcast_object_list"):
        monkeypatch.setattr(torch.distributed, name, gone)
    with pytest.raises(ConnectionError, match="another process of this run has ended"):
        getattr(Ranks(0, 2), call)(*[] if call == "barrier" else [1])
