"""Q-Former: learned queries that read an image's features (BLIP-2, arXiv 2301.12597)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modules.layers.attention import Attention, CrossAttention
from modules.layers.feed_forward import FeedForward


class QFormerBlock(nn.Module):
    """The queries attend to each other, then to the features, then pass a feed-forward layer; each branch has a learned
    scale a channel, small at first.
    """

    def __init__(self, dim: int, feature_dim: int, num_heads: int, dropout: float, layer_scale: float) -> None:
        super().__init__()
        self.attention_norm, self.cross_attention_norm, self.feed_forward_norm = (nn.LayerNorm(dim) for _ in range(3))
        self.attention = Attention(dim, num_heads)
        self.cross_attention = CrossAttention(dim, feature_dim, num_heads)
        self.feed_forward = FeedForward(dim)
        self.attention_scale, self.cross_attention_scale, self.feed_forward_scale = (
            nn.Parameter(torch.full((dim,), layer_scale)) for _ in range(3)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, position: Tensor, features: Tensor, mask: Tensor | None) -> Tensor:
        """Update the queries x (N,Q,D), with positions (Q,D), from features (N,P,D') and their mask (N,P): (N,Q,D)."""
        x = x + self.dropout(self.attention_scale * self.attention(self.attention_norm(x + position), None))
        x = x + self.dropout(
            self.cross_attention_scale * self.cross_attention(self.cross_attention_norm(x + position), features, mask)
        )
        return x + self.dropout(self.feed_forward_scale * self.feed_forward(self.feed_forward_norm(x)))


class QFormer(nn.Module):
    """`num_queries` vectors read from a sequence of any length.

    Queries have positions, added in every block (as in DETR, arXiv 2005.12872), and branches have LayerScale (arXiv
    2103.17239). The output is normalised over channels or, with `num_groups` above 0, over groups of channels and all
    queries of an image (GroupNorm, arXiv 1803.08494), which preserves differences of strength between queries. No norm
    spans several images.
    """

    def __init__(
        self,
        dim: int,
        feature_dim: int,
        num_queries: int,
        num_layers: int,
        num_heads: int,
        dropout: float = 0.0,
        layer_scale: float = 0.1,
        num_groups: int = 0,
    ) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(num_queries, dim) * 0.02)
        self.position = nn.Parameter(torch.randn(num_queries, dim) * 0.02)
        self.feature_norm = nn.LayerNorm(feature_dim)
        self.blocks = nn.ModuleList(
            QFormerBlock(dim, feature_dim, num_heads, dropout, layer_scale) for _ in range(num_layers)
        )
        self.norm = nn.GroupNorm(num_groups, dim) if num_groups else nn.LayerNorm(dim)
        for parameter in self.blocks.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Read features (N,P,D') where mask (N,P) is True, by default everywhere: (N,Q,D).

        A row without any feature depends on the queries alone.
        """
        features = self.feature_norm(features)
        x = self.queries.expand(len(features), -1, -1)
        for block in self.blocks:
            x = block(x, self.position, features, mask)
        if isinstance(self.norm, nn.GroupNorm):
            return self.norm(x.transpose(1, 2)).transpose(1, 2)
        return self.norm(x)
