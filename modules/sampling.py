"""Drawing codes from logits."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_logits(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator | None) -> Tensor:
    """Draw one index from each row of (B, K); temperature 0 takes the best. Nucleus sampling: arXiv 1904.09751."""
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = (logits.float() / temperature).softmax(-1)
    if top_p < 1:
        ordered, index = probabilities.sort(dim=-1, descending=True)
        outside = ordered.cumsum(-1) - ordered >= top_p
        probabilities = torch.zeros_like(probabilities).scatter(-1, index, ordered.masked_fill(outside, 0))
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]
