"""The feed-forward layer of a transformer block: SwiGLU (arXiv 2002.05202)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class FeedForward(nn.Module):
    """SwiGLU with a hidden width of `mult * dim`."""

    def __init__(self, dim: int, mult: float = 2.0) -> None:
        super().__init__()
        hidden = int(mult * dim)
        self.to_hidden = nn.Linear(dim, 2 * hidden, bias=False)
        self.to_out = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        value, gate = self.to_hidden(x).chunk(2, dim=-1)
        return self.to_out(value * F.silu(gate))
