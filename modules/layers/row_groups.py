"""Rows of like length, so that a network computes little padding."""

from __future__ import annotations

from collections.abc import Iterator

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
    has_values = type(mask) is Tensor  # Tensors that only pretend, as of a memory estimate, are a subclass.
    count = min(MAX_GROUPS, num_rows // MIN_ROWS)
    if count < 2 or mask.device.type != "cpu" or not has_values:
        yield slice(None), width
        return
    ends = (mask * torch.arange(1, width + 1)).amax(1)
    order = ends.argsort(stable=True)
    for rows in order.tensor_split(count):
        longest = int(ends[rows[-1]])
        yield rows, min(width, max(2, -(-longest // LENGTH_STEP) * LENGTH_STEP))
