"""Groups of rows of like length contain all tokens, and little padding."""

from __future__ import annotations

import torch

from modules.layers.row_groups import pool_present, rows_of_like_length


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


def test_pooling_sees_what_is_present_and_little_else():
    torch.manual_seed(0)
    vectors, mask = torch.randn(12, 30, 4, requires_grad=True), torch.rand(12, 30) < torch.linspace(0, 0.9, 12)[:, None]
    computed = 0

    def total(values: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        nonlocal computed
        computed += present.numel()
        return (values * present[..., None]).sum(1)

    pooled = pool_present(total, vectors, mask)
    torch.testing.assert_close(pooled, (vectors * mask[..., None]).sum(1))
    assert computed < 0.8 * mask.numel()
    (gradient,) = torch.autograd.grad(pooled.sum(), vectors)
    assert torch.equal(gradient, mask[..., None].expand_as(vectors).float())
    computed = 0
    few = pool_present(total, vectors[:5], mask[:5])  # These stay together.
    assert computed == mask[:5].numel() and torch.equal(few, total(vectors[:5], mask[:5]))
