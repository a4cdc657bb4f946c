"""Numbers that depend on a seed alone, and leave the global ones as they were."""

import pytest
import torch

from dg.runtime.randomness import seeded, step_generator


def numbers(*key):
    return torch.randn(4, generator=step_generator(*key))


def test_a_steps_numbers_depend_on_seed_stage_and_step_alone():
    first = numbers(0, "score", 7)
    torch.manual_seed(1)
    numbers(0, "score", 6)
    assert torch.equal(numbers(0, "score", 7), first)
    keys = [
        (seed, stage, step)
        for seed in (0, 1, 11)
        for stage in ("score", "noise")
        for step in (0, 1, 11, 111)
    ]
    assert len({tuple(numbers(*key).tolist()) for key in keys}) == len(keys)


def test_a_steps_numbers_are_those_of_earlier_versions():
    """A run that was interrupted under an older version must go on with the same numbers."""
    expected = torch.Generator().manual_seed(0x073727FF)  # crc32 of "3/score/14"
    assert torch.equal(numbers(3, "score", 14), torch.randn(4, generator=expected))


def test_seeded_numbers_depend_on_the_seed_and_change_nothing_outside():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with seeded(1):
        first = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with seeded(1, torch.device("cpu")):
        assert torch.equal(torch.rand(3), first)
    with pytest.raises(KeyError), seeded(2):
        torch.rand(1)
        raise KeyError
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), first), "as after torch.manual_seed"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_seeded_numbers_of_a_gpu():
    draws, before = [], torch.cuda.get_rng_state()
    for device in ("cuda", torch.device("cuda", 0)):
        with seeded(1, device):
            draws.append(torch.rand(3, device=device))
    assert torch.equal(*draws) and torch.equal(torch.cuda.get_rng_state(), before)
    with seeded(1):
        torch.rand(3)
    assert torch.equal(torch.cuda.get_rng_state(), before)
