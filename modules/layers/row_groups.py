"""Rows of like length, so that a network computes little padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

MAX_GROUPS, MIN_ROWS = 4, 4
LENGTH_STEP = 8  # Kernels are compiled for every shape that occurs.


def rows_of_like_length(mask: Tensor) -> Iterator[tuple[slice | Tensor, int]]:
    """Divide the rows of a mask (N,L), True on tokens, into groups of like length; yield row numbers and the number of
    columns that contain all their tokens, at least 2.

    Real texts are a third as long as the longest. On a GPU all rows are one group with all columns: shapes stay fixed,
    and nothing waits for the lengths.
    """
    num_rows, width = mask.shape
    has_values = type(mask) is Tensor  # Fake tensors, as of a memory estimate, are a subclass.
    count = min(MAX_GROUPS, num_rows // MIN_ROWS)
    if count < 2 or mask.device.type != "cpu" or not has_values:
        yield slice(None), width
        return
    ends = (mask * torch.arange(1, width + 1)).amax(1)
    order = ends.argsort(stable=True)
    for rows in order.tensor_split(count):
        longest = int(ends[rows[-1]])
        yield rows, min(width, max(2, -(-longest // LENGTH_STEP) * LENGTH_STEP))


def pool_present(pool: Callable[[Tensor, Tensor], Tensor], vectors: Tensor, mask: Tensor) -> Tensor:
    """Return pool(vectors, mask) (N,...) of vectors (N,V,D), present where `mask` (N,V) is True, whose places `pool`
    does not look at: in groups of rows of like length, what is present first.
    """
    first = mask.long().argsort(dim=1, descending=True, stable=True)
    present = mask.gather(1, first)
    groups = list(rows_of_like_length(present))
    if len(groups) == 1:
        return pool(vectors, mask)
    vectors = vectors.gather(1, first[..., None].expand_as(vectors))
    pooled = torch.cat([pool(vectors[rows, :length], present[rows, :length]) for rows, length in groups])
    places = torch.arange(len(mask))
    return pooled[torch.cat([places[rows] for rows, _ in groups]).argsort()]
