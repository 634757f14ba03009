"""Sequences that start with a prompt: [padding, prompt tokens | blocks of tokens, each of which sees the blocks before
it].
"""

from __future__ import annotations

import torch
from torch import Tensor


def padding_left(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move the padding of prompts (B,Lp), or of their embeddings (B,Lp,D), and of their masks (B,Lp) to the left: a
    prompt ends the row.
    """
    order = mask.long().argsort(dim=1, stable=True)
    places = order if ids.dim() == 2 else order[:, :, None].expand_as(ids)
    return ids.gather(1, places), mask.gather(1, order)


def prefix_attention(
    prompt_mask: Tensor, length: int, block: int = 1, queries: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return the attention mask (B, 1, queries, length) and positions (length,), which are negative within the prompt.

    Prompt tokens see each other; every later token sees the prompt, its own block of `block` tokens and the blocks
    before it. With `queries`, the mask has the rows of the last `queries` tokens only.
    """
    prompt_length = prompt_mask.shape[1]
    positions = torch.arange(length, device=prompt_mask.device) - prompt_length
    blocks = positions.div(block, rounding_mode="floor").clamp(min=-1)
    key_is_there = torch.cat([prompt_mask, prompt_mask.new_ones(len(prompt_mask), length - prompt_length)], dim=1)
    past = blocks[None, :] <= blocks[:, None]
    return key_is_there[:, None, None, :] & past[-queries if queries else 0 :], positions


def at_least_one(mask: Tensor) -> Tensor:
    """Return mask (N,V) with the first place True in rows without any: attention over nothing would be NaN."""
    nothing = ~mask.any(1, keepdim=True) & (torch.arange(mask.shape[1], device=mask.device) == 0)
    return mask | nothing
