"""Groups of rows of like length contain all tokens, and little padding."""

from __future__ import annotations

import torch

from modules.layers.row_groups import rows_of_like_length


def mask_of(lengths: list[int], width: int) -> torch.Tensor:
    return torch.arange(width) < torch.tensor(lengths)[:, None]


def test_groups_contain_every_row_once_and_all_its_tokens():
    lengths = [40, 3, 0, 17, 9, 8, 30, 2, 25, 1, 12, 5, 40, 6, 7, 16]
    mask, seen = mask_of(lengths, 40), []
    for rows, length in rows_of_like_length(mask):
        assert not mask[rows, length:].any() and 2 <= length <= 40
        seen += rows.tolist()
    assert sorted(seen) == list(range(16))
    computed = sum(len(rows) * length for rows, length in rows_of_like_length(mask))
    assert computed < 0.6 * mask.numel()


def test_few_rows_stay_together():
    assert list(rows_of_like_length(mask_of([3, 9, 5], 10))) == [(slice(None), 10)]
