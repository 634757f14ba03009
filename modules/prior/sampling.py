"""Drawing codes from logits."""

from __future__ import annotations

import torch
from torch import Tensor

from modules.prior.config import PriorConfig

LIKELIEST = 64  # A nucleus nearly always lies within these, which are much cheaper to find than a full sort.


def sample_logits(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator | None) -> Tensor:
    """Draw one index from each row of (B, K); temperature 0 takes the likeliest. Nucleus sampling: arXiv 1904.09751."""
    if temperature == 0:
        return logits.argmax(-1)
    probabilities, index = (logits.float() / temperature).softmax(-1), None
    if top_p < 1:
        probabilities, index = _nucleus(probabilities, top_p)
    uniform = torch.rand(len(probabilities), generator=generator, device=probabilities.device)
    drawn = draw_index(probabilities, uniform)
    return drawn if index is None else index.gather(-1, drawn[:, None])[:, 0]


def beside_null(
    config: PriorConfig, prompt_ids: Tensor, prompt_mask: Tensor, codes: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return prompts (2B,Lp), their mask and codes (2B,T,S): the stories, followed by the same without a prompt.

    Raises ValueError where the prior has never seen a story without a prompt.
    """
    if not config.null_prompt:
        raise ValueError("this prior was not trained without prompts: its null_prompt is 0")
    mask = torch.cat([prompt_mask, torch.zeros_like(prompt_mask)])
    return prompt_ids.repeat(2, 1), mask, None if codes is None else codes.repeat(2, 1, 1)


def guide(logits: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return the logits (B, K) to draw from, by classifier-free guidance (arXiv 2207.12598), and those of the prompt.

    `logits` (2B, K) are those of the prompt, followed by those without one.
    """
    prompted, null = logits.log_softmax(-1).chunk(2)
    return null + scale * (prompted - null), prompted


def draw_index(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Return the indices (...) that numbers `uniform` (...) in [0, 1) draw from probabilities (..., K), which need not
    sum to 1.
    """
    # The inverse of the distribution function, at a number in (0, 1]: never an index of probability 0.
    mass = probabilities.cumsum(-1)
    return torch.searchsorted(mass, (1 - uniform)[..., None] * mass[..., -1:])[..., 0]


def _nucleus(probabilities: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """Return the probabilities (B, M) of the likeliest M of K indices, 0 beyond a mass of `top_p`, and these indices
    (B, M).
    """
    ordered, index = probabilities.topk(min(LIKELIEST, probabilities.shape[-1]))
    if (ordered.sum(-1) < top_p).any():
        ordered, index = probabilities.sort(dim=-1, descending=True)
    outside = ordered.cumsum(-1) - ordered >= top_p
    return ordered.masked_fill(outside, 0), index
