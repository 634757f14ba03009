"""Rows of a tensor stored in several files."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class ShardedRows:
    """A tensor (N,...) stored in several files and indexed by row numbers; only the requested rows are read."""

    def __init__(self, parts: Sequence[Tensor]) -> None:
        self.parts = parts
        self.ends = torch.tensor([len(part) for part in parts]).cumsum(0)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        rows = torch.arange(len(self))[rows]
        flat, first = rows.flatten(), self.parts[0]
        owners, found = torch.bucketize(flat, self.ends, right=True), first.new_empty(len(flat), *first.shape[1:])
        for owner in owners.unique().tolist():
            own = owners == owner
            found[own] = self.parts[owner][flat[own] - (self.ends[owner] - len(self.parts[owner]))]
        return found.unflatten(0, rows.shape)
