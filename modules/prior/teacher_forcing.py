"""Scheduled sampling for a transformer (arXiv 1906.07651): in training the prior sees some past codes as it would write
them itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.utils import ModelOutput

from modules.prior.sampling import draw_index


@dataclass
class TwoPassOutput(ModelOutput):
    """`nll` (B,T,S) of the true codes, in nats; `logits` (B,T,S,K) of the pass that scores them; `history` (B,T,S), the
    codes it saw.
    """

    nll: Tensor = None
    logits: Tensor = None
    history: Tensor = None


def two_pass_nll(
    predict: Callable[[Tensor], Tensor], codes: Tensor, probability: float, draws: Tensor
) -> TwoPassOutput:
    """Score true `codes` (B,T,S) after a history of which a share `probability` is drawn from the model's own
    predictions.

    `predict` gives logits (B,T,S,K) from a history (B,T,S), each from the codes before it. It is called once, with the
    true codes, for predictions that get no gradient, and again with the mixed history; at probability 0 only with the
    true codes, which is plain teacher forcing. `draws` are those of `draw_mixing`. Raises ValueError on a probability
    outside 0..1.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"the probability of a code of the model's own must be from 0 to 1, got {probability}")
    history = codes
    if probability > 0:
        with torch.no_grad():
            history = mix_history(predict(codes), codes, probability, draws)
        # Casts of weights that autocast made without a gradient: torch 2.13 makes them anew, older ones would train no
        # weight by them.
        torch.clear_autocast_cache()
    logits = predict(history)
    nll = F.cross_entropy(logits.flatten(0, 2).float(), codes.flatten(), reduction="none")
    return TwoPassOutput(nll=nll.view_as(codes), logits=logits, history=history)


def mix_history(logits: Tensor, codes: Tensor, probability: float, draws: Tensor) -> Tensor:
    """Codes (B,T,S), each with `probability` replaced by one drawn from its own logits (B,T,S,K); `draws` as in
    `draw_mixing`.

    Code by code: a replaced one depends on the true codes before it and on its draw, on nothing after it.
    """
    chosen, drawn = draws
    return torch.where(chosen < probability, draw_index(logits.float().softmax(-1), drawn), codes)


def draw_mixing(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """The randomness of one pass over codes of `shape` (B,T,S): which are replaced, and by what, (2,B,T,S) in [0, 1).

    Drawn apart from the pass, so that a global batch may be cut into parts; drawn where the generator is: move it to
    the codes.
    """
    return torch.rand(2, *shape, generator=generator, device=generator.device)
