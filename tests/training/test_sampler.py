"""Batches as a function of the seed and the step."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsin.errors import ConfigError
from opsin.training.loader import StepSampler

COUNTS = st.integers(1, 40)
PARTS = st.integers(1, 3)


@given(COUNTS, COUNTS, st.integers(0, 5))
def test_an_epoch_is_a_permutation(num_samples: int, batch_size: int, seed: int) -> None:
    sampler = StepSampler(num_samples, batch_size, seed)
    epochs = []
    batches = iter(sampler)
    for _ in range(2):
        steps = list(islice(batches, sampler.steps_per_epoch))
        assert all(len(batch) == sampler.batch_size for batch in steps[:-1])
        epochs.append([index for batch in steps for index in batch])
        assert sorted(epochs[-1]) == list(range(num_samples))
    assert num_samples < 10 or epochs[0] != epochs[1]


@given(COUNTS, st.integers(1, 8), PARTS, PARTS)
def test_parts_make_up_the_joint_batch(num_samples: int, factor: int, world_size: int, accumulate: int) -> None:
    batch_size = factor * world_size * accumulate
    whole = StepSampler(num_samples, batch_size, 3)
    ranks = [
        StepSampler(num_samples, batch_size, 3, accumulate=accumulate, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    dealt = [iter(sampler) for sampler in ranks]
    for step, batch in enumerate(islice(whole, 2 * whole.steps_per_epoch)):
        joint: list[int] = []
        for part in range(accumulate):
            for sampler, batches in zip(ranks, dealt, strict=True):
                own = next(batches)
                share = sampler.share_of(step, part)
                assert own  # also a process that has no sample takes part
                if share > 0:
                    assert share == len(own) / len(batch)
                    joint += own
        assert sorted(joint) == sorted(batch)


@given(COUNTS, COUNTS, st.integers(0, 100), PARTS)
def test_starting_later_continues_the_same(num_samples: int, batch_size: int, start: int, accumulate: int) -> None:
    size = batch_size * accumulate
    straight = islice(StepSampler(num_samples, size, 1, accumulate=accumulate), start * accumulate, None)
    resumed = StepSampler(num_samples, size, 1, accumulate=accumulate, start_step=start)
    assert list(islice(resumed, 6)) == list(islice(straight, 6))


@given(st.integers(2, 40), st.integers(2, 40), st.integers(0, 5), st.integers(0, 100))
def test_a_last_batch_that_is_too_small_is_left_out(num_samples: int, size: int, seed: int, start: int) -> None:
    whole = StepSampler(num_samples, size, seed)
    sampler = StepSampler(num_samples, size, seed, smallest_batch=2)
    per_epoch = sampler.steps_per_epoch
    steps = list(islice(sampler, 2 * per_epoch))
    assert min(len(batch) for batch in steps) >= 2
    assert sum(len(batch) for batch in steps[:per_epoch]) >= num_samples - 1
    both = list(islice(whole, 2 * whole.steps_per_epoch))
    assert steps == [batch for batch in both if len(batch) >= 2]
    late = StepSampler(num_samples, size, seed, smallest_batch=2, start_step=start % per_epoch)
    assert list(islice(late, 2 * per_epoch - start % per_epoch)) == steps[start % per_epoch :]
    assert [sampler.share_of(step, 0) for step in range(2 * per_epoch)] == [1.0] * 2 * per_epoch


def test_seeds_differ() -> None:
    first, second = (next(iter(StepSampler(100, 10, seed))) for seed in (0, 1))
    assert first != second


def test_batches_must_divide() -> None:
    with pytest.raises(ConfigError, match=r"batch_size \(10\) must be divisible by processes times accumulate \(4\)"):
        StepSampler(100, 10, 0, accumulate=2, world_size=2)
