"""Multi-head self-attention with optional rotary positions and key-value cache."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from modules.layers.kv_cache import LayerCache
from modules.layers.rope import rotary_angles, rotate


class Attention(nn.Module):
    """Self-attention with normalised queries and keys (QK-norm, arXiv 2302.05442)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} is not a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim, bias=False)
        self.query_norm = nn.LayerNorm(dim // num_heads)
        self.key_norm = nn.LayerNorm(dim // num_heads)

    def forward(self, x: Tensor, mask: Tensor | None, positions: Tensor | None = None, cache: LayerCache | None = None) -> Tensor:
        """(B, L, D) -> (B, L, D). `mask` (B or 1, 1, L, L') is True where a query may look; `positions` (L') of all keys, for RoPE."""
        query, key, value = rearrange(self.to_qkv(x), "b l (three h d) -> three b h l d", three=3, h=self.num_heads)
        query, key = self.query_norm(query).to(value.dtype), self.key_norm(key).to(value.dtype)
        if positions is not None:
            angles = rotary_angles(positions[-x.shape[1] :], key.shape[-1])
            query, key = rotate(query, angles), rotate(key, angles)
        if cache is not None:
            key, value = cache.append(key, value)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.to_out(rearrange(out, "b h l d -> b l (h d)"))
