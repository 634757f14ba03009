"""Scheduled sampling for a transformer (arXiv 1906.07651): in training the prior sees some of its own past codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from modules.common.outputs import REQUIRED
from modules.layers.losses import token_nats
from modules.prior.sampling import draw_index


@dataclass
class TwoPassOutput(ModelOutput):
    """`nll` (B,T,S) of the true codes, in nats; `logits` (B,T,S,K) of the pass that scores them; `history` (B,T,S), the
    codes that it saw.
    """

    nll: Tensor
    logits: Tensor = REQUIRED
    history: Tensor = REQUIRED


def two_pass_nll(
    predict: Callable[[Tensor], Tensor], codes: Tensor, probability: float, draws: Tensor | None
) -> TwoPassOutput:
    """Score true `codes` (B,T,S) after a history of which a share `probability` is drawn from the model's own
    predictions.

    `predict` returns logits (B,T,S,K) for a history (B,T,S), each from the codes before it. It is called once with the
    true codes, for predictions without gradient, and again with the mixed history; at probability 0 only with the true
    codes, which is plain teacher forcing. `draws` come from `draw_mixing`; probability 0 needs none. Raises ValueError
    on a probability outside 0..1.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"the share of the prior's own codes must be from 0 to 1, got {probability}")
    history = codes
    if probability > 0:
        assert draws is not None
        with torch.no_grad():
            history = mix_history(predict(codes), codes, probability, draws)
        # Autocast cached casts of weights without a gradient: torch 2.13 casts anew, older versions would train no
        # weight through them.
        torch.clear_autocast_cache()
    logits = predict(history)
    return TwoPassOutput(nll=token_nats(logits, codes), logits=logits, history=history)


def mix_history(logits: Tensor, codes: Tensor, probability: float, draws: Tensor) -> Tensor:
    """Replace each of codes (B,T,S), with `probability`, by one drawn from its logits (B,T,S,K); `draws` come from
    `draw_mixing`.

    A replaced code depends on the true codes before it and on its draw, and on nothing after it.
    """
    chosen, drawn = draws
    return torch.where(chosen < probability, draw_index(logits.float().softmax(-1), drawn), codes)


def draw_mixing(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw the randomness of one pass over codes of `shape` (B,T,S): which are replaced, and by what, (2,B,T,S) in
    [0, 1), on the generator's device.

    Drawn apart from the pass, so that a global batch may be cut into parts.
    """
    return torch.rand(2, *shape, generator=generator, device=generator.device)
