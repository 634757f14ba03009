"""Parts of `generate` of transformers: classifier-free guidance, contrastive search, and a look at every token.

The logits processors keep no cache, so beams may be reordered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)

from modules.layers.plan_window import PlanWindow


class GuidanceLogitsProcessor(LogitsProcessor):
    """Classifier-free guidance (arXiv 2306.17806): move away from the model's predictions without its condition.

    `unconditional` maps the tokens so far (R,t), t >= 0, to the logits (R,V) of the next token.
    """

    def __init__(self, unconditional: Callable[[Tensor], Tensor], guidance_scale: float) -> None:
        self.unconditional, self.guidance_scale = unconditional, guidance_scale

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        conditional = scores.log_softmax(-1)
        unconditional = self.unconditional(input_ids).to(scores.dtype).log_softmax(-1)
        # Beam search adds these up: they must be log-probabilities.
        return torch.lerp(unconditional, conditional, self.guidance_scale).log_softmax(-1)


class ContrastiveLogitsProcessor(LogitsProcessor):
    """Contrastive search (arXiv 2202.06417): of the `top_k` likeliest tokens, prefer one unlike all earlier tokens.

    `hidden_states` maps tokens (R,t) to the vectors (R, t+1, D) of <bos> and of the tokens. The scores only order
    tokens: they are for greedy search.
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


def next_inputs(
    decoder: Any, code_embeds: Tensor, window: PlanWindow | None, ids: Tensor, null: bool = False
) -> dict[str, Any]:
    """Return the language model's arguments for tokens (R,t) without <bos>; R is N times the number of beams."""
    tokens, count = F.pad(ids, (1, 0), value=decoder.bos_id), len(ids) // len(code_embeds)
    codes = code_embeds.repeat_interleave(count, dim=0)
    around = None if window is None else window.repeat_interleave(count)
    is_null = ids.new_ones(len(ids), dtype=torch.bool) if null else None
    return decoder.inputs(decoder.prefix(codes, is_null, around), tokens, torch.ones_like(tokens, dtype=torch.bool))


def logits_processors(
    decoder: Any,
    code_embeds: Tensor,
    window: PlanWindow | None,
    guidance_scale: float,
    penalty_alpha: float,
    top_k: int,
) -> LogitsProcessorList:
    """Return what changes the logits of N steps' next tokens, as `generate` of the TextDecoder `decoder` describes."""

    def unconditional(ids: Tensor) -> Tensor:
        inputs = next_inputs(decoder, code_embeds, window, ids, null=True)
        return decoder.language_model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1]

    def hidden_states(ids: Tensor) -> Tensor:
        inputs = next_inputs(decoder, code_embeds, window, ids)
        states = decoder.language_model.base_model(**inputs, use_cache=False).last_hidden_state
        return states[:, -ids.shape[1] - 1 :]

    processors = LogitsProcessorList()
    if guidance_scale != 1:
        processors.append(GuidanceLogitsProcessor(unconditional, guidance_scale))
    if decoder.config.no_repeat_ngram_size:
        processors.append(NoRepeatNGramLogitsProcessor(decoder.config.no_repeat_ngram_size))
    if penalty_alpha:
        processors.append(ContrastiveLogitsProcessor(hidden_states, penalty_alpha, top_k))
    return processors


class _Watched(StoppingCriteria):
    """Calls `on_token` with the tokens so far, and never stops."""

    def __init__(self, on_token: Callable[[Tensor], None]) -> None:
        self.on_token = on_token

    def __call__(self, input_ids: Tensor, *_: Any, **__: Any) -> Tensor:
        self.on_token(input_ids)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def watched(on_token: Callable[[Tensor], None] | None) -> StoppingCriteriaList:
    """Return what calls `on_token` after every token, if it is given."""
    return StoppingCriteriaList([] if on_token is None else [_Watched(on_token)])
