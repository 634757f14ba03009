"""A small network beside a pretrained language model that reads codes (ladder side-tuning, arXiv 2206.06522)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from modules.layers.attention import CrossAttention
from modules.layers.feed_forward import FeedForward


class SideReader(nn.Module):
    """Attends from the model's last hidden states to the codes, and returns what is to be added to them, beside a shift
    that is the same for all tokens of a page.

    These states meet the table of words next, so the gradient of every word reaches the codes through a few small
    layers; through the gated prefix it crosses all layers of the model, and codes are ignored for hundreds of updates.
    The shift, which makes some words likelier, is learnt first.
    Each token is read by itself, so nothing need be cached. At first nothing is added.
    """

    def __init__(
        self, width: int, code_dim: int, num_slots: int, dim: int = 256, num_heads: int = 4, num_layers: int = 2
    ) -> None:
        """`width` is that of the hidden states.

        Raises ValueError where `dim` is not a multiple of `num_heads`.
        """
        super().__init__()
        self.from_hidden = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dim))
        self.from_codes = nn.Linear(code_dim, dim)
        self.slot_position = nn.Parameter(0.02 * torch.randn(num_slots, dim))
        self.attention = nn.ModuleList(CrossAttention(dim, dim, num_heads) for _ in range(num_layers))
        self.feed_forward = nn.ModuleList(FeedForward(dim) for _ in range(num_layers))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2 * num_layers + 1))
        self.to_hidden = nn.Linear(dim, width)
        self.shift = nn.Linear(num_slots * code_dim, width, bias=False)
        nn.init.zeros_(self.shift.weight)
        nn.init.zeros_(self.to_hidden.weight)
        nn.init.zeros_(self.to_hidden.bias)

    def forward(self, hidden: Tensor, code_embeds: Tensor) -> Tensor:
        """Return what is added to hidden (N,L,D), given code_embeds (N,S,d)."""
        dtype = self.slot_position.dtype
        codes, x = self.from_codes(code_embeds.to(dtype)) + self.slot_position, self.from_hidden(hidden.to(dtype))
        for layer, (attention, feed_forward) in enumerate(zip(self.attention, self.feed_forward, strict=True)):
            x = x + attention(self.norms[2 * layer](x), codes)
            x = x + feed_forward(self.norms[2 * layer + 1](x))
        shift = self.shift(code_embeds.to(dtype).flatten(1))[:, None]
        return (self.to_hidden(self.norms[-1](x)) + shift).to(hidden.dtype)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load; in models from before there was a side reader or its shift, that adds nothing to the hidden states."""
        for name, value in self.named_parameters():
            missing = torch.zeros_like(value) if name.startswith(("to_hidden.", "shift.")) else value
            state_dict.setdefault(prefix + name, missing)
        super()._load_from_state_dict(state_dict, prefix, *args)
