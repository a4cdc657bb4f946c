"""Steps of an optimizer: shared, cut to pieces, scaled, seeded, recorded."""

from dataclasses import replace

import pytest
import torch

from dg.pretraining.engine import Run, Stepper, update_average
from dg.pretraining.presets import ScoreTraining
from dg.runtime.processes import SINGLE_PROCESS, Ranks
from dg.runtime.progress import Stopped, silent
from dg.runtime.training_state import load_state


def stepper(weight, batch_size=8, **kwargs):
    return Stepper(torch.optim.SGD([weight], lr=1.0), batch_size, "cpu", **kwargs)


def values_of(weight, data, seen=None):
    """Half the mean square distance of the weight to the data, whose gradient is their mean
    distance."""

    def values(part):
        if seen is not None:
            seen.append((part.start, torch.rand(()).item()))
        return {"loss": (weight - data[part]).square().mean() / 2, "mean": data[part].mean()}

    return values


@pytest.mark.parametrize("microbatch", [None, 1, 3, 4, 16])
def test_a_step_takes_the_gradient_of_the_whole_batch(microbatch):
    weight, data = torch.nn.Parameter(torch.tensor(3.0)), torch.arange(8.0)
    values = stepper(weight, microbatch=microbatch).step(0, values_of(weight, data))
    assert weight.item() == pytest.approx(3.5)
    assert (
        values["loss"].item() == pytest.approx((3 - data).square().mean().item() / 2)
        and values["mean"] == 3.5
    )
    assert not values["loss"].requires_grad


def test_processes_sum_gradients_and_values():
    """Two processes by turns: each takes its half of the batch; `sum_` adds what the other has."""
    data, other = torch.arange(8.0), []

    class Half(Ranks):
        def sum_(self, tensors):
            other.append([tensor.clone() for tensor in tensors])
            if len(other) == 2:
                for mine, theirs in zip(tensors, other[0], strict=True):
                    mine += theirs

    for rank in range(2):
        weight = torch.nn.Parameter(torch.tensor(3.0))
        values = stepper(weight, ranks=Half(rank, 2), microbatch=2).step(0, values_of(weight, data))
    assert weight.item() == pytest.approx(3.5) and values["mean"] == 3.5
    assert values["microbatch"] == 2, (
        "always told where there are several, for messages must be of one size"
    )


@pytest.mark.parametrize(
    ("world", "microbatch", "expected"),
    [(2, 2, [0, 2, 4, 6]), (3, None, [0, 2, 5]), (2, 3, [0, 3, 4, 7]), (8, 4, list(range(8)))],
)
def test_processes_take_parts_that_make_up_the_batch(world, microbatch, expected):
    class Silent(Ranks):
        def sum_(self, tensors):
            pass

    weight, data, seen, total = torch.nn.Parameter(torch.tensor(3.0)), torch.arange(8.0), [], 0
    for rank in range(world):
        one = stepper(weight, ranks=Silent(rank, world), microbatch=microbatch)
        total += one.step(0, values_of(torch.nn.Parameter(weight.detach()), data, seen))["mean"]
    assert [start for start, _ in seen] == expected and total == pytest.approx(3.5)


def test_a_process_that_has_gone_is_one_line(monkeypatch):
    def all_reduce(message, async_op):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:1] Connection closed by peer\nat line 1")

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    with pytest.raises(
        OSError, match="another process of this run has ended; the same command again goes on"
    ):
        Ranks(0, 2).sum_([torch.zeros(2)])
    alone = [torch.ones(2), torch.ones(())]
    Ranks().sum_(alone)
    assert alone[0].tolist() == [1, 1] and alone[1] == 1


def test_global_random_numbers_depend_on_seed_step_and_place_alone():
    weight, data, draws = torch.nn.Parameter(torch.tensor(0.0)), torch.zeros(8), {}
    for name, ranks, index, seed in (
        ("all", Ranks(), 5, 1),
        ("first", Ranks(0, 2), 5, 1),
        ("second", Ranks(1, 2), 5, 1),
        ("later", Ranks(), 6, 1),
        ("other", Ranks(), 5, 2),
    ):

        class Silent(Ranks):
            def sum_(self, tensors):
                pass

        before, seen = torch.get_rng_state(), []
        one = stepper(weight, ranks=Silent(ranks.rank, ranks.world), microbatch=2, seed=seed)
        one.step(index, values_of(weight, data, seen))
        assert torch.equal(torch.get_rng_state(), before)
        torch.rand(1)
        draws[name] = seen
    assert draws["first"] + draws["second"] == draws["all"]
    assert len({number for name in ("all", "later", "other") for _, number in draws[name]}) == 12


def test_scaled_losses_give_the_same_step_and_an_overflow_gives_none():
    """As on a GPU in float16, which alone scales."""
    weight, data = torch.nn.Parameter(torch.tensor(3.0)), torch.arange(8.0)
    one = stepper(weight, microbatch=2)
    one.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    values = one.step(0, values_of(weight, data))
    assert weight.item() == pytest.approx(3.5) and values["loss"].item() == pytest.approx(2.75)
    one.step(1, lambda part: {"loss": weight * float("inf")})
    assert weight.item() == pytest.approx(3.5) and one.scaler.get_scale() == 512


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            dict(ranks=Ranks(0, 16)),
            "a batch of 8 images cannot be shared by 16 processes; use fewer of them",
        ),
        (dict(precision="float16"), "float16 trains on GPUs only"),
    ],
)
def test_what_cannot_be_computed_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        stepper(torch.nn.Parameter(torch.zeros(())), **kwargs)


def limited(values, most, seen):
    """`values` of at most so many images; `seen` gets the sizes that were tried."""

    def tried(part):
        seen.append(part.stop - part.start)
        if seen[-1] > most:
            raise torch.OutOfMemoryError("tried to allocate\nmuch")
        return values(part)

    return tried


def test_micro_batches_that_do_not_fit_into_memory_are_halved():
    data, seen = torch.arange(8.0), []
    weight, whole = (torch.nn.Parameter(torch.tensor(3.0)) for _ in range(2))
    one = stepper(weight)
    values = [one.step(index, limited(values_of(weight, data), 2, seen)) for index in range(2)]
    expected = [stepper(whole).step(index, values_of(whole, data)) for index in range(2)]
    assert seen == [8, 4, 2, 2, 2, 2] + 4 * [2] and weight.item() == pytest.approx(whole.item())
    for found, wanted in zip(values, expected, strict=True):
        assert found.pop("microbatch") == 2 and {
            k: v.item() for k, v in found.items()
        } == pytest.approx({k: v.item() for k, v in wanted.items()})
    uneven = stepper(torch.nn.Parameter(torch.tensor(3.0)), batch_size=5)
    uneven.step(0, limited(values_of(torch.nn.Parameter(torch.tensor(3.0)), data), 2, seen := []))
    assert seen == [5, 3, 2, 2, 1] and uneven.microbatch == 2


def test_too_little_memory_for_one_image_is_one_line():
    with pytest.raises(
        ValueError, match="the memory of the GPU does not suffice for one image"
    ) as caught:
        stepper(torch.nn.Parameter(torch.zeros(())), microbatch=4).step(0, limited(None, 0, []))
    assert len(str(caught.value).splitlines()) == 1


def steps(path, count, stop=None, ranks=SINGLE_PROCESS, identity=None, **kwargs):
    """A run whose loss is the number of the step, and the sum of these; stopped before step
    `stop`."""
    module, identity = torch.nn.Linear(1, 1, bias=False), identity or {}
    torch.nn.init.zeros_(module.weight)
    run = Run(path, identity, {"module": module}, ranks, **kwargs)

    def update(step):
        with torch.no_grad():
            module.weight += step
        return {"loss": torch.tensor(float(step))}

    run.train(update, count, silent, "counting", 0, lambda: run.step == stop)
    return run, module.weight.item()


def test_a_run_goes_on_where_it_stopped(tmp_path):
    whole, weight = steps(None, 120)
    assert [entry["step"] for entry in whole.log] == [50, 100, 120]
    assert [entry["loss"] for entry in whole.log] == [24.5, 74.5, 109.5] and weight == sum(
        range(120)
    )
    steps(tmp_path / "state.pt", 120, stop=30)
    assert load_state(tmp_path / "state.pt")["step"] == 30
    steps(tmp_path / "state.pt", 120, stop=75)
    again, weight = steps(tmp_path / "state.pt", 120)
    assert again.log == whole.log and weight == sum(range(120)) and again.recent == []


def test_a_state_of_another_run_is_refused(tmp_path):
    steps(tmp_path / "state.pt", 2, identity=dict(seed=1, images="a"))
    with pytest.raises(
        ValueError, match="of a run with other seed and images; choose another folder or delete it"
    ):
        steps(tmp_path / "state.pt", 2, identity=dict(seed=2, images="b"))


def test_entries_of_a_length_are_all_observed(tmp_path):
    observed = []
    run, _ = steps(None, 25, observe=lambda step: observed.append(step) or {"seen": step}, every=10)
    assert [(entry["step"], entry["seen"]) for entry in run.log] == [(10, 10), (20, 20), (25, 25)]
    assert observed == [10, 20, 25]


@pytest.mark.parametrize("error", [Stopped, ConnectionError])
def test_a_run_that_is_stopped_or_left_alone_keeps_what_it_has(tmp_path, error):
    """Left alone in the middle of an entry, it makes that entry when it goes on."""
    whole, weight = steps(None, 20, observe=lambda step: {"seen": step}, every=5)

    def fail(step):
        if step == 10:
            raise error
        return {"seen": step}

    with pytest.raises(error):
        steps(tmp_path / "state.pt", 20, observe=fail, every=5)
    state = load_state(tmp_path / "state.pt")
    assert state["step"] == 10 and len(state["log"]) == 1
    again = steps(tmp_path / "state.pt", 20, observe=lambda step: {"seen": step}, every=5)
    assert again[0].log == whole.log and again[1] == weight


def test_an_average_follows_by_its_half_life():
    settings = ScoreTraining(batch_size=64, ema_halflife=32, ema_rampup=0.05)

    def averaged(step, **changes):
        average = [torch.zeros(3), torch.zeros(2, 2)]
        values = [torch.ones(3, requires_grad=True), torch.ones(2, 2)]
        update_average(average, values, replace(settings, **changes), step)
        assert all((tensor == average[0][0]).all() for tensor in average)
        return average[0][0].item()

    assert averaged(10) == pytest.approx(0.75), "two half-lives"
    assert averaged(0) == pytest.approx(1, abs=1e-5), "5% of 64 images, at first: 2 ** -20"
    assert averaged(0, ema_rampup=0.0) == pytest.approx(0.75), "no such bound"
    assert averaged(10, ema_halflife=0) == 1, "no averaging"


def test_one_process_writes(tmp_path):
    class Together(Ranks):
        def barrier(self):
            pass

        def agree(self, settings):
            pass

        def broadcast(self, item=None):
            return item

    steps(tmp_path / "state.pt", 2, ranks=Together(1, 2))
    assert not list(tmp_path.iterdir())
    steps(tmp_path / "state.pt", 2, ranks=Together(0, 2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "state.pt"]


def test_the_first_loss_that_is_not_finite_is_named(tmp_path):
    losses = torch.tensor([1.0, 2.0, 3.0, float("nan"), float("inf")])
    for path, found in ((None, 4), (tmp_path / "state.pt", 4)):
        run = Run(path, {}, {})
        with pytest.raises(
            ValueError,
            match=f"the loss is not finite at step {found}; lower the learning rate and start",
        ):
            run.train(
                lambda step: {"loss": losses[min(step, 4)]}, 10, silent, "", 0 if path else 60
            )
    assert load_state(tmp_path / "state.pt")["step"] == 3
