"""The batches of an epoch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from modules.data.order import BatchOrder, epoch_batches


@pytest.mark.parametrize(("count", "batch_size"), [(103, 8), (16, 4), (5, 5), (9, 8), (7, 1)])
def test_epoch_batches_are_full_and_cover_every_story(count, batch_size):
    lengths = np.random.default_rng(3).integers(3, 7, count).tolist()
    batches = epoch_batches(lengths, batch_size, seed=1, epoch=0)
    assert all(len(batch) == batch_size == len(set(batch)) for batch in batches)
    assert {index for batch in batches for index in batch} == set(range(count))
    assert len(batches) == -(-count // batch_size)
    mixed = [batch for batch in batches if len({lengths[index] for index in batch}) > 1]
    remainders = sum(group % batch_size for group in Counter(lengths).values())
    assert len(mixed) <= -(-remainders // batch_size)


def test_epoch_batches_depend_on_seed_and_epoch_alone():
    lengths = [4, 5] * 40
    first = epoch_batches(lengths, 8, seed=0, epoch=0)
    assert first == epoch_batches(lengths, 8, seed=0, epoch=0)
    assert first != epoch_batches(lengths, 8, seed=0, epoch=1) != epoch_batches(lengths, 8, seed=1, epoch=1)
    order = [lengths[batch[0]] for batch in first]
    assert order != sorted(order)
    assert all(isinstance(index, int) for batch in first for index in batch)


def test_few_stories_are_repeated_and_none_is_an_error():
    (batch,) = epoch_batches([4, 4, 6], 8, seed=0, epoch=0)
    assert sorted(Counter(batch).values()) == [2, 3, 3]
    for lengths, batch_size in [([], 2), ([1], 0)]:
        with pytest.raises(ValueError, match="at least 1"):
            epoch_batches(lengths, batch_size, 0, 0)


def test_sizes_of_batches_are_relative_to_their_mean():
    """Batches of stories of one and of seven pages; a run of some minutes reads from them how long updates take."""
    order = BatchOrder([1, 7] * 12, 4, seed=0)
    sizes = [order.relative_size(step) for step in range(order.batches_per_epoch)]
    assert sum(sizes) / len(sizes) == pytest.approx(1)
    assert sorted(set(sizes)) == pytest.approx([0.25, 1.75])
