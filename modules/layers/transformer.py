"""A pre-norm transformer: LayerNorm, self-attention, SwiGLU or a mixture of SwiGLU experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.utils import ModelOutput

from modules.layers.attention import Attention
from modules.layers.feed_forward import FeedForward
from modules.layers.kv_cache import KVCache, LayerCache
from modules.layers.moe import MixtureOfExperts, MixtureOutput


@dataclass
class TransformerOutput(ModelOutput):
    """`hidden` (B,L,D). With experts, also the layers' mean `load_balancing_loss` and `router_z_loss`, each () and
    unweighted, and the layers' `loads` (layers,E); else None.
    """

    hidden: Tensor
    load_balancing_loss: Tensor | None = None
    router_z_loss: Tensor | None = None
    loads: Tensor | None = None


class TransformerBlock(nn.Module):
    """Self-attention and a feed-forward layer, each after a LayerNorm and beside a residual connection."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        dropout: float,
        num_kv_heads: int | None = None,
        experts: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, num_heads, num_kv_heads)
        self.feed_forward = FeedForward(dim) if experts is None else MixtureOfExperts(dim, **experts)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        positions: Tensor | None,
        cache: LayerCache | None,
        token_mask: Tensor | None = None,
    ) -> tuple[Tensor, MixtureOutput | None]:
        """Return (B,L,D) and, with experts, their output."""
        x = x + self.dropout(self.attention(self.attention_norm(x), mask, positions, cache))
        hidden = self.feed_forward_norm(x)
        if isinstance(self.feed_forward, FeedForward):
            return x + self.dropout(self.feed_forward(hidden)), None
        mixture = self.feed_forward(hidden, token_mask)
        return x + self.dropout(mixture.hidden), mixture


class Transformer(nn.Module):
    """`num_layers` blocks and a final norm; bidirectional or causal, depending on the mask.

    `experts` are the keyword arguments of `MixtureOfExperts`; None gives dense layers. With `gradient_checkpointing`,
    training stores only each block's input and recomputes the rest in the backward pass (arXiv 1604.06174).
    """

    def __init__(
        self,
        dim: int,
        num_layers: int,
        num_heads: int,
        dropout: float = 0.0,
        num_kv_heads: int | None = None,
        experts: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            TransformerBlock(dim, num_heads, dropout, num_kv_heads, experts) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.gradient_checkpointing = False
        self._init_weights(num_layers)

    def _init_weights(self, num_layers: int) -> None:
        """Initialise with Normal(0.02), the branches' last layers smaller by sqrt(2 * layers), as in GPT-2."""
        for name, parameter in self.named_parameters():
            if parameter.ndim >= 2:
                nn.init.normal_(parameter, std=0.02 / (2 * num_layers) ** 0.5 if "to_out" in name else 0.02)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, positions: Tensor | None = None, cache: KVCache | None = None
    ) -> Tensor:
        """Map (B,L,D) to (B,L,D); with a cache, x contains the new tokens only, mask and positions cover all keys."""
        return self.forward_with_losses(x, mask, positions, cache).hidden

    def forward_with_losses(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        cache: KVCache | None = None,
        token_mask: Tensor | None = None,
    ) -> TransformerOutput:
        """Return the output of `forward` with the experts' losses and loads of tokens where `token_mask` (B,L) is True,
        by default of all.
        """
        layers = cache.layers if cache is not None else [None] * len(self.blocks)
        mixtures = []
        for block, layer in zip(self.blocks, layers, strict=True):
            inputs = (x, mask, positions, layer, token_mask)
            x, mixture = (
                checkpoint(block, *inputs, use_reentrant=False)
                if self.gradient_checkpointing and self.training
                else block(*inputs)
            )
            mixtures.append(mixture)
        x = self.norm(x)
        if mixtures[0] is None:
            return TransformerOutput(hidden=x)
        return TransformerOutput(
            hidden=x,
            load_balancing_loss=torch.stack([mixture.load_balancing_loss for mixture in mixtures]).mean(),
            router_z_loss=torch.stack([mixture.router_z_loss for mixture in mixtures]).mean(),
            loads=torch.stack([mixture.load for mixture in mixtures]),
        )

    def update(self, loads: Tensor) -> None:
        """Move the experts' biases by the `loads` (layers,E) of an update; see `MixtureOfExperts.update`."""
        for block, load in zip(self.blocks, loads, strict=True):
            cast(MixtureOfExperts, cast(TransformerBlock, block).feed_forward).update(load)
