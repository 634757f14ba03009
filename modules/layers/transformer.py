"""A pre-norm transformer: LayerNorm, self-attention, SwiGLU (arXiv 2002.05202)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from modules.layers.attention import Attention
from modules.layers.kv_cache import KVCache, LayerCache


class FeedForward(nn.Module):
    """SwiGLU: the hidden width is `mult * dim`."""

    def __init__(self, dim: int, mult: float = 2.0) -> None:
        super().__init__()
        hidden = int(mult * dim)
        self.to_hidden = nn.Linear(dim, 2 * hidden, bias=False)
        self.to_out = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        value, gate = self.to_hidden(x).chunk(2, dim=-1)
        return self.to_out(value * F.silu(gate))


class TransformerBlock(nn.Module):
    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention, self.feed_forward = Attention(dim, num_heads), FeedForward(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None, positions: Tensor | None, cache: LayerCache | None) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), mask, positions, cache))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class Transformer(nn.Module):
    """`num_layers` blocks and a final norm; bidirectional or causal by the mask that it is given."""

    def __init__(self, dim: int, num_layers: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TransformerBlock(dim, num_heads, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)
        self._init_weights(num_layers)

    def _init_weights(self, num_layers: int) -> None:
        """Normal(0.02), and the branches' last layers smaller by sqrt(2 * layers), as in GPT-2."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02 / (2 * num_layers) ** 0.5 if name.endswith("to_out.weight") else 0.02)

    def forward(self, x: Tensor, mask: Tensor | None = None, positions: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        """(B, L, D) -> (B, L, D); with a cache, x holds the new tokens only and mask and positions reach over all keys."""
        layers = cache.layers if cache is not None else [None] * len(self.blocks)
        for block, layer in zip(self.blocks, layers, strict=True):
            x = block(x, mask, positions, layer)
        return self.norm(x)
