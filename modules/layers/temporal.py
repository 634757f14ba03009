"""Temporal transformer: a causal summary of the steps of a story so far."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modules.layers.transformer import Transformer


class TemporalTransformer(nn.Module):
    """A causal transformer over any number of steps, one vector each, with rotary positions (arXiv 2104.09864)."""

    def __init__(self, input_dim: int, dim: int, num_layers: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if dim % (2 * num_heads):
            raise ValueError(
                f"rotary positions need heads of an even width: dim {dim} is not a multiple of 2 x {num_heads}"
            )
        self.from_steps = nn.Linear(input_dim, dim)
        self.transformer = Transformer(dim, num_layers, num_heads, dropout)

    def forward(self, steps: Tensor, step_mask: Tensor) -> Tensor:
        """Summarise steps (B,T,D') with step_mask (B,T): entry t of (B,T,D) has read steps 0 to t.

        Padding may be anywhere and is never read; the output at a padded step is undefined.
        """
        order = torch.arange(steps.shape[1], device=steps.device)
        past, itself = order[None, :] <= order[:, None], order[None, :] == order[:, None]
        # A padded step reads itself: a softmax over nothing is undefined.
        mask = past & (step_mask[:, None, None, :] | itself)
        return self.transformer(self.from_steps(steps), mask, order)
