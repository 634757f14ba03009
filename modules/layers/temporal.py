"""Temporal transformer: what the steps of a story so far say together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modules.layers.transformer import Transformer


class TemporalTransformer(nn.Module):
    """A causal transformer over one vector a step, with rotary positions (arXiv 2104.09864): any number of steps, by
    distance alone.
    """

    def __init__(self, input_dim: int, dim: int, num_layers: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if dim % (2 * num_heads):
            raise ValueError(
                f"rotary positions need heads of an even width: dim {dim} is not a multiple of 2 x {num_heads}"
            )
        self.from_steps = nn.Linear(input_dim, dim)
        self.transformer = Transformer(dim, num_layers, num_heads, dropout)

    def forward(self, steps: Tensor, step_mask: Tensor) -> Tensor:
        """steps (B, T, D'), step_mask (B, T) -> (B, T, D): entry t has read steps 0 to t and conditions the step that
        follows.

        Padding may stand anywhere and is never read; what comes out at a padded step means nothing.
        """
        order = torch.arange(steps.shape[1], device=steps.device)
        past, itself = order[None, :] <= order[:, None], order[None, :] == order[:, None]
        mask = past & (
            step_mask[:, None, None, :] | itself
        )  # A padded step reads itself: a softmax over nothing has no value.
        return self.transformer(self.from_steps(steps), mask, order)
