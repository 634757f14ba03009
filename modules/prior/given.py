"""Given pages: training shows the prior some pages of a story before it writes the story, so that it learns to infill
(arXiv 2606.14943). The order of writing and the targets stay those of a left-to-right model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def draw_given(lengths: Sequence[int], share: float, generator: torch.Generator) -> Tensor:
    """Draw which pages are given to each of P stories of `lengths` steps: page numbers (P,G) in order, -1 for none.

    A share of the stories has given pages: half of them the last ones, the others any. At least one page is left to be
    written.
    """
    chosen: list[list[int]] = []
    for length in lengths:
        has_some, is_ending, count = torch.rand(3, generator=generator).tolist()
        pages = torch.randperm(length, generator=generator).tolist()
        number = 1 + int(count * (length - 1)) if length > 1 and has_some < share else 0
        chosen.append(sorted(range(length - number, length) if is_ending < 0.5 else pages[:number]) if number else [])
    width = max(map(len, chosen), default=0)
    return torch.tensor([pages + [-1] * (width - len(pages)) for pages in chosen]).view(len(lengths), width).long()


def written_steps(step_mask: Tensor, given: Tensor | None) -> Tensor:
    """Return which steps of `step_mask` (P,T) the prior writes: those that are not among the `given` pages (P,G)."""
    if given is None:
        return step_mask
    steps = torch.arange(step_mask.shape[1], device=given.device)
    return step_mask & ~(given[:, None] == steps[None, :, None]).any(-1)


def flatten_given(codes: Tensor, given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the codes of the `given` pages (P,G) among codes (P,T,S), their flat positions in the story, and whether
    they are there, each (P,G*S).
    """
    slots, pages = codes.shape[2], given.clamp(min=0)
    places = torch.arange(slots, device=codes.device).repeat(given.shape[1])
    flat = codes.gather(1, pages[:, :, None].expand(-1, -1, slots)).flatten(1)
    return flat, pages.repeat_interleave(slots, 1) * slots + places, (given >= 0).repeat_interleave(slots, 1)


def given_among(fixed: Tensor | None, num_before: int, num_stories: int) -> tuple[Tensor, Tensor] | None:
    """Return the codes (P,T,S) and the numbers (P,G) of the pages of `fixed` that are fixed as a whole; None if there
    are none. `fixed` (T,S), -1 where a code is free, follows `num_before` pages; it is the same in all stories.
    """
    pages = None if fixed is None else (fixed >= 0).all(1).nonzero()[:, 0] + num_before
    if fixed is None or pages is None or not len(pages):
        return None
    codes = torch.cat([fixed.new_zeros(num_before, fixed.shape[1]), fixed])
    return codes.expand(num_stories, -1, -1), pages.expand(num_stories, -1)
