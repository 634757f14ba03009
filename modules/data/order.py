"""The order of stories in training: a pure function of seed and step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from statistics import fmean

import numpy as np


def epoch_batches(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Return the batches of one epoch, each of exactly `batch_size` indices into `lengths`.

    Stories with the same number of steps share a batch, so that no padding is computed. The remainders of each length
    are sorted by length and share mixed batches; the last of these is completed from the start of the epoch's
    permutation. So every story appears at least once per epoch and never twice in a batch, unless there are fewer
    stories than `batch_size`, which are then repeated in turn. A pure function: every rank and every resumed run
    computes the same list.

    Args:
        lengths: the number of steps of every story.
        seed: at least 0; with `epoch` it determines the permutation and the order of the batches.

    Raises:
        ValueError: no stories, or `batch_size` below 1.
    """
    if batch_size < 1 or not lengths:
        raise ValueError(
            f"need a batch size and a number of stories of at least 1, got {batch_size} and {len(lengths)}"
        )
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(lengths)).tolist()
    if len(order) < batch_size:
        return [[order[index % len(order)] for index in range(batch_size)]]
    by_length: dict[int, list[int]] = {}
    for index in order:
        by_length.setdefault(lengths[index], []).append(index)
    batches, rest = [], []
    for length in sorted(by_length):
        group = by_length[length]
        whole = len(group) - len(group) % batch_size
        batches += [group[start : start + batch_size] for start in range(0, whole, batch_size)]
        rest += group[whole:]
    for start in range(0, len(rest), batch_size):
        batch = rest[start : start + batch_size]
        others = (index for index in order if index not in batch)
        batches.append(batch + list(islice(others, batch_size - len(batch))))
    return [batches[index] for index in rng.permutation(len(batches))]


class BatchOrder:
    """The order of stories as a pure function of (seed, step), so that resuming needs no saved state."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed = lengths, batch_size, seed
        self.batches_per_epoch = len(epoch_batches(lengths, batch_size, seed, 0))
        self._epochs: dict[int, list[list[int]]] = {}

    def __getitem__(self, step: int) -> list[int]:
        """Return the story indices of the global batch of one update."""
        epoch, position = divmod(step, self.batches_per_epoch)
        if epoch not in self._epochs:
            # Reading ahead needs two epochs at a time.
            kept = {number: batches for number, batches in self._epochs.items() if abs(number - epoch) == 1}
            self._epochs = kept | {epoch: epoch_batches(self.lengths, self.batch_size, self.seed, epoch)}
        return self._epochs[epoch][position]

    def relative_size(self, step: int) -> float:
        """Return how large the batch of one update is, in padded steps, over the mean of an epoch.

        Stories of equal length share a batch, so updates differ several times over.
        """
        return self._padded(self[step]) / self._mean_size

    @cached_property
    def _mean_size(self) -> float:
        return fmean(map(self._padded, epoch_batches(self.lengths, self.batch_size, self.seed, 0)))

    def _padded(self, batch: Sequence[int]) -> int:
        return len(batch) * max(self.lengths[index] for index in batch)

    def stories(self, steps: Iterable[int], parts: Sequence[int], num_parts: int) -> Iterator[int]:
        """Yield the story indices of some parts of some updates in the order in which they are needed."""
        return (index for step in steps for part in parts for index in rows_of_part(self[step], part, num_parts))


def rows_of_part(order: list[int], part: int, num_parts: int) -> list[int]:
    """Return part `part` of a global batch that is cut into `num_parts`."""
    size = len(order) // num_parts
    return order[part * size : (part + 1) * size]
