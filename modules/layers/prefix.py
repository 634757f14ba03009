"""Sequences that begin with a prompt: [prompt tokens, padding leftmost | blocks of tokens, each seeing what came before
it].
"""

from __future__ import annotations

import torch
from torch import Tensor


def padding_left(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Prompts (B, Lp) and their masks (B, Lp) with the padding moved to the left: what follows a prompt stands right
    behind it.
    """
    order = mask.long().argsort(dim=1, stable=True)
    return ids.gather(1, order), mask.gather(1, order)


def prefix_attention(
    prompt_mask: Tensor, length: int, block: int = 1, queries: int | None = None
) -> tuple[Tensor, Tensor]:
    """Who may look at whom, (B, 1, queries, length), and positions (length,) with 0 behind the prompt, which lies left
    of it.

    Prompt tokens see each other; behind them every token sees the prompt, its own block of `block` tokens and the
    blocks before. With `queries`, only the last ones' rows.
    """
    prompt_length = prompt_mask.shape[1]
    positions = torch.arange(length, device=prompt_mask.device) - prompt_length
    blocks = positions.div(block, rounding_mode="floor").clamp(min=-1)
    key_is_there = torch.cat([prompt_mask, prompt_mask.new_ones(len(prompt_mask), length - prompt_length)], dim=1)
    past = blocks[None, :] <= blocks[:, None]
    return key_is_there[:, None, None, :] & past[-queries if queries else 0 :], positions


def at_least_one(mask: Tensor) -> Tensor:
    """mask (N,V) with the first place True in rows that have none: attention over nothing would be NaN."""
    nothing = ~mask.any(1, keepdim=True) & (torch.arange(mask.shape[1], device=mask.device) == 0)
    return mask | nothing
