"""Steps of an optimizer: shared, cut to pieces, scaled, seeded, recorded."""

import pytest
import torch

from dg.pretraining.engine import SINGLE_PROCESS, Run, Stepper
from dg.runtime.processes import Ranks
from dg.runtime.progress import silent
from dg.runtime.training_state import load_state


def stepper(weight, batch_size=8, **kwargs):
    return Stepper(torch.optim.SGD([weight], lr=1.0), batch_size, "cpu", **kwargs)


def values_of(weight, data, seen=None):
    """Half the mean square distance of the weight to the data, whose gradient is their mean distance."""

    def values(part):
        if seen is not None:
            seen.append((part.start, torch.rand(()).item()))
        return {"loss": (weight - data[part]).square().mean() / 2, "mean": data[part].mean()}

    return values


@pytest.mark.parametrize("microbatch", [None, 1, 4])
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
    assert [
        part
        for rank in range(2)
        for part in stepper(weight, ranks=Ranks(rank, 2), microbatch=2).parts()
    ] == [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 8)]


def test_a_process_that_has_gone_is_one_line(monkeypatch):
    def all_reduce(message):
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
            dict(ranks=Ranks(0, 3)),
            "a batch of 8 images cannot be shared equally by 3 processes; make it a multiple of 3",
        ),
        (dict(ranks=Ranks(0, 16)), "a batch of 8 images cannot be shared equally by 16"),
        (
            dict(ranks=Ranks(0, 2), microbatch=3),
            "4 images of a batch cannot be computed 3 at a time; take a micro-batch that",
        ),
        (dict(microbatch=16), "8 images of a batch cannot be computed 16 at a time"),
        (dict(precision="float16"), "float16 trains on GPUs only"),
    ],
)
def test_a_batch_that_cannot_be_divided_is_refused(kwargs, message):
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
    uneven = stepper(torch.nn.Parameter(torch.tensor(3.0)), microbatch=8)
    uneven.batch_size = uneven.microbatch = 6
    uneven.step(0, limited(values_of(torch.nn.Parameter(torch.tensor(3.0)), data), 2, seen := []))
    assert seen == [6, 3, 1, 1, 1, 1, 1, 1], "only what divides the batch"


def test_too_little_memory_for_one_image_is_one_line():
    with pytest.raises(
        ValueError, match="the memory of cpu does not suffice for one image"
    ) as caught:
        stepper(torch.nn.Parameter(torch.zeros(())), microbatch=4).step(0, limited(None, 0, []))
    assert len(str(caught.value).splitlines()) == 1


def steps(path, count, stop=None, ranks=SINGLE_PROCESS, **identity):
    """A run whose loss is the number of the step, and the sum of these; stopped before step `stop`."""
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(module.weight)
    run = Run(path, identity, {"module": module}, ranks)
    for step in run.steps(count, silent, "counting", 0):
        if step == stop:
            break
        with torch.no_grad():
            module.weight += step
        run.record({"loss": torch.tensor(float(step))})
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
    steps(tmp_path / "state.pt", 2, seed=1, images="a")
    with pytest.raises(
        ValueError, match="of a run with other seed and images; choose another folder or delete it"
    ):
        steps(tmp_path / "state.pt", 2, seed=2, images="b")


def test_one_process_writes(tmp_path):
    class Together(Ranks):
        def barrier(self):
            pass

    steps(tmp_path / "state.pt", 2, ranks=Together(1, 2))
    assert not list(tmp_path.iterdir())
    steps(tmp_path / "state.pt", 2, ranks=Together(0, 2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "state.pt"]


def test_the_first_loss_that_is_not_finite_is_named(tmp_path):
    for path, found in ((None, 4), (tmp_path / "state.pt", 4)):
        run = Run(path, {}, {})
        with pytest.raises(
            ValueError,
            match=f"the loss is not finite at step {found}; lower the learning rate and start",
        ):
            for step in run.steps(10, silent, "counting", 0 if path else 60):
                run.record(
                    {
                        "loss": torch.tensor(
                            [1.0, 2.0, 3.0, float("nan"), float("inf")][min(step, 4)]
                        )
                    }
                )
    assert load_state(tmp_path / "state.pt")["step"] == 3
