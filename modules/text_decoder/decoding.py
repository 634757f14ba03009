"""Steps of Hugging Face's `generate` that it does not have, or has no longer.

They keep no cache, so beams may be reordered freely.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LogitsProcessor


class GuidanceLogitsProcessor(LogitsProcessor):
    """Classifier-free guidance (arXiv 2306.17806): further away from what the model would say without its condition.

    `unconditional` maps the tokens so far (R, t), t >= 0, to the next one's logits (R, V).
    """

    def __init__(self, unconditional: Callable[[Tensor], Tensor], guidance_scale: float) -> None:
        self.unconditional, self.guidance_scale = unconditional, guidance_scale

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        conditional, unconditional = (
            scores.log_softmax(-1),
            self.unconditional(input_ids).to(scores.dtype).log_softmax(-1),
        )
        # Beam search adds these up: they must be the logarithms of probabilities again.
        return torch.lerp(unconditional, conditional, self.guidance_scale).log_softmax(-1)


class ContrastiveLogitsProcessor(LogitsProcessor):
    """Contrastive search (arXiv 2202.06417): of the `top_k` likeliest tokens, one that is likely and unlike all that
    came before.

    `hidden_states` maps tokens (R, t) to the vectors (R, t + 1, D) of <bos> and of them. The scores order tokens, and
    are no more: for greedy search alone.
    """

    def __init__(self, hidden_states: Callable[[Tensor], Tensor], penalty_alpha: float, top_k: int) -> None:
        self.hidden_states, self.penalty_alpha, self.top_k = hidden_states, penalty_alpha, top_k

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        probs, tokens = scores.softmax(-1).topk(self.top_k)
        rows = torch.cat([input_ids.repeat_interleave(self.top_k, dim=0), tokens.view(-1, 1)], dim=1)
        vectors = F.normalize(self.hidden_states(rows).float(), dim=-1)
        likeness = (vectors[:, :-1] @ vectors[:, -1:].mT).amax((1, 2)).view_as(probs)
        values = (1 - self.penalty_alpha) * probs - self.penalty_alpha * likeness.to(probs.dtype)
        return torch.full_like(scores, -torch.inf).scatter(1, tokens, values)
