"""The part of a story's plan that the decoders of one page read, and the transformer layer that reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from modules.layers.transformer import Transformer

RADIUS = 7  # Pages before and after one's own: all pages of a story of up to 8.
NUM_FIRST = 1  # First pages that stay visible from any distance (attention sinks, arXiv 2309.17453).
MAX_SEEN = 2 * RADIUS + 1 + NUM_FIRST  # Pages in a window.


@dataclass(frozen=True)
class PlanWindow:
    """The codes of W pages of the same story for each of N pages, its own among them.

    The number of pages is bounded however long the story is: those up to `RADIUS` away and the `NUM_FIRST` first ones.
    """

    code_embeds: Tensor  # (N, W, S, d)
    distances: Tensor  # (N, W) pages from the own page, negative for earlier ones
    mask: Tensor  # (N, W) bool; False where there is no page, or it is hidden

    @classmethod
    def alone(cls, code_embeds: Tensor) -> PlanWindow:
        """Return the windows of N pages (N,S,d) that are each a story of one page."""
        ones = torch.ones(len(code_embeds), 1, dtype=torch.bool, device=code_embeds.device)
        return cls(code_embeds[:, None], ones.long() - 1, ones)

    @classmethod
    def of_stories(cls, code_embeds: Tensor, lengths: Sequence[int], page_mask: Tensor | None = None) -> PlanWindow:
        """Return the windows of N pages (N,S,d) of stories of `lengths` pages (sum N), one story after the other.

        Pages where `page_mask` (N,) is False are padding, which no page reads.
        """
        rows, distances, mask = (
            torch.as_tensor(value, device=code_embeds.device) for value in _window_rows(tuple(lengths))
        )
        # Not code_embeds[rows]: the gradient of that is summed in an order that changes from run to run.
        seen = code_embeds.index_select(0, rows.flatten()).unflatten(0, rows.shape)
        return cls(seen, distances, mask if page_mask is None else mask & page_mask[rows])

    def __getitem__(self, rows: slice | Tensor | Sequence[int]) -> PlanWindow:
        """Return the windows of some of the pages."""
        return PlanWindow(self.code_embeds[rows], self.distances[rows], self.mask[rows])

    def with_own(self, code_embeds: Tensor) -> PlanWindow:
        """Return the same windows in which each page itself has the codes (N,S,d)."""
        is_own = (self.distances == 0) & self.mask
        codes = torch.where(is_own[..., None, None], code_embeds[:, None], self.code_embeds)
        return PlanWindow(codes, self.distances, self.mask)

    def repeat_interleave(self, count: int) -> PlanWindow:
        """Repeat the window of each page `count` times in a row."""
        values = (self.code_embeds, self.distances, self.mask)
        return PlanWindow(*(value.repeat_interleave(count, dim=0) for value in values))

    def hide(self, hidden: Tensor) -> PlanWindow:
        """Hide pages where `hidden`, (N,W) or (N,1), is True."""
        return PlanWindow(self.code_embeds, self.distances, self.mask & ~hidden)

    def hide_others(self, hidden: Tensor | None = None) -> PlanWindow:
        """Hide the pages where `hidden` (N,W or more) is True, by default all, but for each page itself."""
        others = self.distances != 0
        return self.hide(others if hidden is None else others & hidden[:, : self.mask.shape[1]])

    def hide_own(self) -> PlanWindow:
        """Hide each page itself."""
        return self.hide(self.distances == 0)


@lru_cache(maxsize=64)
def _window_rows(lengths: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return row numbers, distances and mask (N,W) of the windows of all pages of stories of `lengths` pages.

    Arrays, not tensors: a tensor kept from a pass on pretended tensors could not be used in a real one.
    """
    stories = [_story_rows(length) for length in lengths]
    width, start, parts = max(rows.shape[1] for rows, _ in stories), 0, []
    for rows, mask in stories:
        own, padding = np.arange(len(rows))[:, None], ((0, 0), (0, width - rows.shape[1]))
        parts.append([np.pad(value, padding) for value in (start + rows, (rows - own) * mask, mask)])
        start += len(rows)
    rows, distances, mask = (np.concatenate(values) for values in zip(*parts, strict=True))
    return rows, distances, mask


@lru_cache(maxsize=64)
def _story_rows(length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return page numbers and mask (length,W) of the windows of one story's pages, those present first."""
    own = np.arange(length)[:, None]
    near = own + np.arange(-RADIUS, RADIUS + 1)
    first = np.broadcast_to(np.arange(NUM_FIRST), (length, NUM_FIRST))
    pages = np.concatenate([first, near], axis=1)
    present = np.concatenate([first < own - RADIUS, (near >= 0) & (near < length)], axis=1)
    order = np.argsort(~present, axis=1, kind="stable")[:, : present.sum(1).max()]
    mask = np.take_along_axis(present, order, axis=1)
    return np.take_along_axis(pages, order, axis=1) * mask, mask


class PlanReader(nn.Module):
    """A transformer layer over the codes of a plan's window: one vector for each code, for a decoder's context."""

    def __init__(self, num_slots: int, code_dim: int, out_dim: int, dim: int = 256, num_heads: int = 4) -> None:
        """Raises ValueError where `dim` is not a multiple of `num_heads`."""
        super().__init__()
        self.from_codes = nn.Linear(code_dim, dim)
        self.slot_position = nn.Parameter(0.02 * torch.randn(num_slots, dim))
        self.distance = nn.Embedding(2 * RADIUS + 1, dim)
        nn.init.normal_(self.distance.weight, std=0.02)
        self.transformer = Transformer(dim, num_layers=1, num_heads=num_heads)
        self.to_out = nn.Linear(dim, out_dim)

    def read(self, code_embeds: Tensor, window: PlanWindow | None, null: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the output of `forward` for N pages (N,S,d), without a window each a story of one page; rows where
        `null` (N,) is True read no page.
        """
        window = PlanWindow.alone(code_embeds) if window is None else window
        return self(window if null is None else window.hide(null[:, None]))

    def forward(self, window: PlanWindow) -> tuple[Tensor, Tensor]:
        """Return vectors (N, W*S, D) and which of them may be read (N, W*S). Hidden pages change no visible vector."""
        distances = window.distances.clamp(-RADIUS, RADIUS) + RADIUS
        codes = self.from_codes(window.code_embeds) + self.slot_position + self.distance(distances)[:, :, None]
        mask = window.mask.repeat_interleave(codes.shape[2], dim=1)
        # A row without any visible page reads its own hidden ones: a softmax over nothing would be NaN.
        readable = mask | ~mask.any(1, keepdim=True)
        return self.to_out(self.transformer(codes.flatten(1, 2), readable[:, None, None, :])), mask
