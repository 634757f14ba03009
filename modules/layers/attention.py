"""Multi-head self-attention, with optional rotary positions and key-value cache, and cross-attention."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from modules.layers.kv_cache import LayerCache
from modules.layers.rope import rotary_angles, rotate


class Attention(nn.Module):
    """Self-attention with normalised queries and keys (QK-norm, arXiv 2302.05442).

    With `num_kv_heads` below `num_heads`, groups of query heads share a head of keys and values (arXiv 2305.13245),
    which makes the cache smaller.
    """

    def __init__(self, dim: int, num_heads: int, num_kv_heads: int | None = None) -> None:
        """Raises ValueError where `dim` cannot be divided into so many heads."""
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} is not a multiple of num_heads {num_heads}")
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads or num_heads
        if num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {num_heads} is not a multiple of num_kv_heads {num_kv_heads}")
        head_dim = dim // num_heads
        self.widths = (dim, self.num_kv_heads * head_dim, self.num_kv_heads * head_dim)
        self.to_qkv = nn.Linear(dim, sum(self.widths), bias=False)
        self.to_out = nn.Linear(dim, dim, bias=False)
        self.query_norm = nn.LayerNorm(head_dim)
        self.key_norm = nn.LayerNorm(head_dim)

    def forward(
        self, x: Tensor, mask: Tensor | None, positions: Tensor | None = None, cache: LayerCache | None = None
    ) -> Tensor:
        """Attend within x (B,L,D): (B,L,D).

        `mask` (B or 1, 1, L, L') is True where a query may attend; `positions` (L',) are those of all keys, for RoPE.
        """
        parts = self.to_qkv(x).split(self.widths, dim=-1)
        heads = (self.num_heads, self.num_kv_heads, self.num_kv_heads)
        query, key, value = (
            rearrange(part, "b l (h d) -> b h l d", h=count) for part, count in zip(parts, heads, strict=True)
        )
        query, key = self.query_norm(query).to(value.dtype), self.key_norm(key).to(value.dtype)
        if positions is not None:
            angles = rotary_angles(positions[-x.shape[1] :], key.shape[-1], dtype=key.dtype)
            query, key = rotate(query, angles), rotate(key, angles)
        if cache is not None:
            key, value = cache.append(key, value)
        out = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, enable_gqa=self.num_kv_heads < self.num_heads
        )
        return self.to_out(rearrange(out, "b h l d -> b l (h d)"))


class CrossAttention(nn.Module):
    """Attention of one sequence to another of any width, with normalised queries and keys (arXiv 2302.05442)."""

    def __init__(self, dim: int, context_dim: int, num_heads: int) -> None:
        """Raises ValueError where `dim` is not a multiple of `num_heads`."""
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} is not a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.to_query = nn.Linear(dim, dim, bias=False)
        self.to_key_value = nn.Linear(context_dim, 2 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim, bias=False)
        self.query_norm = nn.LayerNorm(dim // num_heads)
        self.key_norm = nn.LayerNorm(dim // num_heads)

    def forward(self, x: Tensor, context: Tensor, context_mask: Tensor | None = None) -> Tensor:
        """Attend from x (B,L,D) to context (B,P,D'): (B,L,D).

        `context_mask` (B,P) is True where the context may be read; a row without any gets zeros.
        """
        query = rearrange(self.to_query(x), "b l (h d) -> b h l d", h=self.num_heads)
        key, value = rearrange(self.to_key_value(context), "b p (two h d) -> two b h p d", two=2, h=self.num_heads)
        query, key = self.query_norm(query).to(value.dtype), self.key_norm(key).to(value.dtype)
        if context_mask is None:
            out = F.scaled_dot_product_attention(query, key, value)
        else:  # A softmax over nothing is undefined on some devices.
            has_context = context_mask.any(1)[:, None, None, None]
            mask = context_mask[:, None, None, :] | ~has_context
            out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask) * has_context
        return self.to_out(rearrange(out, "b h l d -> b l (h d)"))
